"""JSON schemas for constrained answers: what a grammar can hold is kept, what it cannot is named, nonsense is refused.

A schema is taken apart and put together again from the parts below, references in their places, so that grammar.py
meets nothing that it does not know.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

from helexa.neuron.core.chat.numbers import LARGEST
from helexa.wire import intake

MAX_DEPTH: Final = 64
MAX_PARTS: Final = 5000
MAX_COUNT: Final = 1000
_TYPES: Final = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength")
_OUTER: Final = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}
_LISTS: Final = ("anyOf", "oneOf")
_SAID: Final = frozenset(("title", "description", "default", "examples", "$schema", "$id", "$comment", "strict"))
"""Keywords that constrain nothing."""
_DEFINITIONS: Final = ("$defs", "definitions")

Schema = dict[str, Any]


def constrained(schema: object, at: str, places: float = math.inf) -> tuple[Schema, list[str]]:
    """`schema` as a grammar can hold it, and the keywords that it cannot. Raises InvalidRequest with the place.

    `places`: how far the grammar may count in all, over its different bounds of lengths.
    """
    reader = _Reader(schema, at, places)
    kept = reader.read(schema, at, 0)
    return cast(Schema, kept if isinstance(kept, dict) else {}), sorted(reader.dropped)


class _Reader:
    """Reads one schema; `dropped` are the keywords that were left out."""

    def __init__(self, root: object, at: str, places: float) -> None:
        self._root, self._at, self._places = root, at, places
        self._bounds: set[tuple[str, int, int | None]] = set()
        self.dropped: set[str] = set()
        self._open: list[str] = []
        self._parts = 0

    def read(self, schema: object, at: str, depth: int) -> Any:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise intake.refuse(self._at, f"the schema has more than {MAX_PARTS} parts, references put in their places")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise intake.refuse(at, "a schema is an object")
        if depth > MAX_DEPTH:
            raise intake.refuse(self._at, f"the schema is nested more than {MAX_DEPTH} levels deep")
        given = cast(Schema, schema)
        if "$ref" in given:
            return self._referred(given["$ref"], at, depth)
        kept = self._simple(given, at)
        if len(_list(given.get("allOf", [{}]), f"{at}.allOf")) == 1 and "allOf" in given:
            kept |= self.read(given["allOf"][0], f"{at}.allOf", depth + 1)
        for name in _LISTS:
            if name in given:
                kept["anyOf"] = [self.read(each, f"{at}.{name}", depth + 1) for each in _list(given[name], at)]
        if "properties" in given:
            table = _table(given["properties"], at)
            kept["properties"] = {key: self.read(each, f"{at}.{key}", depth + 1) for key, each in table.items()}
        for name in ("items", "additionalProperties"):
            if name in given:
                kept[name] = self.read(given[name], f"{at}.{name}", depth + 1)
        known = {*kept, *_SAID, *_DEFINITIONS, *_LISTS, *(_OUTER[name] for name in _OUTER if name in kept)}
        self.dropped |= {name for name in given if name not in known}
        return kept

    def _simple(self, given: Schema, at: str) -> Schema:
        """The keywords that hold no schema."""
        kept: Schema = {}
        if "type" in given:
            kept["type"] = given["type"]
            kinds = cast(list[object], given["type"] if isinstance(given["type"], list) else [given["type"]])
            for each in kinds:
                if each not in _TYPES:
                    raise intake.refuse(f"{at}.type", f"there is no type {each!r}")
            if "integer" in kinds and "number" not in kinds:
                self._between(given, at, kept)
        if "enum" in given:
            kept["enum"] = _list(given["enum"], f"{at}.enum")
        if "const" in given:
            kept["const"] = given["const"]
        if "required" in given:
            kept["required"] = [each for each in _list(given["required"], at, empty=True) if isinstance(each, str)]
        for name in _COUNTS:
            if name in given:
                if not isinstance(given[name], int) or given[name] < 0:
                    raise intake.refuse(f"{at}.{name}", "must be a whole number, not negative")
                self._counted(name, given[name], at, kept)
        for kind in ("Items", "Length"):
            if kept.get(f"min{kind}", 0) > kept.get(f"max{kind}", 1 << 30):
                raise intake.refuse(f"{at}.min{kind}", f"is more than max{kind}")
            self._place(kind, at, kept)
        return kept

    def _place(self, kind: str, at: str, kept: Schema) -> None:
        """Each bound is counted once, wherever it stands. An upper one for which no place is left is left out."""
        least, most = kept.get(f"min{kind}", 0), kept.get(f"max{kind}")
        if (kind, least, most) in self._bounds:
            return
        if most is not None and most > self._places:
            del kept[f"max{kind}"]
            self.dropped.add(f"max{kind}")
            most = None
        if least > self._places:
            raise intake.refuse(
                f"{at}.min{kind}", "is more than this engine can count beside the schema's other bounds"
            )
        self._places -= most or least
        self._bounds.add((kind, least, most))

    def _between(self, given: Schema, at: str, kept: Schema) -> None:
        """The bounds of a whole number, as ones that it may be."""
        for (name, outer), step in zip(_OUTER.items(), (1, -1), strict=True):
            bounds = [each + away for key, away in ((name, 0), (outer, step)) if type(each := given.get(key)) is int]
            bound = max(bounds, key=lambda each: each * step, default=None)
            if bound is not None and abs(bound) <= LARGEST:
                kept[name] = bound
        if kept.get("minimum", -LARGEST) > kept.get("maximum", LARGEST):
            raise intake.refuse(f"{at}.minimum", "is more than the maximum")

    def _counted(self, name: str, count: int, at: str, kept: Schema) -> None:
        """A bound on a length. One that a grammar cannot count to is left out if it is the upper one."""
        if count <= MAX_COUNT:
            kept[name] = count
        elif name.startswith("min"):
            raise intake.refuse(f"{at}.{name}", f"must be at most {MAX_COUNT}")
        else:
            self.dropped.add(name)

    def _referred(self, ref: object, at: str, depth: int) -> Any:
        """What a reference points at, put in its place; one that leads to itself stays open."""
        if not isinstance(ref, str) or (ref != "#" and not ref.startswith("#/")):
            raise intake.refuse(f"{at}.$ref", "must point into the schema itself: `#/...`")
        if ref in self._open:
            self.dropped.add("$ref")
            return {}
        node: object = self._root
        for part in ref.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or name not in node:
                raise intake.refuse(f"{at}.$ref", f"there is nothing at `{ref}`")
            node = cast(Schema, node)[name]
        self._open.append(ref)
        read = self.read(node, at, depth + 1)
        self._open.pop()
        return read


def _list(value: object, at: str, *, empty: bool = False) -> list[Any]:
    if not isinstance(value, list) or (not value and not empty):
        raise intake.refuse(at, "must be a list that is not empty")
    return cast(list[Any], value)


def _table(value: object, at: str) -> Schema:
    if not isinstance(value, dict):
        raise intake.refuse(at, "must be an object")
    return cast(Schema, value)
