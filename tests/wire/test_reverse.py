"""Mapping C: a chat client in front of an upstream that speaks Messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.errors import InvalidRequest, Unavailable
from helexa.wire.canon import BadAnswer, Capabilities, Usage
from helexa.wire.sse import COMMENT, SseDecoder
from helexa.wire.sse import encode as frame
from helexa.wire.translate import ChatExchange, open_chat

from .scripts import Script, chunkings, scripts
from .shared import counter, encode, messages

USER = {"role": "user", "content": "hi"}


def exchange(*turns: Any, **fields: Any) -> ChatExchange:
    more = {key: fields.pop(key) for key in ("version", "can", "strict", "model") if key in fields}
    body = {"model": "m", "messages": list(turns) or [USER], **fields}
    return open_chat(encode(body), ids=counter(), now=1_700_000_000, **more)


def sent(*turns: Any, **fields: Any) -> dict[str, Any]:
    return json.loads(exchange(*turns, **fields).request)


def refused(*turns: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        exchange(*turns, **fields)
    return caught.value


def called(*ids: str, arguments: str = "{}") -> dict[str, Any]:
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(id: str, content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


# ── request ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_leading_system_messages_are_the_system_prompt_and_later_ones_are_folded() -> None:
    developer, system = {"role": "developer", "content": "b"}, {"role": "system", "content": "a"}
    out = sent(system, developer, USER, {"role": "system", "content": "mind"})
    assert out["system"] == "a\n\nb"
    assert out["messages"][0]["content"][1]["text"] == "<system-reminder>\nmind\n</system-reminder>"
    kept = sent(USER, {"role": "system", "content": "mind"}, can=Capabilities(mid_system=True))
    assert kept["messages"][1] == {"role": "system", "content": "mind"}


def test_turns_of_one_role_are_merged_and_the_first_is_the_users() -> None:
    assert len(sent(USER, USER)["messages"]) == 1
    first = sent({"role": "assistant", "content": "a"}, USER)["messages"]
    assert [message["role"] for message in first] == ["user", "assistant", "user"]
    assert first[0]["content"] == "."
    assert sent({"role": "user", "content": ""})["messages"] == [{"role": "user", "content": "."}]
    assert sent({"role": "system", "content": "s"})["messages"] == [{"role": "user", "content": "."}]


def test_results_are_one_user_message_in_the_order_of_the_calls_before_the_words() -> None:
    blocks = sent(USER, called("A", "B"), result("B"), result("A"), USER)["messages"][2]["content"]
    assert [block.get("tool_use_id", block.get("text")) for block in blocks] == ["A", "B", "hi"]


def test_arguments_become_input_and_what_is_no_object_is_kept_raw() -> None:
    out = sent(USER, called("A", arguments='{"a": 1}'), result("A"))["messages"][1]["content"]
    assert out == [{"type": "tool_use", "id": "A", "name": "f", "input": {"a": 1}}]
    raw = sent(USER, called("A", arguments="rm -rf"), result("A"))["messages"][1]["content"]
    assert raw[0]["input"] == {"_raw": "rm -rf"}


def test_ids_are_made_clean_the_same_way_on_both_sides_and_stay_apart() -> None:
    out = sent(USER, called("a:b", "a/b"), result("a:b"), result("a/b"))["messages"]
    calls = [block["id"] for block in out[1]["content"]]
    assert calls == [block["tool_use_id"] for block in out[2]["content"]] == ["a_b", "a_b_"]


def test_missing_orphaned_or_doubled_results_are_refused() -> None:
    assert refused(USER, called("A")).param == "messages.1.tool_calls.0"
    assert refused(USER, result("A")).param == "messages.1"
    assert refused(USER, called("A"), result("A"), result("A")).param == "messages.3"
    nameless = {"role": "assistant", "tool_calls": [{"id": "a"}]}
    assert refused(USER, nameless).param == "messages.1.tool_calls.0.function"


def test_the_old_function_form_is_read_too() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    out = sent(USER, old, {"role": "function", "name": "f", "content": "ok"})["messages"]
    assert out[1]["content"][0]["id"] == out[2]["content"][0]["tool_use_id"]


def test_thoughts_are_dropped_because_they_carry_no_signature() -> None:
    out = sent(USER, {"role": "assistant", "content": "a", "reasoning_content": "hm"}, USER)["messages"]
    assert out[1]["content"] == [{"type": "text", "text": "a"}]
    assert sent(USER, {"role": "assistant", "refusal": "no"}, USER)["messages"][1]["content"][0]["text"] == "no"


def test_images_become_sources() -> None:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in ("data:image/png;base64,AA==", "https://x/y")]
    blocks = sent({"role": "user", "content": [{"type": "text", "text": ""}, *parts]})["messages"][0]["content"]
    assert [block["source"] for block in blocks] == [
        {"type": "base64", "media_type": "image/png", "data": "AA=="},
        {"type": "url", "url": "https://x/y"},
    ]


def test_the_limit_is_the_new_fields_then_the_old_ones_then_the_models() -> None:
    assert sent(max_completion_tokens=5, max_tokens=9)["max_tokens"] == 5
    assert sent(max_tokens=9)["max_tokens"] == 9
    assert sent(can=Capabilities(context_tokens=77))["max_tokens"] == 77
    assert sent()["max_tokens"] == 32_000


def test_stops_lose_their_empty_ones_and_temperature_is_clamped_or_left_out() -> None:
    assert sent(stop=["a", "", " "])["stop_sequences"] == ["a"]
    assert sent(stop="a")["stop_sequences"] == ["a"]
    old = sent(temperature=1.7, top_p=0.5, top_k=3)
    assert (old["temperature"], old["top_p"], old["top_k"]) == (1.0, 0.5, 3)
    new = sent(temperature=1.7, top_p=0.5, top_k=3, version="2026-10-21")
    assert not {"temperature", "top_p", "top_k"} & set(new)


TOOLS = [{"type": "function", "function": {"name": n, "description": n, "strict": True}} for n in ("f", "g")]


@pytest.mark.parametrize(
    ("fields", "choice", "count"),
    [
        ({}, None, 2),
        ({"tool_choice": "auto"}, {"type": "auto"}, 2),
        ({"tool_choice": "required"}, {"type": "any"}, 2),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}, 2),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}, 2),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}, 2),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {
                "mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}}},
            {"type": "any"},
            1,
        ),
    ],
)  # fmt: skip
def test_tools_and_choices_are_translated(fields: dict[str, Any], choice: Any, count: int) -> None:
    out = sent(tools=TOOLS, **fields)
    assert (out.get("tool_choice"), len(out["tools"])) == (choice, count)
    assert out["tools"][-1] == {
        "name": "g",
        "description": "g",
        "strict": True,
        "input_schema": {"type": "object", "properties": {}},
    }


def test_formats_become_an_output_format_or_an_instruction() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    wanted = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert sent(response_format=schema)["output_config"] == wanted
    assert "JSON" in sent(response_format={"type": "json_object"})["system"]
    assert "output_config" not in sent(response_format={"type": "text"})


def test_effort_becomes_effort_or_no_thinking() -> None:
    assert sent(reasoning_effort="minimal")["output_config"] == {"effort": "low"}
    assert sent(reasoning_effort="none")["thinking"] == {"type": "disabled"}
    assert sent(user="u")["metadata"] == {"user_id": "u"}


def test_what_messages_has_no_word_for_is_noted_or_refused() -> None:
    assert exchange(seed=5, n=1, presence_penalty=0, logit_bias={}).notices == ("seed",)
    assert refused(seed=5, strict=True).param == "seed"
    assert exchange(n=1, strict=True).notices == ()


# ── answer ─────────────────────────────────────────────────────────────────────────────────────────────────────


def event(name: str, **data: Any) -> bytes:
    return frame(encode({"type": name, **data}), name.encode())


def start(index: int, block: dict[str, Any]) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def delta(index: int, **said: Any) -> bytes:
    return event("content_block_delta", index=index, delta=said)


def stop(index: int) -> bytes:
    return event("content_block_stop", index=index)


HEAD = event("message_start", message={"usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1}})


def ending(reason: str = "end_turn", **usage: Any) -> bytes:
    said = {"stop_reason": reason, "stop_sequence": None}
    return event("message_delta", delta=said, usage={"output_tokens": 9, **usage}) + event("message_stop")


def chunks(stream: bytes) -> list[Any]:
    decoder = SseDecoder()
    return [frame.data if frame.data == b"[DONE]" else json.loads(frame.data) for frame in decoder.feed(stream)]


def test_a_messages_stream_becomes_a_chat_stream() -> None:
    chat = exchange(stream=True, stream_options={"include_usage": True})
    out = chat.feed(
        HEAD
        + start(0, {"type": "thinking", "thinking": "", "signature": ""})
        + delta(0, type="thinking_delta", thinking="hm")
        + delta(0, type="signature_delta", signature="x")
        + stop(0)
        + start(1, {"type": "text", "text": ""})
        + delta(1, type="text_delta", text="a")
        + stop(1)
        + start(2, {"type": "tool_use", "id": "t", "name": "f", "input": {}})
        + delta(2, type="input_json_delta", partial_json="")
        + delta(2, type="input_json_delta", partial_json='{"x":1}')
        + stop(2)
        + start(3, {"type": "tool_use", "id": "u", "name": "g", "input": {}})
        + stop(3)
        + ending("tool_use", output_tokens_details={"thinking_tokens": 2})
    )
    said = chunks(out)
    assert said[-1] == b"[DONE]"
    assert {(c["id"], c["model"], c["created"]) for c in said[:-1]} == {("chatcmpl-1", "m", 1_700_000_000)}
    deltas = [c["choices"][0]["delta"] for c in said[:-2]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1:3] == [{"reasoning_content": "hm"}, {"content": "a"}]
    calls = [d["tool_calls"][0] for d in deltas[3:-1]]
    assert calls[0] == {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert calls[1] == {"index": 0, "function": {"arguments": '{"x":1}'}}
    assert calls[2]["index"] == 1
    assert calls[3] == {"index": 1, "function": {"arguments": "{}"}}
    assert said[-3]["choices"][0]["finish_reason"] == "tool_calls"
    assert said[-2]["choices"] == []
    assert said[-2]["usage"]["prompt_tokens"] == 7
    assert said[-2]["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert chat.usage == Usage(7, 9, 4, 2)
    assert chat.feed(HEAD) == chat.end() == chat.keepalive() == b""


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("novelty", "stop"),
    ],
)
def test_stop_reasons_become_finish_reasons(reason: str, finish: str) -> None:
    said = chunks(exchange(stream=True).feed(HEAD + ending(reason)))
    assert said[-2]["choices"][0]["finish_reason"] == finish
    whole = json.loads(exchange().answer(encode({"content": [], "stop_reason": reason})))
    assert whole["choices"][0]["finish_reason"] == finish
    assert bool(whole["choices"][0]["message"]["refusal"]) == (reason == "refusal")


def test_pings_are_comments_and_usage_comes_only_if_asked_for() -> None:
    chat = exchange(stream=True)
    assert chat.feed(event("ping")) == COMMENT
    assert chat.feed(b": c\n\n") == b""
    assert chunks(chat.keepalive())[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chat.keepalive() == COMMENT
    assert chat.opening() == b""
    assert all(c == b"[DONE]" or c["choices"] for c in chunks(chat.feed(HEAD + ending())))


def test_content_that_starts_with_its_block_is_not_lost() -> None:
    out = exchange(stream=True).feed(
        start(0, {"type": "text", "text": "a"})
        + start(1, {"type": "thinking", "thinking": "b"})
        + start(2, {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}})
        + stop(2)
        + start(3, {"type": "novelty"})
        + stop(3)
        + ending()
    )
    deltas = [c["choices"][0]["delta"] for c in chunks(out)[:-1]]
    assert deltas[1:3] == [{"content": "a"}, {"reasoning_content": "b"}]
    assert deltas[4]["tool_calls"][0]["function"]["arguments"] == '{"x":1}'


@pytest.mark.parametrize(
    "broken",
    [
        HEAD,
        HEAD + event("message_stop"),
        HEAD + b"data: nonsense\n\n",
        HEAD + event("error", error={"type": "overloaded_error", "message": "busy"}),
    ],
)
def test_a_messages_stream_that_breaks_off_ends_in_an_error_and_no_done(broken: bytes) -> None:
    chat = exchange(stream=True)
    out = chat.feed(broken) + chat.end()
    assert "error" in chunks(out)[-1]
    assert b"[DONE]" not in out


def test_an_anthropic_error_keeps_its_status() -> None:
    out = exchange(stream=True).feed(event("error", error={"type": "rate_limit_error", "message": "slow"}))
    assert chunks(out)[-1]["error"]["type"] == "rate_limit_error"
    with pytest.raises(BadAnswer) as caught:
        exchange().answer(encode({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}))
    assert caught.value.fault is not None
    assert caught.value.fault.status == 503


def test_an_absent_message_stop_is_forgiven_and_events_without_content_are_nothing() -> None:
    chat = exchange(stream=True)
    said = event("message_delta", delta={"stop_reason": "end_turn"})
    bare = event("content_block_delta") + event("content_block_start") + event("message_start") + event("message_delta")
    out = chat.feed(bare + said) + chat.end()
    assert chunks(out)[-1] == b"[DONE]"


def test_a_failure_of_ours_is_the_last_frame() -> None:
    chat = exchange(stream=True)
    assert b'"error"' in chat.fail(Unavailable(model="m", reason="r"))
    assert chat.fail(Unavailable()) == chat.feed(HEAD) == chat.keepalive() == b""


def test_a_whole_message_becomes_a_chat_completion() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "name": "g", "input": {}},
    ]
    body = encode({"content": content, "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 2}})
    chat = exchange()
    whole = json.loads(chat.answer(body))
    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"], message["refusal"]) == ("a", "hm", None)
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "f", "arguments": '{"x":1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert message["tool_calls"][1]["id"].startswith("call_")
    assert whole["usage"]["total_tokens"] == 5
    assert chat.usage == Usage(3, 2)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"{}", b"[]"])
def test_a_whole_answer_that_is_none_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        exchange().answer(body)


@given(st.data(), scripts())
def test_chat_to_messages_and_back_is_the_same_answer(data: st.DataObject, script: Script) -> None:
    as_messages = messages({"stream": True})
    stream = as_messages.feed(script.stream) + as_messages.end()
    chat = exchange(stream=True)
    out = b"".join([chat.feed(piece) for piece in data.draw(chunkings(stream))]) + chat.end()
    said = chunks(out)
    assert said[-1] == b"[DONE]"
    deltas = [c["choices"][0]["delta"] for c in said[:-1]]
    assert "".join(d.get("content") or "" for d in deltas) == script.text
    assert "".join(d.get("reasoning_content", "") for d in deltas) == script.thoughts
    calls: dict[int, list[str]] = {}
    for piece in (piece for d in deltas for piece in d.get("tool_calls", ())):
        known = calls.setdefault(piece["index"], [piece.get("id", ""), piece["function"].get("name", ""), ""])
        known[2] += piece["function"]["arguments"]
    assert [tuple(calls[index]) for index in sorted(calls)] == list(script.calls)
