"""A stream gathered again is the answer it would have been, and progress frames stay between us and the engine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.api import coax
from helexa.neuron.engines.echo import answers, options, script
from helexa.neuron.engines.serving import bodies
from helexa.wire.canon import BadAnswer

PROGRESS = b'data: {"choices":[{"delta":{"content":null},"index":0}],"prompt_progress":{"processed":1}}\n\n'


def streamed(plan: script.Script, choices: int, usage: dict[str, Any], *, chat: bool) -> bytes:
    """What the echo engine would stream."""
    answer = bodies.Answer("id", "m", 7, chat=chat)
    frames = [PROGRESS]
    for index in range(choices):
        frames.append(answer.frame({"role": "assistant", "content": ""}, index))
        frames += [answer.frame({"content": token}, index) for token in plan.tokens]
        frames += answers.call_frames(answer, plan, index)
        frames.append(answer.frame({}, index, plan.finish))
    return b"".join((*frames, answer.usage_frame(usage), bodies.DONE))


CALLS = st.lists(st.builds(options.ToolCall, name=st.text(min_size=1), arguments=st.text()), max_size=3)


@given(st.text(), CALLS, st.integers(1, 3), st.booleans())
def test_a_gathered_stream_is_the_whole_answer(
    text: str, calls: list[options.ToolCall], choices: int, chat: bool
) -> None:
    tokens = () if calls and chat else tuple(script.words(text))
    finish = "tool_calls" if calls and chat else "stop"
    plan = script.Script(prompt=("a",), tokens=tokens, finish=finish, calls=tuple(calls) if chat else ())
    usage = bodies.usage(1, len(tokens), 0)
    answer = bodies.Answer("id", "m", 7, chat=chat)
    made = [answers.choice(answer, plan, index) for index in range(choices)]
    whole = msgspec.json.decode(answer.whole(made, usage))
    if plan.calls:
        for choice in whole["choices"]:
            choice["message"]["content"] = ""  # nothing said, streamed as the empty text
    assert msgspec.json.decode(coax.gather(streamed(plan, choices, usage, chat=chat))) == whole


def test_logprobs_and_reasoning_are_gathered_too() -> None:
    frames = [
        {"delta": {"reasoning_content": "hm"}, "logprobs": {"content": [1]}},
        {"delta": {"reasoning_content": "m", "content": "a"}, "logprobs": {"content": [2, 3]}},
        {"delta": {}, "finish_reason": "stop"},
    ]
    chunks = [bodies.event({"object": "chat.completion.chunk", "choices": [{"index": 0, **f}]}) for f in frames]
    (choice,) = msgspec.json.decode(coax.gather(b"".join(chunks) + bodies.DONE))["choices"]
    assert choice["message"] == {"role": "assistant", "content": "a", "reasoning_content": "hmm"}
    assert choice["logprobs"] == {"content": [1, 2, 3]}


def test_an_error_in_the_stream_is_raised_with_its_status() -> None:
    stream = bodies.event(bodies.error(500, "it broke", "server_error"))
    with pytest.raises(BadAnswer, match="it broke") as raised:
        coax.gather(stream)
    assert raised.value.fault is not None
    assert raised.value.fault.status == 500


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(BadAnswer, match="broke off"):
        coax.gather(bodies.Answer("id", "m", 7, chat=True).frame({"content": "half"}, 0))


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(0, 3))
def test_progress_frames_are_kept_back_however_the_bytes_are_cut(cuts: list[int], progress: int) -> None:
    answer = bodies.Answer("id", "m", 7, chat=True)
    said = b"".join(answer.frame({"content": token}, 0) for token in ("a", "b", "c")) + bodies.DONE
    stream, prefill, got, at = PROGRESS * progress + said, coax.Prefill(), b"", 0
    for cut in [*cuts, len(stream)]:
        piece, at = stream[at : at + cut], at + cut
        got += piece if prefill.over else prefill.feed(piece)
    assert got == said


@pytest.mark.parametrize("body", [b'{"model":"m"}', b' {"model": "m", "x": {"y": 1}} \n'])
def test_asking_for_progress_changes_nothing_else(body: bytes) -> None:
    assert msgspec.json.decode(coax.with_progress(body)) == msgspec.json.decode(body) | {"return_progress": True}


def test_asking_for_a_stream_keeps_every_other_field_as_it_was() -> None:
    body = b'{"model":"m","stream":false,"seed":12345678901234567890123,"temperature":0.10}'
    asked = coax.as_stream(body)
    assert b"12345678901234567890123" in asked
    assert b"0.10" in asked
    assert b'"stream":true' in asked
