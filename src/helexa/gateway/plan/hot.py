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


class Ledger:
    """Seats taken and left on warm models since the fleet was last brought up to date."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, _Row]] = {}
        self._doors: dict[str, list[tuple[Place, _Row]]] = {}
        """Where each model may be seated in the fleet seen last, and the rows of those places."""
        self._seen: Fleet | None = None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def take(self, fleet: Fleet, model: str, affinity: Affinity, now: float) -> str | None:
        """A seat at `model`: its node; None when it is not ready anywhere or somebody waits for it.

        `affinity()` is the session's key, which is only looked for where there is a choice.
        """
        if fleet is not self._seen:
            self._seen, self._doors = fleet, {}
        doors = self._doors.get(model) or self._look(fleet, model, now)
        if not doors:
            return None
        place, row = doors[0] if len(doors) == 1 else _best(fleet, model, doors, affinity())
        row.seats += 1
        row.uses += 1
        row.at = now
        return place.node

    def _look(self, fleet: Fleet, model: str, now: float) -> list[tuple[Place, _Row]]:
        """The open doors, kept as long as they are what time alone does not change."""
        there = fleet.places.get(model)
        if there is None or model in fleet.asks:
            return []
        nodes = [fleet.nodes[node] for node in there]
        ready = [place for place, node in zip(there.values(), nodes, strict=True) if place.ready and node.open(now)]
        doors = [(place, self._row(model, place.node)) for place in ready]
        if not any(node.tripped_until for node in nodes):
            self._doors[model] = doors
        return doors

    def give_back(self, fleet: Fleet, model: str, node: str, now: float) -> bool:
        """A seat is left after a good end; False when that may let somebody in, or mends the node's record, or the node
        is none of ours any more."""
        there = fleet.nodes.get(node)
        if there is None or there.trips or fleet.asks or fleet.clearing or fleet.wanted:
            return False
        try:
            row = self._rows[model][node]
        except KeyError:
            row = self._row(model, node)
        row.seats -= 1
        row.at = now
        return True

    def _row(self, model: str, node: str) -> _Row:
        return self._rows.setdefault(model, {}).setdefault(node, _Row())

    def settle(self, fleet: Fleet) -> Fleet:
        """The fleet with all rows in it, which are gone from here."""
        places = fleet.places.copy()
        for model, rows in self._rows.items():
            if (there := places.get(model)) is not None:
                places[model] = {node: _with(place, rows.get(node)) for node, place in there.items()}
        used = fleet.used | self._rows.keys()
        self._rows, self._doors = {}, {}
        return replace(fleet, places=places, used=used)


def _best(fleet: Fleet, model: str, doors: list[tuple[Place, _Row]], affinity: str | None) -> tuple[Place, _Row]:
    rows = {place.node: row for place, row in doors}
    outstanding = [(place.outstanding + row.seats, place) for place, row in doors]
    best = best_of(outstanding, fleet.speeds.get(model, {}), affinity)
    return best, rows[best.node]


def _with(place: Place, row: _Row | None) -> Place:
    if row is None or not (row.uses or row.seats):  # it was only looked at
        return place
    return replace(place, in_flight=max(0, place.in_flight + row.seats), last_used=row.at, uses=place.uses + row.uses)
