"""Mapping B: what a Messages client gets when a neuron answers, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.base.errors import Unavailable
from helexa.wire.canon import BadAnswer, Capabilities, Usage
from helexa.wire.translate.messages_answer import PING, SIGNATURE

from .grammar import Heard, frames, messages_grammar
from .shared import DONE, answer, call, chunk, encode, messages, usage, usage_chunk

STOP = chunk(finish="stop") + usage_chunk() + DONE


def heard(*stream: bytes, **more: Any) -> Heard:
    exchange = messages({"stream": True}, **more)
    return messages_grammar(exchange.opening() + exchange.feed(b"".join(stream)) + exchange.end())


def whole(body: bytes, **more: Any) -> dict[str, Any]:
    return json.loads(messages(**more).answer(body))


def test_a_stream_opens_with_message_start_and_a_ping_before_the_upstream_answers() -> None:
    exchange = messages({"stream": True}, prompt_tokens=42)
    opening = exchange.opening()
    (start, data), (ping, _) = frames(opening)
    assert (start, ping) == ("message_start", "ping")
    assert data["message"]["id"].startswith("msg_")
    assert data["message"]["usage"] == {
        "input_tokens": 42,
        "output_tokens": 1,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 0},
    }
    assert exchange.opening() == b""
    assert b"message_start" not in exchange.feed(chunk({"content": "a"}))


def test_the_prompt_is_estimated_when_nobody_counted_it() -> None:
    assert heard(STOP).start["usage"]["input_tokens"] > 0


def test_a_keep_alive_is_a_ping_and_opens_the_stream_first() -> None:
    exchange = messages({"stream": True})
    assert frames(exchange.keepalive("loading"))[0][0] == "message_start"
    assert exchange.keepalive("loading") == PING
    exchange.feed(STOP)
    assert exchange.keepalive() == b""


def test_thoughts_text_and_calls_are_blocks_in_their_order() -> None:
    said = heard(
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "h"}),
        chunk({"reasoning_content": "m"}),
        chunk({"content": "A"}),
        chunk({"content": "B"}),
        chunk(call(0, "", "add", "call_1")),
        chunk(call(0, '{"a":')),
        chunk(call(0, "1}")),
        chunk(finish="tool_calls"),
        usage_chunk(),
        DONE,
    )
    assert said.blocks == ["thinking", "text", "tool_use"]
    assert (said.thoughts, said.text, said.calls) == ("hm", "AB", [("call_1", "add", '{"a":1}')])
    assert said.final["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_a_thinking_block_is_signed_when_it_closes() -> None:
    exchange = messages({"stream": True})
    out = exchange.feed(chunk({"reasoning_content": "h"}) + chunk({"content": "a"}))
    deltas = [data["delta"] for name, data in frames(out) if name == "content_block_delta"]
    assert deltas[1] == {"type": "signature_delta", "signature": SIGNATURE}


def test_the_piece_that_causes_a_block_change_is_not_swallowed() -> None:
    said = heard(
        chunk({"reasoning_content": "T", "content": "A", **call(0, '{"a":1}', "f", "c")}),
        chunk({"content": "B"}),
        chunk({"reasoning_content": "U"}),
        STOP,
    )
    assert (said.thoughts, said.text, said.calls) == ("TU", "AB", [("c", "f", '{"a":1}')])
    assert said.blocks == ["thinking", "text", "tool_use", "text", "thinking"]


def test_interleaved_calls_are_written_one_block_after_the_other() -> None:
    said = heard(
        chunk(call(0, '{"x"', "f", "a")),
        chunk(call(1, '{"y"', "g", "b")),
        chunk(call(0, ":1}")),
        chunk(call(1, ":2}")),
        STOP,
    )
    assert said.calls == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


def test_a_call_is_passed_on_while_it_is_written_and_the_next_as_soon_as_it_is_whole() -> None:
    exchange = messages({"stream": True})
    assert b'"partial_json":"{\\"x\\""' in exchange.feed(chunk(call(0, '{"x"', "f", "a")))
    assert b"partial_json" not in exchange.feed(chunk(call(1, "{", "g", "b")))
    out = exchange.feed(chunk(call(0, ":[}")) + chunk(call(0, "]}")) + chunk(call(0, "}")))
    assert b'"id":"b"' not in out
    exchange = messages({"stream": True})
    exchange.feed(chunk(call(0, '{"x"', "f", "a")) + chunk(call(1, "{", "g", "b")))
    out = exchange.feed(chunk(call(0, ":1}")))
    assert out.index(b"content_block_stop") < out.index(b'"id":"b"') < out.index(b'"partial_json":"{"')


def test_words_in_the_middle_of_a_call_follow_it() -> None:
    said = heard(
        chunk(call(0, "{", "f", "a")), chunk({"content": "w"}), chunk({"content": "x"}), chunk(call(0, "}")), STOP
    )
    assert said.blocks == ["tool_use", "text"]
    assert (said.text, said.calls) == ("wx", [("a", "f", "{}")])


def test_pieces_after_a_whole_call_has_closed_are_not_put_into_another_block() -> None:
    said = heard(chunk(call(0, "{}", "f", "a")), chunk(call(1, "{}", "g", "b")), chunk(call(0, "\n")), STOP)
    assert said.calls == [("a", "f", "{}"), ("b", "g", "{}")]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    for stream in ([chunk(call(0, "", "f", "a"))], [chunk(call(0, None, "f", "a"))]):
        assert heard(*stream, STOP).calls == [("a", "f", "{}")]
    body = answer(None, tool_calls=[{"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}])
    assert whole(body)["content"] == [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]


def test_a_call_without_an_id_gets_one() -> None:
    said = heard(chunk(call(0, "{}", "f")), STOP)
    assert said.calls[0][0].startswith("toolu_")
    body = answer(None, tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
    assert whole(body)["content"][0]["id"].startswith("toolu_")


def test_an_empty_list_of_calls_writes_nothing() -> None:
    said = heard(chunk({"content": "a", "tool_calls": []}), STOP)
    assert said.blocks == ["text"]


def test_usage_is_complete_in_the_start_and_in_the_delta() -> None:
    said = heard(chunk({"content": "a"}), STOP)
    keys = {"input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"}
    assert keys <= set(said.start["usage"])
    assert said.final["usage"] == {
        "input_tokens": 4,
        "output_tokens": 5,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 2},
    }
    assert whole(answer())["usage"] == said.final["usage"]


def test_the_exchange_knows_the_usage_for_the_meter() -> None:
    exchange = messages()
    exchange.feed(chunk({"content": "a"}) + STOP)
    assert exchange.usage == Usage(7, 5, 3, 2)
    exchange = messages()
    exchange.answer(answer())
    assert exchange.usage == Usage(7, 5, 3, 2)


def test_an_engine_that_does_not_count_still_leaves_usage_above_zero() -> None:
    said = heard(chunk({"content": "a"}), chunk({"content": "b"}), chunk(finish="stop"), DONE)
    assert said.final["usage"]["output_tokens"] == 2
    assert said.final["usage"]["input_tokens"] > 0


def test_the_message_delta_waits_for_the_usage_after_the_finish() -> None:
    exchange = messages({"stream": True})
    assert b"message_delta" not in exchange.feed(chunk({"content": "a"}) + chunk(finish="stop"))
    assert b'"output_tokens":5' in exchange.feed(usage_chunk())
    assert exchange.feed(DONE) == b""
    assert exchange.end() == b""


@pytest.mark.parametrize("ending", [DONE, b""])
def test_without_a_usage_chunk_the_done_word_or_the_end_closes_the_message(ending: bytes) -> None:
    assert heard(chunk({"content": "a"}), chunk(finish="stop"), ending).complete


def test_an_empty_completion_is_one_empty_text_block() -> None:
    said = heard(STOP)
    assert (said.blocks, said.text, said.final["delta"]["stop_reason"]) == (["text"], "", "end_turn")
    zero = encode({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}], "usage": usage(3, 0, 0, 0)})
    message = whole(zero)
    assert message["content"] == [{"type": "text", "text": ""}]
    assert message["usage"]["output_tokens"] == 1


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("eos", "end_turn"),
    ],
)
def test_finish_reasons_become_stop_reasons(finish: str, reason: str) -> None:
    assert heard(chunk({"content": "a"}), chunk(finish=finish), DONE).final["delta"]["stop_reason"] == reason
    assert whole(answer(finish=finish))["stop_reason"] == reason


def test_any_call_overrides_stop() -> None:
    assert heard(chunk(call(0, "{}", "f", "a")), STOP).final["delta"]["stop_reason"] == "tool_use"
    cut = heard(chunk(call(0, "{}", "f", "a")), chunk(finish="length"), DONE)
    assert cut.final["delta"]["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("in_choice", "beside"),
    [({"stop_reason": "END"}, {}), ({}, {"__verbose": {"stop_type": "word", "stopping_word": "END"}})],
    ids=["vLLM", "llama.cpp"],
)
def test_the_matched_stop_sequence_is_reported(in_choice: dict[str, Any], beside: dict[str, Any]) -> None:
    last = encode({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", **in_choice}], **beside})
    said = heard(chunk({"content": "a"}), b"data: " + last + b"\n\n", DONE)
    assert said.final["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    token = encode(
        {
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 151645}],
            "__verbose": {"stopping_word": ""},
        }
    )
    said = heard(chunk({"content": "a"}), b"data: " + token + b"\n\n", DONE)
    assert said.final["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_a_full_window_is_named_only_in_the_version_that_has_the_word() -> None:
    can = Capabilities(context_tokens=12)
    stream = (chunk({"content": "a"}), chunk(finish="length"), usage_chunk(), DONE)
    assert heard(*stream, can=can).final["delta"]["stop_reason"] == "max_tokens"
    new = heard(*stream, can=can, version="2026-10-21")
    assert new.final["delta"]["stop_reason"] == "model_context_window_exceeded"
    roomy = heard(*stream, can=Capabilities(context_tokens=4096), version="2026-10-21")
    assert roomy.final["delta"]["stop_reason"] == "max_tokens"


def test_a_refusal_is_text_with_the_stop_reason_refusal() -> None:
    said = heard(chunk({"refusal": "I "}), chunk({"refusal": "won't."}), STOP)
    assert (said.text, said.final["delta"]["stop_reason"]) == ("I won't.", "refusal")
    assert whole(answer(None, refusal="no"))["stop_reason"] == "refusal"


# ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "ending",
    [
        b"",
        DONE,
        chunk(finish="abort"),
        chunk(finish="error"),
        b"data: {nonsense\n\n",
        b"data: \xff\n\n",
        b'data: {"choices":5}\n\n',
        b'event: error\ndata: {"message":"boom"}\n\n',
        b'data: {"error":{"message":"boom","code":500}}\n\n',
        b'data: {"error":"boom"}\n\n',
        b'data: {"object":"error","message":"boom","code":400}\n\n',
        chunk(call(0, "{}", None, "nameless")) + chunk(finish="stop") + DONE,
    ],
)
def test_a_stream_that_breaks_off_ends_in_an_error_event(ending: bytes) -> None:
    said = heard(chunk({"content": "a"}), ending)
    assert said.ending == "error"
    assert said.final["error"]["type"] in ("api_error", "invalid_request_error")
    assert said.final["error"]["message"]


def test_an_error_inside_the_stream_keeps_its_words() -> None:
    said = heard(chunk({"content": "a"}), b'data: {"error":{"message":"boom","code":503}}\n\n')
    assert said.final["error"] == {"type": "overloaded_error", "message": "boom"}


def test_a_failure_of_ours_is_the_dialects_error_event_and_the_last_one() -> None:
    exchange = messages({"stream": True}, request_id="req_1")
    out = exchange.feed(chunk({"content": "a"}))
    out += exchange.fail(Unavailable(model="m", reason="node lost"))
    said = messages_grammar(out)
    assert said.final["error"]["type"] == "overloaded_error"
    assert said.final["request_id"] == "req_1"
    assert exchange.fail(Unavailable()) == exchange.feed(STOP) == exchange.end() == b""


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", "5", "rm -rf"])
def test_arguments_that_are_no_object_pass_raw_in_a_stream_and_fail_a_whole_answer(arguments: str) -> None:
    said = heard(chunk(call(0, arguments, "f", "a")), STOP)
    assert said.calls == [("a", "f", arguments)]
    with pytest.raises(BadAnswer) as caught:
        whole(answer(None, tool_calls=[{"id": "a", "function": {"name": "f", "arguments": arguments}}]))
    assert caught.value.status == 502
    assert "f" in caught.value.message


def test_a_call_cut_off_by_the_limit_is_left_out_of_a_whole_answer() -> None:
    half = {"id": "a", "function": {"name": "f", "arguments": '{"a":'}}
    message = whole(answer("so", finish="length", tool_calls=[half]))
    assert message["content"] == [{"type": "text", "text": "so"}]
    assert message["stop_reason"] == "max_tokens"
    unbegun = {"id": "a", "function": {"name": "f", "arguments": ""}}
    assert whole(answer("so", finish="length", tool_calls=[unbegun]))["content"] == message["content"]
    assert heard(chunk(call(0, "", "f", "a")), chunk(finish="length"), DONE).calls == [("a", "f", "")]


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"message":{"content":"a"}}]}']
)
def test_a_whole_answer_that_is_none_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer) as caught:
        whole(body)
    assert caught.value.status == 502


def test_an_error_in_the_place_of_an_answer_keeps_its_fault() -> None:
    with pytest.raises(BadAnswer) as caught:
        whole(b'{"error":{"message":"boom","code":503}}')
    assert caught.value.fault is not None
    assert caught.value.fault.status == 503


# ── whole answers ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_whole_answer_is_one_message_under_the_name_the_client_asked_for() -> None:
    body = answer(
        "Hello.",
        finish="tool_calls",
        reasoning_content="hm",
        tool_calls=[{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    )
    message = whole(body, model="org/real")
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "m")
    assert message["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": SIGNATURE},
        {"type": "text", "text": "Hello."},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"a": 1}},
    ]
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)
