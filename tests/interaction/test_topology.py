"""Devices that come, go and change while a neuron runs: real workers, a real gateway, and a host that says so."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.app import neuron as daemon
from helexa.neuron.config import NeuronConfig
from helexa.neuron.discovery.cpu import Memory
from helexa.neuron.discovery.gpu import Gpu
from helexa.neuron.discovery.host import Survey
from helexa.testing.fleet import Fleet, ask, eventually

from .test_fleet import echo

GPU = Gpu(kind="cuda", ordinal=0, name="RTX 3060", total_mb=2000, used_mb=0, uuid="GPU-1")
OTHER = replace(GPU, ordinal=1, name="RTX 4090", total_mb=8000, uuid="GPU-2")
BROKEN = "NVIDIA driver/library version mismatch: reboot"


class Host:
    """A host whose devices are changed by the test, and the neuron and gateway on it."""

    def __init__(self) -> None:
        memory = Memory(total_mb=64_000, available_mb=60_000)
        self.seen = Survey(hostname="h", os="", kernel="", memory=memory, processors=2, cpu_name="cpu", gpus=(GPU,))
        self.neuron: Neuron
        self.fleet: Fleet

    def has(self, *gpus: Gpu, broken: str | None = None) -> None:
        self.seen = replace(self.seen, gpus=gpus, cuda_unavailable_reason=broken)

    async def gateway_sees(self, *memory_mb: int) -> None:
        async def so() -> bool:
            devices = (await self.fleet.node("h"))["devices"]
            return [device["total_mb"] for device in devices] == list(memory_mb)

        await eventually(so, f"the gateway sees devices of {memory_mb} MiB")

    async def answers(self, model: str) -> int:
        return (await self.fleet.http.post("/v1/chat/completions", json=ask(model, max_tokens=1))).status_code


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    monkeypatch.setattr(daemon, "REFRESH_S", 0.1)
    host = Host()
    models = echo("small", memory_mb=500) + echo("large", memory_mb=5000)
    async with Neuron(NeuronConfig(port=0), drain_s=0.1, look=lambda: host.seen) as host.neuron:
        # The poll alone would notice none of this within the time that is waited: it is the news that tells.
        there = {"h": host.neuron.url}
        async with Fleet(tmp_path, neurons={}, strangers=there, models=models, polling="every_s = 60.0") as host.fleet:
            yield host


async def test_a_gpu_that_is_added_is_used_without_a_restart(host: Host) -> None:
    await host.gateway_sees(2000)
    assert await host.answers("large") == 422
    host.has(GPU, OTHER)
    await host.gateway_sees(2000, 8000)
    assert await host.answers("large") == 200
    assert [model.devices for model in host.neuron.keeper.models()] == [[1]]


async def test_a_gpu_that_is_lost_takes_its_models_along_and_brings_room_for_them_when_it_is_back(host: Host) -> None:
    assert await host.answers("small") == 200
    worker = host.neuron.pool.pid(0)
    assert worker is not None
    host.has()
    os.kill(worker, signal.SIGKILL)
    await host.gateway_sees(0)
    await eventually(lambda: _is(host.neuron.pool.state(0) == "failed"), "no worker without a device")
    assert await host.answers("small") != 200
    host.has(GPU)
    await host.gateway_sees(2000)
    assert await host.answers("small") == 200


async def test_a_driver_that_breaks_leaves_what_is_loaded_and_is_used_again_when_it_is_back(host: Host) -> None:
    assert await host.answers("small") == 200
    worker = host.neuron.pool.pid(0)
    host.has(broken=BROKEN)
    await host.gateway_sees(0)
    assert await host.answers("small") == 200
    assert await host.answers("large") != 200
    host.has(GPU, OTHER)
    await host.gateway_sees(2000, 8000)
    assert host.neuron.pool.pid(0) == worker
    assert await host.answers("large") == 200


async def _is(fact: bool) -> bool:
    return fact
