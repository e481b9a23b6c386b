"""The relay: bytes between a client's connection and the Unix socket on which the worker serves the model.

A request is read once, for what is wrong with it and for `model` and `stream`; of an answer it is only seen whether an
event has just ended, so that a sign of life may be put in between. A client that leaves cancels its handler, which
closes the upstream connection, which is how the engine learns of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from helexa.base.errors import HelexaError, Unavailable, UpstreamFailed
from helexa.http1.client import Answer, ConnectFailed, Origin, UpstreamError
from helexa.http1.message import Header, Request
from helexa.http1.server import Reply
from helexa.neuron.api import answers, coax
from helexa.neuron.api.metrics import Metrics
from helexa.neuron.keeper import Keeper, Seat
from helexa.wire import envelopes
from helexa.wire.canon import BadAnswer
from helexa.wire.checks import CHECKS
from helexa.wire.upstream import upstream_fault

log = logging.getLogger(__name__)

SIGN_OF_LIFE_S = 1.0
ERROR_BODY_LIMIT = 64 * 1024
IDLE_CONNECTION_S = 4.0
"""llama.cpp closes a connection that was idle for 5 s; one that is younger is surely open."""
_UPSTREAM_HEADERS: list[Header] = [(b"content-type", b"application/json")]
_STREAMABLE = frozenset(("/v1/chat/completions", "/v1/completions"))
_KEPT_HEADERS = frozenset((b"content-type", b"cache-control", b"x-accel-buffering", b"x-helexa-ignored"))


class Relay:
    """`await relay(request, reply, queued=...)` answers one request of `/v1/*`."""

    def __init__(self, keeper: Keeper, metrics: Metrics) -> None:
        self._keeper, self._metrics = keeper, metrics
        self._origins: dict[str, Origin] = {}

    async def __call__(self, request: Request, reply: Reply, *, queued: bool) -> None:
        """Relay one request. Raises a HelexaError while nothing of the answer has been sent; `queued`: it decodes, and
        so waits for a seat."""
        asked = CHECKS[request.path](request.body)
        began = time.monotonic()
        try:
            async with self._keeper.seat(asked.model, queued=queued, body=request.body) as seat:
                await self._serve(request, reply, seat, streamed=bool(asked.stream))
            self._metrics.request(seat.model_id, reply.status, time.monotonic() - began)
        except HelexaError as error:
            self._metrics.request(asked.model, error.status, time.monotonic() - began)
            raise

    async def _serve(self, request: Request, reply: Reply, seat: Seat, *, streamed: bool) -> None:
        """Answer from the seat's model; what goes wrong after the first byte is told in the answer's own grammar."""
        sink = Sink(reply, pulse=streamed)
        task = asyncio.current_task()
        seat.on_cut = None if task is None else partial(_cancel, task)
        try:
            await self._exchange(request, seat, sink, streamed=streamed)
        except asyncio.CancelledError:
            if task is None or seat.cut_for is None:
                raise
            task.uncancel()
            sink.fail(seat.cut_for)
        except ConnectFailed:  # its worker has just ended, and nothing of this request was done
            sink.fail(Unavailable(model=seat.model_id, reason="its worker has ended", retry_after=2.0))
        except UpstreamError as error:
            log.warning("%s: its engine failed while it answered: %s", seat.model_id, error)
            sink.fail(UpstreamFailed(node=seat.model_id, reason=str(error), model=seat.model_id))
        except HelexaError as error:
            sink.fail(error)
        finally:
            seat.on_cut = None
            sink.close()

    async def _exchange(self, request: Request, seat: Seat, sink: Sink, *, streamed: bool) -> None:
        origin = await self._origin(seat.socket)
        body, gathered = _asked_of(request, seat, streamed=streamed)
        async with await origin.request(b"POST", request.target, _UPSTREAM_HEADERS, body) as answer:
            if answer.status >= 400:
                raise BadAnswer(fault=upstream_fault(answer.status, await answer.read(ERROR_BODY_LIMIT)))
            if gathered:
                pieces: list[bytes] = []
                await answer.relay(pieces.append)
                sink.whole(coax.gather(b"".join(pieces)))
                return
            sink.begin(answer, prefill=body is not request.body)
            await answer.relay(sink.write)
            sink.end()

    async def _origin(self, socket: str) -> Origin:
        """The kept connections to a model's socket; those of models that are gone are dropped on the way."""
        if socket not in self._origins:
            here = self._keeper.sockets()
            self._origins[socket] = Origin(unix_path=socket, idle_timeout_s=IDLE_CONNECTION_S)
            for gone in [path for path in self._origins if path not in here]:
                await self._origins.pop(gone).aclose()
        return self._origins[socket]

    async def close(self) -> None:
        """Drop every kept connection."""
        for origin in self._origins.values():
            await origin.aclose()


class Sink:
    """Where an answer's bytes go, and the pulse that keeps a streamed one audibly alive.

    The pulse begins a 200 event stream if the engine has not: a client must not take a long prefill for a dead server.
    """

    def __init__(self, reply: Reply, *, pulse: bool) -> None:
        self._reply = reply
        self._between_events = True
        self._prefill: coax.Prefill | None = None
        self._events = pulse
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(SIGN_OF_LIFE_S, self._beat) if pulse else None

    def begin(self, answer: Answer, *, prefill: bool) -> None:
        """The engine's head has come. From here on a client that is slow to read slows its engine down. `prefill`: the
        answer begins with progress frames, which are not the client's."""
        self._prefill = coax.Prefill() if prefill else None
        self._reply.on_pressure = answer.pause
        if self._reply.started:
            return
        headers = [(name, value) for name, value in answer.headers if name in _KEPT_HEADERS]
        length = answer.header(b"content-length")
        self._reply.start(answer.status, headers, length=int(length) if length else None)
        self._events = (answer.header(b"content-type") or b"").startswith(b"text/event-stream")
        if self._events:
            self._reply.flush()  # the client learns that its request was taken before the first token is there

    def write(self, data: bytes) -> None:
        """A piece of the answer."""
        if self._prefill is not None:
            data = self._prefill.feed(data)
            if self._prefill.over:
                self._prefill = None
            if not data:
                return
        self._last = self._loop.time()
        self._between_events = data.endswith(b"\n\n")
        self._reply.write(data)

    def whole(self, body: bytes) -> None:
        """A whole answer."""
        self._reply.send(200, answers.JSON, body)

    def end(self) -> None:
        """The answer is whole."""
        self._reply.finish()

    def fail(self, error: HelexaError) -> None:
        """The answer will not become whole. Raises `error` if nothing has been sent, so that its status can be."""
        if not self._reply.started:
            raise error
        if self._reply.finished:
            return
        if not self._events:
            self._reply.abort()  # no grammar to tell it in: a broken connection is the only honest end
            return
        self._reply.write((b"" if self._between_events else b"\n\n") + envelopes.chat_event(error))
        self._reply.finish()

    def close(self) -> None:
        """Stop the pulse."""
        self._reply.on_pressure = None
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        silent_s = self._loop.time() - self._last
        if silent_s >= SIGN_OF_LIFE_S * 0.99 and self._between_events and self._events and not self._reply.finished:
            if not self._reply.started:
                self._reply.start(200, answers.SSE)
            self._reply.write(answers.SIGN_OF_LIFE)
            silent_s = 0.0
            self._last = self._loop.time()
        self._timer = self._loop.call_later(max(0.05, SIGN_OF_LIFE_S - silent_s), self._beat)


def _asked_of(request: Request, seat: Seat, *, streamed: bool) -> tuple[bytes, bool]:
    """The body that the engine gets, and whether its stream has to be gathered into a whole answer."""
    if not seat.hears_on_write or request.path not in _STREAMABLE:
        return request.body, False
    if not streamed:
        return coax.as_stream(request.body), True
    if coax.asks_for_progress(request.body):
        return request.body, False
    return coax.with_progress(request.body), False


def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
