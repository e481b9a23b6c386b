"""How a person reads what several have said."""

from __future__ import annotations

from collections.abc import Iterable


def together(told: Iterable[tuple[str, str]]) -> str:
    """(who, what) pairs in one line, those who say the same in one breath: `n1, n2: too small; n3: away`."""
    speakers: dict[str, list[str]] = {}
    for who, what in told:
        speakers.setdefault(what, []).append(who)
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in speakers.items())


def counted(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`, `2 aliases`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
