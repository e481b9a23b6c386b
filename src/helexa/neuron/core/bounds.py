"""What a request may ask of an engine before its first token: schemas, patterns, tools. Pure.

llama.cpp turns a schema into a grammar and walks it for every token, on the one thread that decodes for everybody.
What stalls that thread is width: how many ways there are to go on at one point of an answer. 1,000 of them cost half a
second a token, and a counted repetition of something that may be empty, or of another repetition, never comes back.
Levels beyond the depth of its stack end the worker. So all of it is weighed here, and what weighs too much is refused
by name.

A raw grammar can hide the same anywhere and is not taken at all: `response_format` says what it could say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec

from helexa.neuron.core import pictures
from helexa.wire import intake
from helexa.wire import openai_chat as shapes

MOST_TOOLS: Final = 256
MOST_ANSWERS: Final = 128
"""Of one request for completions: prompts, times the answers to each."""
MOST_TEXTS: Final = 2048
"""Of one request for vectors, which others wait behind; OpenAI's own limit."""
DEEPEST: Final = 64
WIDEST: Final = 500
"""Ways to go on: values of an enum, alternatives, optional properties. An eighth of a second a token at the most."""
HEAVIEST: Final = 150_000
"""Grammar rules, about: one for each part of a schema, and each pair of optional properties of one object."""
LONGEST_PATTERN: Final = 1024
MOST_REPEATS: Final = 2000
"""llama.cpp's own limit of one repetition."""
MOST_NESTED_REPEATS: Final = 256
MOST_EMPTY_REPEATS: Final = 32

_VIDEOS: Final = ("input_video", "video_url")
_LISTS: Final = ("anyOf", "oneOf", "allOf")
_CHILDREN: Final = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_TABLES: Final = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_RANGES: Final = (
    ("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"), ("minimum", "maximum"),
)  # fmt: skip
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def check(request: shapes.Asked) -> None:
    """Any request that decodes. Raises InvalidRequest naming the field that asks for too much."""
    if isinstance(request, shapes.EmbeddingRequest) and texts_of(request.input) > MOST_TEXTS:
        raise intake.refuse("input", f"at most {MOST_TEXTS:,} texts a request")
    if isinstance(request, shapes.CompletionRequest) and texts_of(request.prompt) * (request.n or 1) > MOST_ANSWERS:
        raise intake.refuse("prompt", f"at most {MOST_ANSWERS} answers a request")
    if not isinstance(request, shapes.Request | shapes.CompletionRequest):
        return
    if intake.given(request.grammar):
        raise intake.refuse("grammar", "raw grammars are not taken by this server; say it as response_format")
    if intake.given(request.json_schema):
        intake.an_object(request.json_schema, "json_schema")
    weight = _given(request.json_schema, "json_schema", 0)
    if isinstance(request, shapes.Request):
        _check_pictures(request)
        if (wanted := request.response_format) is not None:
            weight = _given(wanted.schema, "response_format.schema", weight)
            if wanted.json_schema is not None:
                weight = _given(wanted.json_schema.schema, "response_format.json_schema.schema", weight)
        _tools(request.tools or [], weight)


def texts_of(given: shapes.Tokens) -> int:
    """One text or its tokens are one, a list of such as many as it holds."""
    return len(given) if isinstance(given, list) and not all(isinstance(each, int) for each in given) else 1


def _check_pictures(request: shapes.Request) -> None:
    """llama.cpp would fetch a video too."""
    for at, part in _parts(request):
        if part.type in _VIDEOS:
            raise intake.refuse(f"{at}.type", f"parts of type '{part.type}' are not supported by this server")
    seen = 0
    for field, url in images(request):
        try:
            seen += pictures.pixels(url)
        except pictures.BadPicture as problem:
            raise intake.refuse(field, str(problem)) from None
        if seen > pictures.MOST_PIXELS:
            raise intake.refuse(field, f"all images together are more than {pictures.MOST_PIXELS:,} pixels")


def images(request: shapes.Request) -> Iterator[tuple[str, str]]:
    """Each image of a chat: its field, and its URL."""
    return ((f"{at}.image_url", part.image_url.url) for at, part in _parts(request) if part.image_url is not None)


def _parts(request: shapes.Request) -> Iterator[tuple[str, shapes.PartIn]]:
    for index, message in enumerate(request.messages):
        for at, part in enumerate(message.content if isinstance(message.content, list) else ()):
            yield f"messages.{index}.content.{at}", part


def _tools(tools: list[shapes.ToolIn], weight: int) -> None:
    if len(tools) > MOST_TOOLS:
        raise intake.refuse("tools", f"at most {MOST_TOOLS} tools, not {len(tools)}")
    for index, tool in enumerate(tools):
        if tool.function is not None:
            weight = _given(tool.function.parameters, f"tools.{index}.function.parameters", weight)


def _given(raw: intake.MaybeRaw, at: str, weight: int) -> int:
    return weigh(intake.read(_any, raw, at), at, weight) if intake.given(raw) else weight


def weigh(schema: object, at: str, weight: int = 0) -> int:
    """`weight` and what `schema` adds to it. Raises InvalidRequest naming `at` for one that is too much."""
    scale = _Scale(schema, weight)
    try:
        scale.width(schema, 1)
    except _TooMuch as problem:
        raise intake.refuse(at, f"the schema is too complex: {problem}") from None
    except _Impossible as problem:
        raise intake.refuse(at, f"no value can be right by the schema: {problem}") from None
    return scale.weight


class _TooMuch(Exception):
    """Says of what."""


class _Impossible(Exception):
    """Says why. llama.cpp makes of a range that ends before it begins a repetition without end."""


class _Scale:
    """Weighs one document; `weight` grows as it is walked."""

    def __init__(self, root: object, weight: int) -> None:
        self.weight = weight
        self._root = root
        self._widths: dict[str, int] = {}

    def width(self, node: object, depth: int) -> int:
        """In how many ways a value of `node` can go on at one point."""
        if not isinstance(node, dict):
            return 1
        schema = cast(dict[str, Any], node)
        if depth > DEEPEST:
            raise _TooMuch(f"more than {DEEPEST} levels")
        self._add(1)
        if isinstance(pattern := schema.get("pattern"), str):
            check_pattern(pattern)
        for name in ("minLength", "minItems", "maxItems"):
            if isinstance(count := schema.get(name), int) and count > MOST_REPEATS:
                raise _TooMuch(f"{name} is over {MOST_REPEATS}")
        for least, most in _RANGES:
            if _over(schema.get(least), schema.get(most)):
                raise _Impossible(f"{least} is over {most}")
        for child in _children(schema):
            self.width(child, depth + 1)
        ways = max(1, self._optional(schema), self._values(schema), self._alternatives(schema, depth))
        if ways > WIDEST:
            raise _TooMuch(f"{ways} ways to go on at one point, of which there may be {WIDEST}")
        return ways

    def _optional(self, schema: Mapping[str, Any]) -> int:
        properties, required = schema.get("properties"), schema.get("required")
        if not isinstance(properties, dict):
            return 0
        names = cast(dict[str, Any], properties)
        always: set[object] = set(cast(list[object], required)) if _plain(required) else set()
        optional = sum(name not in always for name in names)
        self._add(optional * optional // 2)
        return optional

    def _values(self, schema: Mapping[str, Any]) -> int:
        found = [schema.get("enum"), schema.get("type")]
        return max(len(cast(list[object], each)) if isinstance(each, list) else 0 for each in found)

    def _alternatives(self, schema: Mapping[str, Any], depth: int) -> int:
        ways = sum(self.width(each, depth + 1) for name in _LISTS for each in _listed(schema.get(name)))
        ref = schema.get("$ref")
        return ways + (self._referred(ref, depth) if isinstance(ref, str) else 0)

    def _referred(self, ref: str, depth: int) -> int:
        """The width of what `#/...` points at; 1 on the way round a circle, and for what is not there."""
        if ref not in self._widths:
            self._widths[ref] = 1
            node = self._root
            for part in ref.removeprefix("#").split("/")[1:]:
                name = part.replace("~1", "/").replace("~0", "~")
                node = cast(dict[str, Any], node).get(name) if isinstance(node, dict) else None
            self._widths[ref] = self.width(node, depth + 1)
        return self._widths[ref]

    def _add(self, weight: int) -> None:
        self.weight += weight
        if self.weight > HEAVIEST:
            raise _TooMuch("more parts than a grammar may have")


def _over(least: object, most: object) -> bool:
    return isinstance(least, int | float) and isinstance(most, int | float) and least > most


def _children(schema: Mapping[str, Any]) -> Iterator[object]:
    for name in _CHILDREN:
        yield schema.get(name)
    for name in ("items", "prefixItems"):
        yield from _listed(schema.get(name))
    for name in _TABLES:
        table = schema.get(name)
        if isinstance(table, dict):
            yield from cast(dict[str, Any], table).values()


def _listed(value: object) -> list[object]:
    return cast(list[object], value) if isinstance(value, list) else []


def _plain(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in cast(list[object], value))


class _Part(NamedTuple):
    """A piece of a pattern: `ways` to go on at one point of it, whether it may be empty, how often it may repeat."""

    ways: int = 1
    empty: bool = False
    repeats: int = 1


def check_pattern(pattern: str) -> None:
    """Raises _TooMuch or _Impossible for a regular expression whose grammar could hold an engine up. One that is broken
    passes: the engine then takes any string, and says so in its log."""
    if len(pattern) > LONGEST_PATTERN:
        raise _TooMuch(f"a pattern of more than {LONGEST_PATTERN} characters")
    _Pattern(pattern).alternatives(1)


class _Pattern:
    """Reads a pattern from left to right; `at` is how far it has come."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def alternatives(self, depth: int) -> _Part:
        """`a|b|c`, up to a closing bracket or the end."""
        if depth > DEEPEST:
            raise _TooMuch(f"a pattern of more than {DEEPEST} levels")
        parts = [self._sequence(depth)]
        while self._take("|"):
            parts.append(self._sequence(depth))
        ways = sum(part.ways for part in parts)
        if ways > WIDEST:
            raise _TooMuch(f"a pattern with {ways} ways to go on at one point")
        return _Part(ways, any(part.empty for part in parts), max(part.repeats for part in parts))

    def _sequence(self, depth: int) -> _Part:
        ways = most = 0
        empty, repeats = True, 1
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            part = self._repeated(self._atom(depth))
            ways += part.ways
            most = max(most, ways)
            ways = ways if part.empty else 0
            empty, repeats = empty and part.empty, max(repeats, part.repeats)
        return _Part(max(1, most), empty, repeats)

    def _atom(self, depth: int) -> _Part:
        if self._take("("):
            inside = self.alternatives(depth + 1)
            self._take(")")
            return inside
        if self._take("["):
            self._skip_class()
        else:
            anchor = self._text[self._at] in "^$"
            self._at += 2 if self._text[self._at] == "\\" else 1
            return _Part(empty=anchor)
        return _Part()

    def _skip_class(self) -> None:
        first = True
        while self._at < len(self._text) and (first or self._text[self._at] != "]"):
            first = False
            self._at += 2 if self._text[self._at] == "\\" else 1
        self._at += 1

    def _repeated(self, part: _Part) -> _Part:
        """`part` with the quantifiers that follow it."""
        while (bounds := self._quantifier()) is not None:
            least, most = bounds
            if most is not None and least > most:
                raise _Impossible(f"a pattern that repeats {least} times or more, and {most} at the most")
            times = max(1, least if most is None else most)
            if part.empty and times > MOST_EMPTY_REPEATS:
                raise _TooMuch(f"a pattern that repeats {times} times what may be empty")
            if times > MOST_REPEATS or (part.repeats > 1 and part.repeats * times > MOST_NESTED_REPEATS):
                raise _TooMuch(f"a pattern that repeats {part.repeats} × {times} times")
            ways = part.ways * times if part.empty else part.ways
            part = _Part(ways, part.empty or least == 0, part.repeats * times)
        return part

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        end = self._text.find("}", self._at)
        if end < 0 or not self._text.startswith("{", self._at):
            return None
        least, comma, most = self._text[self._at + 1 : end].partition(",")
        if not (least or "0").isdecimal() or not (most or "0").isdecimal():
            return None
        self._at = end + 1
        low = int(least or "0")
        return low, (int(most) if most else None) if comma else low

    def _take(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._at)
        self._at += found
        return found
