"""The schema of a call that has to come: it holds what the tools say, and everything in it comes to an end."""

from __future__ import annotations

from typing import Any

from helexa.neuron.core.chat.choice import Function, schema_of

WEATHER = Function("weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
CLOCK = Function("clock", {"type": "object", "properties": {}})


def schema(*functions: Function, parallel: bool = False, tokens: int = 1000) -> dict[str, Any]:
    return schema_of(functions, parallel=parallel, tokens=tokens)


def test_one_tool_is_the_only_thing_that_can_be_said() -> None:
    got = schema(WEATHER)
    assert got["properties"]["name"] == {"const": "weather"}
    assert got["required"] == ["name", "arguments"]
    assert got["properties"]["arguments"] == {"$ref": "#/$defs/tool0"}


def test_of_several_tools_any_one() -> None:
    got = schema(WEATHER, CLOCK)
    assert [each["properties"]["name"]["const"] for each in got["anyOf"]] == ["weather", "clock"]


def test_parallel_calls_are_a_list_that_ends() -> None:
    got = schema(WEATHER, parallel=True)
    assert (got["type"], got["minItems"], got["maxItems"]) == ("array", 1, 7)
    assert schema(WEATHER, parallel=True, tokens=50)["maxItems"] == 1


def test_open_texts_share_what_there_is_to_say_them_in() -> None:
    two = Function("two", {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}})
    assert schema(WEATHER, tokens=1000)["$defs"]["tool0"]["properties"]["city"]["maxLength"] == 1000
    assert schema(two, tokens=1000)["$defs"]["tool0"]["properties"]["a"]["maxLength"] == 500
    assert schema(two, tokens=1)["$defs"]["tool0"]["properties"]["a"]["maxLength"] == 16


def test_what_a_tool_bounds_itself_stays_as_it_is() -> None:
    text = {"a": {"type": "string", "maxLength": 3}, "b": {"type": "string", "enum": ["x"]}, "c": {"type": "integer"}}
    got = schema(Function("f", {"properties": text}))["$defs"]["tool0"]["properties"]
    assert got == text


def test_open_lists_end_but_never_before_they_may() -> None:
    lists = {"a": {"type": "array"}, "b": {"type": "array", "minItems": 40}, "c": {"type": "array", "maxItems": 3}}
    got = schema(Function("f", {"properties": lists}))["$defs"]["tool0"]["properties"]
    assert [got[name]["maxItems"] for name in "abc"] == [15, 40, 3]


def test_references_point_where_their_schema_has_moved() -> None:
    tree = {"properties": {"next": {"$ref": "#"}, "x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"enum": [1]}}}
    got = schema(CLOCK, Function("tree", tree))["$defs"]["tool1"]
    assert got["properties"] == {"next": {"$ref": "#/$defs/tool1"}, "x": {"$ref": "#/$defs/tool1/$defs/x"}}
