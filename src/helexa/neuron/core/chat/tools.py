"""Finds the tool calls in what a model says, family by family. A call that does not parse is text.

A call is handed on once it is whole: nothing that was told as a call has to be taken back, and its arguments are always
a valid JSON object. White space around calls is not the answer's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from helexa.neuron.core.chat.stops import first, held
from helexa.wire.canon import Text, ToolDelta

Piece = Text | ToolDelta


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the model wrote it; `arguments` is a JSON object."""

    name: str
    arguments: dict[str, Any]
    id: str = ""


Parse = Callable[[str], list[Call] | None]
"""The calls in the text between two marks, None when it is none."""


class Splitter(Protocol):
    """Takes text, gives text and calls; `end` gives what was held back."""

    def feed(self, text: str) -> list[Piece]: ...
    def end(self) -> list[Piece]: ...


class Numbered:
    """Makes calls events: each gets the next index and an id."""

    def __init__(self, fresh_id: Callable[[], str]) -> None:
        self._fresh_id = fresh_id
        self.count = 0

    def __call__(self, calls: Sequence[Call]) -> list[Piece]:
        pieces: list[Piece] = []
        for call in calls:
            pieces.append(self.begin(call.name, call.id))
            text = json.dumps(call.arguments, ensure_ascii=False)
            pieces.append(ToolDelta(index=self.count - 1, arguments=text))
        return pieces

    def begin(self, name: str, given: str = "") -> ToolDelta:
        """The event that begins a call; `given` is the id that the model gave it."""
        self.count += 1
        return ToolDelta(index=self.count - 1, name=name, id=given or self._fresh_id())


class Plain:
    """No tools: everything is text."""

    def feed(self, text: str) -> list[Piece]:
        return [Text(text)] if text else []

    def end(self) -> list[Piece]:
        return []


class Between:
    """Calls between an opening and a closing mark, anywhere in the answer (Hermes, Qwen, DeepSeek).

    The closing mark may also stand inside an argument: if what is before it does not parse, the next one is tried, as
    long as no other call has begun. `noise` are marks around the calls that mean nothing.
    """

    def __init__(self, opens: str, closes: str, parse: Parse, number: Numbered, noise: tuple[str, ...] = ()) -> None:
        self._opens, self._closes, self._parse, self._number, self._noise = opens, closes, parse, number, noise
        self._kept, self._space, self._searched = "", "", 0
        self._inside, self._gap = False, False

    def feed(self, text: str) -> list[Piece]:
        self._kept += text
        return self._advance(final=False)

    def end(self) -> list[Piece]:
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while (more := self._call(final) if self._inside else self._text(final)) is not None:
            pieces += more
        return pieces

    def _text(self, final: bool) -> list[Piece] | None:
        """Text up to the next mark; None when there is no more to be said now."""
        if self._gap:
            self._kept = self._kept.lstrip()
            self._gap = not self._kept
        found = first(self._kept, (self._opens, *self._noise))
        if found is not None:
            return self._marked(*found)
        said = self._kept if final else self._certain()
        self._kept = self._kept[len(said) :]
        return [Text(said)] if said else None

    def _marked(self, at: int, mark: str) -> list[Piece]:
        before = self._kept[:at].rstrip()
        self._space, self._kept = self._kept[len(before) : at], self._kept[at + len(mark) :]
        self._inside, self._gap, self._searched = mark == self._opens, mark != self._opens, 0
        return [Text(before)] if before else []

    def _certain(self) -> str:
        """All but white space at the end, which may precede a call, and what may be a mark."""
        kept = self._kept
        return kept[: len(kept) - held(kept, (self._opens, *self._noise))].rstrip()

    def _call(self, final: bool) -> list[Piece] | None:
        at = self._kept.find(self._closes, self._searched)
        if at < 0:
            self._searched = max(self._searched, len(self._kept) - len(self._closes))
            return self._made(len(self._kept), len(self._kept)) if final else None
        return self._made(at, at + len(self._closes), final)

    def _made(self, at: int, after: int, final: bool = True) -> list[Piece] | None:
        """The call that ends at `at`, its mark at `after`. What is none there may go on, unless another call begins."""
        calls = self._parse(self._kept[:at])
        if calls:
            self._kept, self._inside, self._gap = self._kept[after:], False, True
            return self._number(calls)
        following = first(self._kept, (self._opens, self._closes), after)
        if following is None and not final:
            return None
        if following is not None and following[1] == self._closes and self._opens not in self._kept[:at]:
            self._searched = following[0]
            return []
        said, self._kept, self._inside = self._space + self._opens + self._kept[:after], self._kept[after:], False
        return [Text(said)]


class Remainder:
    """Calls that are the rest of the answer from a mark on, or all of it if it begins like one (`bare`): Llama 3,
    Mistral."""

    def __init__(self, opens: tuple[str, ...], parse: Parse, number: Numbered, *, bare: bool) -> None:
        self._opens, self._parse, self._number, self._bare = opens, parse, number, bare
        self._kept: list[str] = []
        self._mark = ""
        self._inside = False

    def feed(self, text: str) -> list[Piece]:
        self._kept.append(text)
        return [] if self._inside else self._look("".join(self._kept))

    def end(self) -> list[Piece]:
        kept = "".join(self._kept)
        calls = self._parse(kept) if self._inside else None
        if calls:
            return self._number(calls)
        return [Text(self._mark + kept)] if self._mark + kept else []

    def _look(self, kept: str) -> list[Piece]:
        if self._bare and kept.lstrip().startswith(("{", "[")):
            self._kept, self._inside = [kept], True
            return []
        found = first(kept, self._opens)
        if found is None:
            said = kept[: len(kept) - held(kept, self._opens)].rstrip()
            self._kept, self._bare = [kept[len(said) :]], self._bare and not said
            return [Text(said)] if said else []
        at, mark = found
        said = kept[:at].rstrip()
        self._mark, self._kept, self._inside = kept[len(said) : at] + mark, [kept[at + len(mark) :]], True
        return [Text(said)] if said else []


# ── How each family writes a call ──────────────────────────────────────────────────────────────────────────────────


def call_of(value: object) -> Call | None:
    """A call from its JSON: `name`, and `arguments` or `parameters` (an object or its text), also inside `function`."""
    if not isinstance(value, dict):
        return None
    fields = cast(dict[str, object], value)
    inner = fields.get("function")
    if isinstance(inner, dict):
        fields = cast(dict[str, object], inner)
    name = fields.get("name")
    arguments = object_of(fields.get("arguments", fields.get("parameters", {})))
    if not isinstance(name, str) or not name or arguments is None:
        return None
    given = fields.get("id")
    return Call(name, arguments, given if isinstance(given, str) else "")


def object_of(value: object) -> dict[str, Any] | None:
    """A JSON object, given as one or as its text."""
    if isinstance(value, str):
        value = load(value)
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def load(text: str) -> object:
    """The JSON value that `text` is, None when it is none."""
    values = _values(text)
    return values[0] if values is not None and len(values) == 1 else None


def _values(text: str, separators: str = "") -> list[object] | None:
    """The JSON values that `text` is made of, one after another; None when there is anything else in it."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    found: list[object] = []
    at = 0
    while (at := _skip(text, at, separators)) < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        found.append(value)
    return found


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _skip(text: str, at: int, separators: str) -> int:
    while at < len(text) and (text[at].isspace() or text[at] in separators):
        at += 1
    return at


def parse_json(text: str, separators: str = ";") -> list[Call] | None:
    """Objects one after another, or one array of them."""
    values = _values(text, separators)
    if values is not None and len(values) == 1 and isinstance(values[0], list):
        values = cast(list[object], values[0])
    calls = [call_of(value) for value in values or ()]
    return [call for call in calls if call is not None] if calls and None not in calls else None


_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)


def parse_hermes(text: str) -> list[Call] | None:
    """JSON (Hermes, Qwen 2.5 and 3), or Qwen3-Coder's `<function=NAME><parameter=KEY>VALUE</parameter></function>`."""
    match = _FUNCTION.fullmatch(text)
    if match is None:
        return parse_json(text, "")
    arguments: dict[str, Any] = {}
    at, body = 0, match[2].strip()
    while at < len(body):
        parameter = _PARAMETER.match(body, at)
        if parameter is None:
            return None
        value = load(parameter[2])
        arguments[parameter[1]] = parameter[2] if value is None else value
        at = parameter.end()
    return [Call(match[1], arguments)]


_MISTRAL = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\]([\w-]+))?(?:\[ARGS\])?\s*(\{.*\})\s*", re.DOTALL)


def parse_mistral(text: str) -> list[Call] | None:
    """An array of calls, or since 2025 `NAME[CALL_ID]ID[ARGS]{...}`, with a mark before each."""
    calls = parse_json(text)
    if calls is not None:
        return calls
    found: list[Call] = []
    for part in text.split("[TOOL_CALLS]"):
        match = _MISTRAL.fullmatch(part)
        arguments = object_of(match[3]) if match else None
        if match is None or arguments is None:
            return None
        found.append(Call(match[1], arguments, match[2] or ""))
    return found


_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)
_SEPARATOR = "<｜tool▁sep｜>"


def parse_deepseek(text: str) -> list[Call] | None:
    """`function<sep>NAME` and fenced JSON (V3, R1), or `NAME<sep>{...}` (V3.1)."""
    head, separated, rest = text.partition(_SEPARATOR)
    if not separated:
        return None
    name, body = head.strip(), rest
    if name == "function":
        name, _, body = rest.lstrip().partition("\n")
    fenced = _FENCE.fullmatch(body)
    arguments = object_of(fenced[1] if fenced else body)
    return [Call(name.strip(), arguments)] if name.strip() and arguments is not None else None


# ── Families ───────────────────────────────────────────────────────────────────────────────────────────────────────

DEEPSEEK_CALL = ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
DEEPSEEK_NOISE = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")


def family_of(template: str) -> str:
    """Which family's calls a chat template speaks of: "" for one that knows no tools."""
    for family, mark in (
        ("harmony", "<|channel|>"),
        ("deepseek", DEEPSEEK_CALL[0]),
        ("hermes", "<tool_call>"),
        ("mistral", "[TOOL_CALLS]"),
        ("llama3", "<|python_tag|>"),
    ):
        if mark in template:
            return family
    return "json" if "tools" in template else ""


def splitter(family: str, number: Numbered) -> Splitter:
    """The reader of a family's calls; "json" is an answer that is nothing but calls."""
    match family:
        case "hermes":
            return Between("<tool_call>", "</tool_call>", parse_hermes, number)
        case "deepseek":
            return Between(*DEEPSEEK_CALL, parse_deepseek, number, DEEPSEEK_NOISE)
        case "mistral":
            return Remainder(("[TOOL_CALLS]",), parse_mistral, number, bare=False)
        case "llama3":
            return Remainder(("<|python_tag|>",), parse_json, number, bare=True)
        case "json":
            return Remainder((), parse_json, number, bare=True)
        case _:
            return Plain()


MARKS = (
    *DEEPSEEK_CALL, *DEEPSEEK_NOISE, _SEPARATOR, "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]",
    "<|python_tag|>", "<think>", "</think>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>",
    "<|return|>", "<|constrain|>",
)  # fmt: skip
"""Tokens that a vocabulary may call special and that must reach the readers here as text."""
