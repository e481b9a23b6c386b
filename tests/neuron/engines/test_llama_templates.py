"""llama.cpp's own renderer puts a conversation to the model as transformers would, for every family of templates."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest

from helexa.neuron.core.gguf import read_header
from tests.neuron.api.client import Client, Got
from tests.neuron.core.chat import test_template as fixtures

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
pytest.importorskip("xllamacpp")
pytest.importorskip("transformers")

TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
"""Those of the file that serves as the body of every family."""


def as_sent(message: dict[str, Any]) -> dict[str, Any]:
    """A message as clients send it: arguments are text."""
    calls = [
        call | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return message | {"tool_calls": calls} if calls else message


def with_text(talk: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As a template takes it that wants arguments as text."""
    return [as_sent(message) for message in talk]


async def rendered(client: Client, body: dict[str, Any], patch: pytest.MonkeyPatch) -> Got:
    """What llama.cpp makes of a conversation, with the fixtures' clock set to its own: it knows but the day's."""
    while True:
        today = date.today()
        patch.setattr(fixtures, "NOW", datetime.combine(today, time()))
        got = await client.post(
            "/apply-template", body | {"chat_template_kwargs": {"date_string": f"{today:%d %b %Y}"}}
        )
        if date.today() == today:
            return got


async def compare(
    client: Client, model: str, family: str, options: dict[str, object], patch: pytest.MonkeyPatch
) -> None:
    """Every conversation, by llama.cpp, by our own renderer and by transformers."""
    spec = {"model_id": model, "harness": "llama", "context": 256, "options": {"slots": 1, "warmup": False, **options}}
    assert (await client.post("/models/load", spec)).status == 200
    try:
        for name, talk in fixtures.TALKS.items():
            for tools in (None, fixtures.TOOLS):
                body = {"model": model, "messages": with_text(talk)} | ({"tools": tools} if tools else {})
                got = await rendered(client, body, patch)
                theirs = fixtures.theirs(family, with_text(talk) if family == "deepseek" else talk, tools)
                assert fixtures.ours(family, talk, tools) == theirs, name
                if theirs.startswith("refused"):
                    assert (got.status, got.json["error"]["type"]) == (400, "invalid_request_error"), name
                else:
                    assert got.json["prompt"] == theirs, name
    finally:
        await client.post("/models/unload", {"model_id": model})


@pytest.mark.parametrize("family", fixtures.FAMILIES)
async def test_a_conversation_is_rendered_as_transformers_renders_it(
    client: Client, smollm2_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixtures, "TOKENS", TOKENS)
    await compare(client, f"file:{smollm2_path}", family, {"chat_template": fixtures.source(family)}, monkeypatch)


async def test_so_is_it_by_the_template_that_comes_with_a_model(
    client: Client, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with smollm2_path.open("rb") as file:
        carried = str(read_header(file.read(16 * 1024 * 1024)).metadata["tokenizer.chat_template"])
    monkeypatch.setattr(fixtures, "TOKENS", TOKENS)
    monkeypatch.setattr(fixtures, "source", lambda _: carried)
    await compare(client, f"file:{smollm2_path}", "its own", {}, monkeypatch)
