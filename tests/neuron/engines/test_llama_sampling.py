"""Every sampling field has an effect that can be seen, and a stream says what a whole answer says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.neuron.engines.conftest import Chat

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

STORY = "Tell me a story about a lighthouse."
WILD = {"temperature": 1.8, "max_tokens": 12}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


async def test_temperature_zero_is_greedy_and_heat_is_not(chat: Chat) -> None:
    greedy = {await chat.say(STORY, seed=seed) for seed in range(3)}
    assert len(greedy) == 1
    assert len({await chat.say(STORY, seed=seed, **WILD) for seed in range(3)}) > 1


async def test_a_seed_repeats_an_answer(chat: Chat) -> None:
    assert await chat.say(STORY, seed=5, **WILD) == await chat.say(STORY, seed=5, **WILD)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 0}, {"min_p": 1}, {"typical_p": 0.0001}])
async def test_what_leaves_one_candidate_leaves_nothing_to_the_seed(chat: Chat, narrow: dict[str, Any]) -> None:
    assert len({await chat.say(STORY, seed=seed, **WILD, **narrow) for seed in range(3)}) == 1


@pytest.mark.parametrize(
    "penalty",
    [
        {"presence_penalty": 2},
        {"frequency_penalty": 2},
        {"repeat_penalty": 3.0},
        {"repetition_penalty": 3.0},
        {"dry_multiplier": 5.0, "dry_allowed_length": 1, "dry_penalty_last_n": 200},
    ],
)
async def test_penalties_end_a_repetition(chat: Chat, penalty: dict[str, Any]) -> None:
    prompt = {"model": chat.model, "prompt": "one two one two one two one two one two", "max_tokens": 12}
    plain = (await chat.post("/v1/completions", prompt | {"temperature": 0})).json["choices"][0]["text"]
    got = (await chat.post("/v1/completions", prompt | {"temperature": 0} | penalty)).json["choices"][0]["text"]
    assert plain.count("two") > got.count("two")


async def test_a_stop_string_ends_the_answer_and_is_not_in_it(chat: Chat) -> None:
    whole = await chat.say(STORY)
    stop = whole.split()[2]
    got = await chat.ask(STORY, stop=[stop])
    assert got.json["choices"][0]["finish_reason"] == "stop"
    assert stop not in got.json["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stop_token_ends_the_answer_and_is_not_in_it(chat: Chat, stream: bool) -> None:
    whole = await chat.say(STORY)
    word = whole.split()[2]
    tokens = (await chat.post("/tokenize", {"model": chat.model, "content": f" {word}"})).json["tokens"]
    got = await chat.ask(STORY, stop_token_ids=tokens, stream=stream, stream_options={"include_usage": True})
    said = got.text if stream else got.json["choices"][0]["message"]["content"]
    ends = [each["choices"][0] for each in got.events[:-1] if each["choices"]] if stream else got.json["choices"]
    usage = got.events[-2]["usage"] if stream else got.json["usage"]
    assert said == whole[: whole.index(f" {word}")]
    assert (ends[-1]["finish_reason"], ends[-1]["stop_reason"]) == ("stop", tokens[0])
    assert usage["completion_tokens"] < 8
    assert not any(each.get("logprobs") for each in ends)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_meets_no_stop_token_is_counted(chat: Chat, stream: bool, n: int) -> None:
    asked = {"stop_token_ids": [49_000], "ignore_eos": True, "max_tokens": 5, "n": n, "stream": stream}
    got = await chat.ask(STORY, stream_options={"include_usage": True}, **asked)
    usage = got.events[-2]["usage"] if stream else got.json["usage"]
    assert usage["completion_tokens"] == 5 * n
    assert usage["prompt_tokens"] > 20


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("choice", ["none", "required"])
async def test_a_stop_token_ends_the_answer_beside_tools_that_cannot_hide_it(
    chat: Chat, choice: str, stream: bool
) -> None:
    text = ' "arguments": {}}' if choice == "required" else f" {(await chat.say(STORY)).split()[2]}"
    tokens = (await chat.post("/tokenize", {"model": chat.model, "content": text})).json["tokens"]
    asked = {"stop_token_ids": tokens, "tools": [TOOL], "tool_choice": choice}
    got = await chat.ask(STORY, stream=stream, max_tokens=24, **asked)
    ends = [each["choices"][0] for each in got.events[:-1] if each["choices"]] if stream else got.json["choices"]
    assert ends[-1]["finish_reason"] == "stop"
    assert ends[-1]["stop_reason"] in tokens
    assert text not in (got.text if stream else ends[-1]["message"]["content"])


async def test_a_bias_forbids_a_token(chat: Chat) -> None:
    first = (await chat.say(STORY, max_tokens=1)).strip()
    tokens = (await chat.post("/tokenize", {"model": chat.model, "content": first})).json["tokens"]
    assert (await chat.say(STORY, max_tokens=1, logit_bias={str(tokens[0]): -100})).strip() != first


async def test_logprobs_tell_each_token_and_its_rivals(chat: Chat) -> None:
    got = await chat.ask(STORY, logprobs=True, top_logprobs=3, max_tokens=4)
    content = got.json["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    assert all(len(each["top_logprobs"]) == 3 and each["logprob"] <= 0 for each in content)
    said = "".join(each["token"] for each in content)
    assert said == got.json["choices"][0]["message"]["content"]


async def test_several_choices_come_under_their_own_indexes_and_are_all_counted(chat: Chat) -> None:
    asked = {"n": 3, "seed": 1, "ignore_eos": True, **WILD}
    got = await chat.ask(STORY, **asked)
    assert [choice["index"] for choice in got.json["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in got.json["choices"]}) > 1
    streamed = await chat.ask(STORY, stream=True, stream_options={"include_usage": True}, **asked)
    usages = [event["usage"] for event in streamed.events[:-1] if event.get("usage")]
    assert [usage["completion_tokens"] for usage in (got.json["usage"], *usages)] == [36, 36]


async def test_completions_tell_probabilities_in_lists(chat: Chat) -> None:
    body = {"model": chat.model, "prompt": "one two", "max_tokens": 3, "temperature": 0, "logprobs": 2}
    choice = (await chat.post("/v1/completions", body)).json["choices"][0]
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"][0] == 0
    assert [len(top) for top in told["top_logprobs"]] == [2, 2, 2]
    assert len(told["token_logprobs"]) == 3


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_is_kept_and_told_and_usage_adds_up(chat: Chat, field: str) -> None:
    body = {"model": chat.model, "messages": [{"role": "user", "content": STORY}], "temperature": 0, field: 5}
    got = (await chat.post("/v1/chat/completions", body)).json
    assert got["choices"][0]["finish_reason"] == "length"
    usage = got["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    assert usage["prompt_tokens_details"]["cached_tokens"] + got["timings"]["prompt_n"] == usage["prompt_tokens"]


async def test_a_stream_tells_its_usage_only_when_asked(chat: Chat) -> None:
    asked = await chat.ask(stream=True, stream_options={"include_usage": True})
    assert asked.events[-2]["usage"]["completion_tokens"] > 0
    assert asked.events[-2]["choices"] == []
    assert not any("usage" in event for event in (await chat.ask(stream=True)).events[:-1])


@pytest.mark.parametrize("seed", range(4))
async def test_a_stream_says_what_the_whole_answer_says(chat: Chat, seed: int) -> None:
    whole = await chat.say(STORY, seed=seed, **WILD)
    assert (await chat.ask(STORY, seed=seed, stream=True, **WILD)).text == whole


async def test_an_answer_by_a_schema_is_json_of_that_schema(chat: Chat) -> None:
    colours = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    form = {"type": "json_schema", "json_schema": {"name": "c", "strict": True, "schema": colours}}
    said = msgspec.json.decode(await chat.say("A colour?", response_format=form, max_tokens=80))
    assert said["colour"] in ("red", "blue")


async def test_a_text_to_tokenize_may_be_called_a_prompt(chat: Chat) -> None:
    tokens = (await chat.post("/tokenize", {"model": chat.model, "prompt": "hello world"})).json["tokens"]
    assert tokens == (await chat.post("/tokenize", {"model": chat.model, "content": "hello world"})).json["tokens"]


async def test_the_last_assistant_turn_is_gone_on_with_and_not_repeated(chat: Chat) -> None:
    turns = [{"role": "user", "content": STORY}, {"role": "assistant", "content": "Once upon a"}]
    said = await chat.say(messages=turns)
    assert not said.startswith("Once")
    assert (await chat.ask(messages=turns, stream=True)).text == said
