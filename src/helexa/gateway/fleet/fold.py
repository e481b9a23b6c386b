"""`fold(fleet, event, now) -> Fleet`: what an event means for what we know. It decides nothing; `plan` does."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import Any, TypeVar

from msgspec.structs import replace

from helexa.gateway.config import Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.habits import ranked, touched, with_habit, with_habits, worth
from helexa.gateway.fleet.model import (
    Ask,
    Device,
    Failure,
    Fit,
    Fleet,
    Habit,
    Loading,
    Node,
    Place,
    Status,
    load_deadline_s,
)
from helexa.wire import control

K = TypeVar("K")
V = TypeVar("V")
Entry = TypeVar("Entry", tuple[int, str], tuple[float, float, str])

SPEED_KEEPS = 0.9
"""What a stream leaves of the speed that was known before it."""
BREAKER_TRIPS = 3
BREAKER_MAX_S = 30.0
BACKOFF_FIRST_S = 2.0
BACKOFF_MAX_S = 300.0
KEEP_AFTER_REFUSAL_S = 1.0
CROWDED_S = 1.0
"""A node that had no room for a load after all, because another gateway was quicker, is weighed again after a poll."""

_STATUSES = {str(status): status for status in Status if status is not Status.UNREACHABLE}


def fold(fleet: Fleet, event: ev.Event, now: float) -> Fleet:
    """The fleet after `event`. Facts about nodes or models that are not known are dropped, never an error."""
    match event:
        case ev.Arrived():
            return _arrived(fleet, event, now)
        case ev.Finished():
            return _finished(fleet, event, now)
        case ev.Left():
            return without_ask(fleet, event.model, event.ask)
        case ev.Polled():
            return _polled(fleet, event, now) if event.node in fleet.nodes else fleet
        case ev.Missed():
            return _missed(fleet, event, now) if event.node in fleet.nodes else fleet
        case ev.ModelSeen():
            return _model_seen(fleet, event, now) if event.node in fleet.nodes else fleet
        case ev.ModelGone():
            return without_place(fleet, event.model, event.node)
        case ev.TurnedAway():
            return _turned_away(fleet, event, now)
        case ev.Leaving():
            return _leaving(fleet, event.node, now)
        case ev.Fitted():
            return _fitted(fleet, event)
        case ev.Joined():
            return _joined(fleet, event, now)
        case ev.Loaded():
            return _loaded(fleet, event, now)
        case ev.LoadFailed():
            return _load_failed(fleet, event, now)
        case ev.Unloaded():
            return without_place(fleet, event.model, event.node)
        case ev.UnloadFailed():
            return _unload_failed(fleet, event, now)
        case ev.Wanted():
            return _wanted(fleet, event.model, now)
        case ev.Pinned():
            place = fleet.place(event.model, event.node)
            return with_place(fleet, replace(place, pinned=event.pinned)) if place else fleet
        case ev.Drained():
            node = fleet.nodes.get(event.node)
            return with_node(fleet, replace(node, draining=event.draining)) if node else fleet
        case ev.Configured():
            return _configured(fleet, event, now)
        case ev.Ticked():
            return _count_uses(_learn_speeds(fleet, event), now)
        case _:
            return fleet


# -- building blocks, shared with the planner --


def with_node(fleet: Fleet, node: Node) -> Fleet:
    return replace(fleet, nodes={**fleet.nodes, node.name: node})


def with_seats(fleet: Fleet, place: Place) -> Fleet:
    """Change a place in what does not touch memory: the hot path's two changes of a request."""
    return replace(
        fleet, places={**fleet.places, place.model: {**fleet.places.get(place.model, {}), place.node: place}}
    )


def with_place(fleet: Fleet, place: Place) -> Fleet:
    """Put a place, and bring the indexes along."""
    known = fleet.place(place.model, place.node)
    new_here = place.model not in fleet.places
    fleet = with_seats(fleet, place)
    if known is None:
        there = (*fleet.residents.get(place.node, ()), place.model)
        fleet = replace(fleet, residents={**fleet.residents, place.node: there})
    elif known.shares == place.shares:
        return fleet
    if new_here:
        fleet = replace(fleet, ranking=_moved(fleet.ranking, None, worth(fleet, place.model)))
    return reindex(fleet, place.node)


def without_place(fleet: Fleet, model: str, node: str) -> Fleet:
    if fleet.place(model, node) is None:
        return fleet
    there = _without(fleet.places[model], node)
    places = {**fleet.places, model: there} if there else _without(fleet.places, model)
    residents = {**fleet.residents, node: tuple(name for name in fleet.residents[node] if name != model)}
    ranking = fleet.ranking if there else _moved(fleet.ranking, worth(fleet, model), None)
    return reindex(replace(fleet, places=places, residents=residents, ranking=ranking), node)


def without_ask(fleet: Fleet, model: str, ask: int) -> Fleet:
    asks = fleet.asks.get(model)
    if asks is None or ask not in asks:
        return fleet
    rest = _without(asks, ask)
    return replace(fleet, asks={**fleet.asks, model: rest} if rest else _without(fleet.asks, model))


def reindex(fleet: Fleet, name: str) -> Fleet:
    """Free MiB on each device of a node, from its totals and what is placed there."""
    node = fleet.nodes.get(name)
    if node is None:
        return fleet
    free = {device.index: device.total_mb - device.foreign_mb for device in node.devices}
    for place in fleet.on_node(name):
        for device, held in place.shares.items():
            if device in free:
                free[device] -= held
    before = fleet.free.get(name)
    if before == free:
        return fleet
    roomy = _moved(fleet.roomy, (-_most(before), name) if before is not None else None, (-_most(free), name))
    return replace(fleet, free={**fleet.free, name: free}, roomy=roomy)


def _most(free: dict[int, int]) -> int:
    return max(free.values(), default=0)


def _moved(entries: list[Entry], old: Entry | None, new: Entry | None) -> list[Entry]:
    """A sorted list with one entry taken out and one put in; the list that was given stays as it is."""
    if old == new:
        return entries
    entries = entries.copy()
    if old is not None:
        at = bisect_left(entries, old)
        if at < len(entries) and entries[at] == old:
            del entries[at]
    if new is not None:
        insort(entries, new)
    return entries


def _without(mapping: dict[K, V], key: K) -> dict[K, V]:
    return {k: v for k, v in mapping.items() if k != key}


# -- requests --


def _arrived(fleet: Fleet, event: ev.Arrived, now: float) -> Fleet:
    ask = Ask(
        id=event.ask, model=event.model, since=now, affinity=event.affinity, avoid=event.avoid, decision=event.decision
    )
    asks = {**fleet.asks, event.model: {**fleet.asks.get(event.model, {}), event.ask: ask}}
    habit = touched(fleet.habits.get(event.model, Habit(at=now)), now)
    return with_habit(replace(fleet, asks=asks), event.model, habit)


def _count_uses(fleet: Fleet, now: float) -> Fleet:
    """The requests that were seated at once since the last tick, counted into the habits of their models."""
    if not fleet.used:
        return fleet
    places, habits = fleet.places.copy(), dict[str, Habit]()
    for model in fleet.used & places.keys():
        there = places[model]
        uses = sum(place.uses for place in there.values())
        places[model] = {node: replace(place, uses=0) if place.uses else place for node, place in there.items()}
        habits[model] = touched(fleet.habits.get(model, Habit(at=now)), now, uses)
    return with_habits(replace(fleet, places=places, used=frozenset()), habits)


def _learn_speeds(fleet: Fleet, event: ev.Ticked) -> Fleet:
    """An exponential mean over streams. What a node manages is remembered when the model leaves it."""
    if not event.speeds:
        return fleet
    speeds = {model: dict(there) for model, there in fleet.speeds.items()}
    for (model, node), (streams, mean) in event.speeds.items():
        if node in fleet.nodes and (model in fleet.places or model in fleet.profiles):
            there = speeds.setdefault(model, {})
            before = there.get(node, mean)
            there[node] = before + (1 - SPEED_KEEPS**streams) * (mean - before)
    return replace(fleet, speeds=speeds)


def _finished(fleet: Fleet, event: ev.Finished, now: float) -> Fleet:
    place = fleet.place(event.model, event.node)
    if place is not None:
        fleet = with_seats(fleet, replace(place, in_flight=max(0, place.in_flight - 1), last_used=now))
    node = fleet.nodes.get(event.node)
    if node is None or (not event.transport_error and node.trips == 0):
        return fleet
    if not event.transport_error:
        return with_node(fleet, replace(node, trips=0))
    trips = node.trips + 1
    until = now + min(BREAKER_MAX_S, 2.0 ** (trips - BREAKER_TRIPS)) if trips >= BREAKER_TRIPS else 0.0
    return with_node(fleet, replace(node, trips=trips, tripped_until=until, closed_at=now if until else node.closed_at))


# -- nodes --


def _missed(fleet: Fleet, event: ev.Missed, now: float) -> Fleet:
    node = fleet.nodes[event.node]
    misses = node.misses + 1
    healthy = node.healthy and misses < event.limit
    closed_at = now if node.healthy and not healthy else node.closed_at
    return with_node(fleet, replace(node, misses=misses, healthy=healthy, problem=event.reason, closed_at=closed_at))


def _leaving(fleet: Fleet, name: str, now: float) -> Fleet:
    node = fleet.nodes.get(name)
    return fleet if node is None or node.leaving else with_node(fleet, replace(node, leaving=True, closed_at=now))


def _polled(fleet: Fleet, event: ev.Polled, now: float) -> Fleet:
    node = fleet.nodes[event.node]
    boot_id = event.health.boot_id or (event.discovery.boot_id if event.discovery else node.boot_id)
    if node.boot_id and boot_id != node.boot_id:
        fleet = _forget(fleet, event.node)
    node = replace(
        node,
        healthy=True,
        seen=True,
        misses=0,
        problem=None,
        boot_id=boot_id,
        leaving=event.health.draining,
        closed_at=now if event.health.draining and not node.leaving else node.closed_at,
        tripped_until=0.0,
        activation=event.health.activation.state,
    )
    if event.discovery is not None:
        before, node = node, _discovered(node, event.discovery)
        if _hardware(before) != _hardware(node):
            fleet = _unbound(fleet, event.node)
    fleet = _models(fleet if node == fleet.nodes[event.node] else with_node(fleet, node), event, now)
    weighed = _weighed(fleet, node, event.health)
    return reindex(fleet if weighed == node else with_worn(with_node(fleet, weighed), event.node), event.node)


def with_worn(fleet: Fleet, name: str) -> Fleet:
    """Bring `worn` along after a node's devices have changed."""
    limit = fleet.eviction.defrag_after_cycles
    worn = limit > 0 and any(device.cycles >= limit for device in fleet.nodes[name].devices)
    if worn == (name in fleet.worn):
        return fleet
    return replace(fleet, worn=fleet.worn | {name} if worn else fleet.worn - {name})


def _forget(fleet: Fleet, name: str) -> Fleet:
    """The daemon was started anew: what it held is gone, what it said of fits and failures no longer binds."""
    for model in fleet.residents.get(name, ()):
        fleet = without_place(fleet, model, name)
    return replace(_unbound(fleet, name), clearing=_without(fleet.clearing, name))


def _unbound(fleet: Fleet, name: str) -> Fleet:
    """What a node said of fits and failures was of another daemon, or of other devices."""
    fits = {model: _without(there, name) for model, there in fleet.fits.items()}
    failures = {model: _without(there, name) for model, there in fleet.failures.items()}
    return replace(fleet, fits=fits, failures=failures)


def _hardware(node: Node) -> list[tuple[int, str, int]]:
    return [(device.index, device.kind, device.total_mb) for device in node.devices]


def _discovered(node: Node, seen: control.Discovery) -> Node:
    known = {device.index: device for device in node.devices}
    devices = tuple(
        Device(
            index=device.index,
            name=device.name,
            kind=device.kind,
            total_mb=max(0, device.vram_total_mb),
            foreign_mb=known[device.index].foreign_mb if device.index in known else 0,
            cycles=known[device.index].cycles if device.index in known else 0,
        )
        for device in seen.devices
    )
    return replace(
        node,
        hostname=seen.hostname,
        version=seen.neuron_version,
        devices=devices,
        largest_mb=max((device.total_mb for device in devices), default=0),
        harnesses=tuple(seen.harnesses),
    )


def _weighed(fleet: Fleet, node: Node, health: control.Health) -> Node:
    """Memory in use on a device that no model of ours explains is foreign, and nothing we can evict. The node says how
    much that is; for one that does not, it is what its models leave unexplained."""
    held: dict[int, int] = {}
    for place in fleet.on_node(node.name):
        for device, share in place.shares.items():
            held[device] = held.get(device, 0) + share
    foreign = {
        seen.index: seen.vram_used_mb - held.get(seen.index, 0) if seen.foreign_mb is None else seen.foreign_mb
        for seen in health.devices
    }
    cycles = {seen.index: seen.cycles for seen in health.devices}
    devices = tuple(
        replace(device, foreign_mb=max(0, foreign.get(device.index, 0)), cycles=cycles.get(device.index, device.cycles))
        for device in node.devices
    )
    return replace(node, devices=devices)


# -- models on nodes --


def _models(fleet: Fleet, event: ev.Polled, now: float) -> Fleet:
    reported = {model.id: model for model in event.models}
    for model in event.activation_loading:
        reported.setdefault(model, control.Model(id=model, status="loading"))
    for model in fleet.residents.get(event.node, ()):
        place = fleet.places[model][event.node]
        if model not in reported and not (place.ours and place.status in (Status.LOADING, Status.UNLOADING)):
            fleet = without_place(fleet, model, event.node)
    loads = {load.id: load.in_flight + load.queue_depth for load in event.health.models}
    for model in reported.values():
        fleet = _seen(fleet, event.node, model, loads.get(model.id, model.in_flight), now)
    return fleet


def _model_seen(fleet: Fleet, event: ev.ModelSeen, now: float) -> Fleet:
    return _seen(fleet, event.node, event.model, event.model.in_flight, now)


def _seen(fleet: Fleet, node: str, model: control.Model, outstanding: int, now: float) -> Fleet:
    """One model as its node tells it, merged with what only we know: our seats, and that a load or unload is ours."""
    old = fleet.place(model.id, node)
    status = _status(model.status)
    if status is Status.FAILED:
        return _failed_there(fleet, node, model, old, now)
    if old is not None and old.ours and old.status in (Status.LOADING, Status.UNLOADING):
        return with_seats(fleet, replace(old, loading=_loading(model.loading) or old.loading))
    profile = fleet.profiles.get(model.id)
    in_flight = old.in_flight if old else 0
    place = Place(
        model=model.id,
        node=node,
        status=status,
        shares=_shares(fleet, model, node),
        in_flight=in_flight,
        foreign=max(0, outstanding - in_flight),
        since=old.since if old and old.status is status else now - _seconds(model.loaded_s),
        last_used=_last_used(model, old, now),
        uses=old.uses if old else 0,
        servable=model.servable.ok if model.servable else True,
        reason=(model.servable.detail or model.servable.reason) if model.servable else model.error,
        loading=_loading(model.loading),
        pinned=_pinned(model, old, profile),
        context=model.limit.context if model.limit else None,
        max_output=model.limit.output if model.limit else None,
        capabilities=tuple(model.capabilities),
        harness=model.harness,
        harness_reason=model.harness_reason,
        closing=old.closing if old else False,
        load_id=model.load_id,
    )
    place = replace(
        place, kept_until=_kept_until(fleet, model, place, old, now), stuck_at=_stuck_at(fleet, place, old, now)
    )
    return fleet if place == old else with_place(fleet, place)


def _pinned(model: control.Model, old: Place | None, profile: Profile | None) -> bool:
    """The operator's word as the node keeps it, else as it was given here, else the configuration's."""
    if model.pinned is not None:
        return model.pinned
    return old.pinned if old is not None else profile is not None and profile.pinned


def _failed_there(fleet: Fleet, node: str, model: control.Model, old: Place | None, now: float) -> Fleet:
    """A load that another gateway asked for, and that this one would have shared, is remembered like its own."""
    if old is None or old.ours:
        return fleet
    if old.status is not Status.LOADING:
        return without_place(fleet, model.id, node)
    return _load_failed(fleet, ev.LoadFailed(node=node, model=model.id, error=model.error or "the load failed"), now)


def _seconds(told: float | None) -> float:
    return max(0.0, told or 0.0)


def _last_used(model: control.Model, old: Place | None, now: float) -> float:
    """When it was last used, by whichever gateway. A report that is hardly newer than what is known changes nothing."""
    if model.idle_s is None:
        return old.last_used if old else now - _seconds(model.loaded_s)
    told = now - _seconds(model.idle_s)
    return told if old is None or told > old.last_used + 1.0 else old.last_used


def _kept_until(fleet: Fleet, model: control.Model, place: Place, old: Place | None, now: float) -> float:
    """A model that nobody has used yet was loaded for a request that is on its way: no victim while it is fresh.

    A report may be older than our own seats: what we have used is not unused.
    """
    used_here = old is not None and (old.in_flight > 0 or old.last_used > old.since)
    if place.status is Status.LOADED and model.loaded_s is not None and model.idle_s is None and not used_here:
        return place.since + fleet.eviction.min_residency_s
    return min(old.kept_until, now + KEEP_AFTER_REFUSAL_S) if old else 0.0


def _stuck_at(fleet: Fleet, place: Place, old: Place | None, now: float) -> float:
    """Each sign of progress gives a load its time anew, which does not begin before its turn on its device has come.
    One that was given up here already is stuck until it moves."""
    if old is not None and (old.status, old.loading) == (place.status, place.loading):
        return old.stuck_at
    failure = fleet.failure(place.model, place.node)
    if place.loading is not None and place.loading.queued:
        return math.inf
    given_up = old is None and failure is not None and not failure.crowded
    return now if given_up else now + load_deadline_s(place.shares.values())


def _status(text: str) -> Status:
    """An unknown status is read as loaded, as older gateways did; `reloading` is a recovery."""
    if text == "reloading":
        return Status.RECOVERING
    return _STATUSES.get(text, Status.LOADED)


def _loading(state: control.LoadingState | None) -> Loading | None:
    if state is None:
        return None
    return Loading(stage=state.stage, progress=state.progress, eta_s=state.eta_s, behind=state.behind)


def _shares(fleet: Fleet, model: control.Model, node: str) -> dict[int, int]:
    """MiB on each device: measured, else predicted, else what the profile or the preflight said."""
    profile, fit = fleet.profiles.get(model.id), fleet.fit(model.id, node)
    devices = model.devices or [device.index for device in fleet.nodes[node].devices[:1]]
    total = model.vram_used_mb or model.vram_predicted_mb
    if total is None and fit is not None:
        total = fit.per_device_mb * len(devices)
    if total is None:
        total = (profile.vram_mb if profile else None) or 0
    return {device: max(0, total) // len(devices) for device in devices} if devices else {}


def _turned_away(fleet: Fleet, event: ev.TurnedAway, now: float) -> Fleet:
    """Its node says so before its own report comes. What is not loaded, as far as we know, is known better already."""
    place = fleet.place(event.model, event.node)
    if place is None or place.status is not Status.LOADED:
        return fleet
    stuck_at = now + load_deadline_s(place.shares.values())
    return with_seats(fleet, replace(place, status=event.status, since=now, stuck_at=stuck_at))


def _fitted(fleet: Fleet, event: ev.Fitted) -> Fleet:
    if event.node not in fleet.nodes:
        return fleet
    fit = Fit(refusal=event.refusal)
    if event.refusal is not None and _for_now(event.refusal):
        fit = Fit(per_device_mb=_whole(event.refusal.get("needed_mb")))
    if event.plan is not None:
        shares = event.plan.shares
        fit = Fit(
            per_device_mb=max((share.needed_mb for share in shares), default=0),
            devices=max(1, len(shares)),
            warmth=event.plan.warmth,
            context=event.plan.context or None,
        )
    return replace(fleet, fits={**fleet.fits, event.model: {**fleet.fits.get(event.model, {}), event.node: fit}})


def _for_now(refusal: dict[str, Any]) -> bool:
    """A refusal that only says what else is loaded there at the moment."""
    return refusal.get("evictable") is True


def _whole(told: object) -> int:
    return max(0, told) if isinstance(told, int) else 0


def _joined(fleet: Fleet, event: ev.Joined, now: float) -> Fleet:
    """Our load goes on there. Where we only made room, the next report of the node tells how it stands."""
    place = fleet.place(event.model, event.node)
    fleet = without_place(fleet, event.model, event.node)
    if event.at not in fleet.nodes or fleet.place(event.model, event.at) is not None:
        return fleet
    if place is None:
        return _seen(fleet, event.at, control.Model(id=event.model, status="loading"), 0, now)
    shares = _shares(fleet, control.Model(id=event.model), event.at)
    return with_place(fleet, replace(place, node=event.at, shares=shares))


def _loaded(fleet: Fleet, event: ev.Loaded, now: float) -> Fleet:
    place = fleet.place(event.model, event.node)
    habit = fleet.habits.get(event.model, Habit(at=now))
    measured = event.took_s if habit.load_s is None else 0.5 * habit.load_s + 0.5 * event.took_s
    fleet = replace(
        with_habit(fleet, event.model, replace(habit, load_s=measured, worth=None)),
        wanted=_without(fleet.wanted, event.model),
        failures={**fleet.failures, event.model: _without(fleet.failures.get(event.model, {}), event.node)},
        clearing={node: model for node, model in fleet.clearing.items() if model != event.model},
    )
    if place is None:
        return fleet
    return with_place(
        fleet, replace(place, status=Status.LOADED, since=now, last_used=now, loading=None, ours=False, servable=True)
    )


def _load_failed(fleet: Fleet, event: ev.LoadFailed, now: float) -> Fleet:
    if event.unreachable and event.node in fleet.nodes:
        fleet = _missed(fleet, ev.Missed(node=event.node, reason=event.error, limit=1), now)
        return without_place(fleet, event.model, event.node)
    if event.leaving:  # until a poll tells otherwise
        return without_place(_leaving(fleet, event.node, now), event.model, event.node)
    failure = _failure(fleet.failure(event.model, event.node), event, now)
    failures = {**fleet.failures, event.model: {**fleet.failures.get(event.model, {}), event.node: failure}}
    fleet = replace(fleet, failures=failures)
    if not failure.crowded and not fleet.failed_once(event.model):
        fleet = replace(fleet, wanted=_without(fleet.wanted, event.model))
    return without_place(fleet, event.model, event.node)


def _failure(before: Failure | None, event: ev.LoadFailed, now: float) -> Failure:
    if _for_now(event.fields):
        return Failure(error=event.error, count=before.count if before else 0, until=now + CROWDED_S, crowded=True)
    count = before.count + 1 if before else 1
    until = now + min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (count - 1))
    return Failure(error=event.error, count=count, until=until, status=event.status, fields=event.fields)


def _unload_failed(fleet: Fleet, event: ev.UnloadFailed, now: float) -> Fleet:
    place = fleet.place(event.model, event.node)
    if place is None:
        return fleet
    kept = replace(place, status=Status.LOADED, ours=False, kept_until=now + KEEP_AFTER_REFUSAL_S)
    return with_seats(fleet, kept)


# -- the operator --


def _wanted(fleet: Fleet, model: str, now: float) -> Fleet:
    failures = {**fleet.failures, model: {}} if model in fleet.failures else fleet.failures
    wanted = {**fleet.wanted, model: fleet.wanted.get(model, now)}
    return replace(fleet, wanted=wanted, preloads=fleet.preloads - {model}, failures=failures)


def _repinned(fleet: Fleet, profiles: dict[str, Profile]) -> dict[str, dict[str, Place]]:
    """The places with the pins that the configuration has now, where it had others."""

    def pinned(of: dict[str, Profile], model: str) -> bool:
        return model in of and of[model].pinned

    changed = [model for model in fleet.places if pinned(profiles, model) != pinned(fleet.profiles, model)]
    places = fleet.places.copy()
    for model in changed:
        places[model] = {node: replace(p, pinned=pinned(profiles, model)) for node, p in places[model].items()}
    return places


def _configured(fleet: Fleet, event: ev.Configured, now: float) -> Fleet:
    """Only what changed is touched: nodes that stay keep what is known of them."""
    for gone in set(fleet.nodes) - set(event.nodes):
        fleet = _forget(fleet, gone)
    nodes = {name: fleet.nodes.get(name, Node(name=name, closed_at=now)) for name in event.nodes}
    changed = {name for name in fleet.profiles if fleet.profiles[name] != event.profiles.get(name)}
    preload = {name: now for name, profile in event.profiles.items() if profile.preload and name not in fleet.profiles}
    fleet = replace(
        fleet,
        nodes=nodes,
        profiles=event.profiles,
        eviction=event.eviction,
        max_queue=event.max_queue,
        restart_s=event.restart_s,
        fits={model: there for model, there in fleet.fits.items() if model not in changed},
        failures={model: there for model, there in fleet.failures.items() if model not in changed},
        free={name: free for name, free in fleet.free.items() if name in nodes},
        roomy=[entry for entry in fleet.roomy if entry[1] in nodes],
        idlers={name: p.idle_unload_s for name, p in event.profiles.items() if p.idle_unload_s is not None},
        wanted={name: at for name, at in fleet.wanted.items() if name in event.profiles or name in fleet.places}
        | preload,
        preloads=fleet.preloads | preload.keys(),
        places=_repinned(fleet, event.profiles),
    )
    fleet = replace(fleet, worn=frozenset())
    for name in nodes:
        fleet = with_worn(fleet, name)
    return ranked(replace(fleet, habits={model: replace(h, worth=None) for model, h in fleet.habits.items()}))
