"""Choosing what to lose: only idle models of lower or equal rank, never a pinned one, the cheapest first.

Equal rank may displace, both ways: with a strict order a model that took a node would never give it back. Minimum
residency is a preference, not a wall: a model inside it goes only when no other victim would do.
"""

from __future__ import annotations

from helexa.gateway.fleet.fold import rate_now
from helexa.gateway.fleet.model import Fleet, Place, Status

DEFAULT_RANK = 100
GUESSED_LOAD_S_PER_GIB = 2.0
"""Restoring a model that was never timed: seconds for each GiB it holds."""


def rank(fleet: Fleet, model: str) -> int:
    """residency_priority; a model that no profile lists ranks 100."""
    profile = fleet.profiles.get(model)
    return profile.residency_priority if profile else DEFAULT_RANK


def may_displace(fleet: Fleet, incoming: str, resident: Place) -> bool:
    """By rights, whatever it is doing at the moment."""
    return not resident.pinned and rank(fleet, resident.model) <= rank(fleet, incoming)


def price(fleet: Fleet, place: Place, now: float) -> tuple[float, float]:
    """What losing this model costs, lower goes first; the second figure breaks ties (least recently used)."""
    strategy = fleet.eviction.strategy
    if strategy == "lru":
        return place.last_used, 0.0
    if strategy == "priority":
        return float(rank(fleet, place.model)), place.last_used
    return restore_s(fleet, place) * reuse_rate(fleet, place.model, now), place.last_used


def restore_s(fleet: Fleet, place: Place) -> float:
    """Seconds to bring the model back: measured, or guessed from its size."""
    habit = fleet.habits.get(place.model)
    if habit is not None and habit.load_s is not None:
        return habit.load_s
    return 0.1 + GUESSED_LOAD_S_PER_GIB * sum(place.shares.values()) / 1024


def reuse_rate(fleet: Fleet, model: str, now: float) -> float:
    """Requests per second to be expected; never quite zero, so that among unused models size still counts."""
    habit = fleet.habits.get(model)
    return (rate_now(habit, now) if habit else 0.0) + 1e-6


def choose_victims(
    fleet: Fleet,
    incoming: str,
    node: str,
    rooms: dict[int, int],
    going: dict[int, int],
    per_device_mb: int,
    devices: int,
    now: float,
    *,
    busy_too: bool,
) -> tuple[tuple[int, ...], tuple[Place, ...]] | None:
    """The devices to use and the models to lose there, or None when even losing all of them is not enough.

    Victims are added cheapest first until the model fits, then those that turned out not to be needed are spared.
    `going` is memory that is leaving already and counts as free.
    """
    open_to = sorted(
        (place for place in fleet.on_node(node) if _may_go(fleet, incoming, place, now, busy_too=busy_too)),
        key=lambda place: (place.in_flight > 0, _fresh(fleet, place, now), place.foreign > 0, price(fleet, place, now)),
    )
    room = {device: free + going.get(device, 0) for device, free in rooms.items()}
    taken: list[Place] = []
    for victim in (None, *open_to):
        if victim is not None:
            taken.append(victim)
            for device, held in victim.shares.items():
                if device in room:
                    room[device] += held
        chosen = _enough(room, per_device_mb, devices)
        if chosen is not None:
            return chosen, _needed(taken, room, chosen, per_device_mb)
    return None


def _may_go(fleet: Fleet, incoming: str, place: Place, now: float, *, busy_too: bool) -> bool:
    if place.model == incoming or not may_displace(fleet, incoming, place):
        return False
    if place.status not in (Status.LOADED, Status.POISONED):
        return busy_too and place.status is not Status.UNLOADING
    return busy_too or (place.in_flight == 0 and now >= place.kept_until)


def _fresh(fleet: Fleet, place: Place, now: float) -> bool:
    return now - place.since < fleet.eviction.min_residency_s


def _enough(room: dict[int, int], per_device_mb: int, devices: int) -> tuple[int, ...] | None:
    fitting = sorted((device for device, free in room.items() if free >= per_device_mb), key=lambda d: (-room[d], d))
    return tuple(fitting[:devices]) if len(fitting) >= devices else None


def _needed(taken: list[Place], room: dict[int, int], chosen: tuple[int, ...], per_device_mb: int) -> tuple[Place, ...]:
    """Spare every victim without which the chosen devices still have the room, dearest first."""
    kept = list(taken)
    for victim in reversed(taken):
        without = {device: room[device] - victim.shares.get(device, 0) for device in chosen}
        if all(free >= per_device_mb for free in without.values()):
            kept.remove(victim)
            room = {**room, **without}
    return tuple(kept)
