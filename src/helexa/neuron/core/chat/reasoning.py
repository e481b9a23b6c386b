"""Splits what a model thinks from what it says: `<think>...</think>` before the answer."""

from __future__ import annotations

from collections.abc import Callable

from helexa.neuron.core.chat.stops import held
from helexa.wire.canon import Text, Thought

Piece = Text | Thought
OPEN, CLOSE = "<think>", "</think>"


class Reasoning:
    """Thoughts come first or not at all; a mark later in the answer is text. `thinking`: the prompt has opened them.

    White space around the thoughts belongs to the marks.
    """

    def __init__(self, *, thinking: bool, marks: tuple[str, str] = (OPEN, CLOSE)) -> None:
        self._open, self._close = marks
        self._kept = ""
        self._state: Callable[[str], list[Piece]] = self._thoughts if thinking else self._start
        self._begun = False

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain."""
        return self._state(self._kept + text)

    def end(self) -> list[Piece]:
        """What was held back; thoughts that never ended stay thoughts."""
        text, self._kept = self._kept, ""
        if self._state == self._thoughts:
            return _thought(text if self._begun else text.lstrip())
        return _text(text)

    def _start(self, text: str) -> list[Piece]:
        """Nothing is decided: white space, then perhaps the opening mark."""
        bare = text.lstrip()
        if bare.startswith(self._open):
            return self._go(self._thoughts, bare[len(self._open) :])
        if self._open.startswith(bare):
            self._kept = text
            return []
        return self._go(self._answer, text)

    def _thoughts(self, text: str) -> list[Piece]:
        if not self._begun:
            text = text.lstrip()
        thought, closed, rest = text.partition(self._close)
        if closed:
            return _thought(thought.rstrip()) + self._go(self._gap, rest)
        sure = text[: len(text) - held(text, (self._close,))].rstrip()
        self._kept = text[len(sure) :]
        self._begun = self._begun or bool(sure)
        return _thought(sure)

    def _gap(self, text: str) -> list[Piece]:
        """White space between thoughts and answer."""
        bare = text.lstrip()
        return self._go(self._answer, bare) if bare else []

    def _answer(self, text: str) -> list[Piece]:
        return _text(text)

    def _go(self, state: Callable[[str], list[Piece]], text: str) -> list[Piece]:
        self._kept, self._state = "", state
        return state(text)


def _text(text: str) -> list[Piece]:
    return [Text(text)] if text else []


def _thought(text: str) -> list[Piece]:
    return [Thought(text)] if text else []
