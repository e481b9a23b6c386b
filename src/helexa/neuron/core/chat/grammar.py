"""A grammar for JSON that obeys a schema, in the EBNF that xgrammar and llama.cpp both read.

Written here and not left to the engines' own converters. Those let white space run between any two signs, and a small
model runs with it until its tokens are spent. xgrammar's stops a whole batch for what it does not understand; every
line below is known to be understood. And none of them can bound a text by its bytes (`maxBytes`, a keyword of our own).

JSON comes out on one line, as `json.dumps` writes it, with the properties in the schema's order. Properties that the
schema does not name are not made: what comes out is always valid, but not all that is valid can come out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from helexa.neuron.core.chat import numbers
from helexa.neuron.core.chat.schema import Schema

_BASE: Final = r"""
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" (string ": " value (", " string ": " value)*)? "}"
array ::= "[" (value (", " value)*)? "]"
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1f] | "\\" ["\\/bfnrt] | "\\u" [0-9a-fA-F]{4}
integer ::= "-"? ("0" | [1-9] [0-9]{0,15})
number ::= integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,3})?
"""
_BYTES: Final = (
    r"byte1 ::= [\x20-!#-\[\]-\x7f]",
    r'byte2 ::= [\u0080-\u07ff] | "\\" ["\\/bfnrt]',
    r"byte3 ::= [\u0800-\uffff]",
    r"byte4 ::= [\U00010000-\U0010ffff]",
    "byte ::= byte1 | byte2 | byte3 | byte4",
)
"""A sign of a text by how many bytes it takes. What `\\u` could say besides is control characters."""
LONGEST_CHAR: Final = 4
LONGEST_NUMBER: Final = 38
_TYPES: Final = {"integer": "integer", "number": "number", "null": '"null"', "boolean": '("true" | "false")'}


def grammar(schema: Schema, counted: float = math.inf) -> str:
    """The grammar of a schema that `schema.constrained` has read. A text of more than `counted` bytes has no end."""
    writer = _Writer(counted)
    root = writer.rule(schema)
    return "\n".join((f"root ::= {root}", *writer.rules)) + "\n" + _BASE.lstrip()


class _Writer:
    """Collects rules; each method returns the expression that stands for a part of the schema."""

    def __init__(self, counted: float) -> None:
        self.rules: list[str] = []
        self._counted = counted
        self._names: dict[str, str] = {}
        self._texts = -1
        """The longest bounded text that there is a rule for, in bytes."""

    def rule(self, schema: Any) -> str:
        """A part of the schema, as the name of a rule of its own where it is not a word."""
        expression = self._expression(schema)
        return expression if expression.isidentifier() else self._named(expression)

    def _named(self, expression: str) -> str:
        """The rule of an expression, the same one wherever it stands: xgrammar takes its time for each place of a text
        with a bound, and everybody waits."""
        if expression not in self._names:
            name = self._names[expression] = f"r{len(self.rules)}"
            self.rules.append(f"{name} ::= {expression}")
        return self._names[expression]

    def _expression(self, schema: Any) -> str:
        return self._of(cast(Schema, schema)) if isinstance(schema, dict) else "value"

    def _of(self, schema: Schema) -> str:
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return " | ".join(_literal(each) for each in schema["enum"])
        if "anyOf" in schema:
            return " | ".join(self.rule(each) for each in schema["anyOf"])
        return " | ".join(self._typed(each, schema) for each in types_of(schema))

    def _typed(self, kind: str, schema: Mapping[str, Any]) -> str:
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return self._string(schema)
            case "integer" if "minimum" in schema or "maximum" in schema:
                return numbers.whole(schema.get("minimum"), schema.get("maximum"))
            case _:
                return _TYPES.get(kind, "value")

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most, size = schema.get("minLength", 0), schema.get("maxLength"), schema.get("maxBytes")
        if size is not None and size <= self._counted:
            return self._bounded(least, most, size)
        return "string" if not least and most is None else f'"\\"" char{_times(least, most)} "\\""'

    def _bounded(self, least: int, most: int | None, size: int) -> str:
        """A text of `least` signs, and after those of at most `size` bytes; and of at most `most` signs."""
        self._text(0)
        begun = f"byte{{{least}}} " if least else ""
        if most is not None and LONGEST_CHAR * (most - least) <= size:
            return f'"\\"" {begun}byte{{0,{most - least}}} "\\""'
        return f'"\\"" {begun}{self._text(size if most is None else min(size, most - least))} "\\""'

    def _text(self, size: int) -> str:
        """The rule of a text of at most `size` bytes: a sign, and a text of so much less."""
        if self._texts < 0:
            self.rules += _BYTES
        for left in range(self._texts + 1, size + 1):
            ways = [f"byte{cost} t{left - cost}" for cost in range(1, min(LONGEST_CHAR, left) + 1)]
            self.rules.append(f"t{left} ::= {' | '.join(ways)} | " + '""' if ways else 't0 ::= ""')
        self._texts = max(self._texts, size)
        return f"t{size}"

    def _array(self, schema: Mapping[str, Any]) -> str:
        item = self.rule(schema.get("items", True))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0 or schema.get("items") is False:
            return '"[]"'
        more = f'(", " {item}){_times(max(0, least - 1), None if most is None else most - 1)}'
        return f'"[" {item} {more} "]"' if least else f'"[" ({item} {more})? "]"'

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        required: Sequence[str] = schema.get("required") or ()
        if not properties:
            return self._open(schema)
        pairs = [(f"{_literal(name, ': ')} {self.rule(each)}", name in required) for name, each in properties.items()]
        begun, fresh = '""', '""'
        for pair, needed in reversed(pairs):
            after = self._named(begun)
            begun = f'", " {pair} {after}' + ("" if needed else f" | {after}")
            fresh = f"{pair} {after}" + ("" if needed else f" | {self._named(fresh)}")
        return f'"{{" {self._named(fresh)} "}}"'

    def _open(self, schema: Mapping[str, Any]) -> str:
        """An object whose properties have no names yet."""
        values = schema.get("additionalProperties", True)
        if values is False:
            return '"{}"'
        if values is True:
            return "object"
        name = self.rule(schema["propertyNames"]) if "propertyNames" in schema else "string"
        pair = f'{name} ": " {self.rule(values)}'
        most = schema.get("maxProperties")
        return f'"{{" ({pair} (", " {pair}){_times(0, None if most is None else most - 1)})? "}}"'


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """The types of which a value may be; `value` where the schema does not tell."""
    given: Any = schema.get("type") or (
        "object" if "properties" in schema else "array" if "items" in schema else "value"
    )
    return cast(list[str], given) if isinstance(given, list) else [str(given)]


def size_of(value: object) -> int:
    """Bytes of a constant."""
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _times(least: int, most: int | None) -> str:
    return f"{{{least},}}" if most is None else f"{{{least},{max(least, most)}}}"


def _literal(value: object, then: str = "") -> str:
    """JSON text as a terminal of the grammar."""
    text = json.dumps(value, ensure_ascii=False) + then
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
