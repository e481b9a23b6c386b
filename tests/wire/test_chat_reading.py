"""The many ways engines write a chat stream, read as one."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.wire.canon import Done, Event, Failed, Text, Thought, ToolDelta, Usage
from helexa.wire.translate.chat_reading import ChatReader

from .shared import DONE, call, chunk, encode, usage_chunk


def events(*stream: bytes) -> list[Event]:
    reader = ChatReader()
    return [event for piece in stream for event in reader.feed(piece)] + reader.end()


def calls(*deltas: dict[str, Any]) -> dict[int, tuple[str, str, str]]:
    out: dict[int, tuple[str, str, str]] = {}
    for event in events(*map(chunk, deltas), chunk(finish="stop")):
        if isinstance(event, ToolDelta):
            id, name, said = out.get(event.index, ("", "", ""))
            out[event.index] = (id or event.id, name or event.name or "", said + event.arguments)
    return out


def test_llama_cpp_streams_are_read_with_its_own_count() -> None:
    timings = {"cache_n": 5, "prompt_n": 2, "predicted_n": 3, "predicted_ms": 1.5}
    out = events(
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "a"}),
        chunk(finish="stop", timings=timings),
        DONE,
    )
    assert out == [Text("a"), Done("stop", None, Usage(7, 3, 5))]


def test_a_usage_without_cached_tokens_is_completed_from_the_timings() -> None:
    timings = {"cache_n": 5, "prompt_n": 2, "predicted_n": 3}
    bare = encode({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    after = events(chunk(finish="stop", timings=timings), b"data: " + bare + b"\n\n")
    assert after[-1] == Done("stop", None, Usage(7, 3, 5))
    before = events(chunk(usage={"prompt_tokens": 7, "completion_tokens": 3}), chunk(finish="stop", timings=timings))
    assert before[-1] == Done("stop", None, Usage(7, 3, 5))
    assert events(chunk(finish="stop", timings={"cache_n": 1})) == [Done("stop")]


def test_a_finish_may_come_without_a_delta() -> None:
    assert events(b'data: {"choices":[{"finish_reason":"length"}]}\n\n') == [Done("length")]


def test_usage_in_every_chunk_is_taken_from_the_last() -> None:
    one = {"prompt_tokens": 7, "completion_tokens": 1}
    out = events(chunk({"content": "a"}, usage=one), chunk(finish="stop", usage={**one, "completion_tokens": 2}), DONE)
    assert out[-1] == Done("stop", None, Usage(7, 2))


def test_reasoning_is_read_under_both_names_and_once() -> None:
    out = events(chunk({"reasoning": "a"}), chunk({"reasoning_content": "b", "reasoning": "b"}), chunk(finish="stop"))
    assert out[:2] == [Thought("a"), Thought("b")]


def test_ids_and_names_that_are_repeated_start_no_new_call() -> None:
    assert calls(call(0, "{", "f", "a"), call(0, "}", "f", "a")) == {0: ("a", "f", "{}")}


def test_a_new_id_at_a_known_index_is_a_new_call() -> None:
    assert calls(call(0, "{}", "f", "a"), call(0, "{}", "g", "b")) == {0: ("a", "f", "{}"), 1: ("b", "g", "{}")}


def test_calls_without_an_index_are_told_apart_by_id_or_name() -> None:
    def piece(arguments: str, name: str | None = None, id: str | None = None) -> dict[str, Any]:
        return {"tool_calls": [{"id": id, "function": {"name": name, "arguments": arguments}}]}

    out = calls(piece("{", "f", "a"), piece("}"), piece("{", "g"), piece("}"))
    assert out == {0: ("a", "f", "{}"), 1: ("", "g", "{}")}


def test_a_call_waits_for_its_name() -> None:
    out = calls({"tool_calls": [{"index": 0, "id": "a"}]}, call(0, "{"), call(0, "", "f"), call(0, "}"))
    assert out == {0: ("a", "f", "{}")}


def test_arguments_may_be_an_object() -> None:
    delta = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]}
    assert calls(delta) == {0: ("a", "f", '{"x":1}')}


def test_the_old_function_call_is_a_call() -> None:
    first, second = {"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}}
    assert calls(first, second) == {0: ("", "f", "{}")}


def test_a_second_choice_is_not_mixed_in() -> None:
    other = encode({"choices": [{"index": 1, "delta": {"content": "x"}}]})
    assert events(b"data: " + other + b"\n\n", chunk(finish="stop")) == [Done("stop")]


def test_nothing_follows_the_first_ending() -> None:
    reader = ChatReader()
    assert isinstance(reader.feed(chunk(finish="error") + chunk({"content": "a"}))[-1], Failed)
    assert reader.feed(chunk({"content": "a"})) == []
    assert reader.end() == []
    assert events(chunk(finish="stop"), usage_chunk(), DONE, chunk({"content": "a"}))[1:] == []


def test_empty_data_and_null_errors_mean_nothing() -> None:
    assert events(b"data:\n\n", chunk({"content": "a"}, error=None), chunk(finish="stop"))[0] == Text("a")


@pytest.mark.parametrize("split", range(1, 8))
def test_a_character_cut_in_two_is_whole_again(split: int) -> None:
    stream = chunk({"content": "☃é"}) + chunk(finish="stop")
    at = stream.index("☃".encode()) + split - 1
    assert events(stream[:at], stream[at:])[0] == Text("☃é")
