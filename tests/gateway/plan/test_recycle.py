"""A device that has had many load cycles is made whole when nothing there is in use."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.gateway.config import Eviction
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.plan.instructions import Recycle
from helexa.gateway.plan.step import step
from helexa.wire import control

MODEL = control.Model(id="a", vram_used_mb=600, devices=[0])
WORN = 5


def fleet(*, cycles: int = WORN, after: int = WORN, **model: Any) -> Fleet:
    """A node whose device has had so many cycles, seen at second 0 with one model on it."""
    there = control.Model(**{"id": "a", "vram_used_mb": 600, "devices": [0], "loaded_s": 99.0, "idle_s": 99.0, **model})
    device = control.Device(index=0, vram_total_mb=1000)
    health = control.Health(devices=[control.DeviceHealth(index=0, cycles=cycles)])
    found = control.Discovery(hostname="n1", devices=[device])
    seen = Fleet()
    for event in (
        ev.Configured(profiles={}, eviction=Eviction(defrag_after_cycles=after), nodes=("n1",)),
        ev.Polled(node="n1", health=health, models=(there,), discovery=found),
    ):
        seen, _ = step(seen, event, 0.0)
    return seen


def ticked(seen: Fleet, now: float = 1.0) -> tuple[Fleet, list[Any]]:
    return step(seen, ev.Ticked(), now)


def test_a_worn_device_at_rest_is_recycled_once() -> None:
    seen, out = ticked(fleet())
    assert out == [Recycle(node="n1", device=0, after_cycles=WORN)]
    assert ticked(seen, 2.0)[1] == []


@pytest.mark.parametrize(
    "seen",
    [
        fleet(cycles=WORN - 1),
        fleet(after=0),
        fleet(idle_s=1.0),
        fleet(idle_s=0.0, in_flight=1),
        fleet(status="loading"),
    ],
    ids=["not worn", "switched off", "used just now", "in use by another gateway", "loading"],
)
def test_a_device_that_is_not_worn_or_does_not_rest_is_left_alone(seen: Fleet) -> None:
    assert ticked(seen)[1] == []


def test_a_device_is_left_alone_while_its_node_is_away() -> None:
    seen, _ = step(fleet(), ev.Missed(node="n1", reason="no answer", limit=1), 0.5)
    assert ticked(seen)[1] == []


def test_a_device_in_use_is_recycled_when_it_has_rested() -> None:
    seen, _ = step(fleet(), ev.Arrived(ask=1, model="a"), 0.5)
    seen, out = ticked(seen, 30.0)
    assert out == []
    seen, _ = step(seen, ev.Finished(model="a", node="n1"), 31.0)
    assert ticked(seen, 40.0)[1] == []
    assert ticked(seen, 52.0)[1] == [Recycle(node="n1", device=0, after_cycles=WORN)]


def test_a_new_limit_holds_from_the_reload_on() -> None:
    lower = ev.Configured(profiles={}, eviction=Eviction(defrag_after_cycles=WORN), nodes=("n1",))
    seen, _ = step(fleet(after=WORN + 1), lower, 0.5)
    assert len(ticked(seen)[1]) == 1
