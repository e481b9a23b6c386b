"""A fleet played through by hand: what the planner asks for is queued; a test decides what comes of it, and when."""

from __future__ import annotations

import msgspec

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.fold import fold
from helexa.gateway.fleet.habits import worth
from helexa.gateway.fleet.model import Fleet, Place, Status
from helexa.gateway.plan.evict import AtRest, rank
from helexa.gateway.plan.instructions import Forgo, Instruction, Load, Refuse, Seat, Unload, Verdict
from helexa.gateway.plan.place import candidates, need, shortlist
from helexa.gateway.plan.step import step
from helexa.wire import control


class World:
    """Nodes with one device of `memory[node]` MiB each, models of `sizes[model]` MiB."""

    def __init__(
        self,
        memory: dict[str, int],
        sizes: dict[str, int],
        *,
        eviction: Eviction | None = None,
        profiles: dict[str, Profile] | None = None,
        restart_s: float = 0.0,
    ) -> None:
        self.memory, self.sizes, self.now = memory, sizes, 0.0
        self.fleet = Fleet()
        self.loads: list[Load] = []
        self.unloads: list[Unload] = []
        self.seated: dict[int, Seat] = {}
        self.refused: dict[int, Refuse] = {}
        self.open: dict[int, str] = {}
        self.left: set[int] = set()
        self.evicted: list[Unload] = []
        self._numbers = 0
        found = profiles or {name: Profile(id=name, vram_mb=size) for name, size in sizes.items()}
        self.tell(
            ev.Configured(profiles=found, eviction=eviction or Eviction(), nodes=tuple(memory), restart_s=restart_s)
        )
        for node in memory:
            self.see(node)

    def see(self, node: str) -> None:
        """The node answers a poll, with what the planner believes is there."""
        models = tuple(
            control.Model(
                id=place.model, status=str(place.status), vram_used_mb=sum(place.shares.values()), devices=[0]
            )
            for place in self.fleet.on_node(node)
        )
        device = control.Device(index=0, name="gpu", vram_total_mb=self.memory[node])
        used = sum(model.vram_used_mb or 0 for model in models)
        health = control.Health(devices=[control.DeviceHealth(index=0, vram_used_mb=used)], boot_id=f"boot-{node}")
        self.tell(
            ev.Polled(
                node=node, health=health, models=models, discovery=control.Discovery(hostname=node, devices=[device])
            )
        )

    def tell(self, event: ev.Event) -> list[Instruction]:
        before, image = self.fleet, msgspec.msgpack.encode(self.fleet)
        foreseen = step(before, event, self.now)
        self.fleet, out = step(before, event, self.now)
        assert foreseen == (self.fleet, out), "the dry run said something else than what then happened"
        assert msgspec.msgpack.encode(before) == image, "a step changed the fleet it was given"
        known = fold(before, event, self.now)
        for one in out:
            if isinstance(one, Unload) and one.reason == "evicted":
                self._no_needless_swap(known, before, one)
            self._take(one)
        return out

    def _no_needless_swap(self, known: Fleet, before: Fleet, order: Unload) -> None:
        """A model inside its residency goes only when no other victim would do, on this node or on another."""
        victim, incoming = known.place(order.model, order.node), order.made_for
        if victim is None or incoming is None or not self._is_fresh(victim) or order.node in before.clearing:
            return
        taken = {n for n, m in self.fleet.clearing.items() if m != incoming}
        taken |= {p.node for there in self.fleet.places.values() for p in there.values() if p.since == self.now}
        needed, _ = need(known, incoming, order.node)
        for node in known.nodes.values():
            failure = known.failure(incoming, node.name)
            shut = failure is not None and self.now < failure.until
            if shut or not node.open(self.now) or (node.name in taken and node.name != order.node):
                continue
            others = [p for p in known.on_node(node.name) if self._could_go(known, p, incoming)]
            here = self.fleet.on_node(node.name)
            placed = sum(p.shares.get(0, 0) for p in here if known.place(p.model, node.name) is None)
            room = known.free[node.name][0] - placed + sum(p.shares.get(0, 0) for p in others)
            assert room < needed, f"{order} is fresh, but on {node.name} others would have done"

    def _is_fresh(self, place: Place) -> bool:
        return self.now - place.since < self.fleet.eviction.min_residency_s

    def _could_go(self, known: Fleet, place: Place, incoming: str) -> bool:
        resting = place.status is Status.LOADED and place.in_flight == 0 and self.now >= place.kept_until
        lower = rank(known, place.model) <= rank(known, incoming)
        return resting and lower and not place.pinned and not self._is_fresh(place)

    def _take(self, one: Instruction) -> None:
        match one:
            case Load():
                self.loads.append(one)
            case Unload():
                place = self.fleet.place(one.model, one.node)
                assert place is None or place.in_flight == 0 or one.reason == "operator", "a busy model was evicted"
                assert place is None or not place.pinned or one.reason == "operator", "a pinned model was evicted"
                self.unloads.append(one)
                self.evicted.append(one)
            case Seat():
                self._answered(one.ask)
                older = [a for a in self.fleet.asks.get(one.model, {}).values() if a.id < one.ask and not a.avoid]
                assert not older, "a request was seated before one that came earlier"
                self.seated[one.ask] = one
                self.open[one.ask] = one.node
            case Refuse():
                self._answered(one.ask)
                self.refused[one.ask] = one
            case Forgo():
                assert one.model not in self.fleet.wanted, "it is wanted still"
            case _:
                raise AssertionError(f"nobody expects {one}")

    def _answered(self, ask: int) -> None:
        assert ask not in self.seated, "an ask was answered twice"
        assert ask not in self.refused, "an ask was answered twice"
        assert ask not in self.left, "an ask was answered after its client had left"

    def ask(self, model: str, **more: object) -> int:
        self._numbers += 1
        self.tell(ev.Arrived(ask=self._numbers, model=model, **more))  # type: ignore[arg-type]
        return self._numbers

    def leave(self, ask: int, model: str) -> None:
        self.left.add(ask)
        self.tell(ev.Left(ask=ask, model=model))

    def finish(self, ask: int, *, transport_error: bool = False) -> None:
        seat = self.seated[ask]
        del self.open[ask]
        self.tell(ev.Finished(model=seat.model, node=seat.node, transport_error=transport_error))

    def load_done(self, index: int = 0, *, took_s: float = 1.0) -> None:
        order = self.loads.pop(index)
        self.now += took_s
        self.tell(ev.Loaded(node=order.node, model=order.model, took_s=took_s))

    def load_fails(self, index: int = 0, *, status: int = 503, **fields: object) -> None:
        order = self.loads.pop(index)
        self.tell(
            ev.LoadFailed(node=order.node, model=order.model, error="it broke", status=status, fields=dict(fields))
        )

    def unload_done(self, index: int = 0) -> None:
        order = self.unloads.pop(index)
        self.tell(ev.Unloaded(node=order.node, model=order.model))

    def unload_refused(self, index: int = 0) -> None:
        order = self.unloads.pop(index)
        self.tell(ev.UnloadFailed(node=order.node, model=order.model, reason="busy"))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tell(ev.Ticked())

    def settle(self) -> None:
        """Let everything come to its end: loads and unloads succeed, requests finish, time passes."""
        for _ in range(1000):
            if self.unloads:
                self.unload_done()
            elif self.loads:
                self.load_done()
            elif self.open:
                self.finish(next(iter(self.open)))
            elif self.fleet.waiting:
                self.wait(5.0)
            else:
                return
        raise AssertionError(f"the world does not settle: {self.fleet}, {self.fleet.asks}")

    def status(self, model: str, node: str) -> Status | None:
        place = self.fleet.place(model, node)
        return place.status if place else None

    def _check_indexes(self) -> None:
        fleet = self.fleet
        assert fleet.ranking == sorted(worth(fleet, model) for model in fleet.places), "the ranking lies"
        roomiest = sorted((-max(free.values(), default=0), node) for node, free in fleet.free.items())
        assert fleet.roomy == roomiest, "the index of roomy nodes lies"
        doors = {p.node for there in fleet.places.values() for p in there.values() if p.closing}
        assert doors <= set(fleet.clearing), "a door is closed where no room is being made"

    def check_shortlist(self, model: str) -> None:
        """What the indexes point at is no worse a verdict than weighing every node. Room that is only leaving is in
        none of them: where they point at nothing every node is weighed."""
        there = self.fleet.places.get(model, {})
        full = [one for one in candidates(self.fleet, model, self.now) if one.node not in there]
        best = full[0].verdict if full else None
        short = shortlist(self.fleet, model, self.now, {}, AtRest(self.fleet))
        leaves = best is Verdict.EVICT and not full[0].victims
        if short or (best in (Verdict.FITS, Verdict.EVICT) and not leaves):
            assert short, f"{model}: nothing instead of {full}"
            assert short[0].verdict is best, f"{model}: {short} instead of {full}"

    def check(self) -> None:
        """The laws that hold at every moment."""
        self._check_indexes()
        for node, total in self.memory.items():
            places = self.fleet.on_node(node)
            held = sum(sum(place.shares.values()) for place in places)
            assert held <= total, f"{node} holds {held} of {total} MiB"
            assert self.fleet.free[node][0] == total - held, "the index of free memory lies"
            assert all(place.in_flight >= 0 for place in places), "a seat count below zero"
        for model, there in self.fleet.places.items():
            for node, place in there.items():
                flying = sum(1 for ask, at in self.open.items() if at == node and self.seated[ask].model == model)
                assert place.in_flight == flying, "seats and requests in flight disagree"
