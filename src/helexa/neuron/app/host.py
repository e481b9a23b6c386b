"""The host as this neuron publishes it: a survey at the start and every few seconds, answers from what was kept."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Sequence
from typing import Any

import helexa
from helexa.base.clock import Clock
from helexa.neuron.config import NeuronConfig
from helexa.neuron.core.plan import DeviceState
from helexa.neuron.device.pool import Pool
from helexa.neuron.discovery.host import HostDevice, Survey, discover, host_devices, read_health, survey
from helexa.neuron.keeper import Keeper, views
from helexa.neuron.registry import Harness
from helexa.neuron.sources.library import Library
from helexa.wire.control import Activation, DeviceHealth, Discovery, Health

REFRESH_S = 5.0


class HostView:
    """What is known of the machine now. Nothing that is asked of it waits for a driver."""

    def __init__(self, config: NeuronConfig, seen: Survey, harnesses: Sequence[Harness], *, boot_id: str) -> None:
        self.devices: tuple[HostDevice, ...] = host_devices(config, seen)
        self._seen, self._config, self._harnesses, self._boot_id = seen, config, harnesses, boot_id
        self._disk_free_mb: int | None = None
        self._health = read_health(self.devices, seen)

    @property
    def blocked(self) -> str | None:
        """Why nothing can be loaded here: the driver is broken and it drives the only devices there are."""
        usable = any(device.memory_mb > 0 for device in self.devices)
        return None if usable else self._seen.cuda_unavailable_reason

    async def refresh(self, keeper: Keeper, library: Library) -> None:
        """Look again, in a thread."""
        self._seen = await asyncio.to_thread(survey)
        self._disk_free_mb = await asyncio.to_thread(library.disk_free_mb)
        self._health = read_health(self.devices, self._seen)
        keeper.refreshed(self.states(keeper.devices()))

    def states(self, known: Sequence[DeviceState] = ()) -> tuple[DeviceState, ...]:
        """The devices for the ledger; what is in use beyond our own promises is foreign."""
        ours = {state.index: state.reserved_mb for state in known}
        used = {health.index: health.vram_used_mb for health in self._health}
        return tuple(
            device.as_state(foreign_mb=max(0, used.get(device.index, 0) - ours.get(device.index, 0)))
            for device in self.devices
        )

    def discovery(self) -> Discovery:
        """The body of `GET /discovery`."""
        return discover(
            self.devices,
            self._seen,
            formats={harness.name: harness.formats for harness in self._harnesses if harness.installed},
            boot_id=self._boot_id,
            neuron_version=helexa.__version__,
            disk_free_mb=self._disk_free_mb,
        )

    def health(self, keeper: Keeper, pool: Pool, activation: Activation, uptime_s: float) -> Health:
        """The body of `GET /health`."""
        ledger = {state.index: state for state in keeper.devices()}
        return Health(
            uptime_secs=int(uptime_s),
            devices=[_merged(reading, ledger[reading.index], pool) for reading in self._health],
            activation=activation,
            models=keeper.loads(),
            boot_id=self._boot_id,
            draining=keeper.draining,
        )

    def unready(self, keeper: Keeper, activation: Activation) -> list[str]:
        """Why no work should be sent here now; empty when it may be."""
        return [
            *([self.blocked] if self.blocked else ()),
            *(["draining"] if keeper.draining else ()),
            *(["the default models are still being loaded"] if activation.state != "ready" else ()),
        ]

    def version(self) -> dict[str, Any]:
        """The body of `GET /version`."""
        return {
            "package_version": helexa.__version__,
            "git_sha": "unknown",
            "git_dirty": False,
            "features": [harness.name for harness in self._harnesses if harness.installed],
            "python": platform.python_version(),
            "target": f"{platform.machine()}-{sys.platform}",
            "boot_id": self._boot_id,
        }


def _merged(reading: DeviceHealth, state: DeviceState, pool: Pool) -> DeviceHealth:
    """A driver's reading and the ledger's promises: free is what neither has taken."""
    health = DeviceHealth(
        index=reading.index,
        vram_used_mb=max(reading.vram_used_mb, state.reserved_mb + state.foreign_mb),
        vram_free_mb=min(reading.vram_free_mb, state.free_mb),
        utilization_pct=reading.utilization_pct,
        temp_c=reading.temp_c,
        foreign_mb=state.foreign_mb,
    )
    return views.with_worker(health, pool)


class Uptime:
    """Seconds since it was made."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._since = clock, clock.now()

    def __call__(self) -> float:
        return self._clock.now() - self._since
