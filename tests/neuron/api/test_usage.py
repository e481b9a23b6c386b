"""Tokens are told once, for all choices together and with the thoughts among them, however the bytes are cut."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.api.likelihoods import StopTokens
from helexa.neuron.api.rewriting import Rewriter
from helexa.neuron.api.usage import Totals
from helexa.neuron.engines.serving import bodies
from helexa.wire import sse

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2}}
TIMINGS = {"prompt_n": 5, "cache_n": 2, "predicted_n": 3}


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    return bodies.event({"choices": [*choices], **more})


def choice(index: int, finish: str | None = None, **delta: str) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def events(stream: bytes) -> list[Any]:
    frames = [frame.data for frame in sse.SseDecoder().feed(stream)]
    return [frame if frame == b"[DONE]" else msgspec.json.decode(frame) for frame in frames]


@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 400))
def test_usage_comes_once_at_the_end_with_all_choices_and_thoughts(choices: int, thoughts: int, cut: int) -> None:
    stream = b""
    for index in range(choices):
        stream += b"".join(chunk(choice(index, reasoning_content="hm")) for _ in range(thoughts))
        stream += chunk(choice(index, content='"reasoning_content":"')) + chunk(choice(index, "stop"))
        stream += chunk(usage=USAGE, timings=TIMINGS)
    totals, stream = Totals(asked=True, thinks=True), stream + bodies.DONE
    told = events(b"".join(totals.feed(stream[at : at + cut]) for at in range(0, len(stream), cut)))
    assert told[-1] == b"[DONE]"
    (usage,) = [each["usage"] for each in told[:-1] if "usage" in each]
    assert usage == told[-2]["usage"]
    made = 3 * choices
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, made, 7 + made)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": thoughts * choices}
    assert len(told) == choices * (thoughts + 2) + 2


def test_several_prompts_are_counted_once_each_however_many_choices_there_are_of_them() -> None:
    read = [3, 3, 8, 8]
    stream = b"".join(
        chunk(choice(index, "stop"), usage=USAGE | {"prompt_tokens": size}, timings=TIMINGS)
        for index, size in enumerate(read)
    )
    told = events(Totals(asked=True, thinks=False, prompts=2).feed(stream + bodies.DONE))
    assert (told[-2]["usage"]["prompt_tokens"], told[-2]["usage"]["total_tokens"]) == (11, 23)


@pytest.mark.parametrize("asked", [True, False])
def test_a_last_word_that_carries_the_usage_is_still_told(asked: bool) -> None:
    """As completions end."""
    stream = b"".join(chunk(choice(index, "stop"), usage=USAGE, timings=TIMINGS) for index in range(2))
    told = events(Totals(asked=asked, thinks=False).feed(stream + bodies.DONE))
    assert [each["choices"][0]["index"] for each in told[:2]] == [0, 1]
    assert [each["usage"]["completion_tokens"] for each in told[:-1] if "usage" in each] == ([6] if asked else [])
    assert asked or told[1]["timings"]["predicted_n"] == 6


def told_token(index: int, token: int, said: str) -> bytes:
    entry = {"id": token, "token": said, "logprob": -1, "bytes": [], "top_logprobs": []}
    timings = {"prompt_n": 4, "cache_n": 1, "predicted_n": 2}
    return chunk(choice(index, content=said) | {"logprobs": {"content": [entry]}}, timings=timings)


def test_an_answer_is_over_when_all_choices_are_and_says_no_more() -> None:
    rewriter = Rewriter([stops := StopTokens({9}, 2, shown=False, usage=True)], stops)
    stream = [told_token(0, 1, "a"), told_token(1, 9, "!"), told_token(1, 2, "b"), told_token(0, 9, "!")]
    told = [events(rewriter.feed(piece)) for piece in stream]
    assert rewriter.over
    assert told[0][0]["choices"][0]["delta"] == {"content": "a"}
    assert "logprobs" not in told[0][0]["choices"][0]
    assert told[1][0]["choices"] == [choice(1, "stop", content="") | {"stop_reason": 9}]
    assert told[1][1]["usage"]["completion_tokens"] == 2
    assert told[2] == []
    assert told[3][-1] == b"[DONE]"
    assert rewriter.feed(told_token(0, 3, "c") + bodies.DONE) == b""


def test_choices_that_the_engine_ends_are_counted_too_and_probabilities_shown_where_asked() -> None:
    rewriter = Rewriter([stops := StopTokens({9}, 1, shown=True, usage=True)], stops)
    told = events(rewriter.feed(told_token(0, 1, "a") + chunk(choice(0, "length"), timings=TIMINGS)))
    assert told[0]["choices"][0]["logprobs"]["content"][0]["token"] == "a"
    assert told[1]["choices"][0]["finish_reason"] == "length"
    assert told[2]["usage"] == USAGE | {"total_tokens": 10}


def test_usage_that_the_engine_tells_in_a_chunk_of_its_own_is_waited_for() -> None:
    """As chats end, and only for choices that nothing has ended here."""
    rewriter = Rewriter([stops := StopTokens({9}, 2, shown=False, usage=True)], stops)
    ended = [events(rewriter.feed(told_token(1, 9, "!")))[-1], *events(rewriter.feed(chunk(choice(0, "length"))))]
    assert [each.get("usage", {}).get("completion_tokens") for each in ended] == [2, None]
    assert not rewriter.over
    (last, done) = events(rewriter.feed(chunk(usage=USAGE, timings=TIMINGS)))
    assert (last["usage"], last["timings"], done) == (USAGE, TIMINGS, b"[DONE]")


def test_usage_of_a_choice_that_was_ended_here_is_not_told_twice() -> None:
    rewriter = Rewriter([stops := StopTokens({9}, 2, shown=False, usage=True)], stops)
    rewriter.feed(told_token(0, 9, "!"))
    assert rewriter.feed(chunk(choice(0, "stop")) + chunk(usage=USAGE, timings=TIMINGS)) == b""
