"""Reads an answer that is held to the grammar of calls (`choice.call_grammar`), and tells each call as it grows.

What the grammar lets through is a call from its first sign on, so the arguments are handed on as they come, token by
token. Only the limit of tokens or a stop string can cut a call off: what was told of it stands, and it is not `whole`.
"""

from __future__ import annotations

import json
import re
from typing import Final

from helexa.neuron.core.chat.tools import Numbered, Piece
from helexa.wire.canon import Text, ToolDelta

_HEAD: Final = re.compile(r'[\s\[\],}]*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)', re.DOTALL)


class Demanded:
    """See tools.Splitter."""

    def __init__(self, number: Numbered) -> None:
        self._number = number
        self._head = ""
        self._depth = 0
        self._quoted = self._escaped = False

    @property
    def whole(self) -> bool:
        """There are calls, and the last one has come to its end."""
        return self._number.count > 0 and not self._depth

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text:
            text = self._go_on(text, pieces) if self._depth else self._begin(text, pieces)
        return pieces

    def end(self) -> list[Piece]:
        """Text, where the answer ended before its first call had begun."""
        return [Text(self._head)] if self._head and not self._number.count else []

    def _begin(self, text: str, pieces: list[Piece]) -> str:
        """Up to the arguments of the next call; returns what follows."""
        self._head += text
        found = _HEAD.match(self._head)
        if found is None:
            return ""
        pieces.append(self._number.begin(json.loads(found[1])))
        rest, self._head, self._depth = self._head[found.end() + 1 :], "", 1
        return self._go_on(rest, pieces, "{")

    def _go_on(self, text: str, pieces: list[Piece], before: str = "") -> str:
        """More arguments of the call that has begun; returns what follows its end."""
        for at, sign in enumerate(text, 1):
            self._see(sign)
            if not self._depth:
                pieces.append(self._arguments(before + text[:at]))
                return text[at:]
        pieces.append(self._arguments(before + text))
        return ""

    def _see(self, sign: str) -> None:
        if self._escaped:
            self._escaped = False
        elif sign == "\\":
            self._escaped = self._quoted
        elif sign == '"':
            self._quoted = not self._quoted
        elif not self._quoted:
            self._depth += (sign == "{") - (sign == "}")

    def _arguments(self, text: str) -> ToolDelta:
        return ToolDelta(index=self._number.count - 1, arguments=text)
