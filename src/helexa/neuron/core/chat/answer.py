"""From the text that a model writes to the events of an answer: stop strings, then thoughts, then tool calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from helexa.neuron.core.chat import tools
from helexa.neuron.core.chat.demanded import Demanded
from helexa.neuron.core.chat.harmony import Harmony
from helexa.neuron.core.chat.reasoning import CLOSE, OPEN, Reasoning
from helexa.neuron.core.chat.stops import Stops
from helexa.wire.canon import Text, Thought, ToolDelta

Piece = Text | Thought | ToolDelta
DEMANDED: Final = "demanded"
"""The family of an answer that is held to the grammar of calls."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a model writes, as its chat template shows: the family of its tool calls, and whether it thinks aloud."""

    family: str = ""
    thinks: bool = False


def style_of(template: str) -> Style:
    """Read off the marks in a chat template's source."""
    family = tools.family_of(template)
    return Style(family=family, thinks=family == "harmony" or CLOSE in template)


def opens_thoughts(prompt: str) -> bool:
    """Whether the prompt ends inside of thoughts, so that the answer begins with them."""
    return prompt.rstrip().endswith(OPEN)


class Answer:
    """The events of one answer. `family` is the calls' to look for, "" for none, DEMANDED where there is nothing else;
    `thinking` as in Reasoning, None for a model that does not."""

    def __init__(
        self, family: str, fresh_id: Callable[[], str], *, thinking: bool | None = None, stops: Sequence[str] = ()
    ) -> None:
        self._number = tools.Numbered(fresh_id)
        self._stops = Stops(stops)
        self._harmony = Harmony(self._number) if family == "harmony" else None
        self._reasoning = None if thinking is None else Reasoning(thinking=thinking)
        self._tools = Demanded(self._number) if family == DEMANDED else tools.splitter(family, self._number)

    @property
    def stopped(self) -> str | None:
        """The stop string that ended it."""
        return self._stops.hit

    @property
    def called(self) -> bool:
        """It has made calls, and none was cut off."""
        return self._tools.whole if isinstance(self._tools, Demanded) else self._number.count > 0

    def feed(self, text: str) -> list[Piece]:
        """The events that `text` makes certain."""
        text = self._stops.feed(text)
        return self._read(text) if text else []

    def end(self) -> list[Piece]:
        """What was held back."""
        text = self._stops.end()
        pieces = self._read(text) if text else []
        if self._harmony is not None:
            return pieces + self._harmony.end()
        if self._reasoning is not None:
            pieces += self._called(self._reasoning.end())
        return pieces + list[Piece](self._tools.end())

    def _read(self, text: str) -> list[Piece]:
        if self._harmony is not None:
            return self._harmony.feed(text)
        if self._reasoning is None:
            return [*self._tools.feed(text)]
        return self._called(self._reasoning.feed(text))

    def _called(self, pieces: Sequence[Text | Thought]) -> list[Piece]:
        """Calls are looked for in what is said, not in what is thought."""
        found: list[Piece] = []
        for piece in pieces:
            found += [piece] if isinstance(piece, Thought) else self._tools.feed(piece.text)
        return found
