"""Calls that must come, from a model whose template knows no tools and has 135 million parameters."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from helexa.neuron.core.chat.choice import Function, call_grammar
from tests.neuron.core.chat.ebnf import Grammar
from tests.neuron.engines.conftest import Chat

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

OPTIONS: dict[str, object] = {"slots": 8}
LIMIT = 100
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
MAIL = {
    "type": "object",
    "properties": {"to": {"type": "array", "items": {"type": "string"}}, "text": {"type": "string"}},
    "required": ["to", "text"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "the weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "mail", "parameters": MAIL}},
]
NAMED = {"type": "function", "function": {"name": "weather"}}
QUESTION = "What will the weather be in Paris? Tell Ann and Bob by mail."


def calls_in(choice: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the calls of a choice, which must be by the schemas of their tools."""
    assert choice["finish_reason"] == "tool_calls", choice
    calls = choice["message"]["tool_calls"]
    assert all(call["id"] and call["type"] == "function" for call in calls)
    found = [(call["function"]["name"], msgspec.json.decode(call["function"]["arguments"])) for call in calls]
    for name, arguments in found:
        required = (WEATHER if name == "weather" else MAIL)["required"]
        assert set(required) <= set(arguments), (name, arguments)
        if name == "weather":
            assert isinstance(arguments["city"], str)
            assert arguments["unit"] in ("C", "F")
            assert arguments.get("days") is None or 1 <= arguments["days"] <= 7
        else:
            assert all(isinstance(each, str) for each in arguments["to"])
    return found


async def called(chat: Chat, seed: int, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    got = await chat.ask(QUESTION, tools=TOOLS, seed=seed, temperature=1, max_tokens=LIMIT, **fields)
    assert got.status == 200, got.body
    return calls_in(got.json["choices"][0])


async def all_call(chat: Chat, seeds: range, **fields: Any) -> list[list[tuple[str, dict[str, Any]]]]:
    chosen = [{"tool_choice": "required"}, {"tool_choice": NAMED}][fields.pop("named", False)]
    return await asyncio.gather(*(called(chat, seed, **chosen, **fields) for seed in seeds))


async def test_a_required_call_comes_with_every_seed(chat: Chat) -> None:
    answers = await all_call(chat, range(8))
    assert all(len(calls) == 1 for calls in answers)


async def test_a_named_call_is_of_that_tool(chat: Chat) -> None:
    answers = await all_call(chat, range(4), named=True)
    assert {name for calls in answers for name, _ in calls} == {"weather"}


async def test_parallel_calls_are_one_or_more(chat: Chat) -> None:
    assert all(await all_call(chat, range(4), parallel_tool_calls=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_call_comes_with_two_hundred_seeds_whichever_way_it_is_asked_for(chat: Chat) -> None:
    """By construction: what the model can say at all is shorter than the limit."""
    functions = [Function("weather", WEATHER), Function("mail", MAIL)]
    for parallel in (False, True):
        assert Grammar(call_grammar(functions, parallel=parallel, tokens=LIMIT)[0]).longest() < LIMIT
    chat.patience_s = 800.0
    for ways in ({}, {"named": True}, {"parallel_tool_calls": True}):
        for first in range(0, 200, 20):
            await all_call(chat, range(first, first + 20), **ways)


async def test_a_streamed_call_is_the_same_call_in_fragments_with_a_stable_index(chat: Chat) -> None:
    whole = await called(chat, 7, tool_choice="required")
    got = await chat.ask(
        QUESTION, tools=TOOLS, seed=7, temperature=1, max_tokens=LIMIT, tool_choice="required", stream=True
    )
    deltas = [call for event in got.events[:-1] for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert {delta["index"] for delta in deltas} == {0}
    assert len(deltas) > 4
    assert [delta["function"]["name"] for delta in deltas if "name" in delta["function"]] == [whole[0][0]]
    assert msgspec.json.decode("".join(delta["function"].get("arguments", "") for delta in deltas)) == whole[0][1]
    assert got.events[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_probabilities_of_a_call_that_must_come_are_named_as_not_told(chat: Chat) -> None:
    for stream in (False, True):
        got = await chat.ask(
            QUESTION,
            tools=TOOLS,
            tool_choice="required",
            max_tokens=LIMIT,
            logprobs=True,
            top_logprobs=2,
            stream=stream,
        )
        assert (got.status, got.header(b"x-helexa-ignored")) == (200, b"logprobs"), got.body


async def test_a_call_that_has_no_room_is_text(chat: Chat) -> None:
    got = await chat.ask(QUESTION, tools=TOOLS, tool_choice="required", max_tokens=4)
    choice = got.json["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].lstrip().startswith("{")


async def test_tools_that_this_model_is_not_shown_are_named_in_a_warning(chat: Chat) -> None:
    got = await chat.ask(tools=TOOLS, best_of=1)
    assert got.header(b"x-helexa-ignored") == b"best_of, tools"
