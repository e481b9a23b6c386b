"""Stop strings in a stream of text: what might become one is held back until it is known."""

from __future__ import annotations

from collections.abc import Sequence


def held(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `marks`."""
    longest = min(len(text), max((len(mark) for mark in marks), default=1) - 1)
    for size in range(longest, 0, -1):
        tail = text[-size:]
        if any(mark.startswith(tail) for mark in marks if len(mark) > size):
            return size
    return 0


def first(text: str, marks: Sequence[str], since: int = 0) -> tuple[int, str] | None:
    """Where the first of `marks` to be complete begins, and which it is; of two that end together the longer one.

    The first to be *complete*, not to begin: that is the one which text that arrives letter by letter would meet.
    """
    found = [(at, mark) for mark in marks if (at := text.find(mark, since)) >= 0]
    return min(found, key=lambda hit: (hit[0] + len(hit[1]), hit[0]), default=None)


class Stops:
    """Lets text through up to the first stop string. `hit` is the one that ended it."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._kept = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certain to come before any stop string."""
        if self.hit is not None:
            return ""
        text = self._kept + text
        found = first(text, self._strings)
        if found is not None:
            at, self.hit = found
            self._kept = ""
            return text[:at]
        keep = held(text, self._strings)
        self._kept = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back and did not become a stop string."""
        text, self._kept = self._kept, ""
        return text
