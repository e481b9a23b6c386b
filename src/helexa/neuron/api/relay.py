"""The relay: bytes between a client's connection and the Unix socket on which the worker serves the model.

A request is read once, for what is wrong with it and for `model` and `stream`; of an answer it is only seen whether an
event has just ended, so that a sign of life may be put in between. A client that leaves cancels its handler, which
closes the upstream connection, which is how the engine learns of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial

from helexa.base.errors import HelexaError, Unavailable, UpstreamFailed
from helexa.http1.client import Answer, ConnectFailed, Origin, OutOfDescriptors, UpstreamError
from helexa.http1.message import Header, Request
from helexa.http1.server import Reply
from helexa.neuron.api import answers, asking, coax
from helexa.neuron.api.metrics import Metrics
from helexa.neuron.api.rewriting import Rewriter
from helexa.neuron.core import bounds
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
IGNORED = b"x-helexa-ignored"
IGNORED_LIMIT = 512
_TEXT = {"/v1/completions": "prompt", "/v1/embeddings": "input", "/v1/rerank": "documents"}
"""The field that a text came in, where it was not `messages`."""
_KEPT_HEADERS = frozenset((b"content-type", b"cache-control", b"x-accel-buffering", IGNORED))


class Relay:
    """`await relay(request, reply, queued=...)` answers one request of `/v1/*`."""

    def __init__(self, keeper: Keeper, metrics: Metrics) -> None:
        self._keeper, self._metrics = keeper, metrics
        self._origins: dict[str, Origin] = {}

    async def __call__(self, request: Request, reply: Reply, *, queued: bool) -> None:
        """Relay one request. Raises a HelexaError while nothing of the answer has been sent; `queued`: it decodes, and
        so waits for a seat."""
        asked = CHECKS[request.path](request.body)
        bounds.check(asked)
        began = time.monotonic()
        try:
            async with self._keeper.seat(asked.model, queued=queued, body=request.body) as seat:
                question = asking.question(request.path, request.body, asked, seat.facts)
                await self._serve(request, reply, seat, question, streamed=asked.streamed)
            self._metrics.request(seat.model_id, reply.status, time.monotonic() - began)
        except HelexaError as error:
            self._metrics.request(asked.model, error.status, time.monotonic() - began)
            raise

    async def _serve(
        self, request: Request, reply: Reply, seat: Seat, question: asking.Question, *, streamed: bool
    ) -> None:
        """Answer from the seat's model; what goes wrong after the first byte is told in the answer's own grammar."""
        sink = Sink(reply, question, pulse=streamed)
        task = asyncio.current_task()
        seat.on_cut = None if task is None else partial(_cancel, task)
        try:
            await self._exchange(request, seat, sink, question)
        except asyncio.CancelledError:
            if task is None or seat.cut_for is None:
                raise
            task.uncancel()
            sink.fail(seat.cut_for)
        except OutOfDescriptors as error:
            sink.fail(Unavailable(error.message, retry_after=1.0))
        except ConnectFailed:  # its worker has just ended, and nothing of this request was done
            why = "its worker has ended"
            sink.fail(Unavailable(model=seat.model_id, reason=why, state="recovering", retry_after=2.0))
        except UpstreamError as error:
            log.warning("%s: its engine failed while it answered: %s", seat.model_id, error)
            said = f"The answer of `{seat.model_id}` broke off: its engine failed."
            sink.fail(UpstreamFailed(said, node=seat.model_id, model=seat.model_id))
        except HelexaError as error:
            sink.fail(error)
        finally:
            seat.on_cut = None
            sink.close()

    async def _exchange(self, request: Request, seat: Seat, sink: Sink, question: asking.Question) -> None:
        origin = await self._origin(seat.socket)
        async with await origin.request(b"POST", request.target, _UPSTREAM_HEADERS, question.body) as answer:
            if answer.status >= 400:
                body = await answer.read(ERROR_BODY_LIMIT)
                raise BadAnswer(fault=upstream_fault(answer.status, body, text=_TEXT.get(request.path, "")))
            if question.gathered:
                with contextlib.suppress(_Enough):
                    await answer.relay(sink.keep)
                sink.whole()
                return
            sink.begin(answer)
            with contextlib.suppress(_Enough):
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

    def __init__(self, reply: Reply, question: asking.Question, *, pulse: bool) -> None:
        self._reply = reply
        self._headers = _named(question.ignored)
        self._between_events = True
        self._prefill = coax.Prefill() if question.progress else None
        self._rewriter = Rewriter(question.stages, question.stops) if question.stages else None
        self._kept: list[bytes] = []
        self._totals = question.totals
        self._events = pulse
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(SIGN_OF_LIFE_S, self._beat) if pulse else None

    def begin(self, answer: Answer) -> None:
        """The engine's head has come. From here on a client that is slow to read slows its engine down."""
        self._reply.on_pressure = answer.pause
        if self._reply.started:
            return
        headers = [(name, value) for name, value in answer.headers.items() if name in _KEPT_HEADERS]
        length = answer.header(b"content-length")
        self._reply.start(answer.status, headers + self._headers, length=int(length) if length else None)
        self._events = (answer.header(b"content-type") or b"").startswith(b"text/event-stream")
        if self._events:
            self._reply.flush()  # the client learns that its request was taken before the first token is there

    def write(self, data: bytes) -> None:
        """A piece of the answer. Raises _Enough at its end, if the engine does not see that itself."""
        if self._prefill is not None:
            data = self._prefill.feed(data)
            if self._prefill.over:
                self._prefill = None
        if self._rewriter is not None:
            data = self._rewriter.feed(data)
        if self._totals is not None:
            data = self._totals.feed(data)
        if data:
            self._last = self._loop.time()
            self._between_events = data.endswith(b"\n\n")
            self._reply.write(data)
        if self._rewriter is not None and self._rewriter.over:
            raise _Enough

    def keep(self, data: bytes) -> None:
        """A piece of a stream, for a client that asked for the whole answer."""
        self._kept.append(data if self._rewriter is None else self._rewriter.feed(data))
        if self._rewriter is not None and self._rewriter.over:
            raise _Enough

    def whole(self) -> None:
        """That is all of it."""
        stream = b"".join(self._kept)
        told = stream if self._totals is None else self._totals.feed(stream)
        self._reply.send(200, answers.JSON + self._headers, coax.gather(told))

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
                self._reply.start(200, answers.SSE + self._headers)
            self._reply.write(answers.SIGN_OF_LIFE)
            silent_s = 0.0
            self._last = self._loop.time()
        self._timer = self._loop.call_later(max(0.05, SIGN_OF_LIFE_S - silent_s), self._beat)


class _Enough(Exception):
    """The answer has come to its end before the engine's."""


def _named(ignored: Sequence[str]) -> list[Header]:
    """A header that names the fields which the engine does not see to; a name that no header can carry is left out."""
    named = ", ".join(name for name in ignored if name.isascii() and name.isprintable())[:IGNORED_LIMIT]
    return [(IGNORED, named.encode())] if named else []


def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
