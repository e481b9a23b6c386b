"""What a request cost: tokens and times, read off the bytes that pass, without parsing a stream again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from helexa.gateway.metrics import Metrics


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens as the neuron counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def cached(self) -> int:
        return (self.prompt_tokens_details.cached_tokens or 0) if self.prompt_tokens_details else 0


class Timings(msgspec.Struct):
    """llama.cpp's own count, on the last chunk of every stream."""

    prompt_n: int = 0
    cache_n: int = 0
    predicted_n: int = 0


class _Told(msgspec.Struct):
    usage: Usage | None = None
    timings: Timings | None = None


_DECODER = msgspec.json.Decoder(_Told)
TAIL_PIECES = 12


def usage_in(document: bytes) -> Usage | None:
    """Usage of one JSON answer or stream event; None when it tells none.

    Engines tell it last. An object that is opened just before its last `usage` is only valid if that key was the
    document's own, so the answer before it need not be read.
    """
    start = document.rfind(b'"usage":')
    told = _told(b"{" + document[start:]) if start >= 0 else None
    if told is None or told.usage is None:
        told = _told(document)
    if told is None:
        return None
    if told.usage is not None:
        return told.usage
    if told.timings is None:
        return None
    found = told.timings
    return Usage(
        prompt_tokens=found.prompt_n + found.cache_n,
        completion_tokens=found.predicted_n,
        prompt_tokens_details=PromptDetails(cached_tokens=found.cache_n),
    )


def _told(document: bytes) -> _Told | None:
    try:
        return _DECODER.decode(document)
    except (msgspec.DecodeError, RecursionError):
        return None


class Tail:
    """The last pieces of a stream: enough to see how it ended and what it cost."""

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: deque[bytes] = deque(maxlen=TAIL_PIECES)

    def text(self) -> bytes:
        return b"".join(self.pieces)

    def usage(self) -> Usage | None:
        """The newest usage among the last events."""
        for line in reversed(self.text().split(b"\n")):
            if line.startswith(b"data:") and (b'"usage"' in line or b'"timings"' in line):
                found = usage_in(line[5:])
                if found is not None:
                    return found
        return None


class Journey(msgspec.Struct, eq=False, gc=False):
    """One request's times, on the dispatcher's clock, and what came of it."""

    began: float
    request_id: str
    decision: str
    endpoint: str
    asked: str
    stream: bool
    model: str = ""
    node: str = ""
    refused: str = ""
    """Why it came to no planner."""
    seated: float | None = None
    first: float | None = None
    waited: bool = False


Ended = tuple[Journey, int, str | None, Usage | None, float]
"""A request that is over: what became of it, its status, the error's code, its usage, and when that was."""
MOST_OPEN = 256
"""As many as a processor's own cache keeps beside the rest."""


class Books:
    """Requests that have ended and are not counted yet. Many at a time cost less each, and none of it is on their way.

    `tell` is given all that are counted, for the access log.
    """

    def __init__(self, metrics: Metrics, tell: Callable[[list[Ended]], None]) -> None:
        self._metrics = metrics
        self._tell = tell
        self._open: list[Ended] = []

    def enter(self, journey: Journey, status: int, error: str | None, usage: Usage | None, now: float) -> None:
        """Note one that has ended."""
        if status >= 400 and error is None:
            error = f"http_{status}"
        self._open.append((journey, status, error, usage, now))
        if len(self._open) >= MOST_OPEN:
            self.balance()

    def balance(self) -> None:
        """Count all that have ended; to be called before the metrics are read."""
        if not self._open:
            return
        ended, self._open = self._open, []
        for journey, _, error, usage, now in ended:
            _count(self._metrics, journey, usage, now, error)
        self._tell(ended)


def _count(metrics: Metrics, journey: Journey, usage: Usage | None, now: float, error: str | None) -> None:
    # A name that no model has is no label: whoever makes up names must not make up series.
    cell = metrics.cell(journey.model or "unknown", journey.node)
    began, first = journey.began, journey.first
    cell.requests += 1
    cell.duration.add(now - began)
    if error is not None:
        cell.errors[error] = cell.errors.get(error, 0) + 1
    if journey.waited and journey.seated is not None:
        cell.wait.add(journey.seated - began)
        cell.cold_starts += 1
    elif journey.seated is not None:
        cell.wait.counts[0] += 1  # seated at once, as most are
    if first is not None:
        cell.ttft.add(first - began)
    if usage is not None:
        made = usage.completion_tokens
        cell.prompt_tokens += usage.prompt_tokens
        cell.completion_tokens += made
        cell.cached_tokens += usage.cached
        if journey.stream and first is not None and made > 1 and now > first:
            cell.speed.add((made - 1) / (now - first))
