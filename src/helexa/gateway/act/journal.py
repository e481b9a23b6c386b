"""What was decided, and why: of the last requests, to be asked for by their `x-cortex-decision`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

from helexa.base.clock import Clock
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.meter import Journey
from helexa.gateway.plan.instructions import Appraisal, Instruction, Load, Refuse, Seat, Unload
from helexa.gateway.plan.place import candidates
from helexa.gateway.plan.wait import reason

KEPT = 4096
"""Requests that the planner was asked about."""
RECENT = 1024
"""Those that found their model warm: fewer, because each is memory and there is little to tell of one."""


class Entry:
    """One request's way to its seat. Times are seconds since it arrived; `actions` maps what was done to when it was
    first and last, and how often."""

    __slots__ = ("actions", "appraisals", "began", "decision", "model", "node", "nodes", "outcome", "waited_s", "wall")

    def __init__(self, decision: str, model: str, began: float, wall: float) -> None:
        self.decision = decision
        self.model = model
        self.began = began
        self.wall = wall
        self.outcome = "waiting"
        self.node: str | None = None
        self.waited_s: float | None = None
        self.actions: dict[str, tuple[float, float, int]] = {}
        self.appraisals: dict[str, Appraisal] = {}
        self.nodes = 0

    def did(self, what: str, now: float) -> None:
        after = now - self.began
        first, _, times = self.actions.get(what, (after, after, 0))
        self.actions[what] = first, after, times + 1

    def weighed(self, found: Iterable[Appraisal]) -> None:
        """Nodes were weighed, perhaps again: the last word on each is kept."""
        self.appraisals = self.appraisals | {one.node: one for one in found}


class Journal:
    """Watches the dispatcher. `fleet()` is the fleet after what it is told of."""

    def __init__(self, clock: Clock, fleet: Callable[[], Fleet]) -> None:
        self._clock = clock
        self._fleet = fleet
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._open: dict[str, dict[int, Entry]] = {}
        """Of those who wait: model -> ask -> entry."""
        self._recent: deque[Journey] = deque(maxlen=RECENT)
        self.note = self._recent.append
        """To be told of each request as it begins: most are seated at once, and no more is to be said of them."""

    def watch(self, event: ev.Event, out: list[Instruction]) -> None:
        now = self._clock.now()
        if isinstance(event, ev.Arrived):
            self._begin(event, now)
        elif isinstance(event, ev.Left):
            outcome = "refused: `max_wait_s` was over before it had a place" if event.in_vain else "the client left"
            self._end(event.model, event.ask, now, outcome, None)
        elif isinstance(event, ev.LoadFailed):
            self._tell(event.model, now, f"the load on {event.node} failed: {event.error}")
        elif isinstance(event, ev.Joined):
            self._tell(event.model, now, f"join the load that another gateway began on {event.at}")
        elif isinstance(event, ev.Overdue):
            self._tell(event.model, now, f"{event.node} says that another gateway brings it, but nothing comes: go on")
        elif isinstance(event, ev.ModelSeen) and event.model.loading is not None and event.model.loading.behind:
            self._tell(event.model.id, now, f"its load on {event.node} is queued behind {event.model.loading.behind}")
        for one in out:
            self._note(one, now)
        if isinstance(event, ev.Arrived):
            self._note_wait(event, now)

    def find(self, decision: str) -> dict[str, Any] | None:
        """What is known of a decision, as the operator API shows it."""
        found = self._entries.get(decision) or self._quick(decision)
        return None if found is None else told(found)

    def _quick(self, decision: str) -> Entry | None:
        """A request that the planner was not asked about."""
        journey = next((journey for journey in self._recent if journey.decision == decision), None)
        if journey is None:
            return None
        wall = self._clock.wall() - (self._clock.now() - journey.began)
        entry = Entry(decision, journey.model or journey.asked, journey.began, wall)
        if journey.seated is not None:
            entry.outcome, entry.node, entry.waited_s = "seated", journey.node, journey.seated - journey.began
        elif journey.refused:
            entry.outcome = f"refused: {journey.refused}"
        return entry

    def _keep(self, decision: str, entry: Entry) -> None:
        self._entries[decision] = entry
        if len(self._entries) > KEPT:
            self._entries.popitem(last=False)

    def _begin(self, event: ev.Arrived, now: float) -> None:
        entry = self._entries.get(event.decision)  # a retry goes on with its first entry
        if entry is None:
            entry = Entry(event.decision, event.model, now, self._clock.wall())
            self._keep(event.decision, entry)
        if event.trouble:
            elsewhere = f", not on {', '.join(sorted(event.avoid))}" if event.avoid else ""
            entry.did(f"tried again{elsewhere}: {event.trouble}", now)
        self._open.setdefault(event.model, {})[event.ask] = entry

    def _note_wait(self, event: ev.Arrived, now: float) -> None:
        """Nothing was done for a request, and it is not answered: what does it wait for? What was weighed for the first
        of those who wait holds for all."""
        waiting = self._open.get(event.model, {})
        entry = waiting.get(event.ask)
        if entry is None or (entry.actions and not event.trouble):
            return
        fleet = self._fleet()
        entry.did(f"wait for {reason(fleet, event.model, now)}", now)
        first = next(iter(waiting.values()))
        if first is entry:
            first.weighed(candidates(fleet, event.model, now))
            first.nodes = len(fleet.nodes)
        entry.appraisals, entry.nodes = first.appraisals, first.nodes

    def _note(self, one: Instruction, now: float) -> None:
        if isinstance(one, Seat):
            self._end(one.model, one.ask, now, "seated", one.node)
        elif isinstance(one, Refuse):
            entry = self._end(one.model, one.ask, now, f"refused: {one.message}", None)
            if entry is not None:
                entry.weighed(one.appraisals)
                entry.nodes = one.nodes
        elif isinstance(one, Load):
            self._tell(one.model, now, f"load on {one.node}")
            for entry in self._waiting(one.model):
                entry.weighed(one.appraisals)
                entry.nodes = one.nodes
        elif isinstance(one, Unload) and one.made_for is not None:
            self._tell(one.made_for, now, f"evict {one.model} from {one.node}")
            for entry in self._waiting(one.made_for):
                entry.weighed(one.appraisals)

    def _tell(self, model: str, now: float, what: str) -> None:
        """Something was done for everybody who waits for the model."""
        for entry in self._waiting(model):
            entry.did(what, now)

    def _waiting(self, model: str) -> list[Entry]:
        return list(self._open.get(model, {}).values())

    def _end(self, model: str, ask: int, now: float, outcome: str, node: str | None) -> Entry | None:
        waiting = self._open.get(model, {})
        entry = waiting.pop(ask, None)
        if not waiting:
            self._open.pop(model, None)
        if entry is not None:
            entry.outcome, entry.node, entry.waited_s = outcome, node, now - entry.began
        return entry


def told(entry: Entry) -> dict[str, Any]:
    """An entry as the operator API shows it."""
    return {
        "decision": entry.decision,
        "model": entry.model,
        "at": entry.wall,
        "outcome": entry.outcome,
        "node": entry.node,
        "waited_s": None if entry.waited_s is None else round(entry.waited_s, 4),
        "actions": [_action(what, *when) for what, when in entry.actions.items()],
        "candidates": [found.told() for found in entry.appraisals.values()],
        "not_weighed": max(0, entry.nodes - len(entry.appraisals)),
    }


def _action(what: str, first: float, last: float, times: int) -> dict[str, Any]:
    again = {"times": times, "last_s": round(last, 3)} if times > 1 else {}
    return {"after_s": round(first, 3), "what": what, **again}
