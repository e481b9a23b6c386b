"""The two moments of a request on a warm model, without the ceremony: most of all decisions, each on its path.

A `Ledger` answers what `step` would answer to `Arrived` and `Finished` where nobody waits, or None where `step` has to
think: that the two agree is a law that is tested. What it did is in its rows until the fleet is brought up to date with
them, before anything else is decided; so a request costs two additions, and not two fleets.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from helexa.gateway.fleet.model import Fleet, Place
from helexa.gateway.plan.place import best_of


class _Row:
    """What happened at one place: seats taken less seats left, requests, and when the last of either was."""

    __slots__ = ("at", "seats", "uses")

    def __init__(self) -> None:
        self.seats = 0
        self.uses = 0
        self.at = 0.0


Affinity = Callable[[], str | None]
_NO_ROWS: dict[str, _Row] = {}
_NO_ROW = _Row()


class Ledger:
    """Seats taken and left on warm models since the fleet was last brought up to date."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, _Row]] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def take(self, fleet: Fleet, model: str, affinity: Affinity, now: float) -> str | None:
        """A seat at `model`: its node; None when it is not ready anywhere or somebody waits for it.

        `affinity()` is the session's key, which is only looked for where there is a choice.
        """
        there = fleet.places.get(model)
        if there is None or model in fleet.asks:
            return None
        ready: list[Place] = []
        for node, place in there.items():
            if place.ready and fleet.nodes[node].open(now):
                ready.append(place)
        if not ready:
            return None
        best = ready[0] if len(ready) == 1 else self._best(fleet, model, ready, affinity())
        row = self._row(model, best.node)
        row.seats += 1
        row.uses += 1
        row.at = now
        return best.node

    def _best(self, fleet: Fleet, model: str, ready: list[Place], affinity: str | None) -> Place:
        rows = self._rows.get(model, _NO_ROWS)
        outstanding = [(place.outstanding + rows.get(place.node, _NO_ROW).seats, place) for place in ready]
        return best_of(outstanding, fleet.speeds.get(model, {}), affinity)

    def give_back(self, fleet: Fleet, model: str, node: str, now: float) -> bool:
        """A seat is left after a good end; False when that may let somebody in, or mends the node's record, or the node
        is none of ours any more."""
        there = fleet.nodes.get(node)
        if there is None or there.trips or fleet.asks or fleet.clearing or fleet.wanted:
            return False
        row = self._row(model, node)
        row.seats -= 1
        row.at = now
        return True

    def _row(self, model: str, node: str) -> _Row:
        try:
            return self._rows[model][node]
        except KeyError:
            row = _Row()
            self._rows.setdefault(model, {})[node] = row
            return row

    def settle(self, fleet: Fleet) -> Fleet:
        """The fleet with all rows in it, which are gone from here."""
        places = fleet.places.copy()
        for model, rows in self._rows.items():
            if (there := places.get(model)) is not None:
                places[model] = {node: _with(place, rows.get(node)) for node, place in there.items()}
        used = fleet.used | self._rows.keys()
        self._rows = {}
        return replace(fleet, places=places, used=used)


def _with(place: Place, row: _Row | None) -> Place:
    if row is None:
        return place
    return replace(place, in_flight=max(0, place.in_flight + row.seats), last_used=row.at, uses=place.uses + row.uses)
