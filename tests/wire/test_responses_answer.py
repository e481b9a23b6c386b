"""What a Responses client gets when a neuron answers, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.base.errors import Unavailable
from helexa.wire.canon import BadAnswer, Fault, Usage
from helexa.wire.sse import COMMENT

from .grammar import Heard, frames, responses_grammar
from .shared import DONE, answer, call, chunk, encode, responses, usage_chunk

STOP = chunk(finish="stop") + usage_chunk() + DONE


def heard(*stream: bytes, **fields: Any) -> Heard:
    exchange = responses({"stream": True, **fields})
    return responses_grammar(exchange.opening() + exchange.feed(b"".join(stream)) + exchange.end())


def names(stream: bytes) -> list[str]:
    return [name.removeprefix("response.") for name, _ in frames(stream)]


def test_a_stream_opens_with_created_and_in_progress_before_the_upstream_answers() -> None:
    exchange = responses({"stream": True})
    assert names(exchange.opening()) == ["created", "in_progress"]
    assert exchange.opening() == b""
    assert names(exchange.feed(chunk({"content": "a"})))[0] == "output_item.added"


def test_keep_alives_are_events_until_something_is_said_and_comments_after() -> None:
    exchange = responses({"stream": True})
    assert names(exchange.keepalive("queued")) == ["created", "queued"]
    assert names(exchange.keepalive("queued")) == ["queued"]
    assert names(exchange.keepalive("loading")) == ["in_progress"]
    assert names(exchange.keepalive("queued")) == ["in_progress"]
    exchange.feed(chunk({"content": "a"}))
    assert exchange.keepalive() == COMMENT
    exchange.feed(STOP)
    assert exchange.keepalive() == b""
    fresh = responses({"stream": True})
    assert names(fresh.keepalive("loading")) == ["created", "in_progress"]


def test_keep_alives_do_not_repeat_the_tools() -> None:
    tool = {"type": "function", "name": "a_tool_with_a_name"}
    exchange = responses({"stream": True, "tools": [tool], "instructions": "long"})
    created, progress = exchange.opening().split(b"event: response.in_progress")
    assert b"a_tool_with_a_name" in created
    assert b"a_tool_with_a_name" not in progress
    assert b"a_tool_with_a_name" not in exchange.keepalive("loading")


def test_text_has_its_whole_event_list() -> None:
    exchange = responses({"stream": True})
    out = exchange.opening() + exchange.feed(chunk({"content": "a"}) + chunk({"content": "b"}) + STOP)
    assert names(out)[2:] == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert responses_grammar(out).text == "ab"


def test_a_call_has_its_whole_event_list() -> None:
    exchange = responses({"stream": True})
    out = exchange.opening() + exchange.feed(chunk(call(0, '{"a":1}', "f", "call_1")) + STOP)
    assert names(out)[2:-1] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    said = responses_grammar(out)
    assert said.calls == [("call_1", "f", '{"a":1}')]
    assert said.final["output"][0]["id"].startswith("fc_")


def test_reasoning_is_content_or_a_summary_when_one_was_asked_for() -> None:
    plain = heard(chunk({"reasoning_content": "hm"}), STOP)
    assert plain.final["output"][0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert plain.final["output"][0]["summary"] == []
    exchange = responses({"stream": True, "reasoning": {"summary": "auto"}})
    out = exchange.opening() + exchange.feed(chunk({"reasoning_content": "hm"}) + STOP)
    assert names(out)[3:8] == [
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert responses_grammar(out).final["output"][0]["summary"] == [{"type": "summary_text", "text": "hm"}]


def test_items_come_one_after_the_other_even_if_calls_interleave() -> None:
    said = heard(
        chunk({"reasoning_content": "h"}),
        chunk({"content": "t"}),
        chunk(call(0, '{"x"', "f", "a")),
        chunk(call(1, '{"y"', "g", "b")),
        chunk(call(0, ":1}")),
        chunk(call(1, ":2}")),
        STOP,
    )
    assert said.blocks == ["reasoning", "message", "function_call", "function_call"]
    assert said.calls == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


def test_a_namespaced_call_goes_back_as_namespace_and_name() -> None:
    tools = [{"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "f"}]}]
    said = heard(chunk(call(0, "{}", "ns__f", "a")), STOP, tools=tools)
    found = said.final["output"][0]
    assert (found["namespace"], found["name"]) == ("ns", "f")
    assert "namespace" not in heard(chunk(call(0, "{}", "f", "a")), STOP).final["output"][0]


def test_a_call_without_arguments_or_id_is_completed() -> None:
    said = heard(chunk(call(0, "", "f")), STOP)
    id, name, arguments = said.calls[0]
    assert id.startswith("call_")
    assert (name, arguments) == ("f", "{}")


def test_a_refusal_is_a_refusal_part() -> None:
    said = heard(chunk({"refusal": "no"}), STOP)
    assert said.final["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]
    assert said.ending == "response.completed"


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_finish_reasons_become_statuses(finish: str, status: str, reason: str | None) -> None:
    said = heard(chunk({"content": "a"}), chunk(finish=finish), usage_chunk(), DONE)
    details = {"reason": reason} if reason else None
    assert (said.final["status"], said.final["incomplete_details"]) == (status, details)
    assert said.final["output"][0]["status"] == ("incomplete" if reason else "completed")


def test_usage_is_complete_at_the_end_and_known_to_the_meter() -> None:
    exchange = responses({"stream": True})
    said = responses_grammar(exchange.feed(chunk({"content": "a"}) + STOP))
    assert said.final["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }
    assert exchange.usage == Usage(7, 5, 3, 2)


def test_an_empty_completion_is_one_empty_message() -> None:
    said = heard(STOP)
    assert (said.blocks, said.text, said.ending) == (["message"], "", "response.completed")


def test_the_response_repeats_its_request() -> None:
    fields = {
        "instructions": "i",
        "metadata": {"k": "v"},
        "tools": [{"type": "web_search"}],
        "tool_choice": "none",
        "text": {"format": {"type": "json_object"}},
        "store": False,
        "max_output_tokens": 5,
        "temperature": 0.5,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": None},
    }
    said = heard(chunk({"content": "a"}), STOP, **fields)
    assert {key: said.final[key] for key in fields} == fields
    bare = heard(STOP).final
    assert (bare["tools"], bare["tool_choice"], bare["store"], bare["metadata"]) == ([], "auto", True, {})
    assert (bare["object"], bare["created_at"], bare["model"]) == ("response", 1_700_000_000, "m")


def test_a_request_with_newlines_between_its_tokens_does_not_break_the_frames() -> None:
    body = json.dumps({"model": "m", "input": "hi", "tools": [{"type": "web_search"}]}, indent=2).encode()
    from helexa.wire.translate import open_responses

    exchange = open_responses(body, lookup=lambda _: None, ids=lambda prefix: prefix, now=0)
    assert responses_grammar(exchange.feed(STOP)).final["tools"] == [{"type": "web_search"}]


def test_a_finished_response_leaves_a_record_and_a_failed_one_none() -> None:
    exchange = responses({"stream": True, "store": False})
    assert exchange.record is None
    said = responses_grammar(exchange.feed(chunk({"content": "a"}) + STOP))
    record = exchange.record
    assert record is not None
    assert (record.id, record.store) == (exchange.response_id, False)
    assert json.loads(record.body) == said.final
    assert [(id, json.loads(raw)) for id, raw in record.outputs] == [(i["id"], i) for i in said.final["output"]]
    failed = responses({"stream": True})
    failed.feed(chunk({"content": "a"}))
    failed.end()
    assert failed.record is None


# ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", [b"", DONE, chunk(finish="abort"), b"data: {nonsense\n\n"])
def test_a_stream_that_breaks_off_ends_in_response_failed(ending: bytes) -> None:
    said = heard(chunk({"content": "a"}), ending)
    assert said.ending == "response.failed"
    assert said.final["error"]["code"] == "server_error"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=400, code="context_length_exceeded"), "context_length_exceeded"),
        (Fault(status=429), "rate_limit_exceeded"),
        (Fault(status=429, code="insufficient_quota"), "insufficient_quota"),
        (Fault(status=400, code="x"), "invalid_prompt"),
        (Fault(status=503, code="model_loading"), "server_error"),
    ],
)
def test_failures_carry_a_code_that_clients_know(fault: Fault, code: str) -> None:
    exchange = responses({"stream": True})
    exchange.feed(chunk({"content": "a"}))
    out = exchange.fail(fault)
    assert frames(out)[-1][1]["response"]["error"]["code"] == code


def test_a_failure_before_anything_else_still_creates_the_response() -> None:
    exchange = responses({"stream": True})
    out = exchange.fail(Unavailable(model="m", reason="node lost"))
    assert names(out) == ["created", "failed"]
    responses_grammar(out)
    assert exchange.fail(Unavailable()) == exchange.feed(STOP) == exchange.end() == b""


# ── whole answers ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_whole_answer_is_one_response_under_the_name_the_client_asked_for() -> None:
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "not json"}}]
    exchange = responses(model="org/real")
    body = json.loads(exchange.answer(answer("Hello.", reasoning_content="hm", tool_calls=calls)))
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "m")
    assert [item["type"] for item in body["output"]] == ["reasoning", "message", "function_call"]
    assert body["output"][2]["arguments"] == "not json"
    assert exchange.record is not None


def test_a_whole_answer_that_is_none_is_a_bad_answer() -> None:
    for body in (b"", encode({"choices": []})):
        with pytest.raises(BadAnswer):
            responses().answer(body)
