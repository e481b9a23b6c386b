"""A call that has to come: the grammar to which an answer is held so that it is nothing but calls. Pure.

An engine that only begins to constrain where a model begins a call lets it talk for ever instead. Held to this grammar
from its first token, any model calls, whether its template knows tools or not; `tools.splitter("json", ...)` reads what
it says.

And the call comes to its end within the tokens that there are, whatever the model says: a token is at least one byte,
so the longest call that the grammar lets through is counted in bytes, and what a tool leaves open is bounded by what
is left of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from helexa.neuron.core.chat import grammar
from helexa.neuron.core.chat.schema import Schema, constrained

MOST_CALLS: Final = 8
MOST_ITEMS: Final = 16
LEAST_TEXT, MOST_TEXT = 16, 8000
"""Bytes of a text that its tool leaves open."""
_GOOD_TEXT: Final = 32
"""Lists are shortened until each text has as much as this."""
_TOKENS_PER_CALL: Final = 256
_SPARE: Final = 2
"""The token that ends the answer, and one more."""
_SCALARS: Final = ("string", "number", "boolean", "null")


@dataclass(frozen=True, slots=True)
class Function:
    """A tool that may be called; `parameters` is its JSON schema, found in the request `at`."""

    name: str
    parameters: object
    at: str = "tools"


def room(limit: int | None, window: int) -> int:
    """Tokens that calls may take: what was asked for, at most half of the window."""
    return min(limit or window // 2, window // 2)


def call_grammar(functions: Sequence[Function], *, parallel: bool, tokens: int) -> tuple[str, list[str]]:
    """The grammar of one call of one of `functions`, or of a list of calls, that ends within `tokens`; and the schemas'
    keywords that it does not hold. Raises InvalidRequest for a schema that makes no sense."""
    schema, dropped = call_schema(functions, parallel=parallel, tokens=tokens)
    return grammar.grammar(schema), dropped


def call_schema(
    functions: Sequence[Function], *, parallel: bool, tokens: int, places: float = math.inf
) -> tuple[Schema, list[str]]:
    """What `call_grammar` is written of; `places` as for `schema.constrained`, for all functions together."""
    most = max(1, min(tokens // _TOKENS_PER_CALL, MOST_CALLS)) if parallel else 1
    calls: list[Schema] = []
    dropped: set[str] = set()
    for function in functions:
        arguments, lost = constrained(function.parameters or {"type": "object"}, function.at, places / len(functions))
        dropped |= {*lost}
        calls.append(_fitted(_call(function.name, arguments), (tokens - _SPARE) // most - _SPARE))
    one: Schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    answer: Schema = {"type": "array", "items": one, "minItems": 1, "maxItems": most} if parallel else one
    return answer, sorted(dropped)


def _call(name: str, arguments: Schema) -> Schema:
    """Arguments are an object, whatever their schema leaves open."""
    if "anyOf" not in arguments:
        arguments = arguments | {"type": "object"}
    fields: Schema = {"name": {"const": name}, "arguments": arguments}
    return {"type": "object", "properties": fields, "required": [*fields]}


def _fitted(call: Schema, tokens: int) -> Schema:
    """`call` with an end to every text and list, so that none is longer than `tokens` bytes: shorter lists where the
    texts in them would be too short."""
    items, text = MOST_ITEMS, _text_bytes(call, MOST_ITEMS, tokens)
    while text < _GOOD_TEXT and items > 1:
        items //= 2
        text = _text_bytes(call, items, tokens)
    return _ended(call, items, max(LEAST_TEXT, min(text, MOST_TEXT)))


def _text_bytes(call: Schema, items: int, tokens: int) -> int:
    most = _longest(_ended(call, items, 0))
    return (tokens - most.fixed) // max(1, most.texts)


def _ended(node: Any, items: int, text: int) -> Any:
    """`node` with at most `items` in a list and `text` bytes in a text."""
    if not isinstance(node, dict):
        return _anything(items, text)
    schema = cast(Schema, node)
    if "const" in schema or "enum" in schema:
        return schema
    if "anyOf" in schema:
        return {"anyOf": [_ended(each, items, text) for each in schema["anyOf"]]}
    kinds = grammar.types_of(schema)
    if "value" in kinds:
        return _anything(items, text)
    ended = schema | {"type": kinds}
    if "string" in kinds:
        ended["maxBytes"] = text
    if "array" in kinds:
        ended |= _ended_list(schema, items, text)
    if "object" in kinds:
        ended |= _ended_object(schema, items, text)
    return ended


def _ended_list(schema: Schema, items: int, text: int) -> Schema:
    """A bound of the tool's own holds as long as there is room for it."""
    given: int = schema.get("maxItems", items)
    most = max(schema.get("minItems", 0), given if items == MOST_ITEMS else min(given, items))
    return {"maxItems": most, "items": _ended(schema.get("items", True), items, text) if most else True}


def _ended_object(schema: Schema, items: int, text: int) -> Schema:
    if properties := schema.get("properties"):
        return {"properties": {name: _ended(each, items, text) for name, each in properties.items()}}
    values = schema.get("additionalProperties", True)
    if values is False:
        return {}
    inside = _scalar(text) if values is True else _ended(values, items, text)
    names = {"type": "string", "maxBytes": text}
    return {"additionalProperties": inside, "propertyNames": names, "maxProperties": items}


def _scalar(text: int) -> Schema:
    return {"type": [*_SCALARS], "maxBytes": text}


def _anything(items: int, text: int) -> Schema:
    """Where a schema says nothing: a value, a list of values, an object of them."""
    listed: Schema = {"type": "array", "items": _scalar(text), "maxItems": items}
    return {"anyOf": [_scalar(text), listed, {"type": "object"} | _ended_object({}, items, text)]}


# ── How long ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Most:
    """The most bytes of a value: `fixed`, and what the bound of a text is, `texts` times."""

    fixed: int = 0
    texts: int = 0

    def __add__(self, other: _Most) -> _Most:
        return _Most(self.fixed + other.fixed, self.texts + other.texts)

    def __mul__(self, times: int) -> _Most:
        return _Most(self.fixed * times, self.texts * times)

    def __or__(self, other: _Most) -> _Most:
        return _Most(max(self.fixed, other.fixed), max(self.texts, other.texts))


def _longest(schema: Schema) -> _Most:
    """Of a schema that is `_ended`, as grammar.py writes it."""
    most = _Most()
    if "const" in schema or "enum" in schema:
        for value in [schema["const"]] if "const" in schema else schema["enum"]:
            most |= _Most(grammar.size_of(value))
    elif "anyOf" in schema:
        for each in schema["anyOf"]:
            most |= _longest(each)
    else:
        for kind in grammar.types_of(schema):
            most |= _longest_of(kind, schema)
    return most


def _longest_of(kind: str, schema: Mapping[str, Any]) -> _Most:
    between = _Most(len(", "))
    match kind:
        case "string":
            return _Most(len('""') + grammar.LONGEST_CHAR * schema.get("minLength", 0), 1)
        case "array":
            most: int = schema["maxItems"]
            return _Most(len("[]")) + ((_longest(schema["items"]) + between) * most if most else _Most())
        case "object" if properties := schema.get("properties"):
            pairs = _Most(len("{}"))
            for name, each in cast(dict[str, Schema], properties).items():
                pairs += _Most(grammar.size_of(name) + len(": ")) + _longest(each) + between
            return pairs
        case "object" if "maxProperties" in schema:
            pair = _longest(schema["propertyNames"]) + _Most(len(": ")) + _longest(schema["additionalProperties"])
            return _Most(len("{}")) + (pair + between) * schema["maxProperties"]
        case _:
            return _Most(grammar.LONGEST_NUMBER)
