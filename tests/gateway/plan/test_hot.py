"""The short way of a request on a warm model ends where the planner's long way does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.plan.hot import Ledger
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
    speeds=st.lists(st.sampled_from([0.0, 20.0, 100.0]), min_size=4, max_size=4),
)
def test_a_seat_is_taken_and_given_back_as_the_planner_would(
    loads: list[int], affinity: str | None, waiting: bool, speeds: list[float]
) -> None:
    world, fleet = fleet_of(loads, waiting=waiting)
    known = {("a", f"n{i}"): (1, speed) for i, speed in enumerate(speeds) if speed}
    fleet, _ = step(fleet, ev.Ticked(speeds=known), world.now)
    long, out = step(fleet, ev.Arrived(ask=99, model="a", affinity=affinity), world.now)
    ledger = Ledger()
    node = ledger.take(fleet, "a", lambda: affinity, world.now)
    assert node is not None
    assert [one.node for one in out if isinstance(one, Seat)] == [node]
    seated = ledger.settle(fleet)
    assert seats_of(seated) == seats_of(long)
    left = ledger.give_back(seated, "a", node, world.now + 1)
    after, _ = step(long, ev.Finished(model="a", node=node), world.now + 1)
    assert left == (not waiting), "where somebody waits the planner has to think"
    if left:
        assert seats_of(ledger.settle(seated)) == seats_of(after)


@given(
    loads=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    moves=st.lists(st.sampled_from(["take", "leave", "settle"]), max_size=30),
    affinity=st.sampled_from([None, "s1"]),
)
def test_when_the_fleet_is_brought_up_to_date_makes_no_difference(
    loads: list[int], moves: list[str], affinity: str | None
) -> None:
    world, fleet = fleet_of(loads)
    now_and_then, always, held = Ledger(), Ledger(), list[str]()
    late = soon = fleet
    for move in moves:
        if move == "take":
            node = now_and_then.take(late, "a", lambda: affinity, world.now)
            assert node == always.take(soon, "a", lambda: affinity, world.now)
            assert node is not None
            held.append(node)
        elif move == "leave" and held:
            node = held.pop(0)
            assert now_and_then.give_back(late, "a", node, world.now)
            assert always.give_back(soon, "a", node, world.now)
        elif move == "settle":
            late = now_and_then.settle(late)
        soon = always.settle(soon)
    assert now_and_then.settle(late).places == soon.places
    assert sum(seats_of(soon).values()) == sum(seats_of(fleet).values()) + len(held)


def test_the_short_way_is_not_taken_where_the_planner_has_to_think() -> None:
    world, fleet = fleet_of([0])
    ledger = Ledger()
    assert ledger.take(fleet, "b", lambda: None, world.now) is None
    assert ledger.take(fleet, "nobody", lambda: None, world.now) is None
    place = fleet.places["a"]["n0"]
    for closed in (replace(place, closing=True), replace(place, servable=False)):
        assert ledger.take(replace(fleet, places={"a": {"n0": closed}}), "a", lambda: None, world.now) is None
    node = fleet.nodes["n0"]
    for shut in (replace(node, draining=True), replace(node, healthy=False), replace(node, tripped_until=9e9)):
        assert ledger.take(replace(fleet, nodes={"n0": shut}), "a", lambda: None, world.now) is None
    assert not ledger.give_back(replace(fleet, nodes={"n0": replace(node, trips=1)}), "a", "n0", world.now)
    assert not ledger, "what was refused leaves no row"


def test_requests_that_were_seated_at_once_count_into_the_habits_at_the_next_tick() -> None:
    world, fleet = fleet_of([0])
    ledger = Ledger()
    for _ in range(5):
        assert ledger.take(fleet, "a", lambda: None, world.now) is not None
    ticked, _ = step(ledger.settle(fleet), ev.Ticked(), world.now)
    many = ticked.habits["a"].rate
    once, _ = step(world.fleet, ev.Arrived(ask=99, model="a"), world.now)
    assert many > 4 * once.habits["a"].rate
    assert ticked.places["a"]["n0"].uses == 0


def test_a_place_that_was_only_weighed_keeps_the_time_of_its_last_use() -> None:
    world, fleet = fleet_of([0, 0])
    used = {node: replace(place, last_used=world.now - 9) for node, place in fleet.places["a"].items()}
    fleet = replace(fleet, places={"a": used})
    ledger = Ledger()
    taken = ledger.take(fleet, "a", lambda: None, world.now)
    times = {node: place.last_used for node, place in ledger.settle(fleet).places["a"].items()}
    assert times == dict.fromkeys(used, world.now - 9) | {taken: world.now}


def test_a_circuit_that_time_closes_lets_requests_in_again() -> None:
    world, fleet = fleet_of([0, 0])
    tripped = {**fleet.nodes, "n0": replace(fleet.nodes["n0"], tripped_until=world.now + 5)}
    fleet = replace(fleet, nodes=tripped)
    ledger = Ledger()
    assert {ledger.take(fleet, "a", lambda: None, world.now) for _ in range(4)} == {"n1"}
    assert ledger.take(fleet, "a", lambda: None, world.now + 5) == "n0"
