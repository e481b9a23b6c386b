"""Mapping B: the inner events as an Anthropic Messages answer, streamed or whole.

The stream's grammar: message_start, ping, then blocks one after the other (content_block_start, deltas,
content_block_stop), message_delta, message_stop. After an error event nothing follows; without one, message_stop
always does. Clients loop for ever on a stream that just ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from helexa.wire import anthropic as shapes
from helexa.wire import envelopes
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
from helexa.wire.translate.blocks import Blocks, Kind

Ids = Callable[[str], str]

SIGNATURE = "aGVsZXhh"
"""On every thinking block. Opaque to clients, never validated when it comes back."""

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_FULL_WINDOW_SINCE = "2026-10-21"  # the protocol version that knows the stop reason for it

_STOP_REASONS: dict[Finish, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_DELTA = {
    "text": b'"delta":{"type":"text_delta","text":',
    "refusal": b'"delta":{"type":"text_delta","text":',
    "thought": b'"delta":{"type":"thinking_delta","thinking":',
    "tool": b'"delta":{"type":"input_json_delta","partial_json":',
}
_encode = msgspec.json.Encoder().encode


class Head(NamedTuple):
    """What an answer says of itself before it has content."""

    id: str
    model: str  # as the client wrote it
    prompt_tokens: int = 0  # an estimate; the exact count comes with the end
    version: str = ""
    context_tokens: int | None = None


def usage_out(usage: Usage) -> shapes.UsageOut:
    """Anthropic counts cached tokens beside the input, OpenAI inside it."""
    return shapes.UsageOut(
        input_tokens=max(usage.prompt - usage.cached, 0),
        cache_read_input_tokens=usage.cached,
        output_tokens=max(usage.completion, 1),
        output_tokens_details=shapes.ThinkingTokens(usage.reasoning),
    )


def stop_of(done: Done, head: Head, *, refused: bool) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`."""
    if refused:
        return "refusal", None
    if done.finish == "stop" and done.matched:
        return "stop_sequence", done.matched
    if done.finish == "length" and head.version >= _FULL_WINDOW_SINCE and _is_full(done.usage, head):
        return "model_context_window_exceeded", None
    return _STOP_REASONS[done.finish], None


def _is_full(usage: Usage | None, head: Head) -> bool:
    return bool(usage and head.context_tokens and usage.total >= head.context_tokens)


def feed(blocks: Blocks, event: Event) -> None:
    """Put a piece of content into its block; endings are not content."""
    match event:
        case Text():
            blocks.add("text", event.text)
        case Thought():
            blocks.add("thought", event.text)
        case ToolDelta():
            blocks.call(event)
        case Refusal():
            blocks.add("refusal", event.text)
        case _:
            pass


class MessagesStream:
    """Writes one streamed answer. It is also the sink of its own blocks."""

    def __init__(self, head: Head, ids: Ids, request_id: str = "") -> None:
        self._head = head
        self._ids = ids
        self._request_id = request_id
        self._blocks = Blocks(self)
        self._out: list[bytes] = []
        self._opened = self.over = False
        self._index = -1
        self._kind: Kind = "text"
        self._silent = True  # the open block has had no delta
        self._deltas = 0
        self._before_text = b""

    def opening(self) -> bytes:
        """`message_start` and a ping, once; may be sent before the upstream has answered."""
        if self._opened:
            return b""
        self._opened = True
        usage = shapes.UsageOut(input_tokens=self._head.prompt_tokens, output_tokens=1)
        message = shapes.MessageOut(self._head.id, self._head.model, [], None, None, usage)
        return b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % _encode(message) + PING

    def keepalive(self) -> bytes:
        """A ping, wherever in the stream it comes."""
        if self.over:
            return b""
        return PING if self._opened else self.opening()

    def write(self, events: Sequence[Event]) -> bytes:
        """The frames of `events`; nothing after the first ending."""
        if not events or self.over:
            return b""
        self._out = [self.opening()]
        for event in events:
            if isinstance(event, Done):
                self._finish(event)
            elif isinstance(event, Failed):
                self._out.append(self.fail(event.fault))
            else:
                feed(self._blocks, event)
        return b"".join(self._out)

    def fail(self, fault: Fault) -> bytes:
        """The error event; the stream is over and does not look complete."""
        if self.over:
            return b""
        self.over = True
        return envelopes.messages_event(fault, request_id=self._request_id)

    def open(self, kind: Kind, call: ToolDelta | None) -> None:
        self._index += 1
        self._kind, self._silent = kind, True
        block = self._start(kind, call)
        self._out.append(
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (self._index, block)
        )
        self._before_text = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,%b' % (
            self._index,
            _DELTA[kind],
        )

    def _start(self, kind: Kind, call: ToolDelta | None) -> bytes:
        if call is not None:
            block = shapes.ToolUseOut(call.id or self._ids("toolu_"), call.name or "", msgspec.Raw(b"{}"))
            return _encode(block)
        return _encode(shapes.ThinkingOut("", "") if kind == "thought" else shapes.TextOut(""))

    def delta(self, text: str) -> None:
        self._silent = False
        self._deltas += 1
        self._out.append(self._before_text + _encode(text) + b"}}\n\n")

    def close(self, *, complete: bool) -> None:
        if self._kind == "thought":
            self._out.append(
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
                b'"delta":{"type":"signature_delta","signature":"%b"}}\n\n' % (self._index, SIGNATURE.encode())
            )
        elif self._kind == "tool" and self._silent and complete:
            self.delta("{}")
        self._out.append(b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index)

    def _finish(self, done: Done) -> None:
        self.over = True
        self._blocks.finish(cut_off=done.finish == "length")
        reason, matched = stop_of(done, self._head, refused=self._blocks.refused)
        # Counted deltas stand in for tokens where the engine does not count: a zero would look like no answer.
        usage = done.usage or Usage(self._head.prompt_tokens, self._deltas)
        self._out.append(
            b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":%b,"stop_sequence":%b},'
            b'"usage":%b}\n\n' % (_encode(reason), _encode(matched), _encode(usage_out(usage)))
        )
        self._out.append(_STOP)


class _Collected:
    """The sink of a whole answer."""

    def __init__(self, ids: Ids) -> None:
        self.content: list[shapes.BlockOut] = []
        self._ids = ids
        self._kind: Kind = "text"
        self._call: ToolDelta | None = None
        self._pieces: list[str] = []

    def open(self, kind: Kind, call: ToolDelta | None) -> None:
        self._kind, self._call, self._pieces = kind, call, []

    def delta(self, text: str) -> None:
        self._pieces.append(text)

    def close(self, *, complete: bool) -> None:
        text = "".join(self._pieces)
        if self._call is not None:
            self._tool(self._call, text, complete=complete)
        elif self._kind == "thought":
            self.content.append(shapes.ThinkingOut(text, SIGNATURE))
        else:
            self.content.append(shapes.TextOut(text))

    def _tool(self, call: ToolDelta, arguments: str, *, complete: bool) -> None:
        """A call that was cut off is left out: `stop_reason` says so, and half a call must not be run."""
        data = arguments.encode() or (b"{}" if complete else b"")
        if _is_object(data):
            self.content.append(shapes.ToolUseOut(call.id or self._ids("toolu_"), call.name or "", msgspec.Raw(data)))
        elif complete:
            raise BadAnswer(reason=f"the arguments of its call to {call.name} are not a JSON object")


def _is_object(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def whole_message(events: Sequence[Event], head: Head, ids: Ids) -> bytes:
    """A non-streamed answer from all its events. Raises BadAnswer when a call's arguments are no JSON object."""
    sink = _Collected(ids)
    blocks = Blocks(sink)
    for event in events:
        feed(blocks, event)
    done = events[-1]
    assert isinstance(done, Done)
    blocks.finish(cut_off=done.finish == "length")
    reason, matched = stop_of(done, head, refused=blocks.refused)
    usage = usage_out(done.usage or Usage(head.prompt_tokens))
    return _encode(shapes.MessageOut(head.id, head.model, sink.content, reason, matched, usage))
