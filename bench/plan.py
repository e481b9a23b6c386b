"""What a decision of the planner costs: microseconds for each kind of event, on fleets of 10, 100 and 1,000 nodes.

The planner is driven alone, event after event, in one process, with the garbage collector as it comes; the time is what
its thread spent on a CPU. Two bars, both on medians: 50 us at 10 nodes and 200 us at 1,000. A refusal, whose answer
holds the arithmetic of up to 16 nodes, may take 1,000 us; for a crowd, where thirty models are planned in one
turn, the time is for each of them and has no bar.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.plan.instructions import Load, Refuse, Seat, Unload
from helexa.gateway.plan.step import step
from helexa.wire import control

MEMORY_MIB = (8_192, 12_288, 16_384, 24_576, 49_152, 81_920)
MODEL_MIB = (900, 1_500, 2_500, 4_500, 5_500, 8_500, 14_500, 20_000, 40_000)
MODELS = {10: 100, 100: 500, 1000: 2000}
BARS_US = {10: 50.0, 1000: 200.0}
REFUSAL_US = 1000.0
UNBOUNDED = ("crowded, each of 30 waiters",)
WAITERS = 30


@dataclass
class Rig:
    """A fleet in full swing, and the clock it lives by."""

    fleet: Fleet
    random: random.Random
    now: float = 1000.0
    asks: int = 0

    def tell(self, event: ev.Event) -> tuple[float, list[object]]:
        """(microseconds, instructions); the fleet moves on."""
        begun = time.thread_time_ns()
        self.fleet, out = step(self.fleet, event, self.now)
        return (time.thread_time_ns() - begun) / 1000, list(out)

    def arrived(self, model: str) -> ev.Arrived:
        self.asks += 1
        return ev.Arrived(ask=self.asks, model=model, affinity=f"session-{self.asks % 50}")


def build(nodes: int, seed: int) -> Rig:
    """`nodes` of 1 to 4 devices, full of models, a third of which have been in use lately."""
    rng = random.Random(seed)
    profiles = {f"m{i}": _profile(i, rng) for i in range(MODELS[nodes])}
    profiles["giant"] = Profile(id="giant", vram_mb=1_000_000)
    rig = Rig(Fleet(), rng)
    names = tuple(f"node-{i}" for i in range(nodes))
    rig.tell(ev.Configured(profiles=profiles, eviction=Eviction(), nodes=names))
    for name in names:
        rig.tell(_poll(rig, name, [rng.choice(MEMORY_MIB)] * rng.choice((1, 1, 2, 4))))
        fill(rig, name)
    return rig


def _profile(number: int, rng: random.Random) -> Profile:
    idle = 600.0 if number % 4 == 0 else None
    return Profile(id=f"m{number}", vram_mb=rng.choice(MODEL_MIB), idle_unload_s=idle, pinned=number % 97 == 1)


def _poll(rig: Rig, node: str, memory: list[int] | None = None, models: tuple[control.Model, ...] = ()) -> ev.Polled:
    found = None
    if memory is not None:
        devices = [control.Device(index=i, name="gpu", vram_total_mb=mib) for i, mib in enumerate(memory)]
        found = control.Discovery(hostname=node, devices=devices)
    return ev.Polled(node=node, health=control.Health(), models=models, discovery=found)


def fill(rig: Rig, node: str) -> None:
    """Load models until little is free on any device, or six are there."""
    for _ in range(30):
        if len(rig.fleet.residents.get(node, ())) == 6:
            return
        name = f"m{rig.random.randrange(len(rig.fleet.profiles) - 1)}"
        mib = rig.fleet.profiles[name].vram_mb or 0
        roomy = [device for device, free in rig.fleet.free[node].items() if free >= mib]
        if roomy and rig.fleet.place(name, node) is None:
            seen = control.Model(id=name, vram_used_mb=mib, devices=[roomy[0]])
            rig.tell(ev.ModelSeen(node=node, model=seen))


def report_of(rig: Rig, node: str) -> ev.Polled:
    """A poll that tells what is known already, as nearly every poll does."""
    models = tuple(
        control.Model(id=p.model, vram_used_mb=sum(p.shares.values()), devices=list(p.shares))
        for p in rig.fleet.on_node(node)
    )
    return _poll(rig, node, None, models)


# -- the scenarios: each yields the microseconds of one decision after another --


def warm(rig: Rig) -> Iterator[float]:
    """A request for a loaded model: its arrival and its end, together."""
    loaded = [model for model, there in rig.fleet.places.items() if any(p.ready for p in there.values())]
    while True:
        rig.now += 0.01
        model = rig.random.choice(loaded)
        first, out = rig.tell(rig.arrived(model))
        assert isinstance(out[0], Seat)
        last, _ = rig.tell(ev.Finished(model=model, node=out[0].node))
        yield first + last


def cold(rig: Rig) -> Iterator[float]:
    """The first request for a model that is nowhere: to a Load, or to the Unload of its victims. Undone afterwards."""
    nowhere = [model for model in rig.fleet.profiles if model not in rig.fleet.places and model != "giant"]
    start = rig.fleet
    while True:
        rig.fleet, rig.now = start, rig.now + 0.5
        took, out = rig.tell(rig.arrived(rig.random.choice(nowhere)))
        assert isinstance(out[0], Load | Unload)
        yield took


def refused(rig: Rig) -> Iterator[float]:
    """A model that can never fit: 422 with each node's arithmetic."""
    while True:
        took, out = rig.tell(rig.arrived("giant"))
        assert isinstance(out[0], Refuse)
        yield took


def crowded(rig: Rig) -> Iterator[float]:
    """Every model is busy and thirty others wait for room: a model's last request ends, and somebody may have it.

    The time is for each that waits.
    """
    for model, there in rig.fleet.places.items():
        for _ in there:
            rig.tell(rig.arrived(model))
    for number in range(20 * len(rig.fleet.nodes)):
        if len(rig.fleet.asks) == WAITERS:
            break
        name = f"late-{number}"
        profiles = {**rig.fleet.profiles, name: Profile(id=name, vram_mb=rig.random.choice(MODEL_MIB[-3:]))}
        rig.fleet = replace(rig.fleet, profiles=profiles)
        for order in rig.tell(rig.arrived(name))[1]:
            assert isinstance(order, Load)
            rig.tell(ev.Loaded(model=name, node=order.node, took_s=1.0))
    assert len(rig.fleet.asks) == WAITERS
    start, seated = rig.fleet, [p for there in rig.fleet.places.values() for p in there.values() if p.in_flight == 1]
    while True:
        rig.fleet, rig.now = start, rig.now + 0.01
        place = rig.random.choice(seated)
        yield rig.tell(ev.Finished(model=place.model, node=place.node))[0] / WAITERS


def ticked(rig: Rig) -> Iterator[float]:
    """The clock's own event, with nobody waiting."""
    while True:
        rig.now += 0.001
        yield rig.tell(ev.Ticked())[0]


def polled(rig: Rig) -> Iterator[float]:
    """A node's report that brings no news."""
    reports = [report_of(rig, node) for node in rig.random.sample(sorted(rig.fleet.nodes), 10)]
    while True:
        rig.now += 0.01
        yield rig.tell(rig.random.choice(reports))[0]


def busy(rig: Rig) -> Iterator[float]:
    """All of it at once: many warm requests, some cold, loads that end, waiters, polls, ticks. Each event counts."""
    names, flying, due = list(rig.fleet.profiles)[:-1], [], []
    weights = [1 / (rank + 1) for rank in range(len(names))]
    while True:
        rig.now += 0.02
        for event in _next_events(rig, names, weights, flying, due):
            took, out = rig.tell(event)
            yield took
            for one in out:
                if isinstance(one, Seat):
                    flying.append(one)
                elif isinstance(one, Load | Unload):
                    due.append(one)


def _next_events(rig: Rig, names: list[str], weights: list[float], flying: list, due: list) -> list[ev.Event]:
    dice = rig.random.random()
    events: list[ev.Event] = [rig.arrived(rig.random.choices(names, weights)[0])]
    if len(flying) > 20:
        seat = flying.pop(rig.random.randrange(len(flying)))
        events.append(ev.Finished(model=seat.model, node=seat.node))
    if len(due) > 5 or (due and dice < 0.5):
        order = due.pop(0)
        done = ev.Loaded if isinstance(order, Load) else ev.Unloaded
        extra = {"took_s": 3.0} if isinstance(order, Load) else {}
        events.append(done(node=order.node, model=order.model, **extra))
    if dice < 0.05:
        events.append(ev.Ticked())
    elif dice < 0.1:
        events.append(report_of(rig, rig.random.choice(list(rig.fleet.nodes))))
    return events


SCENARIOS: dict[str, Callable[[Rig], Iterator[float]]] = {
    "warm (arrive + finish)": warm,
    "cold (load or make room)": cold,
    "tick": ticked,
    "poll without news": polled,
    "busy mix, each event": busy,
    "crowded, each of 30 waiters": crowded,
    "refusal": refused,
}


def measure(nodes: int, scenario: str, seconds: float, seed: int) -> tuple[float, float]:
    """(median, p99) in microseconds."""
    takes: list[float] = []
    until = time.monotonic() + seconds
    for took in SCENARIOS[scenario](build(nodes, seed)):
        takes.append(took)
        if time.monotonic() > until and len(takes) > WAITERS:
            break
    takes = takes[len(takes) // 20 :]
    return statistics.median(takes), statistics.quantiles(takes, n=100)[98]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=sorted(MODELS), choices=sorted(MODELS))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each cell of the table")
    parser.add_argument("--quick", action="store_true", help="a quarter of a second for each cell")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    options = parser.parse_args()
    missed: list[str] = []
    print(f"{'us: median / p99':28}" + "".join(f"{f'{n} nodes, {MODELS[n]} models':>26}" for n in options.nodes))
    for scenario in (name for name in SCENARIOS if options.only in name):
        cells: list[str] = []
        for nodes in options.nodes:
            middle, worst = measure(nodes, scenario, 0.25 if options.quick else options.seconds, options.seed)
            cells.append(f"{middle:>15,.1f} /{worst:>9,.1f}")
            bar = REFUSAL_US if scenario == "refusal" else BARS_US.get(nodes)
            if bar and middle > bar and scenario not in UNBOUNDED:
                missed.append(f"{scenario} at {nodes} nodes: {middle:,.0f} us, the bar is {bar:,.0f}")
        print(f"{scenario:28}" + "".join(cells), flush=True)
    for line in missed:
        print("missed:", line)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
