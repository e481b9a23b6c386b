"""What nobody should send, with the real engine: refused by name or bounded as documented, and it goes on answering."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.neuron.engines.conftest import Chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"role": "user", "content": "hi"}
NO_SUCH = {"type": "function", "function": {"name": "no"}}
IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def answering(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def tool(at: int) -> dict[str, Any]:
    return {"type": "function", "function": {"name": f"tool_{at}", "parameters": {"type": "object"}}}


BEGUN = {"role": "assistant", "content": "Here: "}
REFUSED = [
    ({"messages": [USER | {"content": "word " * 4000}]}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [USER] * 2049}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [USER | {"content": 5}]}, "messages.0.content"),
    ({"messages": [USER | {"content": [IMAGE]}]}, "messages.0.content.0.image_url"),
    ({"tools": [tool(at) for at in range(1000)]}, "tools"),
    ({"tools": [tool(1)], "tool_choice": NO_SUCH}, "tool_choice.function.name"),
    (answering(nested(100)), "response_format.json_schema.schema"),
    (answering({"type": "string", "pattern": "^((((a?){50}){50}){50})$"}), "response_format.json_schema.schema"),
    (answering({"enum": [f"value {at}" for at in range(10_000)]}), "response_format.json_schema.schema"),
    (answering({"type": "string", "minLength": 9, "maxLength": 3}), "response_format.json_schema.schema"),
    (answering({"type": "banana"}), "response_format"),
    (answering({"$ref": "http://127.0.0.1/x"}), "response_format"),
    ({"grammar": 'root ::= ("a"? "a"?)*'}, "grammar"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 5}, "top_p"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": "8"}, "max_tokens"),
    ({"n": 1000}, "n"),
    ({"logit_bias": {"word": 1}}, "logit_bias"),
    ({"logprobs": True, "top_logprobs": 10**6}, "top_logprobs"),
    ({"seed": "x"}, "seed"),
    ({"repeat_penalty": 0}, "repeat_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"enable_thinking": "x"}, "enable_thinking"),
    ({"ignore_eos": "x"}, "ignore_eos"),
    ({"chat_template_kwargs": {"messages": 5}}, "chat_template_kwargs.messages"),
    (answering({"type": "object"}) | {"messages": [USER, BEGUN]}, "response_format"),
    ({"repeat_last_n": 2**31 - 1}, "repeat_last_n"),
    ({"dry_multiplier": 1, "dry_penalty_last_n": 2**31 - 1}, "dry_penalty_last_n"),
    ({"typical_p": -1}, "typical_p"),
    ({"mirostat": 7}, "mirostat"),
    ({"reasoning_format": "no such"}, "reasoning_format"),
    ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
    ({"logit_bias": {"49152": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {str(token): 1 for token in range(10_000)}}, "logit_bias"),
    ({"stop_token_ids": [49152]}, "stop_token_ids"),
    ({"stop_token_ids": "x"}, "stop_token_ids"),
    ({"stop_token_ids": [2], "tools": [tool(1)]}, "stop_token_ids"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"n_cache_reuse": 1}, "n_cache_reuse"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[f"{at}-{param}" for at, (_, param) in enumerate(REFUSED)])
async def test_bad_input_is_400_and_names_the_field(chat: Chat, fields: dict[str, Any], param: str) -> None:
    got = await chat.ask(**fields)
    assert got.status == 400, got.body
    error = got.json["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_json_does_not_have_are_400(chat: Chat, value: str) -> None:
    body = json.dumps({"model": chat.model, "messages": [USER], "temperature": 12345}).replace("12345", value)
    got = await chat.post("/v1/chat/completions", body.encode())
    error = got.json["error"]
    assert (got.status, error["type"], error["param"]) == (400, "invalid_request_error", "temperature")


async def test_more_tokens_than_the_window_has_means_up_to_its_end(chat: Chat) -> None:
    assert (await chat.ask(max_tokens=10**9, stop=["e", "a", "o"])).status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"content": 5}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [999_999_999]}),
        ("/v1/completions", {"prompt": [1, 999_999_999]}),
        ("/v1/completions", {"prompt": []}),
        ("/v1/completions", {"prompt": "x", "echo": True, "logprobs": 1}),
        ("/v1/completions", {"prompt": "x", "suffix": "y"}),
        ("/v1/completions", {"prompt": "x", "best_of": 4}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/rerank", {"query": "x", "documents": ["a"]}),
        ("/apply-template", {"messages": []}),
    ],
)
async def test_the_other_routes_refuse_what_they_cannot_do(chat: Chat, path: str, body: dict[str, Any]) -> None:
    got = await chat.post(path, {"model": chat.model, **body})
    assert got.status == 400, got.body
    assert got.json["error"]["type"] == "invalid_request_error"


async def test_a_text_over_the_window_is_named_as_it_was_sent(chat: Chat) -> None:
    got = await chat.post("/v1/completions", {"model": chat.model, "prompt": "word " * 4000})
    assert (got.status, got.json["error"]["code"]) == (400, "context_length_exceeded")
    assert got.json["error"]["param"] == "prompt"


async def test_a_body_nested_without_end_does_not_end_the_worker(chat: Chat) -> None:
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    body = b'{"model":"%s","messages":[{"role":"user","content":"hi"}],"chat_template_kwargs":%s}'
    got = await chat.post("/v1/chat/completions", body % (chat.model.encode(), deep))
    assert got.status == 400


async def test_after_all_that_the_same_worker_answers_many_at_once(chat: Chat) -> None:
    """Last on purpose: nothing above may have cost the worker its life or left a slot taken. A picture of a shape that
    the device could not take once poisoned its model: what an engine cannot take is refused before it gets it."""
    assert chat.neuron.pool.restarts(0) == 0
    answers = await asyncio.gather(*(chat.say(f"Count to {at}.") for at in range(8)))
    assert all(answers)
    assert chat.neuron.keeper.loads()[0].in_flight == 0
