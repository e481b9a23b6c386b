"""The short way of a request on a warm model ends where the planner's long way does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.plan import hot
from helexa.gateway.plan.instructions import Seat
from helexa.gateway.plan.step import step
from helexa.wire import control

from .world import World


def fleet_of(loads: list[int], *, waiting: bool = False) -> tuple[World, Fleet]:
    world = World({f"n{i}": 1000 for i in range(len(loads))}, {"a": 400, "b": 900})
    for i, load in enumerate(loads):
        world.tell(ev.ModelSeen(node=f"n{i}", model=control.Model(id="a", in_flight=0 if waiting else load)))
    if waiting:  # behind a model that is busy everywhere, so that nothing can be evicted
        for _ in loads:
            world.ask("a")
        world.ask("b")
    return world, world.fleet


def seats_of(fleet: Fleet) -> dict[str, int]:
    return {node: place.in_flight for node, place in fleet.places["a"].items()}


@given(
    loads=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    affinity=st.sampled_from([None, "s1", "s2", "s3"]),
    waiting=st.booleans(),
)
def test_a_seat_is_taken_and_given_back_as_the_planner_would(
    loads: list[int], affinity: str | None, waiting: bool
) -> None:
    world, fleet = fleet_of(loads, waiting=waiting)
    long, out = step(fleet, ev.Arrived(ask=99, model="a", affinity=affinity), world.now)
    taken = hot.take(fleet, "a", affinity, world.now)
    assert taken is not None
    short, node = taken
    assert [one.node for one in out if isinstance(one, Seat)] == [node]
    assert seats_of(short) == seats_of(long)
    left = hot.give_back(short, "a", node, world.now + 1)
    after, _ = step(long, ev.Finished(model="a", node=node), world.now + 1)
    assert (left is None) == waiting, "somebody waits, so the planner has to think"
    if left is not None:
        assert seats_of(left) == seats_of(after)


def test_the_short_way_is_not_taken_where_the_planner_has_to_think() -> None:
    world, fleet = fleet_of([0])
    assert hot.take(fleet, "b", None, world.now) is None
    assert hot.take(fleet, "nobody", None, world.now) is None
    place = fleet.places["a"]["n0"]
    for closed in (replace(place, closing=True), replace(place, servable=False)):
        assert hot.take(replace(fleet, places={"a": {"n0": closed}}), "a", None, world.now) is None
    node = fleet.nodes["n0"]
    for shut in (replace(node, draining=True), replace(node, healthy=False), replace(node, tripped_until=9e9)):
        assert hot.take(replace(fleet, nodes={"n0": shut}), "a", None, world.now) is None
    assert hot.give_back(replace(fleet, nodes={"n0": replace(node, trips=1)}), "a", "n0", world.now) is None


def test_requests_that_were_seated_at_once_count_into_the_habits_at_the_next_tick() -> None:
    world, fleet = fleet_of([0])
    for _ in range(5):
        taken = hot.take(fleet, "a", None, world.now)
        assert taken is not None
        fleet = taken[0]
    ticked, _ = step(fleet, ev.Ticked(), world.now)
    many = ticked.habits["a"].rate
    once, _ = step(world.fleet, ev.Arrived(ask=99, model="a"), world.now)
    assert many > 4 * once.habits["a"].rate
    assert ticked.places["a"]["n0"].uses == 0
