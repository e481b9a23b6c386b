"""Schemas and patterns that would hold an engine up are refused by name; those that people use pass."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.errors import InvalidRequest
from helexa.neuron.core import bounds
from helexa.wire.checks import CHECKS, check_chat, check_completions


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def chat(**fields: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    bounds.check(check_chat(msgspec.json.encode(body)))


def answering(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def tool(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def matching(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


PEOPLE_USE = [
    {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name"]},
    {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(200)}},
    {"enum": [f"country {at}" for at in range(250)]},
    {"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}},
    {"anyOf": [nested(3), {"type": ["string", "null"]}]},
    {"type": "array", "items": {"type": "integer"}, "maxItems": 1000},
    {"properties": {"enum": {"type": "string"}, "pattern": {"type": "string"}}},
    True,
    *map(
        matching,
        (
            r"^\d{4}-\d{2}-\d{2}$",
            r"^[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}$",
            r"^(([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])\.){3}([0-9]{1,3})$",
            r"^[a-z]{1,2000}$",
            r"^(a+)+$",
            r"^(",
            r"^[]a]\]$",
            r"^x{,5}y{z}$",
            r"no anchors",
        ),
    ),
]


@pytest.mark.parametrize("schema", PEOPLE_USE)
def test_schemas_that_people_use_pass(schema: Any) -> None:
    bounds.weigh(schema, "schema")


TOO_MUCH = [
    (nested(100), "64 levels"),
    ({"enum": list(range(501))}, "501 ways"),
    ({"anyOf": [{"enum": list(range(300))}, {"$ref": "#/$defs/e"}], "$defs": {"e": {"enum": list(range(300))}}}, "600"),
    ({"properties": {f"p{at}": {} for at in range(501)}}, "501 ways"),
    ({"items": [{"properties": {f"p{at}": {} for at in range(400)}}] * 2}, "parts"),
    ({"type": "string", "minLength": 10**9}, "minLength"),
    ({"type": "array", "minItems": 10**6}, "minItems"),
    (matching("^(a?){50}$"), "may be empty"),
    (matching("^(a{0,3}|b){40,}$"), "may be empty"),
    (matching("^((a{1,50}){1,50}){1,50}$"), "repeats 50 × 50"),
    (matching("^a{1,100000}$"), "100000"),
    (matching("a" * 2000), "1024 characters"),
    (matching("(" * 500), "64 levels"),
    (matching("|".join("a" for _ in range(501))), "501 ways"),
    ({"type": "string", "minLength": 9, "maxLength": 3}, "minLength is over maxLength"),
    ({"type": "array", "minItems": 2, "maxItems": 1}, "minItems is over maxItems"),
    ({"items": {"type": "integer", "minimum": 5, "maximum": 1}}, "minimum is over maximum"),
    (matching("^a{9,3}$"), "repeats 9 times or more, and 3 at the most"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "why"), TOO_MUCH)
def test_schemas_that_would_hold_an_engine_up_are_refused_with_the_reason(schema: Any, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        bounds.weigh(schema, "schema")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (answering(nested(100)), "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object", "schema": nested(100)}}, "response_format.schema"),
        ({"json_schema": nested(100)}, "json_schema"),
        ({"json_schema": "object"}, "json_schema"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"tools": [tool({}), tool(nested(100))]}, "tools.1.function.parameters"),
        ({"tools": [tool({})] * 1000}, "tools"),
        ({"tools": [tool(PEOPLE_USE[1])] * 10}, "tools.7.function.parameters"),
    ],
)
def test_the_field_that_asks_for_too_much_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(**fields)
    assert refused.value.fields["param"] == param


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/embeddings", {"input": ["a"] * 2049}, "input"),
        ("/v1/completions", {"prompt": ["a"] * 129}, "prompt"),
        ("/v1/completions", {"prompt": [[1], "a"], "n": 65}, "prompt"),
    ],
)
def test_a_request_for_too_many_answers_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        bounds.check(CHECKS[path](msgspec.json.encode({"model": "m", **fields})))
    assert refused.value.fields["param"] == param


def test_a_text_as_its_tokens_is_one() -> None:
    bounds.check(check_completions(msgspec.json.encode({"model": "m", "prompt": [1] * 2000, "n": 2})))


def test_completions_are_weighed_too() -> None:
    body = msgspec.json.encode({"model": "m", "prompt": "x", "json_schema": nested(100)})
    with pytest.raises(InvalidRequest, match="json_schema"):
        bounds.check(check_completions(body))


KEYS = st.sampled_from(
    ("properties", "required", "anyOf", "enum", "items", "$ref", "$defs", "pattern", "type", "maxItems", "a")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
)


@given(JSON)
def test_nothing_that_calls_itself_a_schema_breaks_the_scale(schema: Any) -> None:
    with suppress(InvalidRequest):
        bounds.weigh(schema, "schema")


@given(st.text(alphabet=r"ab()[]{}|*+?\,^$0123456789", max_size=60))
def test_nothing_that_calls_itself_a_pattern_breaks_the_scale(pattern: str) -> None:
    with suppress(InvalidRequest):
        bounds.weigh({"pattern": pattern}, "schema")
