"""Default models whose source cannot be reached are brought up once it can."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from helexa.base.errors import HelexaError, Refused, Unavailable, UpstreamFailed
from helexa.neuron.app import Neuron
from helexa.neuron.app import neuron as daemon
from helexa.neuron.app.activation import RETRY_S, Warmup
from helexa.neuron.config import NeuronConfig
from helexa.neuron.device.jobs import Broke
from helexa.neuron.device.process import JobFailed, WorkerLost
from helexa.neuron.discovery.cpu import Memory
from helexa.neuron.discovery.gpu import Gpu
from helexa.neuron.discovery.host import Survey
from helexa.wire.control import ModelSpec
from tests.neuron.helpers import PATIENCE_S, HastyClock, until


class Hours(HastyClock):
    """Time passes by what is slept."""

    def now(self) -> float:
        return sum(self.slept)


NO_LINK = Refused("no link", kind="repo_fetch_failed", model_id="org/name", transient=True)
NO_SUCH = Refused("no such model", kind="repo_fetch_failed", model_id="org/name", transient=False)
NO_DRIVER = Unavailable(model="org/name", reason="driver/library version mismatch")


class Keeper:
    """The first `failures` loads fail with `error`; notes what activation looked like at each."""

    def __init__(self, failures: int, error: HelexaError = NO_LINK) -> None:
        self.failures, self.error = failures, error
        self.looks: list[str] = []
        self.warmup: Warmup

    def load(self, spec: ModelSpec) -> Keeper:
        self.looks.append(self.warmup.view.state)
        assert self.warmup.view.retrying == [], "it is being tried"
        return self

    async def wait(self) -> None:
        if len(self.looks) <= self.failures:
            raise self.error


async def activated(keeper: Keeper) -> tuple[Warmup, Hours]:
    clock = Hours()
    keeper.warmup = Warmup(keeper, [ModelSpec(model_id="org/name")], clock=clock)  # pyright: ignore[reportArgumentType]
    async with asyncio.timeout(PATIENCE_S):
        await keeper.warmup.run()
    return keeper.warmup, clock


@pytest.mark.parametrize("failures", [0, 3, 100])
async def test_a_link_that_comes_up_late_leaves_no_host_without_its_models(failures: int) -> None:
    warmup, clock = await activated(Keeper(failures))
    assert (warmup.view.state, warmup.view.completed, warmup.view.failed) == ("ready", ["org/name"], [])
    assert max(clock.slept) <= RETRY_S[-1]


async def test_a_host_is_ready_without_a_model_that_was_tried_for_long_enough_and_tries_on() -> None:
    keeper = Keeper(20)
    await activated(keeper)
    tries = len(RETRY_S) + 1
    assert keeper.looks == ["pre_warming"] * tries + ["ready"] * (21 - tries)


async def test_a_model_that_does_not_exist_is_not_tried_again() -> None:
    keeper = Keeper(1, NO_SUCH)
    warmup, _ = await activated(keeper)
    assert (len(keeper.looks), [each.model_id for each in warmup.view.failed]) == (1, ["org/name"])


async def test_a_device_that_is_mended_later_gets_its_models_and_holds_up_no_others_meanwhile() -> None:
    keeper = Keeper(20, NO_DRIVER)
    warmup, clock = await activated(keeper)
    assert keeper.looks == ["pre_warming"] + ["ready"] * 20
    assert (warmup.view.completed, warmup.view.failed) == (["org/name"], [])
    assert max(clock.slept) <= RETRY_S[-1]


@pytest.mark.parametrize(
    "error",
    [
        WorkerLost(worker="cuda-dev-0", how="killed by SIGKILL"),
        JobFailed(Broke(id=1, causes=["an illegal memory access was encountered"], fault=True)),
        UpstreamFailed(node="cuda-dev-0", reason="the canary prompt failed"),
    ],
)
async def test_a_load_under_which_its_worker_ends_is_tried_again_but_not_for_ever(error: HelexaError) -> None:
    once = Keeper(1, error)
    warmup, clock = await activated(once)
    assert (warmup.view.completed, warmup.view.failed, clock.slept[-1]) == (["org/name"], [], RETRY_S[0])
    always = Keeper(100, error)
    warmup, _ = await activated(always)
    assert always.looks == ["pre_warming"] + ["ready"] * len(RETRY_S)
    assert [each.model_id for each in warmup.view.failed] == ["org/name"]


async def test_a_load_that_its_engine_failed_is_not_tried_again() -> None:
    keeper = Keeper(1, JobFailed(Broke(id=1, causes=["no such tensor"])))
    await activated(keeper)
    assert len(keeper.looks) == 1


async def test_what_failed_is_tried_once_more_when_the_host_has_other_devices() -> None:
    keeper = Keeper(1, NO_SUCH)
    warmup, _ = await activated(keeper)
    await warmup.again()
    await warmup.again()
    assert (len(keeper.looks), warmup.view.completed, warmup.view.failed) == (2, ["org/name"], [])


async def test_a_driver_that_comes_back_brings_the_default_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "REFRESH_S", 0.01)
    memory = Memory(total_mb=64_000, available_mb=60_000)
    broken = Survey(hostname="h", os="", kernel="", memory=memory, processors=2, cpu_name="cpu")
    seen = [replace(broken, cuda_unavailable_reason="driver/library version mismatch")]
    config = NeuronConfig(port=0, default_models=[ModelSpec(model_id="m", harness="echo")])
    async with Neuron(config, drain_s=0.1, look=lambda: seen[-1]) as neuron:
        view = neuron.warmup.view
        await until(lambda: bool(view.failed))
        assert "mismatch" in view.failed[0].error
        seen.append(replace(broken, gpus=(Gpu(kind="cuda", ordinal=0, name="RTX", total_mb=900, used_mb=0),)))
        await until(lambda: view.completed == ["m"])
        assert view.failed == []


async def test_why_a_model_is_tried_again_is_told_until_it_is() -> None:
    keeper = Keeper(1)
    told: list[tuple[list[str], list[str]]] = []

    class Looking(Hours):
        async def sleep(self, seconds: float) -> None:
            view = keeper.warmup.view
            told.append((view.pending, [each.error for each in view.retrying]))
            await super().sleep(seconds)

    keeper.warmup = Warmup(keeper, [ModelSpec(model_id="org/name")], clock=Looking())  # pyright: ignore[reportArgumentType]
    async with asyncio.timeout(PATIENCE_S):
        await keeper.warmup.run()
    assert told == [(["org/name"], []), (["org/name"], ["no link"])]
