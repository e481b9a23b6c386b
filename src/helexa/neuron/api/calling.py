"""An answer that was held to the grammar of calls (`core/chat/choice.py`), told as the tool calls that it is. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helexa.neuron.api.rewriting import Chunk
from helexa.neuron.core.chat.demanded import Demanded
from helexa.neuron.core.chat.tools import Numbered, Piece
from helexa.wire.canon import Text


class Calls:
    """A stage of rewriting: what a choice says becomes fragments of its calls, as it comes. Nothing else can be said:
    what an engine takes for thoughts, because the prompt has opened them, is the call too."""

    def __init__(self, fresh_id: Callable[[], str]) -> None:
        self._fresh_id = fresh_id
        self._readers: dict[int, Demanded] = {}

    def __call__(self, chunk: Chunk) -> list[Chunk]:
        if not chunk.get("choices"):
            return [chunk]
        return [{**chunk, "choices": [told]} for choice in chunk["choices"] for told in self._choice(choice)]

    def _choice(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        delta: dict[str, Any] = choice.get("delta") or {}
        finish = choice.get("finish_reason")
        reader = self._readers.setdefault(choice.get("index", 0), Demanded(Numbered(self._fresh_id)))
        said = [delta.pop(name, None) or "" for name in ("reasoning_content", "content")]
        pieces = reader.feed("".join(said))
        if finish is not None:
            pieces = [*pieces, *reader.end()]
        told = [{**choice, "finish_reason": None, "delta": _delta(piece)} for piece in pieces]
        if finish is None:
            return [{**choice, "delta": {"content": None, **delta}}, *told] if delta else told
        return [*told, {**choice, "finish_reason": "tool_calls" if reader.whole else finish}]


def _delta(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, Text):
        return {"content": piece.text}
    if piece.name is None:
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.arguments}}]}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"tool_calls": [{"index": piece.index, "id": piece.id, "type": "function", "function": function}]}
