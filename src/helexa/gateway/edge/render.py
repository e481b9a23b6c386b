"""The fleet as JSON for operators: plain dicts, one function a noun."""

from __future__ import annotations

from typing import Any

from helexa.base.words import counted
from helexa.gateway.fleet.catalogue import Verdict as Judged
from helexa.gateway.fleet.model import Fleet, Node, Place, Status
from helexa.gateway.plan.instructions import Appraisal, Forgo, Instruction, Load, Recycle, Refuse, Seat, Unload
from helexa.gateway.plan.place import Told, need, nevers


def judge(fleet: Fleet, model: str, now: float) -> list[Judged]:
    """Each node's verdict on a model, as the catalogue shows it: feasible unless totals or the node say no."""
    never = nevers(fleet, model)
    return [_judged(fleet, model, node, never(node), now) for node in fleet.nodes.values() if node.seen]


def _judged(fleet: Fleet, model: str, node: Node, never: Told | None, now: float) -> Judged:
    per_device, devices = need(fleet, model, node.name)
    failure = fleet.failure(model, node.name)
    if failure is not None and (failure.crowded or now >= failure.until):
        failure = None
    # Asked to load it before its preflight was heard, a node refuses in the same words.
    refused = failure is not None and failure.status == 422
    feasible = never is None and not refused

    def why() -> str:
        return never().detail if never is not None else failure.error if failure is not None else ""

    failed = feasible and failure is not None
    return Judged(node=node.name, feasible=feasible, why=why, needed_mb=per_device * devices, failed=failed)


def health(fleet: Fleet) -> dict[str, Any]:
    """200 always; `degraded` without a healthy node, `impaired` while something that is loaded cannot serve."""
    healthy = sum(node.healthy for node in fleet.nodes.values())
    unservable = [
        {"node": place.node, "model": place.model, "reason": str(place.status), "detail": place.reason}
        for there in fleet.places.values()
        for place in there.values()
        if place.status is Status.POISONED or (place.status is Status.LOADED and not place.servable)
    ]
    status = "degraded" if not healthy else "impaired" if unservable else "ok"
    shown: dict[str, Any] = {"status": status, "nodes": {"healthy": healthy, "total": len(fleet.nodes)}}
    return shown | ({"unservable": unservable} if unservable else {})


def nodes(fleet: Fleet, now: float) -> list[dict[str, Any]]:
    return [node(fleet, one, now) for one in fleet.nodes.values()]


def node(fleet: Fleet, one: Node, now: float) -> dict[str, Any]:
    free = fleet.free.get(one.name, {})
    return {
        "name": one.name,
        "hostname": one.hostname,
        "healthy": one.healthy,
        "draining": one.draining or one.leaving,
        "problem": one.problem,
        "circuit": "open" if now < one.tripped_until else "closed",
        "activation": one.activation,
        "version": one.version,
        "harnesses": list(one.harnesses),
        "devices": [
            {
                "index": device.index,
                "name": device.name,
                "kind": device.kind,
                "total_mb": device.total_mb,
                "foreign_mb": device.foreign_mb,
                "free_mb": free.get(device.index, 0),
                "cycles": device.cycles,
            }
            for device in one.devices
        ],
        "models": [place(one_place, now) for one_place in fleet.on_node(one.name)],
    }


def place(one: Place, now: float) -> dict[str, Any]:
    return {
        "model": one.model,
        "status": str(one.status),
        "harness": one.harness,
        "harness_reason": one.harness_reason,
        "in_flight": one.in_flight,
        "elsewhere_in_flight": one.foreign,
        "memory_mb": sum(one.shares.values()) or None,
        "pinned": one.pinned,
        "for_s": round(max(0.0, now - one.since), 1),
        "idle_s": round(max(0.0, now - one.last_used), 1) if not one.in_flight else 0.0,
        "loading": one.loading.told() if one.loading else None,
        "reason": one.reason,
    }


def weighed(found: Appraisal, there: Place | None) -> dict[str, Any]:
    """A node's verdict on a model; where the model is already, how it stands there."""
    if there is None:
        return found.told()
    stands = {"verdict": str(there.status), "detail": f"is there, {counted(there.outstanding, 'request')} in flight"}
    return {**found.told(), **stands, "evicts": [], "waits_for": []}


def drain(fleet: Fleet, node: str) -> dict[str, Any]:
    """What a drain would leave to end by itself."""
    there = fleet.on_node(node)
    in_flight = sum(place.outstanding for place in there)
    return {"action": "drain", "node": node, "in_flight": in_flight, "models": [place.model for place in there]}


def instruction(one: Instruction) -> dict[str, Any]:
    """What the planner decided, for the dry run."""
    match one:
        case Seat():
            return {"action": "seat", "model": one.model, "node": one.node}
        case Load():
            return {"action": "load", "model": one.model, "node": one.node, "devices": list(one.devices)}
        case Unload():
            return {"action": "unload", "model": one.model, "node": one.node, "reason": one.reason}
        case Refuse():
            return {"action": "refuse", "model": one.model, "why": str(one.why), "message": one.message}
        case Forgo():
            return {"action": "forgo", "model": one.model, "message": one.message}
        case Recycle():
            return {"action": "recycle", "node": one.node, "device": one.device}
        case _:
            return {"action": type(one).__name__.lower()}
