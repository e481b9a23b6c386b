"""Mapping C, third step: an Anthropic answer, streamed or whole, into the inner events."""

from __future__ import annotations

import dataclasses

import msgspec

from helexa.wire import anthropic as shapes
from helexa.wire import intake
from helexa.wire.canon import BadAnswer, Done, Event, Failed, Fault, Finish, Refusal, Text, Thought, ToolDelta, Usage
from helexa.wire.sse import Frame, SseDecoder
from helexa.wire.upstream import upstream_fault

_FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STATUSES = {"overloaded_error": 503, "rate_limit_error": 429, "timeout_error": 504, "invalid_request_error": 400}
_CUT_OFF = Fault(message="The engine's answer broke off before it was complete.")
_UNREADABLE = Fault(message="The engine's answer is not valid JSON of a message.")
_REFUSED = "The model refused to answer."


class MessagesReader:
    """Feed it the upstream's bytes, get events. Exactly one Done or Failed comes, and it comes last."""

    def __init__(self) -> None:
        self._frames = SseDecoder()
        self._usage = shapes.UsageIn()
        self._calls = 0
        self._input = ""  # of the open tool block, if its start already held it
        self._stop: tuple[str, str | None] | None = None
        self._over = False
        self.usage: Usage | None = None
        self.pinged = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        out: list[Event] = []
        self.pinged = False
        for frame in self._frames.feed(data):
            if not self._over:
                self._frame(frame, out)
        return out

    def end(self) -> list[Event]:
        """The upstream closed: Done if it had said why it stopped, otherwise Failed."""
        out: list[Event] = []
        if not self._over:
            self._close(out)
        return out

    def whole(self, body: bytes) -> list[Event]:
        """All events of a non-streamed answer, Done last. Raises BadAnswer."""
        out: list[Event] = []
        try:
            message = shapes.ANSWER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadAnswer(fault=_UNREADABLE) from None
        if message.type == "error":
            raise BadAnswer(fault=_fault(body))
        for block in message.content:
            self._start(block, out)
            self._end_block(out)
        self._count(message.usage)
        self._stop = (message.stop_reason or "", message.stop_sequence)
        self._close(out)
        if isinstance(last := out[-1], Failed):
            raise BadAnswer(fault=last.fault)
        return out

    def _frame(self, frame: Frame, out: list[Event]) -> None:
        try:
            event = shapes.EVENT.decode(frame.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(_UNREADABLE, out)
            return
        match event.type:
            case "content_block_delta" if event.delta:
                self._delta(event.delta, out)
            case "content_block_start" if event.content_block:
                self._start(event.content_block, out)
            case "content_block_stop":
                self._end_block(out)
            case "message_start" if event.message:
                self._count(event.message.usage)
            case "message_delta":
                self._count(event.usage)
                if event.delta and event.delta.stop_reason:
                    self._stop = (event.delta.stop_reason, event.delta.stop_sequence)
            case "message_stop":
                self._close(out)
            case "error":
                self._fail(_fault(frame.data), out)
            case "ping":
                self.pinged = True
            case _:
                pass

    def _start(self, block: shapes.BlockIn, out: list[Event]) -> None:
        if block.type == "tool_use":
            given = msgspec.json.format(bytes(block.input), indent=-1).decode() if intake.given(block.input) else ""
            self._input = "" if given == "{}" else given
            out.append(ToolDelta(self._calls, "", block.name, block.id))
            self._calls += 1
        elif block.type == "thinking" and block.thinking:
            out.append(Thought(block.thinking))
        elif block.type == "text" and block.text:
            out.append(Text(block.text))

    def _delta(self, delta: shapes.DeltaIn, out: list[Event]) -> None:
        if delta.text:
            out.append(Text(delta.text))
        elif delta.thinking:
            out.append(Thought(delta.thinking))
        elif delta.partial_json:
            self._input = ""
            out.append(ToolDelta(self._calls - 1, delta.partial_json))

    def _end_block(self, out: list[Event]) -> None:
        if self._input:
            out.append(ToolDelta(self._calls - 1, self._input))
            self._input = ""

    def _count(self, usage: shapes.UsageIn | None) -> None:
        """Counts are cumulative, and what `message_delta` leaves out stays as `message_start` said."""
        if usage is None:
            return
        known = {name: value for name in usage.__struct_fields__ if (value := getattr(usage, name)) is not None}
        self._usage = said = msgspec.structs.replace(self._usage, **known)
        cached, written = said.cache_read_input_tokens or 0, said.cache_creation_input_tokens or 0
        details = said.output_tokens_details
        self.usage = Usage(
            (said.input_tokens or 0) + cached + written,
            said.output_tokens or 0,
            cached,
            details.thinking_tokens if details else 0,
        )

    def _close(self, out: list[Event]) -> None:
        if not self._stop or not self._stop[0]:
            self._fail(_CUT_OFF, out)
            return
        self._over = True
        reason, matched = self._stop
        if reason == "refusal":
            out.append(Refusal(_REFUSED))
        out.append(Done(_FINISHES.get(reason, "stop"), matched, self.usage))

    def _fail(self, fault: Fault, out: list[Event]) -> None:
        self._over = True
        out.append(Failed(fault))


def _fault(body: bytes) -> Fault:
    fault = upstream_fault(500, body)
    return dataclasses.replace(fault, status=_STATUSES.get(fault.code, fault.status))
