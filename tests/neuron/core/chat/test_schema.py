"""Schemas: what is kept of them, what is named, what is refused, and the grammar that is written of the rest."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.errors import InvalidRequest
from helexa.neuron.core.chat.grammar import grammar
from helexa.neuron.core.chat.schema import MAX_DEPTH, constrained
from tests.neuron.core.chat.ebnf import Grammar

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"type": "integer"}}}


def kept(schema: object) -> tuple[dict[str, Any], list[str]]:
    return constrained(schema, "at")


def test_what_constrains_is_kept_and_what_explains_is_not() -> None:
    schema = {
        "type": "object",
        "title": "T",
        "properties": {"a": {"type": "string", "description": "d", "maxLength": 3}},
    }
    assert kept(schema) == ({"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}, [])


def test_what_a_grammar_cannot_hold_is_named() -> None:
    schema = {"type": "string", "pattern": "^a+$", "format": "date", "maxLength": 1_000_000}
    assert kept(schema) == ({"type": "string"}, ["format", "maxLength", "pattern"])


def test_references_are_put_in_their_places_and_circles_are_left_open() -> None:
    schema, dropped = kept({"$ref": "#/$defs/node", "$defs": {"node": NODE}})
    assert schema == {"type": "object", "properties": {"next": {}, "v": {"type": "integer"}}}
    assert dropped == ["$ref"]


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """Small, and with its references in their places of 2^levels parts."""
    two = {f"n{at}": {"anyOf": [{"$ref": f"#/$defs/n{at + 1}"}] * 2} for at in range(levels)}
    return {"$ref": "#/$defs/n0", "$defs": two | {f"n{levels}": {"type": "null"}}}


def texts(*lengths: int, least: int = 0) -> dict[str, Any]:
    return {"properties": {f"p{at}": {"minLength": least, "maxLength": each} for at, each in enumerate(lengths)}}


def test_a_bound_is_counted_once_and_left_out_where_no_place_is_left_for_it() -> None:
    held, dropped = constrained(texts(60, 60, 60, 50, 40), "at", places=128)
    assert [each.get("maxLength") for each in held["properties"].values()] == [60, 60, 60, 50, None]
    assert dropped == ["maxLength"]


def test_a_lower_bound_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(InvalidRequest) as wrong:
        constrained(texts(60, 90, least=50), "at", places=100)
    assert wrong.value.param == "at.p1.minLength"


def test_a_text_that_is_longer_than_is_counted_has_no_end() -> None:
    text = {"type": "string", "maxBytes": 200}
    assert grammar(text, counted=128) == grammar({"type": "string"})
    assert grammar(text, counted=200) == grammar(text)


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": "nonsense"}, "at.type"),
        ({"properties": {"a": {"type": "nothing"}}}, "at.a.type"),
        ({"properties": []}, "at"),
        ({"enum": []}, "at.enum"),
        ({"minItems": -1}, "at.minItems"),
        ({"minItems": 3, "maxItems": 2}, "at.minItems"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "at.minimum"),
        ({"minLength": 100_000}, "at.minLength"),
        ({"$ref": "#/nowhere"}, "at.$ref"),
        ({"$ref": "http://elsewhere"}, "at.$ref"),
        ({"items": 3}, "at.items"),
        ("no schema", "at"),
        (deep(MAX_DEPTH + 1), "at"),
        (doubling(30), "at"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_nonsense_is_refused_at_its_place(schema: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        kept(schema)
    assert wrong.value.param == param


INTEGERS = st.integers(-5000, 5000)


@given(INTEGERS, INTEGERS, st.integers())
def test_a_whole_number_is_between_its_bounds(one: int, other: int, seed: int) -> None:
    low, high = min(one, other), max(one, other)
    said = Grammar(grammar(kept({"type": "integer", "minimum": low, "exclusiveMaximum": high + 1})[0]))
    assert low <= int(said.sentence(random.Random(seed))) <= high


@pytest.mark.parametrize(("low", "high"), [(0, 9), (1, 7), (8, 121), (-12, 3), (-30, -9), (99, 100), (0, 0)])
def test_every_whole_number_between_the_bounds_can_be_said(low: int, high: int) -> None:
    said, chance = Grammar(grammar({"type": "integer", "minimum": low, "maximum": high})), random.Random(1)
    assert {int(said.sentence(chance)) for _ in range(4000)} == {*range(low, high + 1)}


LEAVES = st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind})
CONSTANTS = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=3)
SCHEMA = st.recursive(
    LEAVES | CONSTANTS.map(lambda value: {"const": value}),
    lambda inner: (
        st.dictionaries(st.text(max_size=5), inner, min_size=1, max_size=4).map(lambda p: {"properties": p})
        | st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each})
        | inner.map(lambda each: {"type": "array", "items": each, "minItems": 1, "maxItems": 3})
    ),
    max_leaves=12,
)
_RULE = re.compile(r"(\w+) ::= (.*)")
_TERMINAL = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{\d*,?\d*\}')


@given(SCHEMA)
def test_a_grammar_refers_only_to_rules_that_it_has(schema: dict[str, Any]) -> None:
    lines = grammar(constrained(schema, "at")[0]).strip().split("\n")
    rules = {match[1]: match[2] for line in lines if (match := _RULE.fullmatch(line))}
    assert len(rules) == len(lines)
    assert "root" in rules
    for body in rules.values():
        assert set(re.findall(r"[a-z]\w*", _TERMINAL.sub(" ", body))) <= rules.keys()


@given(CONSTANTS)
def test_a_constant_is_its_own_json(value: object) -> None:
    (line, *_) = [each for each in grammar({"const": value}).split("\n") if each.startswith("r0 ")]
    terminal = line.removeprefix("r0 ::= ")
    assert json.loads(re.sub(r"\\(.)", r"\1", terminal[1:-1])) == value


def test_what_is_asked_of_many_fields_is_one_rule() -> None:
    text = {"type": "string", "maxLength": 1000}
    written = grammar({"type": "object", "properties": {f"p{at}": text for at in range(20)}})
    assert written.count("char{0,1000}") == 1
