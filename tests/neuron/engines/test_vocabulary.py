"""Counting for a model that is not loaded: as the loaded one counts, without its weights, and out of nobody's way."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig
from helexa.neuron.keeper.vocabularies import MOST_OPEN
from tests.neuron.api.client import Client
from tests.neuron.helpers import until

pytest.importorskip("xllamacpp")

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
REQUESTS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "hello"}]},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "été 🎉 <|im_end|> {x}"}]},
    {"messages": [{"role": r, "content": r} for r in ("user", "assistant", "user")]},
    {"messages": [{"role": "user", "content": "hello"}], "tools": [TOOL]},
]  # fmt: skip


@pytest.fixture
async def client():
    config = NeuronConfig(port=0, devices=[DeviceEntry(kind="cpu", memory_mb=4000)])
    async with Neuron(config, drain_s=0.5) as neuron:
        client = Client(neuron)
        yield client
        await client.origin.aclose()


async def count(client: Client, model_id: str, request: dict[str, Any]) -> int:
    body = {"model": {"model_id": model_id}, "request": {"model": model_id, **request}}
    answer = await client.post("/models/count_tokens", body)
    assert answer.status == 200, answer.text
    return answer.json["tokens"]


async def test_a_cold_model_counts_what_the_loaded_one_counts_and_reports_as_usage(
    client: Client, smollm2_path: Path
) -> None:
    model_id = f"file:{smollm2_path}"
    cold = await asyncio.gather(*(count(client, model_id, request) for request in REQUESTS))
    assert (await client.get("/models")).json == []
    await client.post("/models/load", {"model_id": model_id, "context": 1024})
    assert [await count(client, model_id, request) for request in REQUESTS] == cold
    for request, counted in zip(REQUESTS, cold, strict=True):
        answer = await client.post("/v1/chat/completions", {"model": model_id, "max_tokens": 1, **request})
        assert answer.json["usage"]["prompt_tokens"] == counted


async def test_what_cannot_be_counted_here_is_told_apart(client: Client, tmp_path: Path) -> None:
    request = REQUESTS[0]
    not_here = await client.post(
        "/models/count_tokens",
        {"model": {"model_id": "any", "harness": "echo"}, "request": {"model": "any", **request}},
    )
    assert (not_here.status, not_here.json["code"]) == (404, "model_not_found")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\3\0\0\0")
    unreadable = await client.post(
        "/models/count_tokens", {"model": {"model_id": f"file:{broken}"}, "request": {"model": "m", **request}}
    )
    assert unreadable.status == 502
    mistyped = await client.post(
        "/models/count_tokens", {"model": {"model_id": "any"}, "request": {"model": "m", "messages": 5}}
    )
    assert (mistyped.status, mistyped.json["param"]) == (400, "messages")


async def test_only_a_few_vocabularies_are_kept_and_one_that_was_let_go_comes_back(
    client: Client, smollm2_path: Path, tmp_path: Path
) -> None:
    copies = [tmp_path / f"m{number}.gguf" for number in range(MOST_OPEN + 2)]
    for copy in copies:
        copy.symlink_to(smollm2_path)
    counts = [await count(client, f"file:{copy}", REQUESTS[0]) for copy in (*copies, copies[0])]
    assert len(set(counts)) == 1


async def test_a_count_after_the_worker_died_starts_another(client: Client, smollm2_path: Path) -> None:
    model_id = f"file:{smollm2_path}"
    before = await count(client, model_id, REQUESTS[0])
    vocabularies = client.neuron.vocabularies
    died = vocabularies.pid
    assert died is not None
    os.kill(died, signal.SIGKILL)
    await until(lambda: vocabularies.pid not in (None, died))
    assert await count(client, model_id, REQUESTS[0]) == before
