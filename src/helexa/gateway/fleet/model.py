"""The fleet as immutable values. A change makes a new value, so a plan can be tried on a copy for nothing.

msgspec's frozen structs are used in place of frozen dataclasses: building one costs a sixth, and the planner builds a
few for each request. Memory is MiB, time is seconds on the caller's clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from helexa.gateway.config import Eviction, Profile
from helexa.wire.control import QUEUED


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the fleet's values."""


class Status(StrEnum):
    """A model on a node, as the gateway sees it."""

    LOADING = "loading"
    LOADED = "loaded"
    RECOVERING = "recovering"
    POISONED = "poisoned"
    UNLOADING = "unloading"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    """Its node does not answer; shown, and never a place's own."""


class Device(Value, frozen=True):
    """A device's memory. `foreign_mb` is what no model of ours explains; `cycles` counts models that came and went."""

    index: int
    name: str = ""
    kind: str = "cuda"
    total_mb: int = 0
    foreign_mb: int = 0
    cycles: int = 0


LOAD_DEADLINE_S, LOAD_DEADLINE_S_PER_GIB = 300.0, 20.0


def load_deadline_s(shares: Iterable[int]) -> float:
    """How long a load of so many MiB may take without moving."""
    return LOAD_DEADLINE_S + LOAD_DEADLINE_S_PER_GIB * sum(shares) / 1024


class Loading(Value, frozen=True):
    stage: str = QUEUED
    progress: float | None = None
    eta_s: float | None = None
    behind: str | None = None
    """What its device is busy with first, while it is queued."""

    @property
    def queued(self) -> bool:
        """Its device loads others first, as its node says."""
        return self.stage == QUEUED and self.behind is not None

    def told(self) -> dict[str, Any]:
        """As every answer shows it. What is not known is left out."""
        known = {"eta_s": self.eta_s, "behind": self.behind}
        return {"stage": self.stage, "progress": self.progress} | {k: v for k, v in known.items() if v is not None}


PASSING = (Status.LOADING, Status.RECOVERING, Status.POISONED, Status.UNLOADING)
"""What a model is on its way through: who asks for it then, waits."""


class Place(Value, frozen=True):
    """A model on a node.

    `in_flight` is this gateway's own ledger; `foreign` what the node's last report holds beyond it (another gateway's
    work): it weighs in balancing, but never blocks, since a report is stale the moment it is sent. `shares` maps device
    to MiB held. `since` is when it came to this status, `last_used` when a seat was last taken or left. `kept_until`:
    the node refused to unload it, so it is no victim before then.
    """

    model: str
    node: str
    status: Status
    shares: dict[int, int] = {}
    in_flight: int = 0
    foreign: int = 0
    since: float = 0.0
    last_used: float = 0.0
    uses: int = 0
    """Requests since the last tick, not yet counted into the model's habits."""
    servable: bool = True
    reason: str | None = None
    loading: Loading | None = None
    pinned: bool = False
    context: int | None = None
    max_output: int | None = None
    capabilities: tuple[str, ...] = ()
    harness: str = ""
    harness_reason: str | None = None
    closing: bool = False
    """An older waiter needs this room: nothing new starts here."""
    ours: bool = False
    """This gateway asked for the load or unload that is under way, and will hear of its end by itself."""
    kept_until: float = 0.0
    load_id: str = ""
    """The node's name for this stay; "" where it has told none."""
    stuck_at: float = math.inf
    """What it is on its way through is not waited for after that, unless it moves. Whoever asked for a load or an
    unload keeps the deadline of that."""

    @property
    def ready(self) -> bool:
        return self.status is Status.LOADED and self.servable and not self.closing

    @property
    def coming(self) -> bool:
        """It loads or recovers, as far as anybody knows."""
        return self.status in (Status.LOADING, Status.RECOVERING, Status.POISONED)

    def stuck(self, now: float) -> bool:
        """What it is on its way through has not moved for too long."""
        return self.status in PASSING and now >= self.stuck_at

    def passes(self, now: float) -> bool:
        """It is on its way through something that ends before long."""
        return self.status in PASSING and now < self.stuck_at

    @property
    def outstanding(self) -> int:
        return self.in_flight + self.foreign


class Fit(Value, frozen=True):
    """What a node's preflight said of a model: `per_device_mb` on each of `devices` devices, or the typed refusal."""

    per_device_mb: int = 0
    devices: int = 1
    warmth: str = "cold"
    refusal: dict[str, Any] | None = None
    context: int | None = None


class Failure(Value, frozen=True):
    """A load that failed for the `count`th time: not tried again here before `until`. `crowded`: there was no room at
    that moment."""

    error: str
    count: int
    until: float
    crowded: bool = False
    status: int = 503
    fields: dict[str, Any] = {}


class Node(Value, frozen=True):
    """A host. `healthy` only after a poll has succeeded and until `misses` polls in a row have failed."""

    name: str
    healthy: bool = False
    seen: bool = False
    misses: int = 0
    problem: str | None = None
    boot_id: str = ""
    hostname: str = ""
    version: str = ""
    devices: tuple[Device, ...] = ()
    largest_mb: int = 0
    """Memory of its largest device."""
    harnesses: tuple[str, ...] = ()
    draining: bool = False
    """The operator of this gateway wants it out of service."""
    leaving: bool = False
    """It takes no new work, as it tells every gateway."""
    tripped_until: float = 0.0
    """Circuit breaker: no new seats before this time, after transport errors in a row."""
    trips: int = 0
    closed_at: float = -math.inf
    """When it last began to take no new work, for a reason that may pass."""
    activation: str = "ready"

    def open(self, now: float) -> bool:
        """May new work go there?"""
        return self.healthy and not self.draining and not self.leaving and now >= self.tripped_until

    def returns(self, now: float, restart_s: float) -> bool:
        """It takes no new work, but not for long yet: it may only be started anew."""
        return not self.open(now) and not self.draining and now < self.closed_at + restart_s


class Ask(Value, frozen=True):
    """A request that waits for a seat. `avoid` holds the nodes that failed it already."""

    id: int
    model: str
    since: float
    affinity: str | None = None
    avoid: frozenset[str] = frozenset()
    decision: str = ""


class Habit(Value, frozen=True):
    """How a model is used and what it costs to bring back; the `cost` strategy's memory.

    `rate` is requests per second, an exponential mean that decays with its age since `at`.
    """

    rate: float = 0.0
    at: float = 0.0
    load_s: float | None = None
    worth: tuple[float, float, str] | None = None
    """The model's place in `Fleet.ranking`, worked out when the habit or the configuration changed."""


class Fleet(Value, frozen=True):
    """Everything the planner decides on.

    `places`, `fits`, `failures` are model -> node -> value; `asks` is model -> ask id -> Ask in order of arrival;
    `clearing` maps a node to the model for which room is being made there; every place that is `closing` is on such a
    node. The indexes over `places` are kept by `fold`: `residents` (the models on a node), `free` (MiB free on each of
    its devices by device index), `roomy` (nodes by the room on their roomiest device, most first: `(-MiB, node)`),
    `ranking` (the models that are somewhere, the least worth keeping first: `(worth..., model)`). `idlers` holds
    `idle_unload_s` of the models that have one. Lists here are never changed in place.
    """

    profiles: dict[str, Profile] = {}
    eviction: Eviction = Eviction()
    nodes: dict[str, Node] = {}
    places: dict[str, dict[str, Place]] = {}
    fits: dict[str, dict[str, Fit]] = {}
    failures: dict[str, dict[str, Failure]] = {}
    asks: dict[str, dict[int, Ask]] = {}
    clearing: dict[str, str] = {}
    habits: dict[str, Habit] = {}
    wanted: dict[str, float] = {}
    """Models that are to be loaded without a request (preload, operator): model -> since when."""
    preloads: frozenset[str] = frozenset()
    """Those of them that only the configuration wants: they take no room from what else is to be preloaded."""
    residents: dict[str, tuple[str, ...]] = {}
    free: dict[str, dict[int, int]] = {}
    roomy: list[tuple[int, str]] = []
    ranking: list[tuple[float, float, str]] = []
    idlers: dict[str, float] = {}
    worn: frozenset[str] = frozenset()
    """Nodes with a device that has had `defrag_after_cycles`."""
    speeds: dict[str, dict[str, float]] = {}
    """Tokens a second that a stream of a model gets on a node, learned: model -> node -> tokens/s."""
    used: frozenset[str] = frozenset()
    """Models with `uses` that the next tick counts."""
    max_queue: int = 1024
    restart_s: float = 0.0
    """How long a node that takes no work is waited for."""

    def place(self, model: str, node: str) -> Place | None:
        return self.places.get(model, {}).get(node)

    def on_node(self, node: str) -> list[Place]:
        return [self.places[model][node] for model in self.residents.get(node, ())]

    def fit(self, model: str, node: str) -> Fit | None:
        return self.fits.get(model, {}).get(node)

    def failure(self, model: str, node: str) -> Failure | None:
        return self.failures.get(model, {}).get(node)

    def failed_once(self, model: str) -> bool:
        """One load of it failed, on one node: that may have been an accident, and who waits, waits for a second try. A
        typed refusal is none."""
        failures = self.failures.get(model, {}).values()
        return sum(one.count for one in failures) == 1 and not any(one.status == 422 for one in failures)

    @property
    def waiting(self) -> int:
        return sum(len(asks) for asks in self.asks.values())

    def __str__(self) -> str:
        loaded = sum(p.status is Status.LOADED for there in self.places.values() for p in there.values())
        flying = sum(p.in_flight for there in self.places.values() for p in there.values())
        healthy = sum(node.healthy for node in self.nodes.values())
        return f"{healthy}/{len(self.nodes)} nodes, {loaded} loaded, {flying} in flight, {self.waiting} waiting"
