"""The two moments of a request on a warm model, without the ceremony: most of all decisions, each on its path.

They answer what `step` would answer to `Arrived` and `Finished` where nobody waits, or None where `step` has to think.
That the two agree is a law that is tested. How often a model was used is kept in its place, and `fold` counts it into
the model's habits when the clock ticks.
"""

from __future__ import annotations

from msgspec.structs import replace

from helexa.gateway.fleet.model import Fleet, Place, Status
from helexa.gateway.plan.place import spread


def take(fleet: Fleet, model: str, affinity: str | None, now: float) -> tuple[Fleet, str] | None:
    """A seat at `model`, and its node; None when it is not ready anywhere or somebody waits for it."""
    there = fleet.places.get(model)
    if there is None or model in fleet.asks:
        return None
    best: Place | None = None
    for name, place in there.items():
        if place.status is not Status.LOADED or not place.ready or not fleet.nodes[name].open(now):
            continue
        if best is None or spread(place, affinity) < spread(best, affinity):
            best = place
    if best is None:
        return None
    seated = replace(best, in_flight=best.in_flight + 1, last_used=now, uses=best.uses + 1)
    places = {**fleet.places, model: {**there, best.node: seated}}
    if model in fleet.used:
        return replace(fleet, places=places), best.node
    return replace(fleet, places=places, used=fleet.used | {model}), best.node


def give_back(fleet: Fleet, model: str, node: str, now: float) -> Fleet | None:
    """A seat is left after a good end; None when that may let somebody in, or mends the node's record."""
    there = fleet.places.get(model)
    place = there.get(node) if there is not None else None
    if there is None or place is None or fleet.asks or fleet.clearing or fleet.wanted or fleet.nodes[node].trips:
        return None
    left = replace(place, in_flight=max(0, place.in_flight - 1), last_used=now)
    return replace(fleet, places={**fleet.places, model: {**there, node: left}})
