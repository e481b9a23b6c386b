"""What the keeper is given: the machine it keeps, and where plans and files come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from helexa.neuron.core.measured import Circumstances
from helexa.neuron.core.plan import DeviceState, LoadPlan
from helexa.neuron.harness import DeviceRef, Report
from helexa.neuron.keeper.larder import Larder
from helexa.neuron.keeper.shelf import Shelf
from helexa.wire.control import ModelSpec


class Preparation(Protocol):
    """Where plans and files come from: preflight and sources."""

    async def plan(self, spec: ModelSpec, devices: Sequence[DeviceState]) -> LoadPlan:
        """Decide how `spec` would be loaded. Raises Refused with a `kind`."""
        ...

    async def fetch(self, plan: LoadPlan, report: Report) -> tuple[str, ...]:
        """The plan's files as absolute paths, downloaded if need be. Raises Refused."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the keeper has to know of the machine. `engines` maps a harness to its "module:Class"; `sockets` is a
    private folder for the models' sockets; `blocked` says why nothing can be loaded at all (a broken driver). A step
    that takes `step_limit_s` is stuck, and so is a load that does not move for `load_limit_s` and more by its size.
    `note` keeps what a load was measured to take (circumstances, predicted and measured MiB, seconds by where its
    weights were), `holds_mb` tells what a device's worker holds; these two may block."""

    devices: Mapping[int, DeviceRef]
    found: tuple[DeviceState, ...]
    engines: Mapping[str, str]
    sockets: Path
    max_in_flight: int = 0
    max_queue_depth: int = 512
    max_wait_s: float = 120.0
    step_limit_s: float = 120.0
    load_limit_s: float = 300.0
    shelf: Shelf | None = None
    larder: Larder = field(default_factory=Larder)
    boot_id: str = ""
    note: Callable[[Circumstances, int, int, Mapping[str, float]], None] = lambda of, predicted, measured, load_s: None
    holds_mb: Callable[[int], int | None] = lambda device: None
    blocked: Callable[[], str | None] = lambda: None
