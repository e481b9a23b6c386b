"""A call that has to come: it holds what the tools say, and it comes to its end within the tokens that there are."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.base.errors import InvalidRequest
from helexa.neuron.core.chat.choice import Function, call_grammar, call_schema, room
from tests.neuron.core.chat.ebnf import Grammar

WEATHER = Function("weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
CLOCK = Function("clock", {"type": "object", "properties": {}})


def schema(*functions: Function, parallel: bool = False, tokens: int = 1000) -> dict[str, Any]:
    return call_schema(functions, parallel=parallel, tokens=tokens)[0]


def arguments(properties: dict[str, Any], tokens: int = 1000) -> dict[str, Any]:
    call = schema(Function("f", {"type": "object", "properties": properties}), tokens=tokens)
    return call["properties"]["arguments"]["properties"]


def test_one_tool_is_the_only_thing_that_can_be_said() -> None:
    got = schema(WEATHER)
    assert got["properties"]["name"] == {"const": "weather"}
    assert got["required"] == ["name", "arguments"]
    assert got["properties"]["arguments"]["properties"]["city"]["type"] == ["string"]


def test_of_several_tools_any_one() -> None:
    got = schema(WEATHER, CLOCK)
    assert [each["properties"]["name"]["const"] for each in got["anyOf"]] == ["weather", "clock"]


def test_parallel_calls_are_a_list_that_ends() -> None:
    got = schema(WEATHER, parallel=True, tokens=1800)
    assert (got["type"], got["minItems"], got["maxItems"]) == ("array", 1, 7)
    assert schema(WEATHER, parallel=True, tokens=50)["maxItems"] == 1


def test_arguments_are_an_object_even_where_their_schema_leaves_it_open() -> None:
    for parameters in (None, {}, {"pattern": "x"}):
        got, dropped = call_schema([Function("f", parameters)], parallel=False, tokens=500)
        assert got["properties"]["arguments"]["type"] == ["object"]
        assert dropped == (["pattern"] if parameters else [])


def test_open_texts_share_what_there_is_to_say_them_in() -> None:
    one, two = arguments({"a": {"type": "string"}}), arguments({name: {"type": "string"} for name in "ab"})
    assert 900 < one["a"]["maxBytes"] < 1000
    assert 450 < two["a"]["maxBytes"] < 500
    assert arguments({"a": {"type": "string"}}, tokens=1)["a"]["maxBytes"] == 16


def test_lists_grow_with_the_room_and_never_end_before_they_may() -> None:
    integers = {"type": "array", "items": {"type": "integer"}}
    lists = {"a": integers, "b": integers | {"minItems": 40}, "c": integers | {"maxItems": 30}}
    roomy, narrow = arguments(lists, tokens=100_000), arguments(lists, tokens=500)
    assert [roomy[name]["maxItems"] for name in "abc"] == [16, 40, 30]
    assert [narrow[name]["maxItems"] for name in "abc"] == [1, 40, 1]


def test_a_schema_that_makes_no_sense_is_refused_at_its_place() -> None:
    with pytest.raises(InvalidRequest) as refused:
        schema(Function("f", {"$ref": "#/nowhere"}, "tools.3.function.parameters"))
    assert refused.value.param == "tools.3.function.parameters.$ref"


def test_calls_may_take_what_was_asked_for_and_half_of_the_window_at_most() -> None:
    assert [room(limit, 1000) for limit in (None, 100, 10**9)] == [500, 100, 500]


TEXTS = st.just({"type": "string"}) | st.builds(
    lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
    st.integers(0, 5),
    st.integers(0, 200),
)
NUMBERS = st.builds(
    lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
    st.integers(-300, 300),
    st.integers(0, 999),
)
OPEN = st.sampled_from([{}, {"type": "object"}, {"type": "array"}, {"items": {}}, {"type": ["string", "null"]}])
VALUES = TEXTS | NUMBERS | OPEN | st.sampled_from([{"const": 'a"é'}, {"enum": [1, None, {"a": []}]}])
LISTS = st.builds(lambda inner, most: {"items": inner, "maxItems": most}, VALUES, st.integers(0, 100))
OBJECTS = st.dictionaries(
    st.text(max_size=5), VALUES | LISTS | st.lists(VALUES, min_size=1).map(lambda v: {"anyOf": v}), max_size=3
)
FUNCTIONS = st.lists(OBJECTS.map(lambda properties: Function("f", {"properties": properties})), min_size=1, max_size=3)


@given(FUNCTIONS, st.booleans())
@settings(max_examples=50)
def test_the_longest_call_fits_into_the_tokens_that_there_are(functions: list[Function], parallel: bool) -> None:
    grammar, _ = call_grammar(functions, parallel=parallel, tokens=3000)
    assert Grammar(grammar).longest() <= 3000


@given(FUNCTIONS, st.booleans(), st.integers())
@settings(max_examples=50)
def test_whatever_is_said_by_the_grammar_is_calls(functions: list[Function], parallel: bool, seed: int) -> None:
    grammar, _ = call_grammar(functions, parallel=parallel, tokens=300)
    said = json.loads(Grammar(grammar).sentence(random.Random(seed)))
    for call in said if parallel else [said]:
        assert call["name"] == "f"
        assert isinstance(call["arguments"], dict)


def test_the_functions_share_what_is_counted() -> None:
    text = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 60}}}
    two = [Function("one", text), Function("other", text)]
    assert call_schema(two, parallel=False, tokens=500, places=120)[1] == []
    assert call_schema(two, parallel=False, tokens=500, places=119)[1] == ["maxLength"]
