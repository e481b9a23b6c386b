"""Two planners over the same nodes: each acts on what it was last told, however long ago, and the nodes decide.

The nodes here keep the real rules of a neuron (`core.residency`, `core.leases`) over a truth of their own. Reports and
orders are delivered whenever hypothesis likes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet, Status
from helexa.gateway.plan.instructions import Load, Order, Seat, Unload
from helexa.gateway.plan.place import is_expected, may_join, referees
from helexa.gateway.plan.step import step
from helexa.neuron.core.leases import Leases
from helexa.neuron.core.residency import Stay
from helexa.wire import control

from .world import World

SIZES = {"a": 600, "b": 600, "c": 300, "d": 600}
MEMORY = {"n1": 1000, "n2": 700}
BOTH = (0, 1)
RESIDENCY_S, LEASE_S = 20.0, 10.0
SETTLES_IN = 100
"""Rounds of a second each; everybody's patience and minimum residency are over long before."""

gateways, nodes, picks = st.sampled_from(BOTH), st.sampled_from(sorted(MEMORY)), st.integers(0, 3)


@dataclass
class Stayed:
    """A model on a node, as it really is; `in_flight` is everybody's requests, `askers` the gateways that wait."""

    load_id: str
    since: float
    ready: bool = False
    used: bool = False
    idle_since: float = 0.0
    in_flight: int = 0
    askers: set[int] = field(default_factory=set)

    def stay(self, now: float) -> Stay:
        idle_s = None if not self.used else 0.0 if self.in_flight else now - self.idle_since
        return Stay(loaded_s=now - self.since, idle_s=idle_s, load_id=self.load_id)


class Gateways(RuleBasedStateMachine):
    """Two gateways, two nodes, four models that crowd each other."""

    @initialize()
    def begin(self) -> None:
        self.now, self.asks, self.loads = 0.0, 0, 0
        self.truth: dict[str, dict[str, Stayed]] = {node: {} for node in MEMORY}
        self.fleets = [Fleet(), Fleet()]
        self.known: list[set[str]] = [set(), set()]
        self.orders: list[tuple[int, Order]] = []
        self.seated: list[tuple[int, Seat]] = []
        self.leases = Leases()
        self.cleared: dict[str, tuple[int, float]] = {}
        self.broken: list[str] = []
        profiles = {name: Profile(id=name, vram_mb=mib) for name, mib in SIZES.items()}
        configured = ev.Configured(
            profiles=profiles, eviction=Eviction(min_residency_s=RESIDENCY_S), nodes=tuple(MEMORY)
        )
        for gateway in BOTH:
            self.tell(gateway, configured)
            self.hear_all(gateway)

    def tell(self, gateway: int, event: ev.Event) -> None:
        self.fleets[gateway], out = step(self.fleets[gateway], event, self.now)
        for one in out:
            if isinstance(one, Seat):
                self.take(gateway, one)
            elif isinstance(one, Order):
                self.orders.append((gateway, one))

    def take(self, gateway: int, seat: Seat) -> None:
        """The request reaches the node, or finds that its model is not there any more."""
        there = self.truth[seat.node].get(seat.model)
        if there is None or not there.ready:
            self.tell(gateway, ev.ModelGone(node=seat.node, model=seat.model))
            return
        there.used = True
        there.in_flight += 1
        self.seated.append((gateway, seat))

    def row(self, model: str, there: Stayed) -> control.Model:
        row = control.Model(id=model, vram_used_mb=SIZES[model], devices=[0], in_flight=there.in_flight)
        row.status = "loaded" if there.ready else "loading"
        if there.ready:
            stay = there.stay(self.now)
            row.loaded_s, row.idle_s, row.load_id = stay.loaded_s, stay.idle_s, stay.load_id
        return row

    # -- what may happen, in any order --

    @rule(gateway=gateways, model=st.sampled_from(sorted(SIZES)))
    def ask(self, gateway: int, model: str) -> None:
        self.asks += 1
        self.tell(gateway, ev.Arrived(ask=self.asks, model=model))

    @rule(model=st.sampled_from(sorted(SIZES)))
    def both_ask(self, model: str) -> None:
        for gateway in BOTH:
            self.ask(gateway, model)

    @rule(gateway=gateways, node=nodes)
    def hear(self, gateway: int, node: str) -> None:
        """A report of a node arrives."""
        rows = tuple(self.row(model, there) for model, there in self.truth[node].items())
        self.known[gateway] |= {row.load_id for row in rows}
        device = control.Device(index=0, name="gpu", vram_total_mb=MEMORY[node])
        found = control.Discovery(hostname=node, devices=[device])
        self.tell(gateway, ev.Polled(node=node, health=control.Health(), models=rows, discovery=found))

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for gateway in BOTH:
            self.tell(gateway, ev.Ticked())

    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        """A request ends."""
        if not self.seated:
            return
        gateway, seat = self.seated.pop(pick % len(self.seated))
        there = self.truth[seat.node][seat.model]
        there.in_flight -= 1
        there.idle_since = self.now
        self.tell(gateway, ev.Finished(model=seat.model, node=seat.node))

    @rule(pick=picks)
    def obey(self, pick: int) -> None:
        """An order reaches its node."""
        if not self.orders:
            return
        gateway, order = self.orders.pop(pick % len(self.orders))
        if isinstance(order, Load):
            self.load(gateway, order)
        elif isinstance(order, Unload):
            self.unload(gateway, order)

    @rule(pick=picks)
    def arrive(self, pick: int) -> None:
        """A load is done; both gateways may have asked for it."""
        loading = [(n, m) for n, here in self.truth.items() for m, there in here.items() if not there.ready]
        if not loading:
            return
        node, model = loading[pick % len(loading)]
        there = self.truth[node][model]
        there.ready, there.since = True, self.now
        for gateway in sorted(there.askers):
            self.loaded(gateway, node, model)

    @rule()
    def all_is_done(self) -> None:
        """What is under way ends, though nobody but who asked for it hears of that."""
        for _ in range(SETTLES_IN):
            if not (self.orders or self.seated or any(not t.ready for h in self.truth.values() for t in h.values())):
                return
            self.obey(0)
            self.arrive(0)
            self.finish(0)

    # -- what the nodes do --

    def load(self, gateway: int, order: Load) -> None:
        order = replace(order, node=self.joined(gateway, order.model, order.node) or order.node)
        here = self.truth[order.node]
        there = here.get(order.model)
        if there is None:
            if MEMORY[order.node] - sum(SIZES[name] for name in here) < SIZES[order.model]:
                fields = {"kind": "does_not_fit", "evictable": True}
                no_room = ev.LoadFailed(node=order.node, model=order.model, error="no room", status=422, fields=fields)
                self.tell(gateway, no_room)
                self.hear(gateway, order.node)
                self.lease(gateway, order.model, order.node, 0.0)
                return
            self.starts(order.model)
            self.loads += 1
            there = here[order.model] = Stayed(load_id=f"load-{self.loads}", since=self.now)
        if there.ready:
            self.loaded(gateway, order.node, order.model)
        else:
            there.askers.add(gateway)

    def joined(self, gateway: int, model: str, node: str) -> str | None:
        held = self.lease(gateway, model, node, LEASE_S)
        if held.holder == str(gateway) or not may_join(self.fleets[gateway], model, held.on, self.now):
            return None
        self.tell(gateway, ev.Joined(model=model, node=node, at=held.on))
        return held.on

    def lease(self, gateway: int, model: str, node: str, seconds: float) -> control.Lease:
        asked = control.Lease(model_id=model, on=node, holder=str(gateway), seconds=seconds)
        self.leases, held = self.leases.asked(asked, self.now)
        if not seconds and held.holder == str(gateway):
            self.cleared.pop(model, None)
        return held

    def loaded(self, gateway: int, node: str, model: str) -> None:
        """A load's end is told, and a poll follows it."""
        self.tell(gateway, ev.Loaded(node=node, model=model, took_s=1.0))
        self.hear(gateway, node)
        self.lease(gateway, model, node, 1.0)

    def unload(self, gateway: int, order: Unload) -> None:
        """Nothing goes to make room for what another gateway brings; room that nobody here wants is left to others."""
        if order.made_for and (
            not is_expected(self.fleets[gateway], order.made_for, order.node)
            or self.joined(gateway, order.made_for, order.node)
        ):
            self.tell(gateway, ev.UnloadFailed(model=order.model, node=order.node, reason="not wanted any more"))
            return
        self.free(gateway, order)
        if order.made_for and not is_expected(self.fleets[gateway], order.made_for, order.node):
            self.lease(gateway, order.made_for, order.node, 0.0)

    def free(self, gateway: int, order: Unload) -> None:
        there = self.truth[order.node].get(order.model)
        if there is None:
            self.tell(gateway, ev.Unloaded(node=order.node, model=order.model))
            return
        wish = {"spare_unused_s": order.spare_unused_s, "min_idle_s": order.min_idle_s}
        held = there.stay(self.now).holds(**wish, load_id=order.load_id)
        if held or there.in_flight or not there.ready:
            self.tell(gateway, ev.UnloadFailed(node=order.node, model=order.model, reason=held or "busy"))
            self.hear(gateway, order.node)
            return
        self.goes(gateway, there)
        if order.made_for is not None:
            self.makes_room(gateway, order.made_for, order.node)
        del self.truth[order.node][order.model]
        self.tell(gateway, ev.Unloaded(node=order.node, model=order.model, freed_mb=SIZES[order.model]))

    # -- the laws --

    def goes(self, gateway: int, there: Stayed) -> None:
        """Nothing goes that its evictor has not heard of on this very stay, nor what its askers have not used yet."""
        if there.load_id not in self.known[gateway]:
            self.broken.append(f"{gateway} has never heard of {there.load_id}, which it evicts")
        if not there.used and self.now - there.since < RESIDENCY_S:
            self.broken.append(f"{gateway} evicts {there.load_id} before its askers came")

    def makes_room(self, gateway: int, model: str, node: str) -> None:
        """Only one gateway makes room for a model. `cleared` tells for what room was made and is neither used nor left
        to others yet, by whom and when."""
        self.comes_alone(model)
        other, when = self.cleared.get(model, (gateway, 0.0))
        if other != gateway and self.now - when < LEASE_S:
            self.broken.append(f"{gateway} makes room for {model} on {node}, and so does {other}")
        self.cleared[model] = gateway, self.now

    def starts(self, model: str) -> None:
        self.comes_alone(model)
        self.cleared.pop(model, None)

    def comes_alone(self, model: str) -> None:
        """No model is loaded on two nodes, whatever the two have heard; within a lease there is time to hear of it."""
        loading = [here[model] for here in self.truth.values() if model in here and not here[model].ready]
        if any(self.now - other.since < LEASE_S for other in loading):
            self.broken.append(f"{model} is loading already")

    @invariant()
    def the_laws_hold(self) -> None:
        assert not getattr(self, "broken", [])
        for node, here in getattr(self, "truth", {}).items():
            assert sum(SIZES[model] for model in here) <= MEMORY[node]

    def teardown(self) -> None:
        """However it came here, once everybody hears of everything nobody waits for ever."""
        if not hasattr(self, "truth"):
            return
        for _ in range(SETTLES_IN):
            self.all_is_done()
            for gateway in BOTH:
                self.hear_all(gateway)
            if not any(fleet.waiting for fleet in self.fleets):
                break
            self.wait(1.0)
        self.the_laws_hold()
        assert [fleet.waiting for fleet in self.fleets] == [0, 0]

    def hear_all(self, gateway: int) -> None:
        for node in MEMORY:
            self.hear(gateway, node)


TestGateways = Gateways.TestCase
TestGateways.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_who_saw_a_model_on_an_earlier_stay_does_not_evict_it() -> None:
    world = Gateways()
    world.begin()
    for gateway in BOTH:
        world.tell(gateway, ev.Drained(node="n2", draining=True))
    world.ask(0, "a")
    world.all_is_done()
    world.hear_all(1)
    for model in ("b", "a"):
        world.wait(2.0)
        world.ask(1, model)
        world.all_is_done()
    world.ask(0, "b")
    world.obey(0)
    assert "a" in world.truth["n1"]
    world.wait(2.0)
    world.all_is_done()
    world.the_laws_hold()
    assert "b" in world.truth["n1"]


def test_room_is_made_for_a_model_on_one_node_though_each_gateway_would_lose_the_others_model() -> None:
    world = Gateways()
    world.begin()
    for gateway, model in enumerate(("a", "b")):
        world.ask(gateway, model)
        world.all_is_done()
        world.hear_all(0)
        world.hear_all(1)
    world.both_ask("d")
    assert len({order.node for _, order in world.orders}) == 2
    world.all_is_done()
    world.the_laws_hold()
    assert [model for here in world.truth.values() for model in here if model != "d"] in (["a"], ["b"])
    world.teardown()


def test_a_load_that_another_gateway_began_elsewhere_is_joined() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    ask = world.ask("a")
    chosen = world.loads[0].node
    other = "n2" if chosen == "n1" else "n1"
    world.tell(ev.Joined(model="a", node=chosen, at=other))
    assert world.fleet.free[chosen] == {0: 1000}
    assert world.fleet.places["a"][other].status is Status.LOADING
    world.tell(ev.Loaded(node=other, model="a", took_s=1.0))
    assert world.seated[ask].node == other


def test_a_load_that_is_joined_after_its_end_was_heard_of_seats_who_waits() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    ask = world.ask("a")
    other = "n2" if world.loads[0].node == "n1" else "n1"
    world.tell(ev.ModelSeen(node=other, model=control.Model(id="a", vram_used_mb=400)))
    world.tell(ev.Joined(model="a", node=world.loads[0].node, at=other))
    assert world.seated[ask].node == other
    assert world.fleet.free[other] == {0: 600}


@pytest.mark.parametrize(
    ("event", "joins"),
    [
        (ev.Ticked(), True),
        (ev.Drained(node="n2", draining=True), False),
        (ev.LoadFailed(node="n2", model="a", error="it broke"), False),
        (ev.LoadFailed(node="n2", model="a", error="no room", fields={"evictable": True}), True),
        (ev.Fitted(node="n2", model="a", refusal={"kind": "does_not_fit"}), False),
    ],
)
def test_nobody_joins_where_the_model_would_not_serve_him(event: ev.Event, joins: bool) -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    world.tell(event)
    assert may_join(world.fleet, "a", "n2", world.now) is joins


def test_a_node_that_only_the_other_gateway_knows_is_not_joined() -> None:
    world = World({"n1": 1000}, {"a": 400})
    assert not may_join(world.fleet, "a", "elsewhere", world.now)


def test_every_gateway_asks_the_same_nodes_whatever_it_calls_them() -> None:
    names = [f"n{number}" for number in range(6)]
    one = World(dict.fromkeys(names, 1000), {}).fleet
    theirs = dict(zip(names, reversed(names), strict=True))
    renamed = {theirs[name]: replace(node, name=theirs[name]) for name, node in one.nodes.items()}
    other = replace(one, nodes=renamed)
    for model in "abcdefgh":
        assert [theirs[name] for name in referees(one, model)] == referees(other, model)
    assert len({referees(one, model)[0] for model in "abcdefgh"}) > 1


def test_a_node_that_is_away_is_not_asked_and_one_node_alone_has_nothing_to_agree_on() -> None:
    world = World({"n1": 1000, "n2": 1000}, {})
    assert set(referees(world.fleet, "a")) == {"n1", "n2"}
    for _ in range(3):
        world.tell(ev.Missed(node="n1", reason="no answer"))
    assert referees(world.fleet, "a") == ["n2"]
    assert referees(World({"n1": 1000}, {}).fleet, "a") == []
