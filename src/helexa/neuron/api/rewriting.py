"""A stream of chunks on its way to the client, where what the engine tells is not what the client asked for. Pure.

Only requests that need it pay for it: every chunk is decoded, changed by each stage in turn, and written again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from helexa.wire import sse

Chunk: TypeAlias = dict[str, Any]
Stage: TypeAlias = Callable[[Chunk], list[Chunk]]
"""Makes of a chunk those that the client gets."""

_chunk = msgspec.json.Decoder(Chunk)


class Ending(Protocol):
    """What may end an answer before the engine does."""

    @property
    def over(self) -> bool: ...


class Rewriter:
    """Takes the bytes of a stream, cut anywhere, and gives those of the stream that the client gets. `over`: that was
    all of it, whatever the engine goes on to say."""

    def __init__(self, stages: Sequence[Stage], ending: Ending | None = None) -> None:
        self._stages, self._ending = stages, ending
        self._frames = sse.SseDecoder()
        self.over = False

    def feed(self, data: bytes) -> bytes:
        """What `data` makes certain."""
        return b"".join(self._frame(frame.data) for frame in self._frames.feed(data))

    def _frame(self, data: bytes) -> bytes:
        if self.over:
            return b""
        if data == b"[DONE]":
            return sse.DONE
        chunks = [_chunk.decode(data)]
        for stage in self._stages:
            chunks = [made for chunk in chunks for made in stage(chunk)]
        told = b"".join(sse.encode(msgspec.json.encode(chunk)) for chunk in chunks)
        if self._ending is None or not self._ending.over:
            return told
        self.over = True
        return told + sse.DONE
