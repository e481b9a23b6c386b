"""The simulation: a heap of things to come, the real `step`, and nodes that do what they are asked, sooner or later.

There is no HTTP and no waiting: the clock jumps from one event to the next.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.plan.instructions import Instruction, Load, Refuse, Seat, Unload
from helexa.gateway.plan.step import step
from helexa.testing.sim.oracle import seer
from helexa.testing.sim.scenario import Death, Request, Scenario, Trace
from helexa.wire import control

Strategy = Literal["lru", "priority", "cost", "informed", "belady"]
UNLOAD_S, TICK_S, POLL_S, MISSES, RETRIES = 0.3, 1.0, 60.0, 3, 2


@dataclass(slots=True)
class Tally:
    """What came of it. `waits_s` holds each served request's wait for its seat."""

    asked: int = 0
    served: int = 0
    cold: int = 0
    broken: int = 0
    gave_up: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    loads: int = 0
    loaded_mib: int = 0
    swaps: int = 0
    waits_s: list[float] = field(default_factory=list[float])


@dataclass(slots=True)
class _Open:
    """A request on its way: waiting while `node` is None."""

    request: Request
    tries: int = 0
    node: str | None = None


class Simulation:
    """One trace under one strategy. `run` plays it to its end."""

    def __init__(self, scenario: Scenario, trace: Trace, strategy: Strategy, eviction: Eviction | None = None) -> None:
        self.scenario, self.trace = scenario, trace
        self.now, self.fleet, self.tally = 0.0, Fleet(), Tally()
        self._seer = seer(strategy, trace)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._open: dict[int, _Open] = {}
        self._numbers = 0
        self._down: set[str] = set()
        self._boots = dict.fromkeys(trace.memory, 1)
        self._tries: dict[tuple[str, str], int] = {}
        self._begin(eviction or _eviction(strategy))

    def run(self) -> Tally:
        while self._due and self.now < self.scenario.lasts_s + 2 * self.scenario.max_wait_s:
            self.now, _, act = heapq.heappop(self._due)
            act()
        return self.tally

    def _begin(self, eviction: Eviction) -> None:
        profiles = {name: Profile(id=name, vram_mb=mib) for name, mib in self.trace.sizes.items()}
        nodes = tuple(self.trace.memory)
        self.tell(ev.Configured(profiles=profiles, eviction=eviction, nodes=nodes, max_queue=100_000))
        for number, node in enumerate(nodes):
            self._answer_poll(node)
            self._at(POLL_S * (1 + number / len(nodes)), lambda node=node: self._poll(node))
        for request in self.trace.requests:
            self._at(request.at, lambda request=request: self._arrive(request))
        for death in self.trace.deaths:
            self._at(death.at, lambda death=death: self._die(death))
        self._at(TICK_S, self._tick)

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._due, (when, self._numbers, act))

    def tell(self, event: ev.Event) -> None:
        """The dispatcher's part: one step, and its instructions handed out."""
        self.fleet, out = step(self.fleet, event, self.now)
        if self._seer is not None and isinstance(event, ev.Arrived | ev.Loaded):
            self.fleet = self._seer.tell(self.fleet, event.model, self.now)
        for one in out:
            self._take(one)

    def _take(self, one: Instruction) -> None:
        match one:
            case Seat():
                self._serve(one)
            case Load():
                self._load(one)
            case Unload():
                self.tally.swaps += one.reason == "evicted"
                done = ev.Unloaded(node=one.node, model=one.model)
                self._at(self.now + UNLOAD_S, lambda: self.tell(done))
            case Refuse():
                if self._open.pop(one.ask, None) is not None:
                    self.tally.refused[one.why] = self.tally.refused.get(one.why, 0) + 1
            case _:
                raise AssertionError(f"an instruction that nobody follows: {one}")

    # -- requests --

    def _arrive(self, request: Request) -> None:
        self.tally.asked += 1
        one = _Open(request=request)
        self._ask(one, frozenset())
        self.tally.cold += one.node is None

    def _ask(self, one: _Open, avoid: frozenset[str]) -> None:
        self._numbers += 1
        ask = self._numbers
        self._open[ask] = one
        self._at(one.request.at + self.scenario.max_wait_s, lambda: self._lose_patience(ask))
        self.tell(ev.Arrived(ask=ask, model=one.request.model, avoid=avoid))

    def _serve(self, seat: Seat) -> None:
        one = self._open[seat.ask]
        one.node = seat.node
        if seat.node in self._down:
            self._at(self.now, lambda: self._broken(seat, before_first_byte=True))
            return
        boot = self._boots[seat.node]
        self._at(self.now + one.request.serves_s, lambda: self._finish(seat, boot))

    def _finish(self, seat: Seat, boot: int) -> None:
        if self._boots[seat.node] != boot or seat.node in self._down:
            self._broken(seat, before_first_byte=False)
            return
        one = self._open.pop(seat.ask)
        self.tally.served += 1
        self.tally.waits_s.append(max(0.0, self.now - one.request.serves_s - one.request.at))
        self.tell(ev.Finished(model=seat.model, node=seat.node))

    def _broken(self, seat: Seat, *, before_first_byte: bool) -> None:
        """The node is gone: before the first byte the request is tried again elsewhere, later it is lost."""
        one = self._open.pop(seat.ask)
        self.tell(ev.Finished(model=seat.model, node=seat.node, transport_error=True))
        if before_first_byte and one.tries < RETRIES:
            self._ask(_Open(request=one.request, tries=one.tries + 1), frozenset({seat.node}))
        else:
            self.tally.broken += 1

    def _lose_patience(self, ask: int) -> None:
        one = self._open.get(ask)
        if one is not None and one.node is None:
            del self._open[ask]
            self.tally.gave_up += 1
            self.tell(ev.Left(ask=ask, model=one.request.model))

    # -- nodes --

    def _load(self, order: Load) -> None:
        count = self._tries[order.model, order.node] = self._tries.get((order.model, order.node), 0) + 1
        dice = random.Random(f"{self.scenario.seed}/{order.model}/{order.node}/{count}")
        mib = self.trace.sizes[order.model]
        took_s = 1 + self.scenario.load_s_per_gib * mib / 1024 * (5 if dice.random() < self.scenario.slow_loads else 1)
        fails = dice.random() < self.scenario.failed_loads
        boot = self._boots[order.node]
        self.tally.loads += 1
        self.tally.loaded_mib += mib
        self._at(self.now + took_s, lambda: self._load_ends(order, boot, took_s, fails=fails))

    def _load_ends(self, order: Load, boot: int, took_s: float, *, fails: bool) -> None:
        if order.node in self._down or self._boots[order.node] != boot:
            lost = ev.LoadFailed(node=order.node, model=order.model, error="connection lost", unreachable=True)
            if order.node in self._down:
                self.tell(lost)
        elif fails:
            self.tell(ev.LoadFailed(node=order.node, model=order.model, error="it broke"))
        else:
            self.tell(ev.Loaded(node=order.node, model=order.model, took_s=took_s))

    def _die(self, death: Death) -> None:
        self._down.add(death.node)
        self._boots[death.node] += 1
        self._at(death.back, lambda: self._return(death.node))
        for number in range(MISSES):
            self._at(self.now + 10.0 * (number + 1), lambda: self._miss(death.node))

    def _miss(self, node: str) -> None:
        if node in self._down:
            self.tell(ev.Missed(node=node, reason="no answer", limit=MISSES))

    def _return(self, node: str) -> None:
        self._down.discard(node)
        self._answer_poll(node, empty=True)

    def _poll(self, node: str) -> None:
        if node not in self._down:
            self._answer_poll(node)
        self._at(self.now + POLL_S, lambda: self._poll(node))

    def _answer_poll(self, node: str, *, empty: bool = False) -> None:
        devices = [control.Device(index=i, vram_total_mb=mib) for i, mib in enumerate(self.trace.memory[node])]
        models = (
            ()
            if empty
            else tuple(
                control.Model(
                    id=place.model,
                    status=str(place.status),
                    vram_used_mb=sum(place.shares.values()),
                    devices=list(place.shares),
                )
                for place in self.fleet.on_node(node)
            )
        )
        health = control.Health(boot_id=str(self._boots[node]))
        found = control.Discovery(hostname=node, devices=devices)
        self.tell(ev.Polled(node=node, health=health, models=models, discovery=found))

    def _tick(self) -> None:
        self.tell(ev.Ticked())
        self._at(self.now + TICK_S, self._tick)


def _eviction(strategy: Strategy) -> Eviction:
    if strategy in ("informed", "belady"):
        return Eviction(strategy="cost", min_residency_s=0.0)
    return Eviction(strategy=strategy)
