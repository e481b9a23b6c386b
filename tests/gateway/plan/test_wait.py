"""What a request waits for is told in words."""

from __future__ import annotations

import pytest

from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import LOAD_DEADLINE_S, Status
from helexa.gateway.plan.wait import reason
from helexa.wire import control

from .world import World


def of(world: World, model: str) -> str:
    return reason(world.fleet, model, world.now)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (Status.LOADING, "the load on n1"),
        (Status.RECOVERING, "its recovery on n1"),
        (Status.UNLOADING, "the end of its unload on n1"),
    ],
)
def test_a_model_that_comes_is_waited_for_where_it_comes(status: Status, told: str) -> None:
    world = World({"n1": 1000}, {"a": 600})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status=str(status))))
    world.ask("a")
    assert of(world, "a") == told


def test_an_unload_is_waited_for_until_its_node_seems_stuck_in_it() -> None:
    world = World({"n1": 1000}, {"a": 600})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="unloading")))
    ask = world.ask("a")
    world.wait(LOAD_DEADLINE_S - 1)
    assert of(world, "a") == "the end of its unload on n1"
    world.wait(60)
    assert "said to be unloading on n1" in world.refused[ask].message


def test_an_unload_of_our_own_has_the_deadline_of_its_order() -> None:
    world = World({"n1": 1000}, {"a": 600})
    world.ask("a")
    world.load_done()
    world.wait(LOAD_DEADLINE_S)
    world.tell(ev.Unwanted(model="a"))
    ask = world.ask("a")
    world.wait(LOAD_DEADLINE_S + 60)
    assert ask not in world.refused
    world.unload_done()
    assert [load.model for load in world.loads] == ["a"]


def test_a_load_that_its_device_has_not_come_to_is_waited_for_however_many_are_before_it() -> None:
    world = World({"n1": 1000}, {"a": 600})
    queued = control.LoadingState(behind="the load of b")
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="loading", loading=queued)))
    ask = world.ask("a")
    world.wait(LOAD_DEADLINE_S + 60)
    assert of(world, "a") == "the load on n1"
    begun = control.LoadingState(stage="load")
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="loading", loading=begun)))
    world.wait(LOAD_DEADLINE_S + 60)
    assert "nothing has moved there" in world.refused[ask].message


def test_a_load_that_failed_once_and_a_node_that_is_away_are_waited_for() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600}, restart_s=10.0)
    world.ask("a")
    world.load_fails()
    assert of(world, "a") == "a second try on n1: it broke"
    world.tell(ev.Leaving(node="n1"))
    world.ask("b")
    assert of(world, "b") == "n1 to be back"


def test_a_busy_model_is_named_by_those_who_wait_for_its_room_and_they_by_those_behind_them() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600, "c": 600})
    world.ask("a")
    world.load_done()
    world.ask("b")
    world.wait(1.0)
    world.ask("c")
    assert of(world, "b") == "room on n1, which a holds now"
    assert of(world, "c") == "room, which is being made for b on n1 first"
    world.wait(world.fleet.eviction.patience_s)
    world.ask("a")
    assert of(world, "a") == "its turn on n1, where an older request gets the room first"


def test_room_that_was_taken_by_somebody_else_is_waited_for() -> None:
    world = World({"n1": 1000}, {"a": 600})
    world.ask("a")
    world.load_fails(status=422, kind="does_not_fit", evictable=True)
    assert of(world, "a") == "room on n1, which was taken a moment ago"
