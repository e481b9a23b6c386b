"""A fleet played through by hand: what the planner asks for is queued; a test decides what comes of it, and when."""

from __future__ import annotations

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet, Status
from helexa.gateway.plan.instructions import Instruction, Load, Refuse, Seat, Unload
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
        self.tell(ev.Configured(profiles=found, eviction=eviction or Eviction(), nodes=tuple(memory)))
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
        health = control.Health(devices=[control.DeviceHealth(index=0, vram_used_mb=used)])
        self.tell(
            ev.Polled(
                node=node, health=health, models=models, discovery=control.Discovery(hostname=node, devices=[device])
            )
        )

    def tell(self, event: ev.Event) -> list[Instruction]:
        self.fleet, out = step(self.fleet, event, self.now)
        for one in out:
            self._take(one)
        return out

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
                self.seated[one.ask] = one
                self.open[one.ask] = one.node
            case Refuse():
                self._answered(one.ask)
                self.refused[one.ask] = one
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

    def check(self) -> None:
        """The laws that hold at every moment."""
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
