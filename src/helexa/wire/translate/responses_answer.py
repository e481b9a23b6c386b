"""The inner events as a Responses answer, streamed or whole.

The stream's grammar: response.created, queued and in_progress, then items one after the other (output_item.added, the
item's own events, output_item.done), then exactly one of response.completed, response.incomplete, response.failed.
Every payload carries its `type` and a rising `sequence_number`, because SDKs dispatch on the payload alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from helexa.wire import envelopes, sse
from helexa.wire import openai_responses as shapes
from helexa.wire.canon import Done, Event, Failed, Fault, ToolDelta, Usage
from helexa.wire.translate.blocks import Blocks, Kind
from helexa.wire.translate.messages_answer import feed
from helexa.wire.translate.responses_tools import Names

Ids = Callable[[str], str]

_encode = msgspec.json.Encoder().encode


class Kit(NamedTuple):
    """What an answer needs to know of its request."""

    id: str
    created_at: int
    echo: shapes.Echo
    names: Names
    ids: Ids
    prompt_tokens: int = 0  # an estimate, for engines that do not count


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A finished response, for whoever keeps them; a lookup of its id answers with its input items, then `outputs`."""

    id: str
    body: bytes
    outputs: tuple[tuple[str, bytes], ...]
    store: bool


class _Words(NamedTuple):
    """The events of one kind of block."""

    prefix: str  # of the item's id
    delta: str
    done: str
    key: str  # of the whole text in `done`
    where: str  # which index, besides the item's, its events carry
    part: str  # events of the part around the text; empty when there are none
    tail: bytes = b""


_TEXT = _Words(
    "msg_",
    "response.output_text.delta",
    "response.output_text.done",
    "text",
    "content_index",
    "response.content_part.",
    b',"logprobs":[]',
)
_REFUSAL = _Words(
    "msg_", "response.refusal.delta", "response.refusal.done", "refusal", "content_index", "response.content_part."
)
_THOUGHT = _Words("rs_", "response.reasoning_text.delta", "response.reasoning_text.done", "text", "content_index", "")
_SUMMARY = _Words(
    "rs_",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "text",
    "summary_index",
    "response.reasoning_summary_part.",
)
_CALL = _Words(
    "fc_",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "arguments",
    "",
    "",
)


class ResponsesStream:
    """Writes one answer. It is also the sink of its own blocks, and holds what was said for the final object."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._blocks = Blocks(self)
        self._out: list[bytes] = []
        self._sequence = 0
        self._created = self._in_progress = self.over = False
        self._items: list[shapes.Item] = []
        self._deltas = 0
        self._kind: Kind = "text"
        self._call: ToolDelta | None = None
        self._words = _TEXT
        self._item_id = self._call_id = ""
        self._pieces: list[str] = []
        self._before_number = self._after_number = self._after_text = b""
        self._by_kind = {
            "text": _TEXT,
            "refusal": _REFUSAL,
            "tool": _CALL,
            "thought": _SUMMARY if kit.echo.reasoning.summary else _THOUGHT,
        }
        self.record: Record | None = None

    # ── The stream as a whole ──────────────────────────────────────────────────────────────────────────────────

    def opening(self) -> bytes:
        """`response.created` and `response.in_progress`, once; may be sent before the upstream has answered."""
        self._out = []
        self._open_up()
        return b"".join(self._out)

    def keepalive(self, stage: str | None) -> bytes:
        """An event while nothing has been said yet (`queued` until work begins), a comment afterwards."""
        if self.over:
            return b""
        self._out = []
        if stage == "queued" and not self._in_progress:
            self._create()
            self._state_event("response.queued", "queued")
        elif not self._in_progress:
            self._open_up()
        elif self._blocks.empty:
            self._state_event("response.in_progress", "in_progress")
        else:
            return sse.COMMENT
        return b"".join(self._out)

    def write(self, events: Sequence[Event]) -> bytes:
        """The frames of `events`; nothing after the first ending."""
        if not events or self.over:
            return b""
        self._out = []
        self._open_up()
        for event in events:
            if isinstance(event, Done):
                self._finish(event)
            elif isinstance(event, Failed):
                self._fail(event.fault)
            else:
                feed(self._blocks, event)
        return b"".join(self._out)

    def fail(self, fault: Fault) -> bytes:
        """`response.failed`; the stream is over."""
        if self.over:
            return b""
        self._out = []
        self._create()
        self._fail(fault)
        return b"".join(self._out)

    def _create(self) -> None:
        if not self._created:
            self._created = True
            self._event("response.created", b'"response":%b' % self._response("in_progress"))

    def _open_up(self) -> None:
        self._create()
        if not self._in_progress:
            self._in_progress = True
            self._state_event("response.in_progress", "in_progress")

    def _state_event(self, name: str, status: str) -> None:
        # Sent every second while a model loads: without the tools and instructions, which may be 100 KB.
        echo = shapes.Echo(model=self._kit.echo.model, store=self._kit.echo.store)
        self._event(name, b'"response":%b' % self._response(status, echo=echo))

    def _finish(self, done: Done) -> None:
        cut_off = done.finish in ("length", "content_filter")
        self._blocks.finish(cut_off=cut_off)
        self.over = True
        reason = "max_output_tokens" if done.finish == "length" else "content_filter"
        body = self._response(
            "incomplete" if cut_off else "completed",
            usage=done.usage or Usage(self._kit.prompt_tokens, self._deltas),
            incomplete=shapes.Incomplete(reason) if cut_off else None,
        )
        self._event("response.incomplete" if cut_off else "response.completed", b'"response":%b' % body)
        outputs = tuple((item.id, _encode(item)) for item in self._items)
        self.record = Record(id=self._kit.id, body=body, outputs=outputs, store=self._kit.echo.store)

    def _fail(self, fault: Fault) -> None:
        self.over = True
        body = self._response("failed", error=envelopes.responses_error(fault))
        self._event("response.failed", b'"response":%b' % body)

    def _response(
        self,
        status: str,
        *,
        usage: Usage | None = None,
        error: dict[str, str] | None = None,
        incomplete: shapes.Incomplete | None = None,
        echo: shapes.Echo | None = None,
    ) -> bytes:
        kit = self._kit
        counted = usage_out(usage) if usage else None
        state = shapes.State(kit.id, kit.created_at, status, self._items, counted, error, incomplete)
        return b"%b,%b" % (_encode(state)[:-1], _encode(echo or kit.echo)[1:])

    def _event(self, name: str, rest: bytes) -> None:
        word = name.encode()
        self._out.append(
            b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (word, word, self._sequence, rest)
        )
        self._sequence += 1

    # ── One item at a time ─────────────────────────────────────────────────────────────────────────────────────

    def open(self, kind: Kind, call: ToolDelta | None) -> None:
        self._kind, self._call, self._pieces = kind, call, []
        self._words = words = self._by_kind[kind]
        self._item_id = self._kit.ids(words.prefix)
        self._call_id = (call.id or self._kit.ids("call_")) if call else ""
        self._item_event("response.output_item.added", self._item("in_progress", text=None))
        if words.part:
            self._event(f"{words.part}added", b'%b,"part":%b' % (self._place(), _encode(self._part(""))))
        word = words.delta.encode()
        self._before_number = b'event: %b\ndata: {"type":"%b","sequence_number":' % (word, word)
        self._after_number = b',%b,"delta":' % self._place()
        self._after_text = words.tail + b"}\n\n"

    def delta(self, text: str) -> None:
        self._out.append(
            b"%b%d%b%b%b" % (self._before_number, self._sequence, self._after_number, _encode(text), self._after_text)
        )
        self._sequence += 1
        self._deltas += 1
        self._pieces.append(text)

    def close(self, *, complete: bool) -> None:
        if self._kind == "tool" and not self._pieces:
            self.delta("{}")  # clients put the arguments together from the deltas alone
        words, text = self._words, "".join(self._pieces)
        said = b'"%b":%b' % (words.key.encode(), _encode(text))
        self._event(words.done, b"%b,%b%b%b" % (self._place(), self._named(), said, words.tail))
        if words.part:
            self._event(f"{words.part}done", b'%b,"part":%b' % (self._place(), _encode(self._part(text))))
        item = self._item("completed" if complete else "incomplete", text=text)
        self._item_event("response.output_item.done", item)
        self._items.append(item)

    def _place(self) -> bytes:
        place = b'"item_id":%b,"output_index":%d' % (_encode(self._item_id), len(self._items))
        return b'%b,"%b":0' % (place, self._words.where.encode()) if self._words.where else place

    def _named(self) -> bytes:
        return b'"name":%b,' % _encode(self._kit.names.full(self._call.name or "")[1]) if self._call else b""

    def _item_event(self, name: str, item: shapes.Item) -> None:
        self._event(name, b'"output_index":%d,"item":%b' % (len(self._items), _encode(item)))

    def _part(self, text: str) -> shapes.PartOut:
        if self._kind == "thought":
            return shapes.SummaryText(text)
        return shapes.RefusalOut(text) if self._kind == "refusal" else shapes.OutputText(text)

    def _item(self, status: str, *, text: str | None) -> shapes.Item:
        """The open item; without `text` as it is when it begins."""
        if self._call is not None:
            namespace, name = self._kit.names.full(self._call.name or "")
            return shapes.FunctionCallItem(self._item_id, status, self._call_id, name, text or "", namespace)
        if self._kind != "thought":
            part = shapes.RefusalOut(text or "") if self._kind == "refusal" else shapes.OutputText(text or "")
            return shapes.MessageItem(self._item_id, status, [] if text is None else [part])
        if self._words is _SUMMARY:
            return shapes.ReasoningItem(self._item_id, status, [] if text is None else [shapes.SummaryText(text)], [])
        content = [] if text is None else [shapes.ReasoningTextOut(text)]
        return shapes.ReasoningItem(self._item_id, status, [], content)


def usage_out(usage: Usage) -> shapes.UsageOut:
    """Token counts under this dialect's names."""
    return shapes.UsageOut(
        input_tokens=usage.prompt,
        input_tokens_details=shapes.InputDetails(usage.cached),
        output_tokens=usage.completion,
        output_tokens_details=shapes.OutputDetails(usage.reasoning),
        total_tokens=usage.total,
    )
