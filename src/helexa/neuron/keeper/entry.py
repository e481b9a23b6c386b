"""What the keeper holds of one model: its state, and what has to go along with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from helexa.base.errors import HelexaError
from helexa.neuron.core import lifecycle as life
from helexa.neuron.core.residency import Stay
from helexa.neuron.harness import LoadOrder
from helexa.neuron.keeper import views
from helexa.neuron.keeper.loads import LoadJob
from helexa.neuron.keeper.measuring import Taken
from helexa.neuron.keeper.seats import Seats
from helexa.wire.control import Model, ModelSpec


@dataclass(slots=True, kw_only=True)
class Entry:
    """One model. Only the keeper writes here."""

    model_id: str
    state: life.State | None = None
    spec: ModelSpec | None = None
    job: LoadJob | None = None
    error: HelexaError | None = None
    order: LoadOrder | None = None
    seats: Seats | None = None
    pulse: asyncio.Task[None] | None = None
    taken: Taken | None = None
    freed_mb: int | None = None
    used: bool = False
    pinned: bool | None = None
    load_id: str = ""
    told_s: float = 0.0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def in_flight(self) -> int:
        """Requests that it answers now."""
        return self.seats.in_flight if self.seats is not None else 0

    @property
    def devices(self) -> tuple[int, ...]:
        """Where it is, or is about to be."""
        plan = views.plan_of(self.state)
        return plan.devices if plan is not None else ()

    @property
    def rests(self) -> bool:
        """It is loaded and nobody uses it."""
        return isinstance(self.state, life.Loaded) and self.seats is not None and not self.seats.in_flight

    def stay(self, now: float) -> Stay | None:
        """How long it has been loaded here and idle; None when it is not."""
        if not isinstance(self.state, life.Loaded) or self.seats is None:
            return None
        idle_s = self.seats.idle_s if self.used else None
        return Stay(loaded_s=now - self.state.since, idle_s=idle_s, load_id=self.load_id)

    def view(self, *, held_mb: int, now: float) -> Model | None:
        """Its row of `GET /models`; None when it is not here. `held_mb` is what the ledger keeps for it (MiB)."""
        if self.state is None:
            return None
        row = views.model(self.model_id, self.state, held_mb=held_mb, in_flight=self.in_flight, stay=self.stay(now))
        row.vram_measured_mb = self.taken.measured_mb if self.taken and row.status == "loaded" else None
        row.pinned = self.pinned
        return row

    def forget_socket(self) -> None:
        """A worker that was killed cannot clear up behind itself."""
        if self.order is not None:
            Path(self.order.socket).unlink(missing_ok=True)
