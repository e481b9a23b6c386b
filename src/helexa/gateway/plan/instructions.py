"""What the planner asks the shells to do, as plain data."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all instructions."""


class Seat(Instruction, frozen=True):
    """The request may go to `node` now; its seat is counted already."""

    ask: int
    model: str
    node: str


class Why(StrEnum):
    """Why a request or a load is refused."""

    UNKNOWN = "unknown_model"
    INFEASIBLE = "infeasible"
    UNHEALTHY = "no_healthy_node"
    FAILED = "load_failed"
    QUEUE_FULL = "queue_full"
    UNSERVABLE = "unservable"


class Refuse(Instruction, frozen=True):
    """The request cannot be served. `appraisals` is the arithmetic of the likeliest of `nodes` nodes."""

    ask: int
    model: str
    why: Why
    message: str
    status: int
    retry_after: float | None = None
    fields: dict[str, Any] = {}
    appraisals: tuple[Appraisal, ...] = ()
    nodes: int = 0


class Forgo(Instruction, frozen=True):
    """What was to be loaded without a request is not; nobody waits for it."""

    model: str
    message: str


class Load(Instruction, frozen=True):
    """Load `model` on `node`, on these devices of it; the best of those weighed (`appraisals`) out of `nodes` nodes."""

    model: str
    node: str
    devices: tuple[int, ...]
    deadline_s: float
    appraisals: tuple[Appraisal, ...] = ()
    nodes: int = 0


class Unload(Instruction, frozen=True):
    """Take `model` off `node`. `reason` is "evicted", "idle" or "operator"; the node refuses it while it is busy.
    `appraisals`: the nodes that were weighed for the model it is `made_for`.

    Those with a time are conditions that the node holds it to, since it alone knows what other gateways do: nobody
    has used it for `min_idle_s`; it is not newer than `spare_unused_s` and unused; it has not left and come back since
    the load `load_id`; requests in flight may end first, within `drain_s`, while no new ones are let in.
    """

    model: str
    node: str
    reason: str
    made_for: str | None = None
    appraisals: tuple[Appraisal, ...] = ()
    min_idle_s: float = 0.0
    spare_unused_s: float = 0.0
    drain_s: float | None = None
    load_id: str = ""


class Recycle(Instruction, frozen=True):
    """Have a device's worker replaced; the node refuses unless it rests and has had `after_cycles` load cycles."""

    node: str
    device: int
    after_cycles: int


Order = Load | Unload | Recycle
"""What a node is told to do."""


class Verdict(StrEnum):
    """What a node can do for a model, best first."""

    FITS = "fits"
    EVICT = "fits_after_evicting"
    BUSY = "fits_when_busy_models_end"
    CLAIMED = "room_is_being_made_for_another"
    CROWDED = "its_room_was_taken_just_now"
    AGAIN = "failed_once_and_is_tried_again"
    RETURNING = "node_is_away_for_a_moment"
    BACKOFF = "failed_recently"
    CLOSED = "node_is_not_open"
    NEVER = "never_fits"


class Appraisal(Instruction, frozen=True):
    """One node weighed for one model: the verdict and its arithmetic (MiB per device)."""

    node: str
    verdict: Verdict
    detail: str
    needed_mb: int = 0
    devices: tuple[int, ...] = ()
    free_mb: tuple[int, ...] = ()
    victims: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()
    warmth: str = "cold"
    fields: dict[str, Any] = {}
    until: float | None = None
    loss: tuple[float, ...] = ()
    """What the victims are worth keeping, to choose between nodes; lower is better."""
    ahead: int = 0
    """Loads under way on these devices: a device's worker loads one model after the other."""

    def told(self) -> dict[str, Any]:
        """As the operator API shows it, now and of past decisions."""
        return {
            "node": self.node,
            "verdict": str(self.verdict),
            "detail": self.detail,
            "needed_mb": self.needed_mb,
            "devices": list(self.devices),
            "free_mb": list(self.free_mb),
            "evicts": list(self.victims),
            "waits_for": list(self.waits_for),
        }
