"""Weighing one node for one model: does it fit, what would have to go, or why never.

Totals decide feasibility, free memory decides placement. What is not known is not a "no": a node that has not said what
a model needs is taken at the profile's `vram_mb`, or at nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from msgspec.structs import replace

from helexa.base.units import human_mib
from helexa.gateway.config import Profile
from helexa.gateway.fleet.model import Failure, Fleet, Node, Place, Status
from helexa.gateway.plan.evict import AtRest, Room, choose_victims, loss, nodes_by_loss, rank
from helexa.gateway.plan.instructions import Appraisal, Verdict

Claims = dict[str, dict[int, int]]
"""node -> device -> MiB spoken for by waiters that are older."""

Told = Callable[[], Appraisal]
"""A verdict that is put in words when it is asked for."""

RANK = {verdict: rank for rank, verdict in enumerate(Verdict)}
SHORT = 2
"""How many nodes of each kind are weighed before a decision."""
MANY = 16
REFEREES = 3
"""Nodes that are asked in turn for an agreement: one may be hanging, another older than the question."""
HARDLY_WORSE = 1.25
"""How much more work than the least a session's own node may have and is still preferred."""
MOST = 16
"""Where the indexes find no node, as for a refusal or a wait for busy models, no more than so many are weighed."""
_NOW = (Verdict.FITS, Verdict.EVICT)
_ANY = Profile(id="")
_WARMTH = {"memory": 0, "disk": 1, "cold": 2}


def appraise(fleet: Fleet, model: str, node: Node, now: float, claims: Claims | None = None) -> Appraisal:
    """What `node` can do for `model` now."""
    never = nevers(fleet, model)(node)
    if never is not None:
        return never()
    if not node.open(now):
        verdict = Verdict.RETURNING if node.returns(now, fleet.restart_s) else Verdict.CLOSED
        return Appraisal(node=node.name, verdict=verdict, detail=_closed(node))
    failure = fleet.failure(model, node.name)
    if failure is not None and now < failure.until:
        return Appraisal(
            node=node.name,
            verdict=_verdict_on(failure, once=fleet.failed_once(model)),
            detail=failure.error,
            until=failure.until,
            fields={"status": failure.status, **failure.fields},
        )
    return _fit(fleet, model, node, now, (claims or {}).get(node.name, {}))


def _verdict_on(failure: Failure, *, once: bool) -> Verdict:
    if failure.crowded:
        return Verdict.CROWDED
    return Verdict.AGAIN if once else Verdict.BACKOFF


def candidates(fleet: Fleet, model: str, now: float, claims: Claims | None = None) -> list[Appraisal]:
    """Up to `MOST` nodes weighed, best first: class, pinned_on, warmest weights, least lost, fewest loads under way,
    most free memory, name.

    In a larger fleet nodes that could take it are weighed before those where room is being made for someone older,
    those before nodes that failed or are away, and those before nodes that never can.
    """
    profile = fleet.profiles.get(model)
    pinned_on = profile.pinned_on if profile else ()
    able: list[Node] = []
    claimed: list[Node] = []
    soon: list[Node] = []
    away: list[Node] = []
    hopeless: list[Node] = []
    never, failures = nevers(fleet, model), fleet.failures.get(model, {})
    for name in _most_likely_first(fleet, model, now, pinned_on):
        node = fleet.nodes[name]
        if never(node) is not None:
            hopeless.append(node)
        elif (name in failures and now < failures[name].until) or node.returns(now, fleet.restart_s):
            soon.append(node)
        elif not node.open(now):
            away.append(node)
        elif claims and name in claims:
            claimed.append(node)
        else:
            able.append(node)
            if len(able) == MOST:
                break
    chosen = [*able, *claimed, *soon, *away, *hopeless][:MOST]
    return sorted(
        (appraise(fleet, model, node, now, claims) for node in chosen), key=lambda one: _order(one, pinned_on)
    )


def _most_likely_first(fleet: Fleet, model: str, now: float, pinned_on: Iterable[str]) -> Iterable[str]:
    cleared = (node for node, other in fleet.clearing.items() if other == model)
    told = (*pinned_on, *cleared, *fleet.failures.get(model, ()), *_warm(fleet, model))
    names = dict.fromkeys(chain(told, (name for _, name in fleet.roomy), fleet.nodes))
    return [name for name in names if name in fleet.nodes]


def _order(found: Appraisal, pinned_on: tuple[str, ...]) -> tuple[int, bool, int, tuple[float, ...], int, int, str]:
    free = max(found.free_mb, default=0)
    cold = _WARMTH.get(found.warmth, 2)
    return RANK[found.verdict], found.node not in pinned_on, cold, found.loss, found.ahead, -free, found.node


def shortlist(fleet: Fleet, model: str, now: float, claims: Claims, at_rest: AtRest) -> list[Appraisal]:
    """The nodes that the indexes point at, weighed and best first. When none of them can take the model now, the one
    that it waits for already, or none.

    Weighing a node costs about 8 us, so a large fleet is not weighed whole for each decision: a node with the room is
    among the roomiest or holds the weights already, and one where it is cheap to make room is found by `nodes_by_loss`.
    """
    profile = fleet.profiles.get(model)
    pinned_on = profile.pinned_on if profile else ()
    there = fleet.places.get(model, {})
    found: list[Appraisal] = []

    def weigh(names: Iterable[str]) -> bool:
        """Whether one of them, or of those before, can take it now."""
        known = {one.node for one in found}
        nodes = [name for name in dict.fromkeys(names) if name in fleet.nodes and name not in there]
        found.extend(appraise(fleet, model, fleet.nodes[name], now, claims) for name in nodes if name not in known)
        found.sort(key=lambda one: _order(one, pinned_on))
        return bool(found) and found[0].verdict in _NOW

    if pinned_on:
        return found if weigh(pinned_on) else []
    cleared = [node for node, other in fleet.clearing.items() if other == model]
    if weigh([*_with_room(fleet, model, now, claims), *_warm(fleet, model), *cleared]):
        if found[0].verdict is Verdict.FITS:
            return found
    elif all(map(nevers(fleet, model), fleet.nodes.values())):
        return []

    def room_on(node: str) -> Room | None:
        return None if node in claims else _room(fleet, model, node, now, claims)

    if weigh(nodes_by_loss(fleet, model, now, room_on, SHORT, at_rest)):
        return found
    return [one for one in found if one.node in cleared and one.verdict is Verdict.BUSY]


def _room(fleet: Fleet, model: str, name: str, now: float, claims: Claims) -> Room | None:
    """What is free on a node that may take the model, or None when it may not or could not even when empty."""
    node, failure = fleet.nodes[name], fleet.failure(model, name)
    if not node.open(now) or name in fleet.places.get(model, {}) or (failure is not None and now < failure.until):
        return None
    if nevers(fleet, model)(node) is not None:
        return None
    per_device, count = need(fleet, model, name)
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


def nevers(fleet: Fleet, model: str) -> Callable[[Node], Told | None]:
    """Asks of a node why it can never serve the model: None when totals do not forbid it, else the words, on demand.

    In a large fleet the question is asked a thousand times for few answers that are told, so what does not depend on
    the node is looked up once. An unseen node is not judged.
    """
    profile, fits = fleet.profiles.get(model) or _ANY, fleet.fits.get(model, {})
    pinned_on, harness, floor = profile.pinned_on, profile.harness, profile.min_device_vram_mb or 0
    devices = max(profile.min_devices, profile.tensor_parallel or 1)
    usual = need(fleet, model, "")

    def never(node: Node) -> Told | None:
        if pinned_on and node.name not in pinned_on:
            return partial(_pinned_elsewhere, node, pinned_on)
        if not node.seen:
            return None
        fit = fits.get(node.name)
        if fit is not None and fit.refusal is not None:
            return partial(_refused, node, fit.refusal)
        if harness and node.harnesses and harness not in node.harnesses:
            return partial(_no, node, f"has no {harness} engine", kind="engine_missing", harness=harness)
        large = sum(device.total_mb >= floor for device in node.devices) if floor else len(node.devices)
        if large < devices:
            return partial(_too_few, node, floor, devices, large)
        per_device, count = usual if fit is None else need(fleet, model, node.name)
        if node.devices and _too_crowded(fleet, model, node, per_device, count):
            return partial(_too_small, fleet, model, node, per_device, count)
        return None

    return never


def _too_crowded(fleet: Fleet, model: str, node: Node, per_device: int, count: int) -> bool:
    """Totals less what cannot go: foreign memory, pinned models, models of a higher rank. Where it fits as things are,
    that need not be added up."""
    if node.largest_mb < per_device:
        return True
    if sum(free >= per_device for free in fleet.free.get(node.name, {}).values()) >= count:
        return False
    fixed = _fixed(fleet, model, node.name)
    rooms = [device.total_mb - device.foreign_mb - fixed.get(device.index, 0) for device in node.devices]
    return per_device > 0 and sum(room >= per_device for room in rooms) < count


def _fixed(fleet: Fleet, model: str, node: str) -> dict[int, int]:
    """MiB on each device that no eviction for `model` can free."""
    mine = rank(fleet, model)
    fixed: dict[int, int] = {}
    for place in fleet.on_node(node):
        if place.model != model and (place.pinned or rank(fleet, place.model) > mine):
            for device, held in place.shares.items():
                fixed[device] = fixed.get(device, 0) + held
    return fixed


def _too_few(node: Node, floor: int, count: int, large: int) -> Appraisal:
    wanted = f"{count} device(s) of at least {human_mib(floor)}" if floor else f"{count} device(s)"
    return _no(node, f"needs {wanted}; has {large}", kind="too_few_devices")


def _pinned_elsewhere(node: Node, pinned_on: Sequence[str]) -> Appraisal:
    return _no(node, f"the model is pinned on {', '.join(pinned_on)}", kind="pinned_elsewhere")


def _refused(node: Node, told: dict[str, Any]) -> Appraisal:
    """In the words of the node's own preflight."""
    return _no(node, str(told.get("message") or told.get("kind") or "refused by the node's preflight"), **told)


def _too_small(fleet: Fleet, model: str, node: Node, per_device: int, count: int) -> Appraisal:
    fixed = _fixed(fleet, model, node.name)
    rooms = {d.index: d.total_mb - d.foreign_mb - fixed.get(d.index, 0) for d in node.devices}
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
    return "draining" if node.draining or node.leaving else "its circuit breaker is open after transport errors"


def _fit(fleet: Fleet, model: str, node: Node, now: float, claimed: dict[int, int]) -> Appraisal:
    per_device, count = need(fleet, model, node.name)
    rooms = fleet.free.get(node.name, {})
    fit = fleet.fit(model, node.name)
    base = Appraisal(
        node=node.name,
        verdict=Verdict.FITS,
        detail="what it needs is not known; the node decides",
        needed_mb=per_device,
        warmth=fit.warmth if fit else "cold",
    )
    open_rooms = {device: room - claimed.get(device, 0) for device, room in rooms.items()} if claimed else rooms
    fitting = [device for device, room in open_rooms.items() if room >= per_device or not per_device]
    if len(fitting) >= count or not rooms:
        chosen = sorted(fitting, key=lambda device: (-open_rooms[device], device))[:count]
        known = rooms and per_device
        detail = f"needs {human_mib(per_device)}, free {human_mib(rooms[chosen[0]])}" if known else base.detail
        return replace(_on(base, rooms, chosen, detail=detail), ahead=_ahead(fleet, node.name, chosen))
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


def _ahead(fleet: Fleet, node: str, devices: Sequence[int]) -> int:
    loading = (place.shares for place in fleet.on_node(node) if place.status is Status.LOADING)
    return sum(device in shares for shares in loading for device in devices)


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


def best_of(ready: Sequence[tuple[int, Place]], speeds: Mapping[str, float], affinity: str | None) -> Place:
    """Of places with their outstanding work, the one where a request ends first; among those that are hardly worse
    the one that this session or prompt (`affinity`) always prefers, whose cache knows it.

    A node's work counts by the tokens a second that its streams have been seen to get there, on average; one that was
    never seen counts as the fastest, so that it will be.
    """
    if len(ready) == 1:
        return ready[0][1]
    usual = max((speeds.get(place.node, 0.0) for _, place in ready), default=0.0) or 1.0
    loads = [((outstanding + 1) * usual / speeds.get(place.node, usual), place) for outstanding, place in ready]
    if affinity is None:
        return min(loads, key=lambda one: (one[0], one[1].node))[1]
    most = HARDLY_WORSE * min(load for load, _ in loads)
    return min((place for load, place in loads if load <= most), key=lambda place: _distance(affinity, place.node))


def _distance(affinity: str, node: str) -> tuple[int, str]:
    """Rendezvous hashing: a session keeps its node when others come and go.

    A CRC is linear, and the least of three linear hashes is not each of them equally often; the product mends that.
    """
    return zlib.crc32(node.encode(), zlib.crc32(affinity.encode())) * 0x9E3779B1 & 0xFFFFFFFF, node


def referees(fleet: Fleet, model: str) -> list[str]:
    """The nodes to agree with before the model is loaded, the same ones in the same order for every gateway, whatever
    it calls them; none where there is only one node to load it on."""
    if len(fleet.nodes) < 2:
        return []
    boots = {node.boot_id: name for name, node in fleet.nodes.items() if node.healthy and node.boot_id}
    return [boots[boot_id] for boot_id in sorted(boots, key=partial(_distance, model))[:REFEREES]]


def may_join(fleet: Fleet, model: str, node: str, now: float) -> bool:
    """Whether a load that another gateway began on `node` would serve this one too."""
    if node not in fleet.nodes:
        return False
    verdict = appraise(fleet, model, fleet.nodes[node], now).verdict
    return RANK[verdict] < RANK[Verdict.AGAIN]


def is_expected(fleet: Fleet, model: str, node: str) -> bool:
    """Whether the model is there or on its way, or room is being made for it."""
    return fleet.clearing.get(node) == model or fleet.place(model, node) is not None


def holders(fleet: Fleet, model: str, now: float) -> list[str]:
    """Open nodes in the order of how likely they have the model's files, as far as their preflight told."""
    fits = fleet.fits.get(model, {})

    def order(name: str) -> tuple[int, str]:
        return _WARMTH.get(fits[name].warmth, 2) if name in fits else 1, name

    return sorted((name for name, node in fleet.nodes.items() if node.open(now)), key=order)
