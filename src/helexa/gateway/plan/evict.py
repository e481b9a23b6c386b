"""Choosing what to lose: only idle models of lower or equal rank, never a pinned one, the cheapest first.

Equal rank may displace, both ways: with a strict order a model that took a node would never give it back. Minimum
residency is a preference, not a wall: a model inside it goes only when no other victim would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from helexa.gateway.fleet.habits import DEFAULT_RANK, rate_now, restore_s, worth
from helexa.gateway.fleet.model import Fleet, Place, Status

WIDE = 16
"""How many nodes with a way to make room are compared by what it loses them."""
_AT_REST = (Status.LOADED, Status.POISONED)


def rank(fleet: Fleet, model: str) -> int:
    """residency_priority; a model that no profile lists ranks 100."""
    profile = fleet.profiles.get(model)
    return profile.residency_priority if profile else DEFAULT_RANK


def loss(fleet: Fleet, victims: Sequence[Place], now: float) -> tuple[float, ...]:
    """What losing all of them costs, to weigh one node's victims against another's; fresh ones count first."""
    if not victims:
        return ()
    fresh = sum(_fresh(fleet, place, now) for place in victims)
    if fleet.eviction.strategy == "cost":
        return fresh, sum(restore_s(fleet, place.model) * rate(fleet, place.model, now) for place in victims)
    return fresh, *max(worth(fleet, place.model)[:2] for place in victims)


def rate(fleet: Fleet, model: str, now: float) -> float:
    """Requests per second to be expected; never quite zero, so that of unused models the restore time still counts."""
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

    def order(place: Place) -> tuple[bool, bool, bool, tuple[float, float, str]]:
        return place.in_flight > 0, _fresh(fleet, place, now), place.foreign > 0, worth(fleet, place.model)

    mine = rank(fleet, incoming)
    open_to = [place for place in fleet.on_node(node) if _may_go(fleet, incoming, mine, place, now, busy_too=busy_too)]
    open_to.sort(key=order)
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


def _may_go(fleet: Fleet, incoming: str, mine: int, place: Place, now: float, *, busy_too: bool) -> bool:
    if place.pinned or place.model == incoming or rank(fleet, place.model) > mine:
        return False
    if place.status not in _AT_REST:
        return busy_too and place.status is not Status.UNLOADING
    return busy_too or (place.in_flight == 0 and now >= place.kept_until)


def _fresh(fleet: Fleet, place: Place, now: float) -> bool:
    return now - place.since < fleet.eviction.min_residency_s


class AtRest:
    """Places that may be emptied or are being emptied, the models least worth keeping first, read once and only so far.

    It is of the fleet that it was made with: what it names is looked at again by whoever uses it later in a turn.
    """

    __slots__ = ("_rest", "_seen")

    def __init__(self, fleet: Fleet) -> None:
        self._seen: list[Place] = []
        self._rest = _at_rest(fleet)

    def __iter__(self) -> Iterator[Place]:
        yield from self._seen
        for place in self._rest:
            self._seen.append(place)
            yield place


def _at_rest(fleet: Fleet) -> Iterator[Place]:
    for *_, model in fleet.ranking:
        for place in fleet.places[model].values():
            idle = not place.in_flight and not place.pinned and place.status in _AT_REST
            if idle or place.status is Status.UNLOADING:
                yield place


def nodes_by_loss(
    fleet: Fleet, incoming: str, now: float, room_on: Callable[[str], Room | None], most: int, at_rest: AtRest
) -> list[str]:
    """Of the first `WIDE` nodes on which idle models can make the room, the `most` that lose the least.

    Models are taken out in thought, the least worth keeping first and wherever they are, until some node has the room:
    the index is read only so far. Models inside their minimum residency are thought of only when all others do not do.
    `room_on` gives a node's room, or None for a node that is out of the question.
    """
    mine = rank(fleet, incoming)
    rooms: dict[str, Room | None] = {}
    found: list[tuple[tuple[float, ...], str]] = []
    later: list[Place] = []
    settled_by = now - fleet.eviction.min_residency_s

    def give_up(place: Place) -> None:
        node = place.node
        room = rooms[node] if node in rooms else rooms.setdefault(node, room_on(node))
        if room is not None and room.enough_without(place):
            rooms[node] = None
            found.append((loss(fleet, room.gone, now), node))

    for known in at_rest:
        if len(found) >= WIDE:
            break
        place = fleet.place(known.model, known.node)
        if place is None or rank(fleet, place.model) > mine:
            continue
        if place.status is Status.UNLOADING:
            give_up(place)
        elif place.in_flight or now < place.kept_until:
            continue
        elif place.since > settled_by:
            later.append(place)
        else:
            give_up(place)
    if not found:
        for place in later:
            if len(found) == most:
                break
            give_up(place)
    return [node for _, node in sorted(found)[:most]]


class Room:
    """A node's memory as models leave it in thought: the `lacking` devices do not have the room yet."""

    __slots__ = ("_free", "_lacking", "_needed", "gone")

    def __init__(self, free: dict[int, int], needed_mb: int, devices: int) -> None:
        self._free, self._needed = dict(free), needed_mb
        self.gone: list[Place] = []
        self._lacking = devices - sum(room >= needed_mb for room in free.values())

    def enough_without(self, place: Place) -> bool:
        free, needed = self._free, self._needed
        self.gone.append(place)
        for device, held in place.shares.items():
            before = free.get(device, needed)
            if before < needed:
                free[device] = before + held
                self._lacking -= before + held >= needed
        return self._lacking <= 0

    @property
    def enough(self) -> bool:
        return self._lacking <= 0


def _enough(room: dict[int, int], per_device_mb: int, devices: int) -> tuple[int, ...] | None:
    if sum(free >= per_device_mb for free in room.values()) < devices:
        return None
    fitting = sorted((device for device, free in room.items() if free >= per_device_mb), key=lambda d: (-room[d], d))
    return tuple(fitting[:devices])


def _needed(taken: list[Place], room: dict[int, int], chosen: tuple[int, ...], per_device_mb: int) -> tuple[Place, ...]:
    """Spare every victim without which the chosen devices still have the room, dearest first."""
    kept = list(taken)
    for victim in reversed(taken):
        without = {device: room[device] - victim.shares.get(device, 0) for device in chosen}
        if all(free >= per_device_mb for free in without.values()):
            kept.remove(victim)
            room = {**room, **without}
    return tuple(kept)
