"""A call that has to come: the JSON schema to which an answer is held so that it is nothing but calls. Pure.

An engine that only begins to constrain where a model begins a call lets it talk for ever instead. Held to this schema
from its first token, any model calls, whether its template knows tools or not; `tools.splitter("json", ...)` reads what
it says. Texts and lists that a tool leaves open are bounded, or a small model never comes to their end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

MOST_CALLS: Final = 8
MOST_ITEMS: Final = 16
_TOKENS_PER_CALL: Final = 128
_TOKENS_PER_ITEM: Final = 64
_SHORTEST, _LONGEST = 16, 2000
_CLOSED_TEXT: Final = ("enum", "const", "pattern", "format", "maxLength")

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Function:
    """A tool that may be called; `parameters` is its JSON schema."""

    name: str
    parameters: Mapping[str, Any]


def schema_of(functions: Sequence[Function], *, parallel: bool, tokens: int) -> Schema:
    """What an answer must be: one call of one of `functions`, or a list of calls. `tokens` is what there is to say them
    in, shared among the texts that are open."""
    most = _clamp(1, tokens // _TOKENS_PER_CALL, MOST_CALLS) if parallel else 1
    items = _clamp(1, tokens // most // _TOKENS_PER_ITEM, MOST_ITEMS)
    texts = max(1, *(_texts(function.parameters, items) for function in functions))
    longest = _clamp(_SHORTEST, tokens // most // texts, _LONGEST)  # a token a character: four times what English takes
    names = [f"tool{at}" for at in range(len(functions))]
    calls = [_call(function.name, name) for function, name in zip(functions, names, strict=True)]
    one: Schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    answer: Schema = {"type": "array", "items": one, "minItems": 1, "maxItems": most} if parallel else one
    definitions = {
        name: _closed(_moved(dict(function.parameters), f"#/$defs/{name}"), longest, items)
        for function, name in zip(functions, names, strict=True)
    }
    return {**answer, "$defs": definitions}


def _call(name: str, definition: str) -> Schema:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{definition}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(node: Any, root: str) -> Any:
    """`node` with its references where they point after it has moved from the root to `root`."""
    if isinstance(node, list):
        return [_moved(each, root) for each in cast(list[Any], node)]
    if not isinstance(node, dict):
        return node
    moved = {name: _moved(value, root) for name, value in cast(Schema, node).items()}
    ref = moved.get("$ref")
    if isinstance(ref, str) and ref.startswith("#"):
        moved["$ref"] = root + ref[1:]
    return moved


def _closed(node: Any, longest: int, items: int) -> Any:
    """`node` with an end to every text and list."""
    if isinstance(node, list):
        return [_closed(each, longest, items) for each in cast(list[Any], node)]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(value, longest, items) for name, value in cast(Schema, node).items()}
    if _open_text(closed):
        closed["maxLength"] = longest
    if closed.get("type") == "array":
        closed.setdefault("maxItems", max(items, _whole(closed.get("minItems"))))
    return closed


def _texts(node: Any, items: int) -> int:
    """How many open texts a value of the schema may hold; an open list has `items`."""
    if isinstance(node, list):
        return sum(_texts(each, items) for each in cast(list[Any], node))
    if not isinstance(node, dict):
        return 0
    schema = cast(Schema, node)
    inside = sum(_texts(value, items) for value in schema.values()) + _open_text(schema)
    return inside * (_whole(schema.get("maxItems")) or items) if schema.get("type") == "array" else inside


def _open_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" and not any(name in schema for name in _CLOSED_TEXT)


def _clamp(least: int, value: int, most: int) -> int:
    return min(most, max(least, value))


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
