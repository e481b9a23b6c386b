"""Turns a stream of pieces into blocks, one open at a time and in the order in which they began.

Messages clients accept one open block, and Responses clients are happiest with one open item. Upstreams may write
several tool calls at once, or words in the middle of a call. So the block at the head is passed on as it comes and the
ones behind it are held; when the head is complete the next becomes the head and what was held follows at once.

A piece that causes a change of block is part of the block it opens: losing it is the classic fault of these
translations.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import msgspec

from helexa.wire.canon import ToolDelta

Kind: TypeAlias = Literal["text", "refusal", "thought", "tool"]


class Sink(Protocol):
    """Where blocks go. Calls come as `open delta* close`, never nested."""

    def open(self, kind: Kind, call: ToolDelta | None) -> None:
        """A block begins; `call` is there for a tool, its arguments follow as deltas."""
        ...

    def delta(self, text: str) -> None:
        """A piece of the open block, never empty."""
        ...

    def close(self, *, complete: bool) -> None:
        """The open block ends; not `complete` when the answer was cut off inside it."""
        ...


class _Held:
    """A block that waits behind the head."""

    __slots__ = ("call", "kind", "pieces")

    def __init__(self, kind: Kind, piece: str, call: ToolDelta | None = None) -> None:
        self.kind: Kind = kind
        self.call = call
        self.pieces = [piece] if piece else []

    def is_call(self, index: int) -> bool:
        return self.call is not None and self.call.index == index


class Blocks:
    """One answer's blocks on their way to a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head: _Held | None = None  # of a tool call the pieces are kept, to see when it is complete
        self._queue: list[_Held] = []
        self._seen_calls: set[int] = set()
        self.refused = False

    @property
    def empty(self) -> bool:
        """No block has begun."""
        return self._head is None

    def add(self, kind: Kind, text: str) -> None:
        """A piece of text, refusal or thought."""
        last = self._queue[-1] if self._queue else self._head
        if last is None or last.kind != kind:
            self.refused = self.refused or kind == "refusal"
            self._begin(_Held(kind, text))
        elif self._queue:
            last.pieces.append(text)
        else:
            self._sink.delta(text)

    def call(self, delta: ToolDelta) -> None:
        """A piece of a tool call.

        Pieces of a call whose arguments were already whole JSON when the next block began are dropped: whatever
        they are, they could only make the arguments invalid.
        """
        if delta.index not in self._seen_calls:
            self._seen_calls.add(delta.index)
            self._begin(_Held("tool", delta.arguments, delta))
        elif self._head and self._head.is_call(delta.index):
            self._sink.delta(delta.arguments)
            self._head.pieces.append(delta.arguments)
            self._advance()
        elif held := next((block for block in self._queue if block.is_call(delta.index)), None):
            held.pieces.append(delta.arguments)

    def finish(self, *, cut_off: bool = False) -> None:
        """The answer is over: what was held follows, every block is closed, the last one perhaps cut off.

        An answer in which nothing was said is one empty text: clients take the first block without looking.
        """
        if self.empty:
            self.add("text", "")
        while self._queue:
            self._next()
        self._sink.close(complete=not cut_off)

    def _begin(self, block: _Held) -> None:
        self._queue.append(block)
        self._advance()

    def _advance(self) -> None:
        while self._queue and (self._head is None or _complete(self._head)):
            self._next()

    def _next(self) -> None:
        if self._head:
            self._sink.close(complete=True)
        self._head = head = self._queue.pop(0)
        self._sink.open(head.kind, head.call)
        if head.pieces:
            self._sink.delta("".join(head.pieces))


def _complete(block: _Held) -> bool:
    """A block may be closed once another waits behind it; a call only when its arguments are whole JSON."""
    if block.kind != "tool":
        return True
    if not block.pieces or not block.pieces[-1].rstrip().endswith("}"):
        return False
    try:
        msgspec.json.decode("".join(block.pieces), type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
