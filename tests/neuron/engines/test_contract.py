"""What every engine that serves a real model owes a client, through the whole neuron; one load of each for all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig
from helexa.neuron.registry import HARNESSES
from helexa.wire.control import ModelSpec
from tests.neuron.api.client import Client
from tests.neuron.helpers import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

LOAD_S = 90
SLOTS = 2
QUESTION = "What is the capital of France?"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 16}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": CITY}}]


class Served(Client):
    """A neuron with one model that one engine has loaded."""

    patience_s = 60
    model_id: str

    async def ask(self, text: str = QUESTION, **more: object) -> Any:
        """A whole answer."""
        got = await self.chat(self.model_id, text, **more)
        assert got.status == 200, got.body
        return got.json


@pytest.fixture(scope="module", params=["llama", "openvino"])
def harness(request: pytest.FixtureRequest) -> str:
    if not HARNESSES[request.param].installed:
        pytest.skip(f"the extra {request.param} is not installed")
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(harness: str, smollm2_path: Path) -> AsyncIterator[Served]:
    config = NeuronConfig(port=0, devices=[DeviceEntry(kind="cpu", memory_mb=6000, threads=1)])
    async with Neuron(config, drain_s=0.5) as neuron:
        client = Served(neuron)
        client.model_id = f"file:{smollm2_path}"
        spec = ModelSpec(model_id=client.model_id, harness=harness, context=2048, options={"slots": SLOTS})
        async with asyncio.timeout(LOAD_S):
            await neuron.keeper.load(spec).wait()
        yield client
        await client.origin.aclose()


async def test_it_answers_and_counts(served: Served, harness: str) -> None:
    (row,) = (await served.get("/models")).json
    assert (row["harness"], row["limit"]["context"]) == (harness, 2048)
    whole = await served.ask(max_tokens=8, temperature=0, ignore_eos=True)
    assert whole["usage"]["completion_tokens"] == 8
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["model"] == served.model_id


async def test_a_stream_says_what_the_whole_answer_says(served: Served) -> None:
    for seed in range(2):
        asked = {"max_tokens": 16, "temperature": 1.0, "seed": seed, "cache_prompt": False}
        whole = await served.ask(**asked)
        streamed = await served.chat(
            served.model_id, QUESTION, stream=True, stream_options={"include_usage": True}, **asked
        )
        assert streamed.text == whole["choices"][0]["message"]["content"]
        assert streamed.events[-1] == "[DONE]"
        (usage,) = [event["usage"] for event in streamed.events[:-1] if event.get("usage")]
        assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]


async def test_a_stop_string_ends_the_answer_before_it(served: Served) -> None:
    full = (await served.ask(max_tokens=12, temperature=0))["choices"][0]["message"]["content"]
    stop = full[len(full) // 2 :][:3]
    answer = await served.ask(max_tokens=12, temperature=0, stop=[stop], verbose=True)
    cut = answer["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == (full[: full.index(stop)], "stop")
    assert (cut.get("stop_reason") or answer["__verbose"]["stopping_word"]) == stop  # the latter is llama.cpp's way


async def test_a_stop_token_ends_the_answer_before_it(served: Served) -> None:
    full = (await served.ask(max_tokens=12, temperature=0))["choices"][0]["message"]["content"]
    word = " " + full.split()[2]
    (token, *_) = (await served.post("/tokenize", {"model": served.model_id, "content": word})).json["tokens"]
    cut = (await served.ask(max_tokens=12, temperature=0, stop_token_ids=[token]))["choices"][0]
    assert (cut["message"]["content"], cut["stop_reason"]) == (full[: full.index(word)], token)


async def test_several_choices_are_each_their_own(served: Served) -> None:
    choices = (await served.ask(n=2, max_tokens=24, temperature=1.5, seed=1))["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert choices[0]["message"]["content"] != choices[1]["message"]["content"]


async def test_an_answer_obeys_its_schema(served: Served) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    for seed in range(2):
        answer = await served.ask("Give me a person.", response_format=form, max_tokens=120, seed=seed)
        made = json.loads(answer["choices"][0]["message"]["content"])
        assert made.keys() == {"name", "age"}
        assert type(made["age"]) is int


async def test_logprobs_are_those_of_the_tokens_said(served: Served) -> None:
    choice = (await served.ask(max_tokens=4, temperature=0, logprobs=True, ignore_eos=True))["choices"][0]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 4
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    assert all(entry["logprob"] <= 0 for entry in entries)


async def test_a_second_turn_reuses_the_first(served: Served) -> None:
    first = [{"role": "user", "content": " ".join(f"w{at}" for at in range(60))}]
    body = {"model": served.model_id, "max_tokens": 4, "temperature": 0}
    one = (await served.post("/v1/chat/completions", body | {"messages": first})).json
    said = one["choices"][0]["message"]
    turns = [*first, {"role": "assistant", "content": said["content"]}, {"role": "user", "content": "go on"}]
    two = (await served.post("/v1/chat/completions", body | {"messages": turns})).json["usage"]
    assert two["prompt_tokens_details"]["cached_tokens"] >= 0.9 * one["usage"]["prompt_tokens"]


async def test_text_becomes_tokens_and_text_again(served: Served) -> None:
    text = "héllo – 你好, world"
    tokens = (await served.post("/tokenize", {"model": served.model_id, "content": text})).json["tokens"]
    back = await served.post("/detokenize", {"model": served.model_id, "tokens": tokens})
    assert back.json["content"] == text
    strange = await served.post("/detokenize", {"model": served.model_id, "tokens": [*tokens, 10**8]})
    assert (strange.status, strange.json["error"]["param"]) == (400, "tokens")


@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_leave_make_room_for_those_who_come(served: Served, stream: bool) -> None:
    """Round after round: if they held their slots to the end, each round would take as long as 1,900 tokens do."""
    long = {"max_tokens": 1900, "ignore_eos": True, "temperature": 0, "stream": stream}
    async with asyncio.timeout(45):
        for _ in range(5):
            leaving = [asyncio.create_task(served.chat(served.model_id, "A story!", **long)) for _ in range(SLOTS)]
            await until(lambda: served.neuron.keeper.loads()[0].in_flight == SLOTS)
            for each in leaving:
                each.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
            await until(lambda: served.neuron.keeper.loads()[0].in_flight == 0)
        await asyncio.gather(*(served.ask(max_tokens=2) for _ in range(SLOTS)))


async def test_control_tokens_are_told_as_they_are_written(served: Served) -> None:
    turn = "<|im_start|>user\nhi<|im_end|>"
    tokens = (await served.post("/tokenize", {"model": served.model_id, "content": turn})).json["tokens"]
    assert (await served.post("/detokenize", {"model": served.model_id, "tokens": tokens})).json["content"] == turn


@pytest.mark.parametrize("prompt", ["", [], [[]], ["a", ""]])
async def test_a_prompt_that_is_nothing_is_refused(served: Served, prompt: object) -> None:
    got = await served.post("/v1/completions", {"model": served.model_id, "prompt": prompt, "max_tokens": 2})
    assert (got.status, got.json["error"]["param"]) == (400, "prompt")


async def test_a_prompt_over_the_window_is_refused(served: Served) -> None:
    got = await served.chat(served.model_id, "word " * 4000)
    assert (got.status, got.json["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_wish_for_too_many_tokens_is_clamped(served: Served) -> None:
    answer = await served.ask(max_tokens=1_000_000_000, stop=["e"])
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": 2},
        {"n": 0},
        {"n": 1000},
        {"max_tokens": 0},
        {"presence_penalty": 9},
        {"seed": "x"},
    ],
    ids=str,
)
async def test_a_field_out_of_range_is_a_400_that_names_it(served: Served, wrong: dict[str, object]) -> None:
    got = await served.chat(served.model_id, QUESTION, **wrong)
    assert got.status == 400, got.body
    (name,) = wrong
    assert name in got.json["error"]["message"]


async def test_what_may_be_left_out_may_be_null(served: Served) -> None:
    wishes = ("temperature", "top_p", "stop", "seed", "n", "stream", "stream_options", "tools", "tool_choice")
    others = ("response_format", "logit_bias", "logprobs", "top_logprobs", "presence_penalty", "reasoning_effort")
    answer = await served.ask(max_completion_tokens=2, max_tokens=None, **dict.fromkeys((*wishes, *others)))
    assert len(answer["choices"]) == 1


async def test_a_number_that_is_none_is_a_400(served: Served) -> None:
    body = b'{"model":"%s","repeat_penalty":1e999,"messages":[{"role":"user","content":"x"}]}'
    assert (await served.post("/v1/chat/completions", body % served.model_id.encode())).status == 400


async def test_a_body_that_is_no_json_is_a_400(served: Served) -> None:
    assert (
        await served.post("/v1/chat/completions", b'{"model": ' + msgspec.json.encode(served.model_id))
    ).status == 400


async def test_an_option_that_it_does_not_know_is_refused_with_those_it_does(served: Served, harness: str) -> None:
    spec = {"model_id": f"{served.model_id}", "harness": harness, "options": {"no_such_option": 1}}
    await served.post("/models/unload", {"model_id": served.model_id})
    got = await served.post("/models/load", spec)
    assert got.status == 422
    assert "threads" in got.json["error"]["message"]
