"""One request to one neuron and its answer back: bytes, as they come.

An answer goes from the neuron's socket to the client's in the data callback itself: no queue, no task switch a token.
What the client gets is decided by its `Call`: the neuron's bytes as they are, or another dialect's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

import msgspec

from helexa.base.clock import Clock
from helexa.base.errors import HelexaError, Unavailable, UpstreamFailed
from helexa.gateway.config import Gateway
from helexa.gateway.fleet.model import PASSING, Status
from helexa.gateway.meter import Journey, Tail, Usage, usage_in
from helexa.http1.client import Answer, ConnectFailed, Origin, OutOfDescriptors, UpstreamError, UpstreamTimeout, Whole
from helexa.http1.message import Lines, lines_of
from helexa.http1.server import Reply
from helexa.wire.canon import BadAnswer, Fault
from helexa.wire.control import DRAINING
from helexa.wire.upstream import upstream_fault

Headers = list[tuple[bytes, bytes]]

MAX_ANSWER_BYTES = 256 * 1024 * 1024


class Call(Protocol):
    """One request in its client's dialect."""

    @property
    def asked(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def verbatim(self) -> bool: ...
    def affinity(self) -> str | None: ...
    def body_for(self, model: str) -> bytes: ...
    def opening(self) -> bytes: ...
    def keepalive(self) -> bytes: ...
    def feed(self, data: bytes) -> bytes: ...
    def end(self, tail: bytes) -> bytes: ...
    def answer(self, body: bytes) -> bytes: ...
    def fail(self, error: HelexaError) -> bytes: ...
    def refuse(self, error: HelexaError, request_id: str) -> tuple[int, Headers, bytes]: ...
    def passed_error(
        self, status: int, headers: Headers, body: bytes, request_id: str
    ) -> tuple[int, Headers, bytes]: ...


class NodeBusy(Unavailable):
    """The node `{node}` cannot take a request for `{model}` now: {reason}"""


class NodeSilent(UpstreamFailed):
    """The node `{node}` was silent for {after_s} s."""

    code = "upstream_timeout"
    status = 504


class NodeUnreachable(UpstreamFailed):
    """The node `{node}` could not be reached: {reason}"""


class Overloaded(Unavailable):
    """The gateway can open no more connections."""

    code = "overloaded"


class TryAnother(Exception):
    """Nothing reached the client yet and this node cannot serve now: another may. `error` is for when none does.

    `transport`: the connection failed; `unreachable`: there was none to be had; `gone`: it no longer has the model;
    `state`: the model is there, in a state that will pass; `leaving`: the node takes no new work at all.
    """

    def __init__(
        self,
        error: HelexaError,
        *,
        transport: bool = False,
        unreachable: bool = False,
        gone: bool = False,
        state: Status | None = None,
        leaving: bool = False,
    ) -> None:
        self.error, self.transport, self.unreachable, self.gone = error, transport, unreachable, gone
        self.state, self.leaving = state, leaving
        super().__init__(error.message)


class Heard(Protocol):
    """The head of a neuron's answer."""

    @property
    def status(self) -> int: ...
    def header(self, name: bytes) -> bytes | None: ...


class Trip(msgspec.Struct, eq=False):
    """One request under way: what is asked, by whom, the record of it, and where it cannot be served."""

    call: Call
    reply: Reply
    journey: Journey
    carried: Headers
    """The client's headers that go along."""
    body: bytes = b""
    attempts: int = 0
    """Those that came to nothing; `failures` are the nodes' own among them."""
    failures: int = 0
    avoid: frozenset[str] = frozenset()
    trouble: str = ""
    """What went wrong at the last of them."""


class Proxy:
    """Sends requests to neurons. `origins` maps a node's name to its connections and its standing headers; `limits`
    says, anew each time, how long a neuron may be silent."""

    def __init__(
        self, origins: Mapping[str, tuple[Origin, Lines]], clock: Clock, limits: Callable[[], Gateway]
    ) -> None:
        self._origins = origins
        self._clock = clock
        self._limits = limits

    def ask(self, trip: Trip, done: Callable[[Whole], None]) -> Whole | None:
        """Ask `journey.node` for a whole answer, which `done` is told of; None where no connection is idle."""
        origin, headers = self._headed(trip)
        target, answer_s = trip.call.endpoint.encode(), self._limits().answer_s
        return origin.ask(b"POST", target, headers, trip.body, done, MAX_ANSWER_BYTES, answer_s)

    async def pass_on(self, trip: Trip, heard: Callable[[], None]) -> Usage | None:
        """Answer through `journey.node`; `heard` is called when its answer begins. Raises TryAnother while nothing has
        reached the client, UpstreamFailed once something has, or once the wait was long enough."""
        journey = trip.journey
        origin, headers = self._headed(trip)
        limits, target = self._limits(), trip.call.endpoint.encode()
        patience_s = limits.silence_s if trip.call.stream else limits.answer_s
        try:
            answer = await origin.request(b"POST", target, headers, trip.body, head_timeout_s=patience_s)
        except UpstreamError as error:
            raise unanswered(journey, error) from error
        heard()
        try:
            if answer.status == 200 and trip.call.stream:
                return await self._streamed(trip, answer, patience_s)
            try:
                body = await answer.read(MAX_ANSWER_BYTES, idle_timeout_s=patience_s)
            except UpstreamError as error:
                raise unanswered(journey, error) from error
            return self.give(trip, answer, body, self._clock.now())
        finally:
            answer.close()  # before its end this closes the connection, which is how an engine hears of it

    def give(self, trip: Trip, heard: Heard, body: bytes, now: float) -> Usage | None:
        """A whole answer, to the client. Raises as `pass_on`."""
        if heard.status != 200:
            return self._refused(trip, heard, body)
        journey = trip.journey
        journey.first = now
        head = _whole_head(heard, journey)
        if (ignored := heard.header(IGNORED)) is not None:
            head += lines_of([(IGNORED, ignored)])
        trip.reply.send(200, head, trip.call.answer(body))
        return usage_in(body)

    def _headed(self, trip: Trip) -> tuple[Origin, Lines]:
        """Where the request goes, and its header lines."""
        origin, standing = self._origins[trip.journey.node]
        return origin, standing if not trip.carried else standing + lines_of(trip.carried)

    async def _streamed(self, trip: Trip, answer: Answer, silence_s: float) -> Usage | None:
        call, reply, journey = trip.call, trip.reply, trip.journey
        tail = Tail()
        now, add, feed, write, verbatim = self._clock.now, tail.pieces.append, call.feed, reply.write, call.verbatim
        if not reply.started:
            ignored = answer.header(IGNORED)
            reply.start(200, [*SSE, *shown(journey), *([(IGNORED, ignored)] if ignored else ())])

        def sink(piece: bytes) -> None:
            if journey.first is None and not _only_comments(piece):
                _not_an_error(journey, piece)
                journey.first = now()
            add(piece)
            write(piece if verbatim else feed(piece))

        reply.on_pressure = answer.pause
        try:
            await answer.relay(sink, idle_timeout_s=silence_s)
        except UpstreamError as error:
            raise (unanswered if journey.first is None else _broken)(journey, error) from error
        finally:
            reply.on_pressure = None
        reply.write(call.end(tail.text()))
        reply.finish()
        return tail.usage()

    def _refused(self, trip: Trip, heard: Heard, body: bytes) -> None:
        """Not 200: a node that cannot serve now is left for another; any other answer is the client's."""
        journey, reply, status = trip.journey, trip.reply, heard.status
        if status == 404 and b"model_not_found" in body:
            raise TryAnother(_failed(journey, "it no longer has the model"), gone=True)
        if status == 503:
            raise _busy(journey, upstream_fault(status, body, retry_after=_retry_after(heard)))
        if status == 502:
            raise TryAnother(_failed(journey, _text(body)))
        headers = [(b"content-type", heard.header(b"content-type") or b"application/json")]
        if (retry := heard.header(b"retry-after")) is not None:
            headers.append((b"retry-after", retry))
        if reply.started:
            raise BadAnswer(fault=upstream_fault(status, body))
        status, headers, body = trip.call.passed_error(status, headers, body, journey.request_id)
        reply.send(status, [*headers, *traced(journey)], body)


def _busy(journey: Journey, told: Fault) -> TryAnother:
    busy = NodeBusy(node=journey.node, model=journey.model, reason=told.message, retry_after=told.retry_after)
    state = told.details.get("state")
    passing = next((known for known in PASSING if known == state), None)
    return TryAnother(busy, state=passing, leaving=state == DRAINING)


def _not_an_error(journey: Journey, piece: bytes) -> None:
    """The first event of a stream may say that there will be no answer: its worker ended, or its model was unloaded,
    while the prompt was read. Then nothing of an answer has come. Raises TryAnother."""
    at = piece.find(_ERROR)
    if at < 0 or not _only_comments(b":" + piece[:at]):
        return
    told = upstream_fault(400, piece[at + len(b"data: ") :].partition(b"\n")[0])
    if told.code == Unavailable.code:
        raise _busy(journey, told)
    if told.code == UpstreamFailed.code:
        raise TryAnother(_failed(journey, told.message))


def _only_comments(piece: bytes) -> bool:
    """Signs of life, and nothing of an answer yet; the first event may come in one piece with the last of them."""
    return piece.startswith(b":") and all(line[:1] in (b"", b":") for line in piece.split(b"\n"))


_ERROR = b'data: {"error"'
IGNORED = b"x-helexa-ignored"
"""Names the fields of the request that the engine does not see to."""
SSE: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def _whole_head(heard: Heard, journey: Journey) -> Lines:
    # A client's request id was read as a header's value, so it holds no end of a line; the decision is ours.
    request_id = journey.request_id.encode("latin-1", "replace")
    fixed = _fixed_lines(heard.header(b"content-type") or b"application/json", journey.node)
    return b"%bx-request-id: %b\r\nrequest-id: %b\r\nx-cortex-decision: %b\r\n" % (
        fixed,
        request_id,
        request_id,
        journey.decision.encode(),
    )


@lru_cache(maxsize=256)
def _fixed_lines(content_type: bytes, node: str) -> Lines:
    return lines_of([(b"content-type", content_type), (b"x-cortex-node", node.encode("latin-1", "replace"))])


def shown(journey: Journey) -> Headers:
    """What every answer tells of its way."""
    request_id = journey.request_id.encode("latin-1", "replace")
    return [(b"x-request-id", request_id), (b"request-id", request_id), *traced(journey)]


def traced(journey: Journey) -> Headers:
    """The node and the decision, for `cortex explain`."""
    return [
        (b"x-cortex-node", journey.node.encode("latin-1", "replace")),
        (b"x-cortex-decision", journey.decision.encode()),
    ]


def unanswered(journey: Journey, error: Exception) -> TryAnother | HelexaError:
    """What it means that the connection to `journey.node` failed before anything reached the client.

    After a long silence no other node is tried: who still waits is told, and may ask again. No node is to blame for a
    connection that could not even be opened here.
    """
    if isinstance(error, OutOfDescriptors):
        return Overloaded(error.message, retry_after=1.0)
    if isinstance(error, ConnectFailed):
        unreachable = NodeUnreachable(node=journey.node, reason=str(error))
        return TryAnother(unreachable, transport=True, unreachable=True)
    failed = _broken(journey, error)
    return failed if isinstance(failed, NodeSilent) else TryAnother(failed, transport=True)


def _broken(journey: Journey, error: Exception) -> UpstreamFailed:
    if isinstance(error, UpstreamTimeout):
        return NodeSilent(node=journey.node, after_s=error.fields["after_s"])
    return _failed(journey, str(error))


def _failed(journey: Journey, reason: str) -> UpstreamFailed:
    return UpstreamFailed(node=journey.node, reason=reason)


def _text(body: bytes) -> str:
    return body[:600].decode(errors="replace") or "no reason given"


def _retry_after(heard: Heard) -> float | None:
    value = heard.header(b"retry-after") or b""
    return float(value) if value.isdigit() else None
