"""What can happen to a fleet. Events carry what was seen; `fold` says what it means."""

from __future__ import annotations

from typing import Any

import msgspec

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet.model import Status
from helexa.wire import control


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events."""


class Arrived(Event, frozen=True):
    """A request wants a seat. `ask` is unique in this process; `trouble` is what went wrong on the last of `avoid`."""

    ask: int
    model: str
    affinity: str | None = None
    avoid: frozenset[str] = frozenset()
    trouble: str = ""
    decision: str = ""


class Left(Event, frozen=True):
    """A waiter went away before it had a seat; `in_vain`: it was sent away, after `max_wait_s`."""

    ask: int
    model: str
    in_vain: bool = False


class Finished(Event, frozen=True):
    """A seat was left: the request is over, however it ended. `transport_error`: the node failed it."""

    model: str
    node: str
    transport_error: bool = False


class Polled(Event, frozen=True):
    """A node answered a poll. Each part is None when it was not asked for."""

    node: str
    health: control.Health
    models: tuple[control.Model, ...]
    discovery: control.Discovery | None = None

    @property
    def activation_loading(self) -> tuple[str, ...]:
        """Default models that the node is loading now, as older neurons tell it: only in their activation."""
        current = self.health.activation.in_progress
        return (current,) if current else ()


class Missed(Event, frozen=True):
    """A node did not answer a poll, or answered nonsense."""

    node: str
    reason: str
    limit: int = 3


class ModelSeen(Event, frozen=True):
    """A node's event stream told of one model."""

    node: str
    model: control.Model


class ModelGone(Event, frozen=True):
    node: str
    model: str


class TurnedAway(Event, frozen=True):
    """A node took no request for a model that seemed to be loaded there: it is `status` now."""

    node: str
    model: str
    status: Status


class Leaving(Event, frozen=True):
    """A node took no request because it takes no new work at all."""

    node: str


class Fitted(Event, frozen=True):
    """A node's preflight answered for a model: the plan, or the typed refusal."""

    node: str
    model: str
    plan: control.PlanView | None = None
    refusal: dict[str, Any] | None = None


class Joined(Event, frozen=True):
    """Another gateway is about to load the model on `at`: what was to come on `node` comes there."""

    model: str
    node: str
    at: str


class Overdue(Event, frozen=True):
    """`node` keeps saying that another gateway brings the model, and nothing comes: it is not believed any more."""

    model: str
    node: str


class Loaded(Event, frozen=True):
    node: str
    model: str
    took_s: float


class LoadFailed(Event, frozen=True):
    """`status` and `fields` as the node gave them, so that the client gets them whole. `unreachable`: it was the node
    that failed, not the load, so nothing is held against the model; nor is it where the node is `leaving`: it takes no
    new work."""

    node: str
    model: str
    error: str
    unreachable: bool = False
    leaving: bool = False
    status: int = 503
    fields: dict[str, Any] = {}


class Unloaded(Event, frozen=True):
    """`reason` is that of the order that did it; "" where the model had left already."""

    node: str
    model: str
    freed_mb: int | None = None
    reason: str = ""


class UnloadFailed(Event, frozen=True):
    node: str
    model: str
    reason: str


class Wanted(Event, frozen=True):
    """The operator (or `preload`) wants a model loaded, on a given node or anywhere."""

    model: str


class Unwanted(Event, frozen=True):
    """The operator wants a model out, everywhere or on one node."""

    model: str
    node: str | None = None


class Pinned(Event, frozen=True):
    model: str
    node: str
    pinned: bool


class Drained(Event, frozen=True):
    node: str
    draining: bool


class Configured(Event, frozen=True):
    """The configuration as it stands now: at start and after a reload."""

    profiles: dict[str, Profile]
    eviction: Eviction
    nodes: tuple[str, ...]
    max_queue: int = 1024
    restart_s: float = 0.0


class Ticked(Event, frozen=True):
    """Time passed: ageing, back-off ends, idle unloads.

    `speeds`: of the streams that ended since the last tick, by model and node: their number and mean tokens a second.
    """

    speeds: dict[tuple[str, str], tuple[int, float]] = {}
