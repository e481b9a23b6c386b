"""What is wrong with a request that stays in its dialect, by field; and how much is let through."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.base.errors import InvalidRequest
from helexa.wire.checks import CHECKS, check_chat, check_completions, check_embeddings

from .shared import all_fixtures, encode

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def allowing(mode: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}}


def chat(**fields: Any) -> None:
    check_chat(encode({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}))


@pytest.mark.parametrize(
    ("name", "body"), [(name, body) for name, dialect, body in all_fixtures() if dialect == "chat"]
)
def test_every_real_chat_client_passes(name: str, body: dict[str, Any]) -> None:
    check_chat(encode(body))


@pytest.mark.parametrize(
    "fields",
    [
        {"made_up": 1, "store": False, "metadata": {}, "service_tier": "auto"},
        {"messages": [{"role": "developer", "content": "a"}, {"role": "user", "content": [{"type": "video_url"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": ""}]},
        {"messages": [{"role": "assistant"}, {"role": "function", "name": "f", "content": "x"}]},
        {"stop": ["a", "b", "c", "d", "e"], "n": 2, "max_completion_tokens": 3, "logprobs": True},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        {"modalities": ["text"], "audio": None, "functions": []},
    ],
)
def test_what_an_engine_may_know_is_let_through(fields: dict[str, Any]) -> None:
    chat(**fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.image_url"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"functions": [{"name": "f", "parameters": {}}]}, "functions"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"seed": 2**64}, "seed"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"user": 5}, "user"),
        ({"prompt_cache_key": ["a"]}, "prompt_cache_key"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema",
        ),
        ({"tools": [{"type": "custom"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools.0.function.parameters"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (allowing("auto", {"function": {"name": "nobody"}}), "tool_choice.allowed_tools.tools.0.function.name"),
        (allowing("auto", {"type": "function"}), "tool_choice.allowed_tools.tools.0.function"),
        (allowing("required"), "tool_choice.allowed_tools.tools"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}},
            "tool_choice.allowed_tools.mode",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
        ),
    ],
)
def test_what_would_be_lost_without_a_word_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/rerank", {"query": "q", "documents": []}, "documents"),
        ("/v1/rerank", {"query": 5, "documents": ["a"]}, "query"),
        ("/tokenize", {"content": {}}, "content"),
        ("/tokenize", {"content": ["a", [1]]}, "content.1"),
        ("/tokenize", {}, "content"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens.1"),
        ("/apply-template", {"messages": "x"}, "messages"),
    ],
)
def test_every_path_of_a_neuron_has_a_check(path: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CHECKS[path](encode({"model": "m", **fields}))
    assert caught.value.param == param


def test_a_check_returns_what_routing_needs() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "user": "u", "prompt_cache_key": "k"}
    found = check_chat(encode({**body, "stream": True}))
    assert (found.model, found.streamed, found.affinity) == ("m", True, "k")
    assert not check_chat(encode(body)).streamed


def test_vectors_come_whole_even_where_a_stream_is_asked_for() -> None:
    assert not check_embeddings(encode({"model": "m", "input": "a", "stream": True})).streamed


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1, 2], [3]]])
def test_prompts_and_inputs_may_be_text_or_token_ids(prompt: Any) -> None:
    check_completions(encode({"model": "m", "prompt": prompt}))
    check_embeddings(encode({"model": "m", "input": prompt, "encoding_format": "base64"}))


@pytest.mark.parametrize(
    ("fields", "param"), [({"max_tokens": -1}, "max_tokens"), ({"n": 0}, "n"), ({"prompt": 5}, "prompt")]
)
def test_a_broken_completion_request_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_completions(encode({"model": "m", "prompt": "a", **fields}))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"input": []}, "input"), ({"input": ""}, "input"), ({"encoding_format": "hex"}, "encoding_format"),
     ({"dimensions": 0}, "dimensions")],
)  # fmt: skip
def test_a_broken_embedding_request_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_embeddings(encode({"model": "m", "input": "a", **fields}))
    assert caught.value.param == param


def test_a_number_that_is_none_is_found_however_deep_it_stands() -> None:
    deep = b"[" * 600 + b"NaN" + b"]" * 600
    with pytest.raises(InvalidRequest) as wrong:
        check_chat(b'{"model":"m","messages":[{"role":"user","content":"hi"}],"metadata":' + deep + b"}")
    assert wrong.value.param == "metadata"
