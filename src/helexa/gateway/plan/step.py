"""`step(fleet, event, now) -> (fleet, instructions)`: the gateway's whole judgement.

One page of order: oldest ask first - seat, join, fit, make room, wait, refuse. Nobody loads where room is being made
for someone older; without that law two models can chase each other's room for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec.structs import replace

from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.fold import fold, with_node, with_place, with_seats, with_worn, without_ask
from helexa.gateway.fleet.model import Ask, Fleet, Place, Status, load_deadline_s
from helexa.gateway.plan.evict import AtRest
from helexa.gateway.plan.instructions import (
    Appraisal,
    Forgo,
    Instruction,
    Load,
    Recycle,
    Refuse,
    Seat,
    Unload,
    Verdict,
    Why,
)
from helexa.gateway.plan.place import Claims, best_of, candidates, seats, shortlist
from helexa.gateway.plan.refuse import forgone, refusal
from helexa.gateway.plan.wait import loading

_ROOM_COMES = (Verdict.EVICT, Verdict.BUSY)
_MAY_COME = (Verdict.CLAIMED, Verdict.CROWDED, Verdict.AGAIN, Verdict.RETURNING)
_REPORTS = (ev.Polled, ev.ModelSeen, ev.ModelGone)
"""What brings nothing to decide unless it brings news."""
DRAIN_S = 60.0


def step(fleet: Fleet, event: ev.Event, now: float) -> tuple[Fleet, list[Instruction]]:
    """Fold what happened, then act on it. Deterministic: the same three arguments give the same answer."""
    before, fleet = fleet, fold(fleet, event, now)
    if fleet is before and isinstance(event, _REPORTS):
        return fleet, []
    if isinstance(event, ev.Arrived):
        seated = _seat_at_once(fleet, event, now)
        if seated is not None:
            return seated
    if _changes_nothing(fleet, event, now):
        return fleet, []
    turn = _Turn(fleet, now, before.clearing)
    if isinstance(event, ev.Unwanted):
        turn.take_out(event.model, event.node)
    turn.settle()
    if isinstance(event, ev.Ticked):
        turn.unload_idle()
        turn.recycle_worn()
    return turn.fleet, turn.out


def foreseen(fleet: Fleet, event: ev.Event, now: float) -> tuple[Fleet, list[Instruction]]:
    """A dry run: what would be done about `event`, and next where an unload of it makes room."""
    fleet, out = step(fleet, event, now)
    for one in out:
        if isinstance(one, Unload):
            fleet, more = step(fleet, ev.Unloaded(node=one.node, model=one.model), now)
            out += more
    return fleet, out


def _changes_nothing(fleet: Fleet, event: ev.Event, now: float) -> bool:
    """A seat that was left where others go on frees nothing; one more waiter for what loads waits like the rest."""
    if isinstance(event, ev.Arrived):
        return len(fleet.asks.get(event.model, {})) > 1 and _only_loads(fleet, event.model, now)
    if not isinstance(event, ev.Finished) or event.transport_error:
        return False
    place = fleet.place(event.model, event.node)
    return place is not None and place.in_flight > 0 and event.model not in fleet.asks


def _only_loads(fleet: Fleet, model: str, now: float) -> bool:
    """Its waiters wait for a load that is under way: there is nothing to decide for it."""
    there = fleet.places.get(model)
    if not there:
        return False
    for place in there.values():
        if place.status is not Status.LOADING or place.stuck(now) or not fleet.nodes[place.node].healthy:
            return False
    return True


def _seat_at_once(fleet: Fleet, event: ev.Arrived, now: float) -> tuple[Fleet, list[Instruction]] | None:
    """The hot path: the model is there and nobody waits for it."""
    waiting = fleet.asks[event.model]
    if len(waiting) > 1:
        if len(waiting) > fleet.max_queue:
            fleet = without_ask(fleet, event.model, event.ask)
            return fleet, [_queue_full(fleet, event.ask, event.model, len(waiting) - 1)]
        return None
    place = best_seat(fleet, waiting[event.ask], now)
    if place is None:
        return None
    return take_seat(without_ask(fleet, event.model, event.ask), place, event.ask, now)


def take_seat(fleet: Fleet, place: Place, ask: int, now: float) -> tuple[Fleet, list[Instruction]]:
    fleet = with_seats(fleet, replace(place, in_flight=place.in_flight + 1, last_used=now))
    return fleet, [Seat(ask=ask, model=place.model, node=place.node)]


def best_seat(fleet: Fleet, ask: Ask, now: float) -> Place | None:
    """Least outstanding work for what each node manages; among equals the session's own node, then the name."""
    ready = [(place.outstanding, place) for place in seats(fleet, ask.model, now, ask.avoid)]
    return best_of(ready, fleet.speeds.get(ask.model, {}), ask.affinity) if ready else None


def _queue_full(fleet: Fleet, ask: int, model: str, waiting: int) -> Refuse:
    return Refuse(
        ask=ask,
        model=model,
        why=Why.QUEUE_FULL,
        message=f"{waiting} requests wait for `{model}` already",
        status=429,
        retry_after=5.0,
        fields={"waiting": waiting, "loading": loading(fleet, model)},
    )


class _Turn:
    """One turn of planning: the fleet as it changes, and the instructions that come of it."""

    def __init__(self, fleet: Fleet, now: float, doors: Iterable[str]) -> None:
        self.fleet = fleet
        self.doors = doors
        self.now = now
        self.out: list[Instruction] = []
        self.claims: Claims = {}
        self.clearing: dict[str, str] = {}
        self.at_rest = AtRest(fleet)

    def settle(self) -> None:
        """Serve every model that is asked for, the one with the oldest ask first."""
        sought = self._sought()
        if not sought and not self.doors:
            return
        for model in sorted((m for m in sought if not _only_loads(self.fleet, m, self.now)), key=self._age):
            self._serve(model)
        if self.clearing != self.fleet.clearing:
            self.fleet = replace(self.fleet, clearing=self.clearing)
        self._reopen()

    def _sought(self) -> set[str]:
        return set(self.fleet.asks) | set(self.fleet.wanted)

    def _age(self, model: str) -> tuple[float, str]:
        oldest = next(iter(self.fleet.asks.get(model, {}).values()), None)
        return (oldest.since if oldest else self.fleet.wanted[model], model)

    def _serve(self, model: str) -> None:
        self._seat_waiters(model)
        asks = list(self.fleet.asks.get(model, {}).values())
        if not asks and (model not in self.fleet.wanted or self._is_somewhere(model)):
            self._want_no_more(model)
            return
        if self._comes(model):
            return
        self._find_room(model, asks)

    def _want_no_more(self, model: str) -> None:
        self.fleet = replace(self.fleet, wanted={k: v for k, v in self.fleet.wanted.items() if k != model})

    def _seat_waiters(self, model: str) -> None:
        for ask in list(self.fleet.asks.get(model, {}).values()):
            place = best_seat(self.fleet, ask, self.now)
            if place is not None:
                self._seat(ask, place)

    def _seat(self, ask: Ask, place: Place) -> None:
        self.fleet, seated = take_seat(without_ask(self.fleet, ask.model, ask.id), place, ask.id, self.now)
        self.out += seated

    def _is_somewhere(self, model: str) -> bool:
        return any(place.status is Status.LOADED for place in self.fleet.places.get(model, {}).values())

    def _comes(self, model: str) -> bool:
        """On its way somewhere, or loaded behind a door that closed for an older waiter: wait for it."""
        return any(
            place.passes(self.now) or place.closing
            for place in self.fleet.places.get(model, {}).values()
            if self.fleet.nodes[place.node].healthy
        )

    def _find_room(self, model: str, asks: list[Ask]) -> None:
        found = shortlist(self.fleet, model, self.now, self.claims, self.at_rest)
        if not found:
            found = candidates(self.fleet, model, self.now, self.claims)
        there = self.fleet.places.get(model, {})
        elsewhere = [one for one in found if one.node not in there or one.verdict is Verdict.RETURNING]
        if not asks and model in self.fleet.preloads:
            elsewhere = [one for one in elsewhere if not any(map(self._is_preloaded, one.victims))]
        best = self._prefer_cleared(model, elsewhere)
        if best is not None and best.verdict is Verdict.FITS:
            self._load(model, best, found)
        elif best is not None and best.verdict is Verdict.EVICT:
            self._make_room(model, best, found)
        elif best is not None and best.verdict is Verdict.BUSY:
            self._wait_for_busy(model, best, asks)
        elif best is None or best.verdict not in _MAY_COME:
            self._give_up(model, asks, found)
        elif best.verdict is Verdict.RETURNING:
            self._seat_again(asks)

    def _is_preloaded(self, model: str) -> bool:
        profile = self.fleet.profiles.get(model)
        return profile is not None and profile.preload

    def _give_up(self, model: str, asks: list[Ask], found: list[Appraisal]) -> None:
        """No node can: refuse."""
        for ask in self._seat_again(asks):
            self.out.append(refusal(self.fleet, ask, found, self.now))
            self.fleet = without_ask(self.fleet, model, ask.id)
        if model in self.fleet.wanted and not any(one.verdict in (Verdict.BACKOFF, Verdict.CLOSED) for one in found):
            self._want_no_more(model)
            self.out.append(Forgo(model=model, message=forgone(self.fleet, model, found, self.now)))

    def _seat_again(self, asks: list[Ask]) -> list[Ask]:
        """One more try on a node that failed an ask before beats a refusal, and a wait for a node that is away. Returns
        the asks for which there is none."""
        rest: list[Ask] = []
        for ask in asks:
            place = best_seat(self.fleet, replace(ask, avoid=frozenset()), self.now)
            if place is not None:
                self._seat(ask, place)
            else:
                rest.append(ask)
        return rest

    def _prefer_cleared(self, model: str, found: list[Appraisal]) -> Appraisal | None:
        """A node on which room is being made for this very model stays its node, so that no second one is emptied."""
        fits = [a for a in found if a.verdict is Verdict.FITS]
        cleared = [a for a in found if self.fleet.clearing.get(a.node) == model and a.verdict in _ROOM_COMES]
        choice = fits or cleared or found
        return choice[0] if choice else None

    def _load(self, model: str, chosen: Appraisal, found: list[Appraisal]) -> None:
        shares = dict.fromkeys(chosen.devices, chosen.needed_mb)
        profile = self.fleet.profiles.get(model)
        place = Place(
            model=model,
            node=chosen.node,
            status=Status.LOADING,
            shares=shares,
            since=self.now,
            last_used=self.now,
            pinned=bool(profile and profile.pinned),
            ours=True,
        )
        self.fleet = with_place(self.fleet, place)
        deadline = load_deadline_s(shares.values())
        self.out.append(
            Load(
                model=model,
                node=chosen.node,
                devices=chosen.devices,
                deadline_s=deadline,
                appraisals=tuple(found),
                nodes=len(self.fleet.nodes),
            )
        )

    def _make_room(self, model: str, chosen: Appraisal, found: list[Appraisal]) -> None:
        self._claim(model, chosen)
        for victim in chosen.victims:
            self._evict(victim, chosen.node, model, found)

    def _wait_for_busy(self, model: str, chosen: Appraisal, asks: list[Ask]) -> None:
        """Claim the room; once the oldest waiter's patience is over, close the door behind those that are busy."""
        self._claim(model, chosen)
        if not asks or not self._impatient(model):
            return
        for victim in chosen.victims:
            place = self.fleet.place(victim, chosen.node)
            if place is not None and place.status is Status.LOADED and not place.closing:
                self.fleet = with_seats(self.fleet, replace(place, closing=True))

    def _impatient(self, model: str) -> bool:
        oldest = next(iter(self.fleet.asks.get(model, {}).values()), None)
        return oldest is not None and self.now - oldest.since >= self.fleet.eviction.patience_s

    def _claim(self, model: str, chosen: Appraisal) -> None:
        self.clearing[chosen.node] = model
        spoken = self.claims.setdefault(chosen.node, {})
        for device in chosen.devices or tuple(self.fleet.free.get(chosen.node, {})):
            spoken[device] = spoken.get(device, 0) + chosen.needed_mb

    def _reopen(self) -> None:
        """A door that was closed for a waiter who is gone opens again; doors close only where room is being made."""
        for node in self.doors:
            if node not in self.clearing:
                for place in self.fleet.on_node(node):
                    if place.closing:
                        self.fleet = with_seats(self.fleet, replace(place, closing=False))

    def _evict(self, victim: str, node: str, made_for: str, found: list[Appraisal]) -> None:
        """Whose patience is over has even other gateways' requests end first, or their traffic could keep it out."""
        place = self.fleet.place(victim, node)
        drain_s = DRAIN_S if self._impatient(made_for) and place is not None and place.foreign else None
        spare_s = self.fleet.eviction.min_residency_s
        load_id = place.load_id if place is not None else ""
        order = Unload(model=victim, node=node, reason="evicted", made_for=made_for, appraisals=tuple(found))
        self._unload(replace(order, spare_unused_s=spare_s, drain_s=drain_s, load_id=load_id))

    def _unload(self, order: Unload) -> None:
        place = self.fleet.place(order.model, order.node)
        if place is None or place.status is Status.UNLOADING:
            return
        self.fleet = with_seats(
            self.fleet,
            replace(place, status=Status.UNLOADING, since=self.now, ours=True, closing=False, stuck_at=math.inf),
        )
        self.out.append(order)

    def take_out(self, model: str, node: str | None) -> None:
        """The operator's unload."""
        for place in list(self.fleet.places.get(model, {}).values()):
            if node in (None, place.node):
                self._unload(Unload(model=model, node=place.node, reason="operator"))

    def recycle_worn(self) -> None:
        """`defrag_after_cycles`: devices whose memory many loads have cut up, once nothing there has been used for a
        while. What is loaded there comes back by itself."""
        for name in self.fleet.worn:
            node, limit = self.fleet.nodes[name], self.fleet.eviction.defrag_after_cycles
            worn = [d.index for d in node.devices if d.cycles >= limit and self._rests(name, d.index)]
            if node.healthy and name not in self.fleet.clearing and worn:
                self.out.append(Recycle(node=name, device=worn[0], after_cycles=limit))
                devices = tuple(replace(d, cycles=0) if d.index == worn[0] else d for d in node.devices)
                self.fleet = with_worn(with_node(self.fleet, replace(node, devices=devices)), name)

    def _rests(self, node: str, device: int) -> bool:
        settled_by = self.now - self.fleet.eviction.min_residency_s
        return all(
            place.status is Status.LOADED and not place.outstanding and place.last_used <= settled_by
            for place in self.fleet.on_node(node)
            if device in place.shares
        )

    def unload_idle(self) -> None:
        """`idle_unload_s`: models that nobody used for so long."""
        for model, after in self.fleet.idlers.items():
            there = self.fleet.places.get(model)
            if there is None or model in self.fleet.asks:
                continue
            for place in there.values():
                if self.now - place.last_used < after or place.in_flight or place.pinned:
                    continue
                if place.status is Status.LOADED and self.now >= place.kept_until:
                    order = Unload(model=model, node=place.node, reason="idle")
                    self._unload(replace(order, min_idle_s=after, load_id=place.load_id))
