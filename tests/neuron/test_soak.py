"""Loads and unloads without end leave worker and daemon as they were; `make bench-node` does it a thousand times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from helexa.base.resident import anonymous_mb
from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig
from tests.neuron.api.client import Client

pytestmark = pytest.mark.slow
WARM_UP, CYCLES, WINDOW = 10, 50, 10
SLACK_MB = 4


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    config = NeuronConfig(port=0, devices=[DeviceEntry(kind="cpu", memory_mb=4000, threads=1)])
    async with Neuron(config, drain_s=0.5) as neuron:
        client = Client(neuron)
        client.patience_s = 60.0
        yield client
        await client.origin.aclose()


async def cycle(client: Client, spec: dict[str, object], times: int) -> list[int]:
    """What the worker holds after each (MiB)."""
    held: list[int] = []
    for _ in range(times):
        assert (await client.post("/models/load", spec)).status == 200
        assert (await client.chat(str(spec["model_id"]), "Say hello.", max_tokens=1)).status == 200
        assert (await client.post("/models/unload", {"model_id": spec["model_id"]})).status == 200
        held.append(anonymous_mb(client.neuron.pool.pid(0) or 0) or 0)
    return held


async def leaves_no_trace(client: Client, spec: dict[str, object]) -> None:
    await cycle(client, spec, WARM_UP)
    pid = client.neuron.pool.pid(0)
    worker, daemon = psutil.Process(pid), psutil.Process()
    descriptors, threads, ours = worker.num_fds(), worker.num_threads(), daemon.num_fds()
    held = await cycle(client, spec, CYCLES)
    assert client.neuron.pool.pid(0) == pid
    assert (worker.num_fds(), worker.num_threads(), daemon.num_fds()) == (descriptors, threads, ours)
    # what a worker holds goes up and down by a model's buffers; what leaks lifts the least above the most of before
    assert min(held[-WINDOW:]) <= max(held[:WINDOW]) + SLACK_MB, held
    assert client.neuron.keeper.devices()[0].reserved_mb == 0


async def test_fifty_cycles_of_a_real_model_leave_no_trace(client: Client, smollm2_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    await leaves_no_trace(client, {"model_id": f"file:{smollm2_path}", "context": 512, "options": {"slots": 1}})


async def test_fifty_cycles_of_the_echo_engine_leave_no_trace(client: Client) -> None:
    await leaves_no_trace(client, {"model_id": "m", "harness": "echo"})
