"""The planner's laws, for any order in which things may happen."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.plan.instructions import Verdict
from helexa.gateway.plan.place import MOST, appraise, candidates
from helexa.wire import control

from .world import World

MODELS = ("a", "b", "c", "d", "giant")


class Laws(RuleBasedStateMachine):
    """Two or three nodes, models that crowd each other, and anything that may happen to them."""

    @initialize(
        strategy=st.sampled_from(["lru", "priority", "cost"]),
        memory=st.lists(st.integers(500, 2000), min_size=1, max_size=3),
        sizes=st.lists(st.integers(100, 1500), min_size=4, max_size=4),
        ranks=st.lists(st.sampled_from([50, 100, 100, 200]), min_size=4, max_size=4),
        pinned=st.sampled_from(["", "", "a", "b"]),
    )
    def begin(self, strategy: str, memory: list[int], sizes: list[int], ranks: list[int], pinned: str) -> None:
        needs = {**dict(zip(MODELS, sizes, strict=False)), "giant": 9000}
        profiles = {
            name: Profile(id=name, vram_mb=size, residency_priority=rank, pinned=name == pinned)
            for (name, size), rank in zip(needs.items(), [*ranks, 100], strict=True)
        }
        eviction = Eviction(strategy=strategy, min_residency_s=5.0, patience_s=10.0)  # type: ignore[arg-type]
        nodes = {f"n{i}": size for i, size in enumerate(memory)}
        self.world = World(nodes, needs, eviction=eviction, profiles=profiles, restart_s=8.0)
        self.waiting: dict[int, str] = {}

    @rule(model=st.sampled_from(MODELS), affinity=st.sampled_from([None, "s1", "s2"]))
    def a_request_arrives(self, model: str, affinity: str | None) -> None:
        self.waiting[self.world.ask(model, affinity=affinity)] = model

    @precondition(lambda self: self.world.open)
    @rule(data=st.data(), broken=st.booleans())
    def a_request_ends(self, data: st.DataObject, broken: bool) -> None:
        self.world.finish(data.draw(st.sampled_from(sorted(self.world.open))), transport_error=broken)

    @precondition(lambda self: self.world.fleet.waiting)
    @rule(data=st.data())
    def a_waiter_leaves(self, data: st.DataObject) -> None:
        asks = sorted((ask.id, model) for model, asks in self.world.fleet.asks.items() for ask in asks.values())
        self.world.leave(*data.draw(st.sampled_from(asks)))

    @precondition(lambda self: self.world.loads)
    @rule(data=st.data())
    def a_load_ends(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.world.loads) - 1))
        if data.draw(st.sampled_from([True, True, True, False])):
            self.world.load_done(index)
        else:
            self.world.load_fails(index)

    @precondition(lambda self: self.world.unloads)
    @rule(data=st.data())
    def an_unload_ends(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.world.unloads) - 1))
        if data.draw(st.sampled_from([True, True, True, False])):
            self.world.unload_done(index)
        else:
            self.world.unload_refused(index)

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(data=st.data(), model=st.sampled_from(MODELS), speed=st.sampled_from([5.0, 50.0]))
    def streams_have_shown_a_speed(self, data: st.DataObject, model: str, speed: float) -> None:
        node = data.draw(st.sampled_from(sorted(self.world.memory)))
        self.world.tell(ev.Ticked(speeds={(model, node): (1, speed)}))

    @rule(data=st.data(), drain=st.booleans())
    def the_operator_drains(self, data: st.DataObject, drain: bool) -> None:
        self.world.tell(ev.Drained(node=data.draw(st.sampled_from(sorted(self.world.memory))), draining=drain))

    @rule(data=st.data())
    def a_node_misses_a_poll(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.world.memory)))
        self.world.tell(ev.Missed(node=node, reason="no answer"))

    @rule(data=st.data())
    def a_node_turns_a_request_away(self, data: st.DataObject) -> None:
        self.world.tell(ev.Leaving(node=data.draw(st.sampled_from(sorted(self.world.memory)))))

    @rule(data=st.data())
    def a_node_answers_a_poll(self, data: st.DataObject) -> None:
        self.world.see(data.draw(st.sampled_from(sorted(self.world.memory))))

    @invariant()
    def the_laws_hold(self) -> None:
        if hasattr(self, "world"):
            self.world.check()
            for model in MODELS:
                self.world.check_shortlist(model)

    def teardown(self) -> None:
        """However it came here, once the world settles every asker has had exactly one answer."""
        if not hasattr(self, "world"):
            return
        for node in self.world.memory:
            self.world.tell(ev.Drained(node=node, draining=False))
            self.world.see(node)
        self.world.settle()
        for ask in self.waiting:
            answered = (ask in self.world.seated) + (ask in self.world.refused) + (ask in self.world.left)
            assert answered == 1, f"ask {ask} for {self.waiting[ask]} was answered {answered} times"


Laws.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, print_blob=True)
TestLaws = Laws.TestCase


@given(
    strategy=st.sampled_from(["lru", "priority", "cost"]),
    sizes=st.tuples(st.integers(501, 1000), st.integers(501, 1000)),
    turns=st.lists(st.sampled_from(["a", "b"]), min_size=2, max_size=8),
    pause=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_two_models_of_equal_rank_displace_each_other_both_ways(
    strategy: str, sizes: tuple[int, int], turns: list[str], pause: float
) -> None:
    world = World({"n1": 1000}, dict(zip("ab", sizes, strict=True)), eviction=Eviction(strategy=strategy))  # type: ignore[arg-type]
    for model in turns:
        ask = world.ask(model)
        world.settle()
        assert world.seated[ask].model == model
        world.wait(pause)
    changes = sum(one != other for one, other in pairwise(turns))
    assert len(world.evicted) == changes


@given(
    kinds=st.lists(
        st.sampled_from(["small", "full", "busy", "idle", "away", "leaving", "failed"]), min_size=1, max_size=3 * MOST
    )
)
def test_however_large_the_fleet_the_best_verdict_is_among_those_that_are_weighed(kinds: list[str]) -> None:
    world = World(
        {f"n{i}": 100 if kind == "small" else 1000 for i, kind in enumerate(kinds)}, {"a": 900}, restart_s=9.0
    )
    for i, kind in enumerate(kinds):
        node, other = f"n{i}", f"m{i}"
        if kind in ("full", "busy", "idle"):
            seen = control.Model(id=other, vram_used_mb=500)
            world.tell(ev.ModelSeen(node=node, model=seen))
        if kind == "full":
            world.tell(ev.Pinned(model=other, node=node, pinned=True))
        if kind == "busy":
            world.ask(other)
        if kind == "failed":
            world.tell(ev.LoadFailed(node=node, model="a", error="it broke"))
        if kind == "leaving":
            world.tell(ev.Leaving(node=node))
        if kind == "away":
            world.tell(ev.Drained(node=node, draining=True))
    whole = [appraise(world.fleet, "a", node, world.now) for node in world.fleet.nodes.values()]
    weighed = candidates(world.fleet, "a", world.now)
    assert weighed[0].verdict is min((one.verdict for one in whole), key=list(Verdict).index)
    assert len(weighed) == min(MOST, len(kinds))


Seen = tuple[str, int, int, bool]


@given(
    nodes=st.lists(st.lists(st.integers(100, 3000), min_size=1, max_size=3), min_size=1, max_size=8),
    there=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(50, 900), st.booleans()), max_size=24),
    size=st.integers(50, 4000),
    devices=st.integers(1, 2),
    waited=st.sampled_from([0.0, 100.0]),
)
def test_the_indexes_find_a_node_whenever_weighing_all_of_them_does(
    nodes: list[list[int]], there: list[Seen], size: int, devices: int, waited: float
) -> None:
    """On fleets of several devices a node, some models busy: the shortlist is never worse than the whole list."""
    profiles = {f"m{i}": Profile(id=f"m{i}", vram_mb=mib) for i, (_, _, mib, _) in enumerate(there)}
    profiles["new"] = Profile(id="new", vram_mb=size, min_devices=devices)
    world = World({f"n{i}": sum(memory) for i, memory in enumerate(nodes)}, {}, profiles=profiles)
    for i, memory in enumerate(nodes):
        seen = [control.Device(index=k, vram_total_mb=mib) for k, mib in enumerate(memory)]
        discovery = control.Discovery(hostname=f"n{i}", devices=seen)
        world.tell(ev.Polled(node=f"n{i}", health=control.Health(), models=(), discovery=discovery))
    for i, (at, device, mib, busy) in enumerate(there):
        node, on = f"n{at % len(nodes)}", device % len(nodes[at % len(nodes)])
        if world.fleet.free[node][on] >= mib:
            world.tell(ev.ModelSeen(node=node, model=control.Model(id=f"m{i}", vram_used_mb=mib, devices=[on])))
            if busy:
                world.ask(f"m{i}")
    world.now += waited
    world.check_shortlist("new")
