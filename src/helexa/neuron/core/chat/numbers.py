"""Whole numbers between two bounds, as an expression of grammar.py's. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MOST_DIGITS: Final = 16
LARGEST: Final = 10**MOST_DIGITS - 1


def whole(low: int | None, high: int | None) -> str:
    """`low` and `high` are numbers that may be said, None where there is no bound but `LARGEST`."""
    least, most = -LARGEST if low is None else low, LARGEST if high is None else high
    ways: list[str] = []
    if least < 0:
        ways.append(f'"-" {_natural(max(1, -most), -least)}')
    if most >= 0:
        ways.append(_natural(max(0, least), most))
    return f"({' | '.join(ways)})"


def _natural(low: int, high: int) -> str:
    """One way for each count of digits."""
    counts = range(len(str(low)), len(str(high)) + 1)
    bounds = [(max(low, 10 ** (count - 1) if count > 1 else 0), min(high, 10**count - 1)) for count in counts]
    return f"({' | '.join(_digits(str(least), str(most)) for least, most in bounds)})"


def _digits(low: str, high: str) -> str:
    """Numbers of as many digits as both bounds have."""
    if low[:1] == high[:1] and len(low) > 1:
        return f'"{low[0]}" {_digits(low[1:], high[1:])}'
    ways = [*_ways(low, high)]
    return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})"


def _ways(low: str, high: str) -> Iterator[str]:
    """By the first digit: the lowest and the highest, where what follows is bounded too, and those between."""
    first, last, more = int(low[0]), int(high[0]), len(low) - 1
    if low[1:].strip("0"):
        yield f'"{first}" {_digits(low[1:], "9" * more)}'
        first += 1
    bounded = bool(high[1:].strip("9"))
    if first <= last - bounded:
        yield f"[{first}-{last - bounded}]" + (f" [0-9]{{{more}}}" if more else "")
    if bounded:
        yield f'"{last}" {_digits("0" * more, high[1:])}'
