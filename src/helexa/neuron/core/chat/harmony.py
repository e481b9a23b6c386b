"""Harmony, the format of gpt-oss: an answer is a row of messages, each with a channel, a recipient and a body.

`<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json
<|message|>{...}<|call|>`. The analysis channel is reasoning, a recipient makes a call, everything else is the answer.
Source: the format's description, github.com/openai/harmony.
"""

from __future__ import annotations

import re

from helexa.neuron.core.chat.stops import first, held
from helexa.neuron.core.chat.tools import Call, Numbered, object_of
from helexa.wire.canon import Text, Thought, ToolDelta

Piece = Text | Thought | ToolDelta

_BODY = "<|message|>"
_HEADS = ("<|", "assistant")
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_TO = re.compile(r"to=(?:functions\.)?([\w.-]+)")


class Harmony:
    """Takes the text after `<|start|>assistant`, marks and all."""

    def __init__(self, number: Numbered) -> None:
        self._number = number
        self._kept = ""
        self._header: str | None = None
        """The header of the message whose body is being read, None while it is the header that is read."""

    def feed(self, text: str) -> list[Piece]:
        self._kept += text
        return self._advance(final=False)

    def end(self) -> list[Piece]:
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while (more := self._head(final) if self._header is None else self._body(self._header, final)) is not None:
            pieces += more
        return pieces

    def _head(self, final: bool) -> list[Piece] | None:
        begun = self._kept.lstrip()
        if begun and not any(begun.startswith(mark) or mark.startswith(begun) for mark in _HEADS):
            self._header = ""  # a model that answers without any header
            return []
        header, found, rest = self._kept.partition(_BODY)
        if found:
            self._header, self._kept = header, rest
            return []
        said, self._kept = (self._kept, "") if final else ("", self._kept)
        return [Text(said)] if said else None

    def _body(self, header: str, final: bool) -> list[Piece] | None:
        found = first(self._kept, _ENDS)
        recipient = _TO.search(header)
        if found is None and final:
            body, self._kept, self._header = self._kept, "", None
            return self._told(header, recipient, body)
        if found is None and recipient is None:
            size = len(self._kept) - held(self._kept, _ENDS)
            body, self._kept = self._kept[:size], self._kept[size:]
            return self._told(header, recipient, body) or None
        if found is None:
            return None
        at, mark = found
        body = self._kept[:at]
        self._kept, self._header = self._kept[at if mark == "<|channel|>" else at + len(mark) :], None
        return self._told(header, recipient, body)

    def _told(self, header: str, recipient: re.Match[str] | None, body: str) -> list[Piece]:
        if recipient is not None:
            arguments = object_of(body) if body.strip() else {}
            return [Text(body)] if arguments is None else [*self._number([Call(recipient[1], arguments)])]
        if not body:
            return []
        return [Thought(body) if "analysis" in header else Text(body)]
