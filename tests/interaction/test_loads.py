"""A load is a job of its node: it survives those who asked for it, and one that fails is not tried at every request."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from helexa.testing.fleet import Fleet, ask, eventually

from .test_fleet import DEVICE, echo

POLLING = "every_s = 0.2\ntimeout_s = 1.0\n"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    models = echo("slow", memory_mb=100, load_s=3.0) + echo("broken", memory_mb=100, load_s=0.2, fail="load")
    neurons = {"n1": DEVICE, "n2": DEVICE}
    async with Fleet(tmp_path, neurons=neurons, models=models, polling=POLLING) as running:
        yield running


def begun(fleet: Fleet, model: str) -> dict[str, int]:
    """How many loads of the model each node has begun."""
    return {name: daemon.log.read_text().count(f"{model} is loading") for name, daemon in fleet.neurons.items()}


def workers(fleet: Fleet) -> list[psutil.Process]:
    return [worker for daemon in fleet.neurons.values() for worker in psutil.Process(daemon.pid).children()]


async def test_a_load_goes_on_when_everybody_who_asked_for_it_has_left(fleet: Fleet) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await fleet.http.post("/v1/chat/completions", json=ask("slow"))
    await fleet.until_status("slow", "loaded")
    assert (await fleet.http.post("/v1/chat/completions", json=ask("slow"))).status_code == 200
    assert sum(begun(fleet, "slow").values()) == 1


async def test_a_load_survives_its_gateway_and_the_next_one_joins_it(fleet: Fleet) -> None:
    await fleet.http.post("/cortex/v1/load", json={"model": "slow"})

    async def under_way() -> bool:
        return sum(begun(fleet, "slow").values()) == 1

    await eventually(under_way, "a node loads it")
    for worker in workers(fleet):  # or it might be loaded before the gateway is back
        worker.send_signal(signal.SIGSTOP)
    fleet.cortex.kill()
    fleet.cortex.start()
    await eventually(fleet.all_healthy, "the gateway is back")
    assert (await fleet.entry("slow"))["status"] == "loading"
    for worker in workers(fleet):
        worker.send_signal(signal.SIGCONT)
    assert (await fleet.http.post("/v1/chat/completions", json=ask("slow"))).status_code == 200
    assert sum(begun(fleet, "slow").values()) == 1


async def test_a_load_that_fails_is_tried_once_on_each_node_and_then_not_before_its_back_off_is_over(
    fleet: Fleet,
) -> None:
    first = await fleet.http.post("/v1/chat/completions", json=ask("broken"))
    assert first.status_code == 503
    assert begun(fleet, "broken") == {"n1": 1, "n2": 1}
    for _ in range(5):
        again = await fleet.http.post("/v1/chat/completions", json=ask("broken"))
        assert again.status_code == 503
        assert int(again.headers["retry-after"]) >= 1
    assert begun(fleet, "broken") == {"n1": 1, "n2": 1}

    async def tried_again() -> bool:
        await fleet.http.post("/v1/chat/completions", json=ask("broken"))
        return min(begun(fleet, "broken").values()) >= 2

    await eventually(tried_again, "the back-off of both is over")
    entry = await fleet.entry("broken")
    assert entry["status"] == "failed"
    assert "as asked" in entry["reason"]
