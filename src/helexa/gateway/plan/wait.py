"""What a request waits for that was neither seated nor refused, in words for those who ask."""

from __future__ import annotations

from typing import Any

from helexa.gateway.fleet.model import Fleet, Place, Status
from helexa.gateway.plan.place import appraise, nevers


def reason(fleet: Fleet, model: str, now: float) -> str:
    """Of a fleet in which somebody waits for `model`, after the planner has had its turn."""
    for place in fleet.places.get(model, {}).values():
        if fleet.nodes[place.node].healthy and (what := _comes(place, now)):
            return what
    for node, incoming in fleet.clearing.items():
        if incoming == model:
            holders = appraise(fleet, model, fleet.nodes[node], now).waits_for
            hold = "hold" if len(holders) > 1 else "holds"
            return f"room on {node}" + (f", which {', '.join(holders)} {hold} now" if holders else "")
    for node, failure in fleet.failures.get(model, {}).items():
        if now < failure.until and failure.crowded:
            return f"room on {node}, which was taken a moment ago"
        if now < failure.until and fleet.failed_once(model):
            return f"a second try on {node}: {failure.error}"
    never = nevers(fleet, model)
    for node in fleet.nodes.values():
        if node.returns(now, fleet.restart_s) and never(node) is None:
            return f"{node.name} to be back"
    older = [f"{incoming} on {node}" for node, incoming in fleet.clearing.items()]
    return "room" + (f", which is being made for {', '.join(older)} first" if older else "")


def loading(fleet: Fleet, model: str) -> dict[str, Any]:
    """How the load stands that somebody waits for in vain."""
    for place in fleet.places.get(model, {}).values():
        if place.coming:
            stands = place.loading.told() if place.loading is not None else {}
            return {"state": str(place.status), "node": place.node, **stands}
    return {"state": "waiting"}


def _comes(place: Place, now: float) -> str | None:
    if place.stuck(now):
        return None
    match place.status:
        case Status.LOADING:
            return f"the load on {place.node}"
        case Status.RECOVERING | Status.POISONED:
            return f"its recovery on {place.node}"
        case Status.UNLOADING:
            return f"the end of its unload on {place.node}"
        case _:
            return f"its turn on {place.node}, where an older request gets the room first" if place.closing else None
