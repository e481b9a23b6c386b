"""Reads what a neuron answers: a chat-completions stream, or a whole answer, into the inner events.

Lenient with engines: reasoning under either name, calls without index or id, ids repeated in every chunk, arguments as
an object, usage in the last chunk, in every chunk or only as llama.cpp's timings. Strict about endings: without a
`finish_reason` an answer is broken, whatever else the stream says.
"""

from __future__ import annotations

import msgspec

from helexa.wire import intake
from helexa.wire import openai_chat as shapes
from helexa.wire.canon import (
    BadAnswer,
    Done,
    Event,
    Failed,
    Fault,
    Finish,
    Refusal,
    Text,
    Thought,
    ToolDelta,
    Usage,
)
from helexa.wire.sse import Frame, SseDecoder
from helexa.wire.upstream import stream_fault

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_BROKEN = frozenset(("error", "abort"))
_CUT_OFF = Fault(message="The engine's answer broke off before it was complete.")
_UNREADABLE = Fault(message="The engine's answer is not valid JSON of a chat completion.")
_NAMELESS = Fault(message="The engine made a tool call without a name.")


class _Call:
    """One tool call on its way in. Held back until its name is known, because a block cannot open without."""

    __slots__ = ("held", "id", "index", "name", "wire_id")

    def __init__(self, index: int) -> None:
        self.index = index
        self.wire_id = ""
        self.id = ""
        self.name = ""
        self.held: list[str] = []


class ChatReader:
    """Feed it the upstream's bytes, get events. Exactly one Done or Failed comes, and it comes last."""

    def __init__(self) -> None:
        self._frames = SseDecoder()
        self._calls: list[_Call] = []
        self._by_wire_index: dict[int, _Call] = {}
        self._finish: Finish | None = None
        self._matched: str | None = None
        self._over = False
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        out: list[Event] = []
        for frame in self._frames.feed(data):
            if self._over:
                break
            self._frame(frame, out)
        return out

    def end(self) -> list[Event]:
        """The upstream closed: Done if it had finished (an absent `[DONE]` is forgiven), otherwise Failed."""
        out: list[Event] = []
        if not self._over:
            self._close(out)
        return out

    def whole(self, body: bytes) -> list[Event]:
        """All events of a non-streamed answer, Done last. Raises BadAnswer."""
        out: list[Event] = []
        self._chunk(body, out)
        self._close(out)
        if isinstance(last := out[-1], Failed):
            raise BadAnswer(fault=last.fault)
        return out

    def _frame(self, frame: Frame, out: list[Event]) -> None:
        if frame.data == b"[DONE]":
            self._close(out)
        elif frame.event == b"error":
            self._fail(stream_fault(frame.data), out)
        elif frame.data:
            self._chunk(frame.data, out)

    def _chunk(self, data: bytes, out: list[Event]) -> None:
        try:
            chunk = shapes.CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(_UNREADABLE, out)
            return
        if intake.given(chunk.error) or chunk.object == "error":
            self._fail(stream_fault(data), out)
        else:
            self._read(chunk, out)

    def _read(self, chunk: shapes.Chunk, out: list[Event]) -> None:
        if chunk.usage is not None:
            self._count(chunk.usage)
        if chunk.timings is not None:
            self._count_timings(chunk.timings)
        for choice in chunk.choices or ():
            if not choice.index and not self._over:  # nobody who is translated can ask for a second one
                self._choice(choice, out)
        if chunk.verbose is not None and chunk.verbose.stopping_word:
            self._matched = chunk.verbose.stopping_word
        # The usage follows the finish in a chunk of its own; until it, [DONE] or the end, the answer is not done.
        if self._finish and not chunk.choices and self.usage:
            self._close(out)

    def _choice(self, choice: shapes.Choice, out: list[Event]) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            self._delta(delta, out)
        if reason := choice.finish_reason:
            if reason in _BROKEN:
                self._fail(_CUT_OFF, out)
                return
            self._finish = _FINISHES.get(reason, "stop")
            self._matched = choice.stop_reason if isinstance(choice.stop_reason, str) else None

    def _delta(self, delta: shapes.Delta, out: list[Event]) -> None:
        if thought := delta.reasoning_content or delta.reasoning:
            out.append(Thought(thought))
        if delta.content:
            out.append(Text(delta.content))
        if delta.refusal:
            out.append(Refusal(delta.refusal))
        if delta.tool_calls:
            for position, call in enumerate(delta.tool_calls):
                self._call(call, position, out)
        elif delta.function_call is not None:
            self._call(shapes.CallDelta(delta.function_call, 0), 0, out)

    def _call(self, delta: shapes.CallDelta, position: int, out: list[Event]) -> None:
        call = self._known(delta, position)
        function = delta.function
        arguments = _text(function.arguments) if function else ""
        if call.name:
            if arguments:
                out.append(ToolDelta(call.index, arguments))
            return
        call.held.append(arguments)
        call.id = call.id or delta.id or ""
        if function and function.name:
            call.name = function.name
            out.append(ToolDelta(call.index, "".join(call.held), call.name, call.id))

    def _known(self, delta: shapes.CallDelta, position: int) -> _Call:
        """The call this piece belongs to. A new id at a known index is a new call: some engines send index 0 always."""
        index = delta.index
        if index is None:
            index = self._guess(delta, position)
        call = self._by_wire_index.get(index)
        if call is None or (delta.id and call.wire_id and delta.id != call.wire_id):
            call = self._by_wire_index[index] = _Call(len(self._calls))
            self._calls.append(call)
        call.wire_id = call.wire_id or delta.id or ""
        return call

    def _guess(self, delta: shapes.CallDelta, position: int) -> int:
        """Without an index, a name or id starts a call and anything else goes on with the last one."""
        fresh = delta.id or (delta.function and delta.function.name)
        if fresh or not self._calls:
            return -1 - len(self._calls)
        return next(key for key, call in self._by_wire_index.items() if call is self._calls[-1])

    def _count(self, usage: shapes.UsageIn) -> None:
        prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
        self.usage = Usage(
            usage.prompt_tokens or 0,
            usage.completion_tokens or 0,
            (prompt.cached_tokens if prompt else None) or (self.usage.cached if self.usage else 0),
            (completion.reasoning_tokens if completion else None) or 0,
        )

    def _count_timings(self, timings: shapes.Timings) -> None:
        """llama.cpp's own count; a real usage, before or after, wins, but may not know of the cache."""
        cached = timings.cache_n or 0
        if known := self.usage:
            self.usage = Usage(known.prompt, known.completion, known.cached or cached, known.reasoning)
        elif timings.prompt_n is not None and timings.predicted_n is not None:
            self.usage = Usage(timings.prompt_n + cached, timings.predicted_n, cached)

    def _close(self, out: list[Event]) -> None:
        if self._over:
            return
        if self._finish is None:
            self._fail(_CUT_OFF, out)
        elif any(not call.name for call in self._calls):
            self._fail(_NAMELESS, out)
        else:
            self._over = True
            finish = "tool_calls" if self._calls and self._finish == "stop" else self._finish
            out.append(Done(finish, self._matched, self.usage))

    def _fail(self, fault: Fault, out: list[Event]) -> None:
        self._over = True
        out.append(Failed(fault))


def _text(arguments: str | dict[str, object] | None) -> str:
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return msgspec.json.encode(arguments).decode()
