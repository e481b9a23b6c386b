"""What was decided, and why: of the last requests, to be asked for by their `x-cortex-decision`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

from helexa.base.clock import Clock
from helexa.gateway.fleet import events as ev
from helexa.gateway.meter import Journey
from helexa.gateway.plan.instructions import Appraisal, Instruction, Load, Refuse, Seat, Unload

KEPT = 4096
"""Requests that the planner was asked about."""
RECENT = 1024
"""Those that found their model warm: fewer, because each is memory and there is little to tell of one."""


class Entry:
    """One request's way to its seat. Times are seconds since it arrived."""

    __slots__ = ("actions", "appraisals", "began", "decision", "model", "node", "nodes", "outcome", "waited_s", "wall")

    def __init__(self, decision: str, model: str, began: float, wall: float) -> None:
        self.decision = decision
        self.model = model
        self.began = began
        self.wall = wall
        self.outcome = "waiting"
        self.node: str | None = None
        self.waited_s: float | None = None
        self.actions: list[tuple[float, str]] = []
        self.appraisals: dict[str, Appraisal] = {}
        self.nodes = 0

    def weighed(self, found: Iterable[Appraisal]) -> None:
        """Nodes were weighed, perhaps again: the last word on each is kept."""
        self.appraisals |= {one.node: one for one in found}


class Journal:
    """Watches the dispatcher."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._open: dict[int, Entry] = {}
        self._recent: deque[Journey] = deque(maxlen=RECENT)
        self.note = self._recent.append
        """To be told of each request as it begins: most are seated at once, and no more is to be said of them."""

    def watch(self, event: ev.Event, out: list[Instruction]) -> None:
        now = self._clock.now()
        if isinstance(event, ev.Arrived):
            self._begin(event, now)
        elif isinstance(event, ev.Left):
            self._end(event.ask, now, "left", None)
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

    def find(self, decision: str) -> dict[str, Any] | None:
        """What is known of a decision, as the operator API shows it."""
        found = self._entries.get(decision) or self._quick(decision)
        return None if found is None else told(found)

    def _quick(self, decision: str) -> Entry | None:
        """A request that the planner was not asked about."""
        journey = next((journey for journey in self._recent if journey.decision == decision), None)
        if journey is None:
            return None
        entry = Entry(decision, journey.model, journey.began, self._clock.wall() - (self._clock.now() - journey.began))
        if journey.seated is not None:
            entry.outcome, entry.node, entry.waited_s = "seated", journey.node, journey.seated - journey.began
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
        if event.avoid:
            entry.actions.append((now - entry.began, f"tried again, not on {', '.join(sorted(event.avoid))}"))
        self._open[event.ask] = entry

    def _note(self, one: Instruction, now: float) -> None:
        if isinstance(one, Seat):
            self._end(one.ask, now, "seated", one.node)
        elif isinstance(one, Refuse):
            entry = self._end(one.ask, now, f"refused: {one.message}", None)
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
            entry.actions.append((now - entry.began, what))

    def _waiting(self, model: str) -> list[Entry]:
        return [entry for entry in self._open.values() if entry.model == model]

    def _end(self, ask: int, now: float, outcome: str, node: str | None) -> Entry | None:
        entry = self._open.pop(ask, None)
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
        "actions": [{"after_s": round(after, 3), "what": what} for after, what in entry.actions],
        "candidates": [found.told() for found in entry.appraisals.values()],
        "not_weighed": max(0, entry.nodes - len(entry.appraisals)),
    }
