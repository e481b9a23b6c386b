"""Weighing one node for one model: does it fit, what would have to go, or why never.

Totals decide feasibility, free memory decides placement. What is not known is not a "no": a node that has not said what
a model needs is taken at the profile's `vram_mb`, or at nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from helexa.base.units import human_mib
from helexa.gateway.config import Profile
from helexa.gateway.fleet.model import Fleet, Node, Place, Status
from helexa.gateway.plan.evict import Room, choose_victims, loss, nodes_by_loss, rank
from helexa.gateway.plan.instructions import Appraisal, Verdict

Claims = dict[str, dict[int, int]]
"""node -> device -> MiB spoken for by waiters that are older."""

RANK = {verdict: rank for rank, verdict in enumerate(Verdict)}
SHORT = 2
"""How many nodes of each kind are weighed before a decision."""
MANY = 16
_WARMTH = {"memory": 0, "disk": 1, "cold": 2}


def appraise(fleet: Fleet, model: str, node: Node, now: float, claims: Claims | None = None) -> Appraisal:
    """What `node` can do for `model` now."""
    profile = fleet.profiles.get(model)
    never = _never(fleet, model, profile, node) or _never_room(fleet, model, node)
    if never is not None:
        return never
    if not node.open(now):
        return Appraisal(node=node.name, verdict=Verdict.CLOSED, detail=_closed(node))
    failure = fleet.failure(model, node.name)
    if failure is not None and now < failure.until:
        return Appraisal(
            node=node.name,
            verdict=Verdict.BACKOFF,
            detail=failure.error,
            until=failure.until,
            fields={"status": failure.status, **failure.fields},
        )
    return _fit(fleet, model, node, now, (claims or {}).get(node.name, {}))


def candidates(fleet: Fleet, model: str, now: float, claims: Claims | None = None) -> list[Appraisal]:
    """Every node weighed, best first: class, then pinned_on, warmest weights, most free memory, name."""
    profile = fleet.profiles.get(model)
    pinned_on = profile.pinned_on if profile else ()

    found = [appraise(fleet, model, node, now, claims) for node in fleet.nodes.values()]
    return sorted(found, key=lambda one: _order(one, pinned_on))


def _order(found: Appraisal, pinned_on: tuple[str, ...]) -> tuple[int, bool, int, tuple[float, ...], int, str]:
    free = max(found.free_mb, default=0)
    cold = _WARMTH.get(found.warmth, 2)
    return RANK[found.verdict], found.node not in pinned_on, cold, found.loss, -free, found.node


def shortlist(fleet: Fleet, model: str, now: float, claims: Claims) -> list[Appraisal]:
    """The nodes that the indexes point at, weighed and best first. Empty when none of them can take the model now.

    Weighing a node costs about 8 us, so a large fleet is not weighed whole for each decision: a node with the room is
    among the roomiest or holds the weights already, and one where it is cheap to make room is found by `nodes_by_loss`.
    """
    profile = fleet.profiles.get(model)
    pinned_on = profile.pinned_on if profile else ()
    there = fleet.places.get(model, {})

    def weigh(names: Iterable[str]) -> list[Appraisal]:
        nodes = [fleet.nodes[name] for name in dict.fromkeys(names) if name in fleet.nodes and name not in there]
        found = sorted((appraise(fleet, model, n, now, claims) for n in nodes), key=lambda one: _order(one, pinned_on))
        return found if found and found[0].verdict in (Verdict.FITS, Verdict.EVICT) else []

    if pinned_on:
        return weigh(pinned_on)
    cleared = [node for node, other in fleet.clearing.items() if other == model]
    first = [*_with_room(fleet, model, now, claims), *_warm(fleet, model), *cleared]
    found = weigh(first)
    if found and found[0].verdict is Verdict.FITS:
        return found

    def room_on(node: str) -> Room | None:
        return None if node in claims else _room(fleet, model, node, now, claims)

    return weigh([*first, *nodes_by_loss(fleet, model, now, room_on, SHORT)])


def _room(fleet: Fleet, model: str, name: str, now: float, claims: Claims) -> Room | None:
    """What is free on a node that may take the model, or None when it may not or could not even when empty."""
    node, failure, profile = fleet.nodes[name], fleet.failure(model, name), fleet.profiles.get(model)
    if not node.open(now) or name in fleet.places.get(model, {}) or (failure is not None and now < failure.until):
        return None
    per_device, count = need(fleet, model, name)
    large = sum(device.total_mb >= per_device for device in node.devices) >= count or not node.devices
    if not large or _never(fleet, model, profile, node) is not None:
        return None
    free, claimed = fleet.free.get(name, {}), claims.get(name, {})
    if claimed:
        free = {device: room - claimed.get(device, 0) for device, room in free.items()}
    return Room(free, per_device, count if free and per_device else 0)


def _with_room(fleet: Fleet, model: str, now: float, claims: Claims) -> list[str]:
    """The first of the nodes with the most room on which the model fits as things are."""
    fits = [fit.per_device_mb for fit in fleet.fits.get(model, {}).values() if fit.refusal is None]
    least = min([need(fleet, model, "")[0], *fits])
    found: list[str] = []
    for free, name in fleet.roomy:
        if -free < least or len(found) == SHORT:
            break
        room = _room(fleet, model, name, now, claims)
        if room is not None and room.enough:
            found.append(name)
    return found


def _warm(fleet: Fleet, model: str) -> list[str]:
    """Nodes that hold the weights already, the roomiest of them. Where most hold them, that tells nothing."""
    warm = [node for node, fit in fleet.fits.get(model, {}).items() if fit.warmth != "cold" and fit.refusal is None]
    if len(warm) > MANY:
        return []
    return sorted(warm, key=lambda node: (-max(fleet.free.get(node, {}).values(), default=0), node))[:SHORT]


def need(fleet: Fleet, model: str, node: str) -> tuple[int, int]:
    """(MiB per device, number of devices) that `model` needs on `node`, as far as anybody knows."""
    fit, profile = fleet.fit(model, node), fleet.profiles.get(model)
    if fit is not None and fit.refusal is None and (fit.per_device_mb or profile is None or profile.vram_mb is None):
        return fit.per_device_mb, fit.devices
    if profile is None:
        return 0, 1
    devices = profile.tensor_parallel or profile.min_devices
    return -(-(profile.vram_mb or 0) // devices), devices


def _never(fleet: Fleet, model: str, profile: Profile | None, node: Node) -> Appraisal | None:
    """Why this node can never serve the model, whatever its memory, or None. An unseen node is not judged."""
    if profile is not None and profile.pinned_on and node.name not in profile.pinned_on:
        return _no(node, f"the model is pinned on {', '.join(profile.pinned_on)}", kind="pinned_elsewhere")
    if not node.seen:
        return None
    if profile is not None:
        floor, count = profile.min_device_vram_mb or 0, profile.min_devices
        large = sum(device.total_mb >= floor for device in node.devices)
        if large < count:
            wanted = f"{count} device(s) of at least {human_mib(floor)}" if floor else f"{count} device(s)"
            return _no(node, f"needs {wanted}; has {large}", kind="too_few_devices")
        if profile.harness and node.harnesses and profile.harness not in node.harnesses:
            return _no(node, f"has no {profile.harness} engine", kind="engine_missing", harness=profile.harness)
    fit = fleet.fit(model, node.name)
    if fit is not None and fit.refusal is not None:
        text = str(fit.refusal.get("message") or fit.refusal.get("kind") or "refused by the node's preflight")
        return _no(node, text, **fit.refusal)
    return None


def _never_room(fleet: Fleet, model: str, node: Node) -> Appraisal | None:
    """Totals less what cannot go: foreign memory, pinned models, models of a higher rank."""
    per_device, count = need(fleet, model, node.name)
    if not node.seen or not node.devices or not per_device:
        return None
    fixed: dict[int, int] = {}
    mine = rank(fleet, model)
    for place in fleet.on_node(node.name):
        if place.model != model and (place.pinned or rank(fleet, place.model) > mine):
            for device, held in place.shares.items():
                fixed[device] = fixed.get(device, 0) + held
    rooms = {d.index: d.total_mb - d.foreign_mb - fixed.get(d.index, 0) for d in node.devices}
    if sum(room >= per_device for room in rooms.values()) >= count:
        return None
    sums = "; ".join(
        f"{d.name or f'device {d.index}'}: {human_mib(d.total_mb)} total"
        f" - {human_mib(d.foreign_mb)} foreign - {human_mib(fixed.get(d.index, 0))} pinned or of higher rank"
        f" = {human_mib(rooms[d.index])}"
        for d in node.devices
    )
    on = f"on each of {count} devices" if count > 1 else ""
    detail = f"needs {human_mib(per_device)} {on}".rstrip() + f"; {sums}"
    return _no(
        node,
        detail,
        needed=per_device,
        kind="does_not_fit",
        needed_mb=per_device * count,
        per_device=[
            {
                "device": d.index,
                "total_mb": d.total_mb,
                "foreign_mb": d.foreign_mb,
                "pinned_mb": fixed.get(d.index, 0),
                "available_mb": rooms[d.index],
            }
            for d in node.devices
        ],
    )


def _no(node: Node, detail: str, *, needed: int = 0, **fields: object) -> Appraisal:
    return Appraisal(node=node.name, verdict=Verdict.NEVER, detail=detail, needed_mb=needed, fields=fields)


def _closed(node: Node) -> str:
    if not node.seen:
        return node.problem or "not reached yet"
    if not node.healthy:
        return f"unhealthy: {node.problem}" if node.problem else "unhealthy"
    return "draining" if node.draining else "its circuit breaker is open after transport errors"


def _fit(fleet: Fleet, model: str, node: Node, now: float, claimed: dict[int, int]) -> Appraisal:
    per_device, count = need(fleet, model, node.name)
    rooms = fleet.free.get(node.name, {})
    open_rooms = {device: room - claimed.get(device, 0) for device, room in rooms.items()}
    roomiest = sorted(rooms, key=lambda device: (-open_rooms[device], device))
    fitting = [device for device in roomiest if open_rooms[device] >= per_device]
    fit = fleet.fit(model, node.name)
    warmth = fit.warmth if fit else "cold"
    base = Appraisal(node=node.name, verdict=Verdict.FITS, detail="", needed_mb=per_device, warmth=warmth)
    if not rooms or not per_device:
        detail = "what it needs is not known; the node decides"
        return _on(base, rooms, roomiest[:count], detail=detail)
    if len(fitting) >= count:
        detail = f"needs {human_mib(per_device)}, free {human_mib(rooms[fitting[0]])}"
        return _on(base, rooms, fitting[:count], detail=detail)
    if claimed:
        return replace(base, verdict=Verdict.CLAIMED, detail="room is being made here for an older request")
    return _after_others(fleet, model, base, rooms, count, now)


def _after_others(
    fleet: Fleet, model: str, base: Appraisal, rooms: dict[int, int], count: int, now: float
) -> Appraisal:
    """It does not fit beside what is there: who could go, or whom must it wait for?"""
    going = _going(fleet, base.node)
    idle = choose_victims(fleet, model, base.node, rooms, going, base.needed_mb, count, now, busy_too=False)
    if idle is not None:
        names = tuple(victim.model for victim in idle[1])
        detail = f"after unloading {', '.join(names)}" if names else "once what is leaving has left"
        found = _on(base, rooms, idle[0], detail=detail)
        return replace(found, verdict=Verdict.EVICT, victims=names, loss=loss(fleet, idle[1], now))
    busy = choose_victims(fleet, model, base.node, rooms, going, base.needed_mb, count, now, busy_too=True)
    devices, victims = busy if busy is not None else ((), tuple(fleet.on_node(base.node)))
    names = tuple(victim.model for victim in victims)
    detail = f"waits for {', '.join(names)}"
    found = replace(_on(base, rooms, devices, detail=detail), verdict=Verdict.BUSY)
    return replace(found, victims=names, waits_for=names)


def _on(base: Appraisal, rooms: dict[int, int], devices: Sequence[int], *, detail: str) -> Appraisal:
    free = tuple(rooms[device] for device in devices)
    return replace(base, devices=tuple(devices), free_mb=free, detail=detail)


def _going(fleet: Fleet, node: str) -> dict[int, int]:
    """MiB on each device that are on their way out already."""
    going: dict[int, int] = {}
    for place in fleet.on_node(node):
        if place.status is Status.UNLOADING:
            for device, held in place.shares.items():
                going[device] = going.get(device, 0) + held
    return going


def seats(fleet: Fleet, model: str, now: float, avoid: frozenset[str]) -> list[Place]:
    """Places that may take a request for `model` now."""
    return [
        place
        for place in fleet.places.get(model, {}).values()
        if place.ready and place.node not in avoid and fleet.nodes[place.node].open(now)
    ]


def spread(place: Place, affinity: str | None) -> tuple[int, int, str]:
    """The order of a model's places, best first: least outstanding work, the session's own node, the name."""
    return place.outstanding, _distance(affinity, place.node), place.node


def _distance(affinity: str | None, node: str) -> int:
    """Rendezvous hashing: a session keeps its node when others come and go."""
    return zlib.crc32(f"{affinity}\0{node}".encode()) if affinity else 0
