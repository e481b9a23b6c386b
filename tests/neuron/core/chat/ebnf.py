"""What grammars written by grammar.py let through: the longest of it, and any of it by chance."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{(\d*),?(\d*)\}|[*?+|()]|\w+')
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")
_ENDLESS = 3

Rule = tuple[str, object]
"""("text", str) | ("class", [(low, high)], negated) | ("rule", name) | ("all", [Rule]) | ("any", [Rule]) |
("times", Rule, least, most)."""


class Grammar:
    def __init__(self, text: str) -> None:
        self._rules = {name: body for name, _, body in (line.partition(" ::= ") for line in text.strip().split("\n"))}
        self._parsed: dict[str, Rule] = {}
        self._sizes: dict[str, int] = {}

    def rule(self, name: str) -> Rule:
        if name not in self._parsed:
            self._parsed[name] = _Reader(self._rules[name]).alternatives()
        return self._parsed[name]

    def longest(self) -> int:
        """Bytes of the longest sentence; a RecursionError or KeyError where there is none."""
        for name in self._rules:
            if re.fullmatch(r"t\d+", name):
                self._named(name)
        return self._named("root")

    def _named(self, name: str) -> int:
        if name not in self._sizes:
            self._sizes[name] = self._size(self.rule(name))
        return self._sizes[name]

    def _size(self, rule: Rule) -> int:
        match rule:
            case ("text", text):
                return len(str(text).encode())
            case ("class", ranges, negated):
                return 4 if negated else max(len(chr(high).encode()) for _, high in ranges)
            case ("rule", name):
                return self._named(str(name))
            case ("all", parts):
                return sum(map(self._size, parts))
            case ("any", parts):
                return max(map(self._size, parts))
            case ("times", inner, _, most):
                assert most is not None, "an endless repetition"
                return self._size(inner) * most
        raise AssertionError(rule)

    def sentence(self, chance: random.Random) -> str:
        return self._say(self.rule("root"), chance)

    def _say(self, rule: Rule, chance: random.Random) -> str:
        match rule:
            case ("text", text):
                return str(text)
            case ("class", ranges, negated):
                return "a" if negated else chr(chance.randint(*chance.choice(ranges)))
            case ("rule", name):
                return self._say(self.rule(str(name)), chance)
            case ("all", parts):
                return "".join(self._say(part, chance) for part in parts)
            case ("any", parts):
                return self._say(chance.choice(parts), chance)
            case ("times", inner, least, most):
                count = chance.randint(least, least + _ENDLESS if most is None else most)
                return "".join(self._say(inner, chance) for _ in range(count))
        raise AssertionError(rule)


class _Reader:
    def __init__(self, text: str) -> None:
        self._signs = list(_TOKEN.finditer(text))

    def alternatives(self) -> Rule:
        ways = [self._sequence()]
        while self._take("|"):
            ways.append(self._sequence())
        return ways[0] if len(ways) == 1 else ("any", ways)

    def _sequence(self) -> Rule:
        parts: list[Rule] = []
        while self._signs and self._signs[0][0] not in "|)":
            parts.append(self._repeated(self._atom()))
        return ("all", parts)

    def _atom(self) -> Rule:
        sign = self._signs.pop(0)[0]
        if sign == "(":
            inside = self.alternatives()
            assert self._take(")")
            return inside
        if sign[0] == '"':
            return ("text", _unescaped(sign[1:-1]))
        return _class(sign[1:-1]) if sign[0] == "[" else ("rule", sign)

    def _repeated(self, rule: Rule) -> Rule:
        bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        while self._signs and (self._signs[0][0] in bounds or self._signs[0][0][0] == "{"):
            match = self._signs.pop(0)
            low, high = bounds[match[0]] if match[0] in bounds else _counts(match)
            rule = ("times", rule, low, high)  # pyright: ignore[reportAssignmentType]
        return rule

    def _take(self, sign: str) -> bool:
        found = bool(self._signs) and self._signs[0][0] == sign
        if found:
            self._signs.pop(0)
        return found


def _counts(match: re.Match[str]) -> tuple[int, int | None]:
    if "," not in match[0]:
        return int(match[1]), int(match[1])
    return int(match[1]), int(match[2]) if match[2] else None


def _unescaped(text: str, keep: Callable[[str], str] = lambda sign: sign) -> str:
    return _ESCAPE.sub(lambda m: chr(int(m[1] or m[2] or m[3], 16)) if not m[4] else keep(m[4]), text)


def _class(text: str) -> Rule:
    negated = text.startswith("^")
    signs = [m[0] for m in re.finditer(r"\\U.{8}|\\u.{4}|\\x.{2}|\\.|.", text.removeprefix("^"), re.DOTALL)]
    ranges: list[tuple[int, int]] = []
    while signs:
        low = ord(_unescaped(signs.pop(0)))
        high = low
        if len(signs) > 1 and signs[0] == "-":
            signs.pop(0)
            high = ord(_unescaped(signs.pop(0)))
        ranges.append((low, high))
    return ("class", ranges, negated)  # pyright: ignore[reportReturnType]
