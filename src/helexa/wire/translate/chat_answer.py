"""Mapping C, last step: the inner events as a chat-completions answer, streamed or whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from helexa.wire import envelopes, sse
from helexa.wire.canon import Done, Event, Fault, Refusal, Text, Thought, ToolDelta, Usage

Ids = Callable[[str], str]

_encode = msgspec.json.Encoder().encode


class Head(NamedTuple):
    """What every chunk of an answer repeats."""

    id: str
    created: int
    model: str  # as the client wrote it
    include_usage: bool = False


def usage_out(usage: Usage) -> dict[str, object]:
    """Token counts under this dialect's names."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


class ChatStream:
    """Writes one streamed answer. Calls carry their order among calls as index, whatever blocks stood between."""

    def __init__(self, head: Head, ids: Ids) -> None:
        self._head = head
        self._ids = ids
        self._opened = self.over = False
        self._silent_calls: set[int] = set()
        same = {"id": head.id, "object": "chat.completion.chunk", "created": head.created, "model": head.model}
        self._before = b"data: %b," % _encode(same)[:-1]

    def opening(self) -> bytes:
        """The role chunk, once."""
        if self._opened:
            return b""
        self._opened = True
        return self._chunk(b'{"role":"assistant","content":""}')

    def write(self, events: Sequence[Event]) -> bytes:
        """The frames of `events`; nothing after the first ending."""
        if not events or self.over:
            return b""
        return b"".join([self.opening(), *map(self._write, events)])

    def fail(self, fault: Fault) -> bytes:
        """The error frame; no `[DONE]` follows."""
        if self.over:
            return b""
        self.over = True
        return envelopes.chat_event(fault)

    def _write(self, event: Event) -> bytes:
        match event:
            case Text():
                return self._chunk(b'{"content":%b}' % _encode(event.text))
            case Thought():
                return self._chunk(b'{"reasoning_content":%b}' % _encode(event.text))
            case Refusal():
                return self._chunk(b'{"refusal":%b}' % _encode(event.text))
            case ToolDelta():
                return self._call(event)
            case Done():
                return self._finish(event)
            case _:
                return self.fail(event.fault)

    def _call(self, event: ToolDelta) -> bytes:
        function: dict[str, object] = {"arguments": event.arguments}
        piece: dict[str, object] = {"index": event.index, "function": function}
        if event.name is not None:
            piece |= {"id": event.id or self._ids("call_"), "type": "function"}
            function["name"] = event.name
            self._silent_calls.add(event.index)
        if event.arguments:
            self._silent_calls.discard(event.index)
        return self._chunk(_encode({"tool_calls": [piece]}))

    def _finish(self, done: Done) -> bytes:
        self.over = True
        # Arguments are JSON even when there are none.
        empty = [{"index": index, "function": {"arguments": "{}"}} for index in sorted(self._silent_calls)]
        out = [self._chunk(_encode({"tool_calls": [piece]})) for piece in empty]
        out.append(self._chunk(b"{}", _encode(done.finish)))
        if self._head.include_usage:
            counted = _encode(usage_out(done.usage or Usage()))
            out.append(b'%b"choices":[],"usage":%b}\n\n' % (self._before, counted))
        return b"".join((*out, sse.DONE))

    def _chunk(self, delta: bytes, finish: bytes = b"null") -> bytes:
        return b'%b"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n' % (self._before, delta, finish)


def whole_chat(events: Sequence[Event], head: Head, ids: Ids) -> bytes:
    """A non-streamed answer from all its events, the last of which is Done."""
    done = events[-1]
    assert isinstance(done, Done)
    calls: list[tuple[str, str, list[str]]] = []
    for event in events:
        if isinstance(event, ToolDelta):
            if event.name is not None:
                calls.append((event.id or ids("call_"), event.name, []))
            calls[event.index][2].append(event.arguments)
    message: dict[str, object] = {
        "role": "assistant",
        "content": "".join(event.text for event in events if isinstance(event, Text)) or (None if calls else ""),
        "refusal": "".join(event.text for event in events if isinstance(event, Refusal)) or None,
    }
    if thought := "".join(event.text for event in events if isinstance(event, Thought)):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": "".join(pieces) or "{}"}}
            for id, name, pieces in calls
        ]
    document: dict[str, object] = {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [{"index": 0, "message": message, "finish_reason": done.finish}],
        "usage": usage_out(done.usage or Usage()),
    }
    return _encode(document)
