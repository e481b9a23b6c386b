"""A small real model behind the same clients: two turns of a conversation, the second on what the first left behind."""

from __future__ import annotations

import pytest

from tests.clients import agents
from tests.clients.stage import PATHS, PREFIX_KEPT, SCRIPTS, Stage

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="session")]

TOOLED = "smol-with-tools"


@pytest.mark.parametrize(
    ("client", "dialect"),
    [
        ("openai-py", "chat"),
        ("openai-py", "responses"),
        ("openai-js", "chat"),
        ("anthropic-py", "messages"),
        ("anthropic-js", "messages"),
    ],
)
async def test_an_sdks_second_turn_finds_the_first_in_the_cache(stage: Stage, client: str, dialect: str) -> None:
    run = await stage.run(client, dialect, "real model", *SCRIPTS[client], f"{dialect}_twice", stage.address, TOOLED)
    assert run.last_line
    assert len(run.asked) == len(run.served) == 2
    assert stage.kept(run.served) >= PREFIX_KEPT


@pytest.mark.parametrize("dialect", PATHS)
async def test_an_agents_second_turn_finds_the_first_in_the_cache(stage: Stage, dialect: str) -> None:
    short = ("--tools", "read,write")  # each tool costs a slow processor seconds of prefill
    first = await agents.pi(stage, dialect, "real model", TOOLED, "Say hello.", *short, output=8)
    second = await agents.pi(stage, dialect, "real model", TOOLED, "And again.", *short, "--continue", output=8)
    turns = first.served + second.served
    assert [len(run.served) for run in (first, second)] == [1, 1]
    assert all(turn.json()["tools"] for turn in turns)
    assert stage.kept(turns) >= PREFIX_KEPT


async def test_a_prompt_over_the_window_is_refused_once(stage: Stage) -> None:
    run = await stage.run(
        "openai-py", "chat", "real: too long", *SCRIPTS["openai-py"], "too_long", stage.address, TOOLED
    )
    assert run.last_line == "refused with context_length_exceeded"
    assert len(run.asked) == 1


async def test_vectors_of_a_model_that_makes_none_are_refused_once(stage: Stage) -> None:
    run = await stage.run(
        "openai-py", "chat", "real: embeddings", *SCRIPTS["openai-py"], "refused_embeddings", stage.address, TOOLED
    )
    assert "refused with 4" in run.last_line
    assert len(run.asked) == 1
