"""An answer that was held to the schema of a call (`core/chat/choice.py`), told as the tool calls that it is. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from helexa.neuron.core.chat import tools
from helexa.wire import sse
from helexa.wire.canon import Text

_chunk = msgspec.json.Decoder(dict[str, Any])


class Calls:
    """Takes the bytes of a stream of chat chunks, gives those of the stream that the client gets."""

    def __init__(self, fresh_id: Callable[[], str]) -> None:
        self._fresh_id = fresh_id
        self._frames = sse.SseDecoder()
        self._readers: dict[int, tuple[tools.Splitter, tools.Numbered]] = {}

    def feed(self, data: bytes) -> bytes:
        """What of the answer `data` makes certain; empty while a call is not whole."""
        return b"".join(self._frame(frame.data) for frame in self._frames.feed(data))

    def _frame(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            return sse.DONE
        chunk = _chunk.decode(data)
        if not chunk.get("choices"):
            return sse.encode(data)
        told = [each for choice in chunk["choices"] for each in self._choice(choice)]
        return b"".join(sse.encode(msgspec.json.encode({**chunk, "choices": [each]})) for each in told)

    def _choice(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        delta: dict[str, Any] = choice.get("delta") or {}
        finish = choice.get("finish_reason")
        reader, number = self._reader(choice.get("index", 0))
        pieces = reader.feed(delta.pop("content", None) or "")
        if finish is not None:
            pieces = [*pieces, *reader.end()]
        told = [{**choice, "finish_reason": None, "delta": _delta(piece)} for piece in pieces]
        if finish is None:
            return [{**choice, "delta": {"content": None, **delta}}, *told] if delta else told
        return [*told, {**choice, "finish_reason": "tool_calls" if number.count else finish}]

    def _reader(self, index: int) -> tuple[tools.Splitter, tools.Numbered]:
        if index not in self._readers:
            number = tools.Numbered(self._fresh_id)
            self._readers[index] = (tools.splitter("json", number), number)
        return self._readers[index]


def _delta(piece: tools.Piece) -> dict[str, Any]:
    if isinstance(piece, Text):
        return {"content": piece.text}
    if piece.name is None:
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.arguments}}]}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"tool_calls": [{"index": piece.index, "id": piece.id, "type": "function", "function": function}]}
