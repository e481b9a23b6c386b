"""The keeper over real workers with the echo engine; only the source of plans is a stand-in."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from helexa.base.clock import Clock, SystemClock
from helexa.base.errors import Conflict, HelexaError, Refused, Unavailable, UnknownModel
from helexa.base.tasks import Crew
from helexa.neuron.core import lifecycle as life
from helexa.neuron.core.plan import DeviceState
from helexa.neuron.device.pool import Pool, Seat
from helexa.neuron.harness import DeviceRef
from helexa.neuron.keeper import Host, Keeper
from helexa.wire.control import ModelSpec
from tests.neuron.helpers import ECHO, PATIENCE_S, HastyClock, Preparation, is_socket, until


class House:
    """A keeper with everything under it: one device of 1000 MiB."""

    def __init__(self, keeper: Keeper, pool: Pool, preparation: Preparation, sockets: Path) -> None:
        self.keeper, self.pool, self.preparation, self.sockets = keeper, pool, preparation, sockets

    async def load(self, model_id: str, **options: object) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.keeper.load(spec(model_id, **options)).wait()

    async def reaches(self, model_id: str, state: type[life.State]) -> life.State:
        """Wait until a model is in `state`."""
        with self.keeper.feed.listen() as news:
            async with asyncio.timeout(PATIENCE_S):
                while not isinstance(found := self.keeper.status(model_id), state):
                    await news.get()
        return found

    def kill_worker(self) -> None:
        pid = self.pool.pid(0)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    @property
    def reserved_mb(self) -> int:
        return self.keeper.devices()[0].reserved_mb


def spec(model_id: str, **options: object) -> ModelSpec:
    return ModelSpec(model_id=model_id, options=dict(options))


async def build(stack: AsyncExitStack, tmp_path: Path, clock: Clock) -> House:
    crew = await stack.enter_async_context(Crew())
    keepers: list[Keeper] = []
    pool = Pool([Seat(index=0, worker="cpu-dev-0")], clock=clock, tell=lambda news: keepers[0].hear(news))
    stack.push_async_callback(pool.close)
    host = Host(
        devices={0: DeviceRef(kind="cpu", index=0, memory_mb=1000)},
        found=(DeviceState(index=0, kind="cpu", name="cpu", total_mb=1000),),
        engines={"echo": ECHO},
        sockets=tmp_path,
    )
    preparation = Preparation()
    keepers.append(Keeper(host, preparation, pool, clock=clock, crew=crew))
    return House(keepers[0], pool, preparation, tmp_path)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        yield await build(stack, tmp_path, SystemClock())


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[House]:
    """The same, with back-offs that take no time."""
    async with AsyncExitStack() as stack:
        yield await build(stack, tmp_path, HastyClock())


async def test_many_askers_share_one_load_under_any_spelling(house: House) -> None:
    names = ["hf:org/m", "org/m", "huggingface:org/m"] * 20
    jobs = {house.keeper.load(spec(name)).id for name in names}
    assert len(jobs) == 1
    await house.load("org/m")
    assert (house.preparation.plans, house.preparation.fetches) == (1, 1)
    assert [row.id for row in house.keeper.models()] == ["org/m"]


async def test_a_load_goes_on_when_its_asker_leaves(house: House) -> None:
    house.preparation.held = asyncio.Event()
    asker = asyncio.create_task(house.load("m"))
    await house.reaches("m", life.Loading)
    asker.cancel()
    house.preparation.held.set()
    await house.reaches("m", life.Loaded)


async def test_a_model_that_is_loaded_answers_at_once(house: House) -> None:
    await house.load("m")
    assert house.keeper.load(spec("m")).state == "loaded"
    assert house.preparation.plans == 1


async def test_concurrent_loads_cannot_be_promised_the_same_memory(house: House) -> None:
    house.preparation.held = asyncio.Event()
    jobs = [house.keeper.load(spec(f"m{at}", memory_mb=400)) for at in range(5)]
    await until(lambda: sum(job.state == "failed" for job in jobs) == 3)
    assert house.reserved_mb == 800
    house.preparation.held.set()
    outcomes = await asyncio.gather(*(job.wait() for job in jobs), return_exceptions=True)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refusals) == 3
    assert all(refusal.fields["evictable"] for refusal in refusals)


@pytest.mark.parametrize("options", [{"fail": "load"}, {"fail": "crash:load"}, {"no_such_option": 1}])
async def test_a_load_that_fails_leaves_nothing_but_its_reason(house: House, options: dict[str, object]) -> None:
    with pytest.raises(HelexaError) as failure:
        await house.load("m", **options)
    assert house.reserved_mb == 0
    assert list(house.sockets.iterdir()) == []
    (row,) = house.keeper.models()
    assert row.status == "failed"
    assert row.error == failure.value.message
    await house.load("m")
    assert house.keeper.models()[0].status == "loaded"


async def test_a_refusal_leaves_no_trace_and_keeps_its_kind(house: House) -> None:
    house.preparation.refuse = "quant_not_found"
    with pytest.raises(Refused) as refusal:
        await house.load("m")
    assert refusal.value.fields["kind"] == "quant_not_found"
    assert house.keeper.models() == []
    assert house.reserved_mb == 0


async def test_a_model_whose_worker_is_killed_comes_back_by_itself(house: House) -> None:
    await house.load("m", memory_mb=300)
    house.kill_worker()
    recovering = await house.reaches("m", life.Recovering)
    assert isinstance(recovering, life.Recovering)
    assert "SIGKILL" in recovering.error
    with pytest.raises(Unavailable, match="recovering") as refused:
        house.keeper.seat("m")
    assert refused.value.retry_after is not None
    await house.reaches("m", life.Loaded)
    assert house.reserved_mb == 300
    async with house.keeper.seat("m") as seat:
        assert is_socket(seat.socket)
    assert len(list(house.sockets.iterdir())) == 1


async def test_who_asks_for_a_recovering_model_waits_for_it(house: House) -> None:
    await house.load("m", load_s=0.05)
    house.kill_worker()
    await house.reaches("m", life.Recovering)
    await house.load("m")
    assert isinstance(house.keeper.status("m"), life.Loaded)


async def test_every_model_of_a_lost_worker_is_brought_back(house: House) -> None:
    for name in ("a", "b", "c"):
        await house.load(name)
    house.kill_worker()
    for name in ("a", "b", "c"):
        await house.reaches(name, life.Recovering)
    for name in ("a", "b", "c"):
        await house.reaches(name, life.Loaded)


async def test_a_model_that_kills_every_worker_is_given_up_in_the_end(hasty: House) -> None:
    await hasty.load("m")
    for _ in range(len(life.RETRY_S)):
        hasty.kill_worker()
        await hasty.reaches("m", life.Recovering)
        await hasty.reaches("m", life.Loaded)
    hasty.kill_worker()
    failed = await hasty.reaches("m", life.Failed)
    assert isinstance(failed, life.Failed)
    assert hasty.reserved_mb == 0


async def test_a_device_fault_poisons_its_neighbours_and_they_recover(house: House) -> None:
    await house.load("good")
    with house.keeper.feed.listen() as news:
        with pytest.raises(HelexaError, match="fault"):
            await house.load("bad", fail="fault")
        await house.reaches("good", life.Loaded)
        statuses: list[str] = []
        while not news.empty():
            event = news.get_nowait()
            if event is not None and event.kind == "model" and event.model is not None and event.model_id == "good":
                statuses.append(event.model.status)
    assert statuses == ["poisoned", "recovering", "loaded"]


async def test_what_becomes_of_a_worker_is_told(house: House) -> None:
    await house.load("m")
    with house.keeper.feed.listen() as news:
        house.kill_worker()
        states: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while "ready" not in states:
                event = await news.get()
                if event is not None and event.device is not None:
                    states.append(event.device.worker_state)
    assert states == ["restarting", "ready"]


async def test_a_host_whose_driver_is_broken_refuses_loads_with_the_reason(house: House) -> None:
    house.keeper._host = replace(house.keeper._host, blocked="driver mismatch")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(Unavailable, match="driver mismatch"):
        house.keeper.load(spec("m"))


async def test_an_unload_gives_the_memory_back_and_says_how_much(house: House) -> None:
    await house.load("m", memory_mb=300)
    assert await house.keeper.unload("m") == 300
    assert house.reserved_mb == 0
    assert house.keeper.models() == []
    with pytest.raises(UnknownModel):
        await house.keeper.unload("m")


async def test_a_busy_model_is_not_unloaded(house: House) -> None:
    await house.load("m")
    async with house.keeper.seat("m"):
        with pytest.raises(Conflict, match="in flight"):
            await house.keeper.unload("m")
    await house.keeper.unload("m")


async def test_a_drain_waits_for_requests_and_refuses_new_ones(house: House) -> None:
    await house.load("m")
    async with house.keeper.seat("m"):
        leaving = asyncio.create_task(house.keeper.unload("m", drain_s=5.0))
        await house.reaches("m", life.Unloading)
        with pytest.raises(Unavailable, match="unloaded"):
            house.keeper.seat("m")
    await leaving
    assert house.keeper.models() == []


async def test_a_drain_that_runs_out_of_time_leaves_the_model_serving(house: House) -> None:
    await house.load("m")
    async with house.keeper.seat("m"):
        with pytest.raises(Conflict, match="still had requests"):
            await house.keeper.unload("m", drain_s=0.01)
    async with house.keeper.seat("m"):
        pass


async def test_a_forced_unload_cuts_what_is_in_flight(house: House) -> None:
    await house.load("m")
    cut = asyncio.Event()
    async with house.keeper.seat("m") as seat:
        seat.on_cut = cut.set
        leaving = asyncio.create_task(house.keeper.unload("m", force=True))
        async with asyncio.timeout(1):
            await cut.wait()
    await leaving


async def test_an_unload_goes_on_when_its_asker_leaves(house: House) -> None:
    await house.load("m")
    async with house.keeper.seat("m"):
        leaving = asyncio.create_task(house.keeper.unload("m", drain_s=5.0))
        await house.reaches("m", life.Unloading)
        leaving.cancel()
    await until(lambda: house.keeper.models() == [])


async def test_closing_wakes_waiters_and_unloads_everything(house: House) -> None:
    await house.load("m")
    house.preparation.held = asyncio.Event()
    pending = house.keeper.load(spec("slow"))
    await house.keeper.close(0.0)
    with pytest.raises(Conflict, match="shutting down"):
        await pending.wait()
    with pytest.raises(Conflict, match="draining"):
        house.keeper.load(spec("other"))
    assert house.keeper.status("m") is None


@pytest.mark.parametrize("round_", range(3))
async def test_loads_and_unloads_in_any_order_settle_with_the_ledger_balanced(house: House, round_: int) -> None:
    names = [f"m{at % 3}" for at in range(30)]
    acts = [
        house.load(name, memory_mb=300) if (at + round_) % 2 else house.keeper.unload(name)
        for at, name in enumerate(names)
    ]
    outcomes = await asyncio.gather(*acts, return_exceptions=True)
    unexpected = [
        error for error in outcomes if isinstance(error, BaseException) and not isinstance(error, HelexaError)
    ]
    assert unexpected == []
    loaded = [row for row in house.keeper.models() if row.status == "loaded"]
    assert house.reserved_mb == 300 * len(loaded)
