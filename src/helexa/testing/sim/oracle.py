"""What to compare with: the same planner, told by its habits what the future holds, or how popular each model is.

Belady's rule evicts the page whose next use is farthest. It is optimal for pages of one size in one memory. Here models
have sizes and nodes are apart, and the true optimum is a packing problem that nobody can solve for a day of traffic. So
"belady" is this: among the idle models of the fleet the one whose next request is farthest goes first, until a node
has the room; of the nodes this leads to, the one whose victims are needed last and are fewest is taken. All else (what
is busy, how long a load takes, who waits) is as for the other strategies, but minimum residency does not bind it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

from helexa.gateway.fleet.habits import with_habit
from helexa.gateway.fleet.model import Fleet, Habit
from helexa.testing.sim.scenario import Request, Trace


class Seer(Protocol):
    """Knows more of the trace than a gateway does."""

    def tell(self, fleet: Fleet, model: str, now: float) -> Fleet:
        """Put what is known of the model where the planner looks for its past."""
        ...


class Oracle:
    """Knows when each model is asked for next."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)
        for request in requests:
            self._times[request.model].append(request.at)

    def next_use(self, model: str, now: float) -> float:
        times = self._times.get(model, [])
        at = bisect_right(times, now)
        return times[at] if at < len(times) else math.inf

    def tell(self, fleet: Fleet, model: str, now: float) -> Fleet:
        """`at` is infinite, so the rate does not decay; 1 / next use orders models as their next uses do."""
        after = self.next_use(model, now)
        known = (-after, 0.0, model)
        return with_habit(fleet, model, Habit(rate=1 / (1 + after), at=math.inf, load_s=1.0, worth=known))


class Informed:
    """Knows the rate at which each model is asked for at present."""

    def __init__(self, trace: Trace) -> None:
        self._sizes = trace.sizes
        self._from = [at for at, _ in trace.popularity]
        self._rates = [rates for _, rates in trace.popularity]

    def tell(self, fleet: Fleet, model: str, now: float) -> Fleet:
        rate = self._rates[bisect_right(self._from, now) - 1][model]
        known = (rate / self._sizes[model], 0.0, model)
        return with_habit(fleet, model, Habit(rate=rate, at=math.inf, load_s=1.0, worth=known))


def seer(name: str, trace: Trace) -> Seer | None:
    """The one that goes with a strategy's name, if it needs one."""
    if name == "belady":
        return Oracle(trace.requests)
    return Informed(trace) if name == "informed" else None
