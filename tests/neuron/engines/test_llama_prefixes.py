"""What was computed for a conversation is not computed again, and `cached_tokens` is the truth about it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.neuron.engines.conftest import Chat

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

OPTIONS = {"slots": 2, "cache_ram": 256}
CONVERSATIONS = 6


def opening(of: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Story {of}: " + " ".join(f"{of}w{at}" for at in range(60))}]


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
