"""A stream of an answer by the schema of a call becomes a stream of the calls, however it is cut."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.api import coax
from helexa.neuron.api.calling import Calls
from helexa.neuron.api.rewriting import Rewriter
from helexa.neuron.engines.serving import bodies


def streamed(said: str, size: int, finish: str = "stop") -> bytes:
    answer = bodies.Answer("id", "m", 7, chat=True)
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    frames = [answer.frame({"role": "assistant", "content": None}, 0)]
    frames += [answer.frame({"content": piece}, 0) for piece in pieces]
    return b"".join((*frames, answer.frame({}, 0, finish), answer.usage_frame(bodies.usage(1, 2, 0)), bodies.DONE))


def told(stream: bytes, cut: int = 1 << 20) -> dict[str, Any]:
    calls, got = Rewriter([Calls(lambda: "call_1")]), b""
    for at in range(0, len(stream), cut):
        got += calls.feed(stream[at : at + cut])
    return msgspec.json.decode(coax.gather(got))["choices"][0]


ARGUMENTS = st.dictionaries(st.text(max_size=5), st.text(max_size=8) | st.integers() | st.none(), max_size=3)


@given(st.lists(ARGUMENTS, min_size=1, max_size=3), st.integers(1, 30), st.integers(1, 60))
def test_calls_come_whole_and_in_order_however_the_bytes_are_cut(
    arguments: list[dict[str, Any]], size: int, cut: int
) -> None:
    said = [{"name": f"f{at}", "arguments": each} for at, each in enumerate(arguments)]
    text = msgspec.json.encode(said[0] if len(said) == 1 else said).decode()
    choice = told(streamed(text, size), cut)
    assert choice["finish_reason"] == "tool_calls"
    calls = [call["function"] for call in choice["message"]["tool_calls"]]
    assert [call["name"] for call in calls] == [each["name"] for each in said]
    assert [msgspec.json.decode(call["arguments"]) for call in calls] == arguments


def test_what_an_engine_takes_for_thoughts_is_the_call_too() -> None:
    stream = streamed('{"name": "f", "arguments": {}}', 9).replace(b'"content":"', b'"reasoning_content":"')
    choice = told(stream)
    assert (choice["finish_reason"], choice["message"].get("reasoning_content")) == ("tool_calls", None)
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_a_call_that_the_limit_cut_off_is_text() -> None:
    choice = told(streamed('{"name": "f", "argum', 4, finish="length"))
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == '{"name": "f", "argum'
    assert "tool_calls" not in choice["message"]
