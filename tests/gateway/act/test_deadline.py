"""A load's deadline moves on while its node reports progress, and only then."""

from __future__ import annotations

import asyncio

import pytest

from helexa.base.clock import SystemClock
from helexa.base.tasks import Crew
from helexa.gateway.act import loader
from helexa.gateway.act.dispatcher import Dispatcher
from helexa.gateway.act.neuron_client import NeuronClient
from helexa.gateway.config import Eviction
from helexa.gateway.fleet import events as ev
from helexa.gateway.plan.instructions import Load
from helexa.http1.client import Origin
from helexa.testing.neuron import FakeModel, ScriptedNeuron
from helexa.wire import control

GRACE_S, DEADLINE_S, LOAD_S = 0.5, 0.1, 1.5
MOVING = control.LoadingState(stage="load", progress=0.5)


async def outcome(
    monkeypatch: pytest.MonkeyPatch, state: control.LoadingState | None, *, again: bool = False
) -> ev.Loaded | ev.LoadFailed:
    """What comes of a load that takes much longer than its deadline, with its state told once, or all the time."""
    monkeypatch.setattr(loader, "PROGRESS_GRACE_S", GRACE_S)
    ended: asyncio.Future[ev.Loaded | ev.LoadFailed] = asyncio.get_running_loop().create_future()

    def watch(event: ev.Event, _: object) -> None:
        if isinstance(event, ev.Loaded | ev.LoadFailed) and not ended.done():
            ended.set_result(event)

    async with ScriptedNeuron(FakeModel(id="m", load_s=LOAD_S)) as neuron, Crew() as crew:
        origin = Origin.from_url(neuron.url)
        dispatcher = Dispatcher(SystemClock())
        dispatcher.watchers.append(watch)
        dispatcher.tell(ev.Configured(profiles={}, eviction=Eviction(), nodes=("n1",)))
        clients = {"n1": NeuronClient("n1", origin, token=None, timeout_s=5.0)}
        carry_out = loader.Loader(dispatcher, clients, crew, lambda node: None)
        carry_out(Load(model="m", node="n1", devices=(0,), deadline_s=DEADLINE_S))

        row = control.Model(id="m", status="loading", loading=state)

        async def progress() -> None:
            dispatcher.tell(ev.ModelSeen(node="n1", model=row))
            while again:
                await asyncio.sleep(GRACE_S / 10)
                dispatcher.tell(ev.ModelSeen(node="n1", model=row))

        crew.start(progress(), name="progress")
        try:
            async with asyncio.timeout(10):
                return await ended
        finally:
            await origin.aclose()


async def test_a_load_that_moves_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(await outcome(monkeypatch, MOVING, again=True), ev.Loaded)


async def test_a_load_that_shows_no_progress_is_given_up_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = await outcome(monkeypatch, None)
    assert isinstance(failed, ev.LoadFailed)
    assert "no progress" in failed.error


async def test_the_deadline_of_a_load_begins_when_its_device_comes_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    queued = control.LoadingState(behind="the load of another")
    assert isinstance(await outcome(monkeypatch, queued), ev.Loaded)
