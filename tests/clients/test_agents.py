"""Agents against the scripted engine: each reads or writes with its own tools, gets the results, and ends."""

from __future__ import annotations

import pytest

from tests.clients import agents
from tests.clients.models import DONE, FIXED, GREETS, SAID, WRITTEN
from tests.clients.stage import PATHS, PREFIX_KEPT, Run, Stage

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="session")]

PROMPT = "Read notes.txt and write hello.txt."
DIALECTS = tuple(PATHS)


def paths(run: Run) -> list[str]:
    return [one.target.partition(b"?")[0].decode() for one in run.asked]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_opencode_reads_and_writes_files(stage: Stage, dialect: str) -> None:
    (stage.work / "notes.txt").write_text("The word is tangerine.\n")
    run = await agents.opencode(stage, dialect, "read and write", f"opencode.{dialect}", PROMPT)
    assert (stage.work / "hello.txt").read_text() == WRITTEN
    assert run.last_line == DONE
    assert paths(run) == [PATHS[dialect]] * 3  # the title of the session, and two turns
    turns = [one for one in run.served if one.json().get("tools")]
    assert (len(run.served), len(turns)) == (3, 2)
    assert "tangerine" in turns[1].body.decode()
    assert stage.kept(turns) >= PREFIX_KEPT


async def test_claude_code_reads_and_writes_files_and_goes_on_without_compacting(stage: Stage) -> None:
    (stage.work / "notes.txt").write_text("The word is tangerine.\n")
    run = await agents.claude(stage, "read and write, twice", "claude", PROMPT)
    assert (stage.work / "hello.txt").read_text() == WRITTEN
    assert run.last_line == DONE
    assert "tangerine" in run.served[1].body.decode()
    again = await agents.claude(stage, "read and write, twice", "claude", "And again.", "--continue")
    assert paths(run) == paths(again) == [PATHS["messages"]] * 2
    turns = run.served + again.served
    assert len(turns) == 4
    assert min(stage.kept(turns[at : at + 2]) for at in range(3)) >= PREFIX_KEPT


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_pi_reads_and_writes_files(stage: Stage, dialect: str) -> None:
    (stage.work / "notes.txt").write_text("The word is tangerine.\n")
    run = await agents.pi(stage, dialect, "read and write", f"pi.{dialect}", PROMPT)
    assert (stage.work / "hello.txt").read_text() == WRITTEN
    assert run.last_line == DONE
    assert paths(run) == [PATHS[dialect]] * 2
    assert len(run.served) == 2
    assert "tangerine" in run.served[1].body.decode()
    assert stage.kept(run.served) >= PREFIX_KEPT


async def test_aider_answers_edits_and_mends_an_edit_that_did_not_match(stage: Stage) -> None:
    (stage.work / "greet.py").write_text(FIXED.replace("hello", "hi"))
    asked = ("How does it greet?", "Greet with hello.")
    run = await agents.aider(stage, "ask, edit, edit again", "aider", asked, "greet.py")
    assert GREETS in run.printed
    assert (stage.work / "greet.py").read_text() == FIXED
    assert paths(run) == [PATHS["chat"]] * 3
    assert len(run.served) == 3
    assert stage.kept(run.served[:2]) >= PREFIX_KEPT


@pytest.mark.parametrize("dialect", ["chat", "responses"])
async def test_llm_calls_two_functions_at_once(stage: Stage, dialect: str) -> None:
    run = await agents.llm(stage, dialect, "tools", f"llm.{dialect}", "Look at the sky, wait, and tell me.")
    assert run.last_line == SAID
    assert paths(run) == [PATHS[dialect]] * 2
    assert len(run.served) == 2
    assert stage.kept(run.served) >= PREFIX_KEPT
