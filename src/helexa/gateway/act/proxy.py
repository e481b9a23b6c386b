"""One request to one neuron and its answer back: bytes, as they come.

A streamed answer goes from the neuron's socket to the client's in the data callback itself: no queue, no task switch a
token. What the client gets is decided by its `Call`: the neuron's bytes as they are, or another dialect's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from helexa.base.clock import Clock
from helexa.base.errors import HelexaError, UpstreamFailed
from helexa.gateway.meter import Journey, Tail, Usage, usage_in
from helexa.http1.client import Answer, ConnectFailed, Origin, UpstreamError
from helexa.http1.server import Reply

Headers = list[tuple[bytes, bytes]]

MAX_ANSWER_BYTES = 256 * 1024 * 1024
STALL_S = 300.0
"""A neuron that sends nothing at all for so long, not even a keep-alive, has lost the request."""


class Call(Protocol):
    """One request in its client's dialect."""

    @property
    def asked(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def affinity(self) -> str | None: ...
    @property
    def endpoint(self) -> str: ...
    def body_for(self, model: str) -> bytes: ...
    def opening(self) -> bytes: ...
    def keepalive(self) -> bytes: ...
    def feed(self, data: bytes) -> bytes: ...
    def end(self, tail: bytes) -> bytes: ...
    def answer(self, body: bytes) -> bytes: ...
    def fail(self, error: HelexaError) -> bytes: ...
    def refuse(self, error: HelexaError, request_id: str) -> tuple[int, Headers, bytes]: ...
    def passed_error(self, status: int, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]: ...


class TryAnother(Exception):
    """Nothing reached the client yet and this node cannot serve now: another may. `error` is for when none does.

    `transport`: the connection failed; `unreachable`: there was none to be had; `gone`: it no longer has the model.
    """

    def __init__(
        self, error: HelexaError, *, transport: bool = False, unreachable: bool = False, gone: bool = False
    ) -> None:
        self.error, self.transport, self.unreachable, self.gone = error, transport, unreachable, gone
        super().__init__(error.message)


class Proxy:
    """Sends requests to neurons. `origins` maps a node's name to its connections and its standing headers."""

    def __init__(self, origins: Mapping[str, tuple[Origin, Headers]], clock: Clock) -> None:
        self._origins = origins
        self._clock = clock

    async def pass_on(
        self, call: Call, body: bytes, reply: Reply, journey: Journey, carried: Headers, shown: Headers
    ) -> Usage | None:
        """Answer `call` through `journey.node`. `carried` are the client's headers that go along, `shown` ours that go
        back. Raises TryAnother while nothing has reached the client, UpstreamFailed once something has."""
        origin, standing = self._origins[journey.node]
        path = call.endpoint.encode()
        try:
            answer = await origin.request(b"POST", path, [*standing, *carried], body, head_timeout_s=None)
        except UpstreamError as error:
            unreachable = isinstance(error, ConnectFailed)
            raise TryAnother(_failed(journey, str(error)), transport=True, unreachable=unreachable) from error
        try:
            if answer.status != 200:
                return await self._refused(call, answer, reply, journey, shown)
            if call.stream:
                return await self._streamed(call, answer, reply, journey, shown)
            return await self._whole(call, answer, reply, journey, shown)
        finally:
            answer.close()  # before its end this closes the connection, which is how an engine hears of it

    async def _whole(self, call: Call, answer: Answer, reply: Reply, journey: Journey, shown: Headers) -> Usage | None:
        try:
            body = await answer.read(MAX_ANSWER_BYTES)
        except UpstreamError as error:
            raise TryAnother(_failed(journey, str(error)), transport=True) from error
        journey.first = self._clock.now()
        kind = answer.header(b"content-type") or b"application/json"
        reply.send(200, [(b"content-type", kind), *shown], call.answer(body))
        return usage_in(body)

    async def _streamed(
        self, call: Call, answer: Answer, reply: Reply, journey: Journey, shown: Headers
    ) -> Usage | None:
        tail, clock = Tail(), self._clock
        add, feed, write = tail.add, call.feed, reply.write
        if not reply.started:
            reply.start(200, [*SSE, *shown])

        def sink(piece: bytes) -> None:
            if journey.first is None and not _only_comments(piece):
                journey.first = clock.now()
            add(piece)
            out = feed(piece)
            if out:
                write(out)

        reply.on_pressure = answer.pause
        try:
            await answer.relay(sink, idle_timeout_s=STALL_S)
        except UpstreamError as error:
            if journey.first is None:
                raise TryAnother(_failed(journey, str(error)), transport=True) from error
            raise _failed(journey, str(error)) from error
        finally:
            reply.on_pressure = None
        last = call.end(tail.text())
        if last:
            write(last)
        reply.finish()
        return tail.usage()

    async def _refused(self, call: Call, answer: Answer, reply: Reply, journey: Journey, shown: Headers) -> None:
        """Not 200: a node that cannot serve now is left for another; any other answer is the client's."""
        try:
            body = await answer.read(MAX_ANSWER_BYTES)
        except UpstreamError as error:
            raise TryAnother(_failed(journey, str(error)), transport=True) from error
        status = answer.status
        if status == 404 and b"model_not_found" in body:
            raise TryAnother(_failed(journey, "it no longer has the model"), gone=True)
        if status in (502, 503):
            raise TryAnother(_failed(journey, _text(body), retry_after=_retry_after(answer)))
        headers = [(b"content-type", answer.header(b"content-type") or b"application/json")]
        if (retry := answer.header(b"retry-after")) is not None:
            headers.append((b"retry-after", retry))
        if reply.started:
            raise UpstreamFailed(_text(body), node=journey.node, reason=f"HTTP {status}", answer_status=status)
        status, headers, body = call.passed_error(status, headers, body)
        reply.send(status, [*headers, *shown], body)


def _only_comments(piece: bytes) -> bool:
    """Signs of life, and nothing of an answer yet; the first event may come in one piece with the last of them."""
    return piece.startswith(b":") and all(line[:1] in (b"", b":") for line in piece.split(b"\n"))


SSE: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def _failed(journey: Journey, reason: str, retry_after: float | None = None) -> UpstreamFailed:
    return UpstreamFailed(node=journey.node, reason=reason, retry_after=retry_after)


def _text(body: bytes) -> str:
    return body[:600].decode(errors="replace") or "no reason given"


def _retry_after(answer: Answer) -> float | None:
    value = answer.header(b"retry-after") or b""
    return float(value) if value.isdigit() else None
