"""What was computed for a conversation is not computed again, and `cached_tokens` is the truth about it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.neuron.engines.conftest import Chat

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

OPTIONS = {"slots": 4, "cache_ram": 256, "cache_reuse": 32}
CONVERSATIONS = 8


def opening(of: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Story {of}: " + " ".join(f"{of}w{at}" for at in range(25))}]


async def turn(chat: Chat, messages: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
    """What was said, and the usage; the engine's own count of what it computed must agree."""
    got = await chat.ask(messages=messages, max_tokens=4)
    assert got.status == 200, got.body
    usage = got.json["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached + got.json["timings"]["prompt_n"] == usage["prompt_tokens"]
    return got.json["choices"][0]["message"]["content"], usage


async def test_the_second_turn_reuses_the_first_also_with_more_conversations_than_slots(chat: Chat) -> None:
    told = [(opening(of), *await turn(chat, opening(of))) for of in range(CONVERSATIONS)]
    for messages, said, first in told:
        more = [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
        _, usage = await turn(chat, more)
        assert usage["prompt_tokens_details"]["cached_tokens"] >= 0.95 * first["prompt_tokens"]


async def test_what_follows_a_turn_that_was_taken_out_is_moved_and_what_follows_another_edit_is_not(chat: Chat) -> None:
    turns = [turn for of in range(30, 34) for turn in (*opening(of), {"role": "assistant", "content": f"Yes, {of}."})]
    asked = [*turns, {"role": "user", "content": "Sum it up."}]
    _, whole = await turn(chat, asked)
    _, shorter = await turn(chat, asked[:2] + asked[4:])
    assert shorter["prompt_tokens_details"]["cached_tokens"] >= 0.95 * shorter["prompt_tokens"]
    asked[2] = {"role": "user", "content": "[removed]"}
    _, other = await turn(chat, asked)
    assert other["prompt_tokens_details"]["cached_tokens"] < 0.4 * whole["prompt_tokens"]


@pytest.mark.slow
async def test_what_stands_before_an_edit_is_reused_and_the_edited_conversation_from_then_on(chat: Chat) -> None:
    turns = [turn for of in range(20, 24) for turn in (*opening(of), {"role": "assistant", "content": f"Yes, {of}."})]
    asked = [*turns, {"role": "user", "content": "Sum it up."}]
    _, before = await turn(chat, asked)
    asked[4] = {"role": "user", "content": "Something else. " + asked[4]["content"]}
    said, edited = await turn(chat, asked)
    assert (
        0.4 * before["prompt_tokens"] < edited["prompt_tokens_details"]["cached_tokens"] < 0.6 * before["prompt_tokens"]
    )
    more = [*asked, {"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
    _, usage = await turn(chat, more)
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0.95 * edited["prompt_tokens"]


async def test_prompts_that_are_taken_in_together_do_not_mix(chat: Chat) -> None:
    """Chunks of two prompts once went into one KV cache by turns: each of these takes many steps."""
    prompts = [f"Repeat: {' '.join([word] * 60)}" for word in ("apple", "seven", "river")]
    crowd = await asyncio.gather(*(likelihoods(chat, prompt) for prompt in prompts))
    alone = [await likelihoods(chat, prompt) for prompt in prompts]
    for together, by_itself in zip(crowd, alone, strict=True):
        (likely, value), *_ = by_itself.items()
        assert together[likely] == pytest.approx(value, abs=0.3)
    assert len({next(iter(each)) for each in alone}) == len(prompts)


async def likelihoods(chat: Chat, prompt: str) -> dict[str, float]:
    """The likeliest first tokens of an answer and their logarithms, nothing of it from the cache."""
    told = {"role": "assistant", "content": "Repeat:"}
    messages = [{"role": "user", "content": prompt}, told]
    got = await chat.ask(messages=messages, max_tokens=1, logprobs=True, top_logprobs=5, cache_prompt=False)
    assert got.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    (token,) = got.json["choices"][0]["logprobs"]["content"]
    return {each["token"]: each["logprob"] for each in token["top_logprobs"]}
