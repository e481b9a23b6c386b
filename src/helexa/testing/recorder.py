"""A recorder in front of a real neuron: everything passes, and what a model was asked, and what it cost, is kept.

    async with Recorder(port, neuron_url) as recorder:
        ... a gateway whose [[neurons]] endpoint is recorder.url ...
        first, second = recorder.asked("/v1/chat/completions")
        assert second.usage.cached >= 0.95 * first.usage.prompt_tokens

`Fleet(..., recorded=True)` puts one in front of each of its neurons.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from helexa.gateway.meter import Tail, Usage, usage_in
from helexa.http1.client import Origin, UpstreamError
from helexa.http1.message import Header, Request
from helexa.http1.server import Reply, Server
from helexa.testing.neuron import Seen

_FRAMING = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding", b"keep-alive"))


@dataclass(slots=True)
class Recorded(Seen):
    """One POST as it arrived at the neuron, and the answer that the neuron gave."""

    status: int = 0
    answer: bytes = b""

    @property
    def usage(self) -> Usage | None:
        """What the neuron counted, from a whole answer or from the end of a stream; None when it told nothing."""
        if not self.answer.startswith((b"data:", b":")):
            return usage_in(self.answer)
        tail = Tail()
        tail.pieces.append(self.answer)
        return tail.usage()


class Recorder:
    """See the module. `seen` holds the POSTs, oldest first; control routes that are read with GET only pass."""

    def __init__(self, port: int, upstream: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.seen: list[Recorded] = []
        self._port = port
        self._origin = Origin.from_url(upstream)
        self._server: Server | None = None

    def asked(self, path: str) -> list[Recorded]:
        """The requests for `path` so far."""
        return [one for one in self.seen if one.target.partition(b"?")[0] == path.encode()]

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server = Server(self._handle)
        await self._server.listen("127.0.0.1", self._port)

    async def stop(self) -> None:
        """Break off what is under way, on both sides."""
        server, self._server = self._server, None
        if server is not None:
            await server.drain(0.0)
        await self._origin.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _handle(self, request: Request, reply: Reply) -> None:
        seen = Recorded(request.method, request.target, request.headers, request.body)
        if request.method == "POST":
            self.seen.append(seen)
        try:
            await self._pass(request, reply, seen)
            seen.outcome = "answered"
        except UpstreamError:
            reply.abort()
        finally:
            if seen.outcome == "open":
                seen.outcome = "left"

    async def _pass(self, request: Request, reply: Reply, seen: Recorded) -> None:
        pieces: list[bytes] = []

        def sink(piece: bytes) -> None:
            pieces.append(piece)
            reply.write(piece)

        method = request.method.encode()
        async with await self._origin.request(method, request.target, _kept(request.headers), request.body) as answer:
            seen.status = answer.status
            length = answer.header(b"content-length")
            reply.start(answer.status, _kept(list(answer.headers.items())), length=int(length) if length else None)
            reply.flush()
            reply.on_pressure = answer.pause
            try:
                await answer.relay(sink)
            finally:
                seen.answer = b"".join(pieces)
            reply.finish()


def _kept(headers: list[Header]) -> list[Header]:
    """Headers that belong to the message, not to the connection it came on."""
    return [(name, value) for name, value in headers if name not in _FRAMING]
