"""The planner's laws, for any order in which things may happen."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev

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
        self.world = World(nodes, needs, eviction=eviction, profiles=profiles)
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

    @rule(data=st.data(), drain=st.booleans())
    def the_operator_drains(self, data: st.DataObject, drain: bool) -> None:
        self.world.tell(ev.Drained(node=data.draw(st.sampled_from(sorted(self.world.memory))), draining=drain))

    @rule(data=st.data())
    def a_node_misses_a_poll(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.world.memory)))
        self.world.tell(ev.Missed(node=node, reason="no answer"))

    @rule(data=st.data())
    def a_node_answers_a_poll(self, data: st.DataObject) -> None:
        self.world.see(data.draw(st.sampled_from(sorted(self.world.memory))))

    @invariant()
    def the_laws_hold(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

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
