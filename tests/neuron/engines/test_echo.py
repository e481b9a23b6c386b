"""What the echo engine says, and the options it takes."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.engines.echo import options, script
from helexa.neuron.engines.echo.answers import call_deltas, packed
from helexa.neuron.engines.echo.script import Ask, PrefixCache
from helexa.neuron.engines.echo.server import EmbeddingBody
from helexa.neuron.harness import BadOption


def ask(**body: Any) -> Ask:
    return msgspec.convert(body, Ask)


def said(body: dict[str, Any], **asked: Any) -> script.Script:
    return script.write(ask(**body), options.parse(asked))


def user(text: object) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]}


def test_it_says_the_users_last_words() -> None:
    answer = said(user("hello there"))
    assert (answer.tokens, answer.finish) == (("hello", " there"), "stop")


def test_parts_and_null_content_are_understood() -> None:
    assert said(user([{"type": "text", "text": "hi"}, {"type": "image_url"}])).tokens == ("hi",)
    assert said(user(None)).tokens == ()


def test_what_may_be_left_out_may_be_null() -> None:
    optional = ("stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "n", "tools")
    nulls = dict.fromkeys(optional)
    assert said({**user("hello"), **nulls}) == said(user("hello"))
    asked = ask(**nulls | {"stream_options": {"include_usage": None}})
    assert (asked.stream, asked.choices, asked.with_usage) == (None, 1, False)
    assert msgspec.convert({"input": "x", "encoding_format": None}, EmbeddingBody).texts == ["x"]


def test_a_reply_takes_the_place_of_the_echo() -> None:
    assert "".join(said(user("x"), reply="a b c").tokens) == "a b c"


def test_of_several_replies_it_says_the_first_that_the_conversation_does_not_hold_yet() -> None:
    turns: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
    told = list[str]()
    for _ in range(3):
        told.append("".join(said({"messages": turns}, reply=["one more", "done"]).tokens))
        turns += [{"role": "assistant", "content": told[-1]}, {"role": "user", "content": "and?"}]
    assert told == ["one more", "done", "done"]


def test_thoughts_come_first_and_count_against_the_limit() -> None:
    thinking = {"reply": "a b", "thoughts": "let me see"}
    whole, cut = said(user("x"), **thinking), said(user("x") | {"max_tokens": 2}, **thinking)
    assert (whole.thoughts, whole.tokens, whole.length) == (("let", " me", " see"), ("a", " b"), 5)
    assert (cut.thoughts, cut.tokens, cut.finish) == (("let", " me"), (), "length")


def test_the_prompt_holds_tools_thoughts_and_calls_but_no_ids_of_calls() -> None:
    call = {"id": "call_7", "type": "function", "function": {"name": "get", "arguments": '{"q":"x"}'}}
    turns = [
        {"role": "user", "content": "find x"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_7", "content": "42"},
    ]
    prompt = "".join(said({"messages": turns, "tools": [{"type": "function"}]}).prompt)
    assert prompt == '<tool> {"type":"function"}\n<user>\nfind x\n<assistant>\nhm\nget {"q":"x"}\n<tool>\n42'


@pytest.mark.parametrize(("limit", "tokens", "finish"), [(2, 2, "length"), (3, 3, "stop"), (0, 0, "length")])
def test_max_tokens_ends_it_with_length(limit: int, tokens: int, finish: str) -> None:
    answer = said(user("a b c") | {"max_tokens": limit})
    assert (len(answer.tokens), answer.finish) == (tokens, finish)


def test_the_newer_name_of_the_limit_wins() -> None:
    assert len(said(user("a b c") | {"max_tokens": 1, "max_completion_tokens": 2}).tokens) == 2


def test_a_stop_string_cuts_the_answer_before_it() -> None:
    assert "".join(said(user("a b c d") | {"stop": ["c", "b"]}).tokens) == "a"


def test_tools_are_called_until_their_result_is_there() -> None:
    called = {"tool_calls": [{"name": "get", "arguments": {"q": "x"}}]}
    tools = {"tools": [{"type": "function"}]}
    first = said(user("find x") | tools, **called)
    assert (first.finish, [call.name for call in first.calls]) == ("tool_calls", ["get"])
    after = user("find x")["messages"] + [{"role": "tool", "content": "42"}]
    assert said({"messages": after} | tools, **called).finish == "stop"
    assert said(user("find x"), **called).finish == "stop"


@given(st.text(max_size=40))
def test_the_pieces_of_a_tool_call_are_its_arguments(text: str) -> None:
    arguments = msgspec.json.encode({"q": text}).decode()
    deltas = call_deltas(options.ToolCall(name="get", arguments=arguments), 0, "echo-1")
    assert "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in deltas) == arguments


@given(st.text())
def test_words_are_the_text_again_but_for_white_space_at_the_end(text: str) -> None:
    joined = "".join(script.words(text))
    assert text.startswith(joined)
    assert text[len(joined) :].strip() == ""


@given(st.text())
def test_an_embedding_has_length_one(text: str) -> None:
    assert math.isclose(sum(value * value for value in script.embedding(text)), 1.0)


def test_a_prompt_seen_before_needs_no_prefill_but_for_its_last_token() -> None:
    cache = PrefixCache()
    first = ("a", "b", "c")
    assert [cache.take(first), cache.take(first), cache.take((*first, "d", "e")), cache.take(("x",))] == [0, 2, 3, 0]


@pytest.mark.parametrize(
    ("given_", "name"),
    [
        ({"speed": 1}, "speed"),
        ({"memory_mb": "much"}, "memory_mb"),
        ({"fail": "sometimes"}, "fail"),
        ({"tool_calls": [{}]}, "tool_calls"),
        ({"reply": ["a", 5]}, "reply"),
    ],
)
def test_a_wrong_option_is_named(given_: dict[str, Any], name: str) -> None:
    with pytest.raises(BadOption) as wrong:
        options.parse(given_)
    assert wrong.value.name == name
    assert "reply" in wrong.value.known


@pytest.mark.parametrize(
    ("input_", "texts"),
    [("a b", ["a b"]), (["a", "b"], ["a", "b"]), ([1, 2], ["1 2"]), ([[1, 2], [3]], ["1 2", "3"]), ([], [])],
)
def test_texts_and_token_ids_are_embedded_alone_and_together(input_: object, texts: list[str]) -> None:
    assert msgspec.convert({"input": input_}, EmbeddingBody).texts == texts


def test_a_packed_vector_is_its_32_bit_floats() -> None:
    vector = script.embedding("one")
    unpacked = struct.unpack(f"<{len(vector)}f", base64.b64decode(packed(vector)))
    assert unpacked == pytest.approx(vector, abs=1e-7)
