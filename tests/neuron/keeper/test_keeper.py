"""The keeper over real workers with the echo engine; only the source of plans is a stand-in."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from helexa.base.clock import Clock, SystemClock
from helexa.base.errors import Conflict, HelexaError, Refused, Unavailable, UnknownModel
from helexa.base.tasks import Crew
from helexa.http1.client import Origin, UpstreamError
from helexa.neuron.core import lifecycle as life
from helexa.neuron.core.plan import DeviceState
from helexa.neuron.device.pool import Pool, Seat
from helexa.neuron.harness import DeviceRef
from helexa.neuron.keeper import Host, Keeper
from helexa.wire.control import LoadingState, ModelSpec
from tests.neuron.helpers import ECHO, PATIENCE_S, HastyClock, Preparation, is_socket, until


class House:
    """A keeper with everything under it: one device of 1000 MiB."""

    def __init__(self, keeper: Keeper, pool: Pool, preparation: Preparation, sockets: Path, clock: Clock) -> None:
        self.keeper, self.pool, self.preparation, self.sockets = keeper, pool, preparation, sockets
        self.clock = clock

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

    async def stages_until_loaded(self, model_id: str) -> list[str]:
        """The stages that a model goes through from now on, until it is loaded."""
        stages: list[str] = []
        with self.keeper.feed.listen() as news:
            async with asyncio.timeout(PATIENCE_S):
                while not isinstance(self.keeper.status(model_id), life.Loaded):
                    event = await news.get()
                    if event is not None and event.model_id == model_id and event.model and event.model.loading:
                        stages.append(event.model.loading.stage)
        return stages

    def limit_steps(self, seconds: float) -> None:
        """A step that takes longer is stuck."""
        self.keeper._host = replace(self.keeper._host, step_limit_s=seconds)  # pyright: ignore[reportPrivateUsage]

    async def watched(self, what: Callable[[], bool]) -> None:
        """Return once `what` is true, looking at the engines until then."""
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                await self.keeper.watch()
                await asyncio.sleep(0.01)

    async def chat(self, model_id: str, text: str) -> asyncio.Task[None]:
        """An answer under way, in a seat; ends when the engine does."""
        began = asyncio.Event()

        async def hold() -> None:
            async with self.keeper.seat(model_id) as seat:
                began.set()
                body = b'{"messages":[{"role":"user","content":"%s"}]}' % text.encode()
                origin = Origin(unix_path=seat.socket)
                try:
                    async with await origin.request(b"POST", b"/v1/chat/completions", (), body) as answer:
                        await answer.read(1 << 20)
                finally:
                    await origin.aclose()

        asking = asyncio.create_task(hold())
        await began.wait()
        return asking

    async def sit(self, model_id: str) -> None:
        """Take a seat and leave it."""
        async with self.keeper.seat(model_id):
            pass

    def kill_worker(self) -> None:
        pid = self.pool.pid(0)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    @property
    def reserved_mb(self) -> int:
        return self.keeper.devices()[0].reserved_mb


def spec(model_id: str, **options: object) -> ModelSpec:
    return ModelSpec(model_id=model_id, options=dict(options))


async def build(stack: AsyncExitStack, tmp_path: Path, clock: Clock, *, devices: int = 1) -> House:
    crew = await stack.enter_async_context(Crew())
    keepers: list[Keeper] = []
    posts = [Seat(index=at, worker=f"cpu-dev-{at}") for at in range(devices)]
    pool = Pool(posts, clock=clock, tell=lambda news: keepers[0].hear(news))
    stack.push_async_callback(pool.close)
    host = Host(
        devices={at: DeviceRef(kind="cpu", index=at, memory_mb=1000) for at in range(devices)},
        found=tuple(DeviceState(index=at, kind="cpu", name="cpu", total_mb=1000) for at in range(devices)),
        engines={"echo": ECHO},
        sockets=tmp_path,
    )
    preparation = Preparation()
    keepers.append(Keeper(host, preparation, pool, clock=clock, crew=crew))
    return House(keepers[0], pool, preparation, tmp_path, clock)


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


async def test_a_load_that_waits_for_its_device_says_what_it_waits_for(house: House) -> None:
    house.keeper.load(spec("first", fail="hang:load"))
    house.keeper.load(spec("second"))

    def stands() -> LoadingState | None:
        return next((row.loading for row in house.keeper.models() if row.id == "second"), None)

    await until(lambda: (found := stands()) is not None and found.stage == "queued" and found.behind is not None)
    found = stands()
    assert found is not None
    assert found.behind == "the load of first"


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


@pytest.mark.parametrize("options", [{"fail": "load"}, {"fail": "crash:load"}])
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


async def test_an_option_that_the_engine_does_not_take_is_a_refusal_and_nothing_is_left(house: House) -> None:
    with pytest.raises(Refused) as refused:
        await house.load("m", no_such_option=1)
    assert (refused.value.fields["kind"], refused.value.fields["option"]) == ("invalid_option", "no_such_option")
    assert (house.reserved_mb, house.keeper.models(), list(house.sockets.iterdir())) == (0, [], [])


async def test_a_model_is_shown_with_the_tier_it_is_in_and_the_one_it_came_from(house: House) -> None:
    house.preparation.held = asyncio.Event()
    job = house.keeper.load(spec("m"))
    await until(lambda: house.keeper.models()[0].tier is not None)
    assert house.keeper.models()[0].tier == "warm"
    house.preparation.held.set()
    await job.wait()
    (row,) = house.keeper.models()
    assert (row.tier, row.loaded_from) == ("hot", "warm")
    assert row.load_s is not None


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


async def test_a_model_that_lost_its_worker_waits_for_nothing_but_a_worker_and_its_load(hasty: House) -> None:
    """So it is back within its load time and the start of a process."""
    await hasty.load("m")
    hasty.kill_worker()
    await hasty.reaches("m", life.Recovering)
    await hasty.reaches("m", life.Loaded)
    assert isinstance(hasty.clock, HastyClock)
    assert hasty.clock.slept == [0.0, 0.0], "the worker's back-off, and the model's own"
    assert (hasty.pool.restarts(0), hasty.keeper.models()[0].recoveries) == (1, 1)


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


async def test_a_device_is_out_of_quarantine_once_a_prompt_was_answered_on_it(house: House) -> None:
    await house.load("good")
    with pytest.raises(HelexaError, match="fault"):
        await house.load("bad", fail="fault")
    assert "as asked" in house.pool.suspicion(0)
    stages = await house.stages_until_loaded("good")
    assert stages[-1] == "canary"
    assert (house.pool.state(0), house.pool.suspicion(0)) == ("ready", "")


async def test_a_canary_that_fails_condemns_the_device_again_and_the_next_one_may_pass(hasty: House) -> None:
    await hasty.load("ill", fail="step:0")
    hasty.pool.condemn(0, "Xid 79")
    failed = await hasty.reaches("ill", life.Failed)
    assert isinstance(failed, life.Failed)
    assert "canary prompt failed" in failed.error
    await until(lambda: hasty.pool.state(0) == "quarantined")
    await hasty.load("well")
    assert hasty.pool.suspicion(0) == ""


async def test_a_new_model_is_not_placed_on_a_device_in_quarantine_while_there_is_another(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        house = await build(stack, tmp_path, SystemClock(), devices=2)
        house.pool.condemn(0, "Xid 79")
        await house.load("m")
        assert house.keeper.models()[0].devices == [1]
        assert house.pool.suspicion(0) == "Xid 79"


@pytest.mark.parametrize("fault", ["hang:10", "freeze:10"])
async def test_an_engine_that_steps_no_more_is_replaced_and_its_model_comes_back(house: House, fault: str) -> None:
    house.limit_steps(0.3)
    await house.load("m", fail=fault)  # the canary prompt is shorter, or it would never come back
    asking = await house.chat("m", "word " * 20)
    await house.watched(lambda: house.pool.restarts(0) == 1)
    await house.reaches("m", life.Loaded)
    (row,) = house.keeper.models()
    assert "made no step for 0.3 s" in (row.last_error or "")
    with pytest.raises(UpstreamError):
        await asking


async def test_an_engine_that_is_only_slow_is_left_alone(house: House) -> None:
    house.limit_steps(0.3)
    await house.load("m", tokens_per_s=2.0)
    asking = await house.chat("m", "one two three")
    await house.watched(asking.done)
    assert house.pool.restarts(0) == 0


async def test_why_a_model_was_brought_back_is_shown_while_it_serves_again(house: House) -> None:
    await house.load("m")
    house.kill_worker()
    await house.reaches("m", life.Recovering)
    await house.reaches("m", life.Loaded)
    (row,) = house.keeper.models()
    assert (row.status, row.recoveries) == ("loaded", 1)
    assert "SIGKILL" in (row.last_error or "")


async def test_a_drained_neuron_turns_away_who_waits_and_takes_work_again(house: House) -> None:
    await house.load("m")
    async with AsyncExitStack() as seats:
        for _ in range(2):
            await seats.enter_async_context(house.keeper.seat("m"))
        waiting = asyncio.create_task(house.sit("m"))
        await until(lambda: house.keeper.loads()[0].queue_depth == 1)
        house.keeper.drain()
        with pytest.raises(Unavailable, match="shutting down"):
            await waiting
        with pytest.raises(Unavailable, match="shutting down"):
            house.keeper.seat("m")
    house.keeper.undrain()
    await house.sit("m")


async def test_a_model_that_comes_back_while_draining_takes_no_work(house: House) -> None:
    await house.load("m")
    house.kill_worker()
    await house.reaches("m", life.Recovering)
    house.keeper.drain()
    await house.reaches("m", life.Loaded)
    with pytest.raises(Unavailable, match="shutting down"):
        await house.sit("m")
    house.keeper.undrain()
    await house.sit("m")


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


async def test_how_a_worker_ended_is_told_with_its_device(house: House) -> None:
    await house.load("m")
    with house.keeper.feed.listen() as news:
        house.kill_worker()
        async with asyncio.timeout(PATIENCE_S):
            while (event := await news.get()) is None or event.device is None:
                pass
    assert event.device.worker_exit is not None
    assert event.device.worker_exit.how == "killed by SIGKILL"


async def test_a_host_whose_driver_is_broken_refuses_loads_with_the_reason(house: House) -> None:
    house.keeper._host = replace(house.keeper._host, blocked=lambda: "driver mismatch")  # pyright: ignore[reportPrivateUsage]
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
        async with asyncio.timeout(PATIENCE_S):
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


async def test_a_pin_holds_for_one_stay_and_is_told_to_everybody(house: House) -> None:
    await house.load("m")
    with house.keeper.feed.listen() as news:
        house.keeper.pin("m", True)
        told = news.get_nowait()
    assert told is not None
    assert told.model is not None
    assert told.model.pinned is True
    with pytest.raises(Conflict, match="is pinned"):
        await house.keeper.unload("m", spare_pinned=True)
    await house.keeper.unload("m")
    await house.load("m")
    assert [row.pinned for row in house.keeper.models()] == [None]
    with pytest.raises(UnknownModel):
        house.keeper.pin("nobody", True)
