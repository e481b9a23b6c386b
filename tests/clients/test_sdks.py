"""SDKs against the scripted engine: two-turn tool tasks to their end, streams, structured outputs, embeddings."""

from __future__ import annotations

import re

import pytest

from tests.clients.models import SAID, SDKS
from tests.clients.stage import PATHS, PREFIX_KEPT, SCRIPTS, Stage

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="session")]

ANSWERS = {
    "parse": r'\{"name": ?"Ada", ?"born": ?1815\}',
    "embeddings": r"2 .*vectors",
    "count_tokens": "counted",
    "too_long": r"refused with context_length_exceeded|prompt is too long: \d+ tokens > \d+ maximum",
}
"""The last line a task prints, by the end of its name; every other is the model's last words."""
ONE_TURN = ("chat", "messages", "responses", "stream", "parse", "count_tokens", "parse_by_tool", "too_long")

BESIDES = {"count_tokens": 1, "tool_runner": 1}
"""Requests that are no turn: tokens are counted, a thread is asked for in vain."""


def _answer(task: str) -> str:
    return next((answer for end, answer in ANSWERS.items() if end in task), re.escape(SAID))


@pytest.mark.parametrize(("client", "dialect", "task"), [(*who, task) for who, tasks in SDKS.items() for task in tasks])
async def test_an_sdk_does_its_task_without_a_request_too_many(
    stage: Stage, client: str, dialect: str, task: str
) -> None:
    program, script = SCRIPTS[client]
    which = [dialect] if client == "langchain" else []
    run = await stage.run(
        client, dialect, task, program, script, task, *which, stage.address, f"{client}.{dialect}.{task}"
    )
    assert re.fullmatch(_answer(task), run.last_line)
    if "embeddings" in task:
        assert {one.target for one in run.asked} == {b"/v1/embeddings"}
        return
    assert all(one.target.startswith(PATHS[dialect].encode()) for one in run.asked)
    turns = [one for one in run.served if one.target == b"/v1/chat/completions"]
    assert len(turns) == (1 if task.removeprefix("responses_") in ONE_TURN else 2)
    assert len(run.asked) == len(turns) + BESIDES.get(task, 0)
    if len(turns) == 2:
        assert stage.kept(turns) >= PREFIX_KEPT
