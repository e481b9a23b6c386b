"""The host as this neuron publishes it: a survey at the start and every few seconds, answers from what was kept."""

from __future__ import annotations

import asyncio
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

import helexa
from helexa.base.clock import Clock
from helexa.base.errors import ConfigError
from helexa.base.resident import anonymous_mb
from helexa.neuron.config import NeuronConfig
from helexa.neuron.core.measured import Measurements
from helexa.neuron.core.plan import DeviceState
from helexa.neuron.device.pool import Pool, Seat
from helexa.neuron.discovery.host import (
    HostDevice,
    Survey,
    chosen,
    discover,
    foreign_mb,
    held_on_gpu,
    host_devices,
    read_health,
    survey,
)
from helexa.neuron.harness import DeviceRef
from helexa.neuron.keeper import Keeper, views
from helexa.neuron.registry import Harness
from helexa.neuron.sources.library import Library
from helexa.wire.control import Activation, DeviceHealth, Discovery, Event, Health

log = logging.getLogger(__name__)

REFRESH_S = 5.0


class HostView:
    """What is known of the machine now. Nothing that is asked of it waits for a driver."""

    def __init__(
        self,
        config: NeuronConfig,
        seen: Survey,
        harnesses: Sequence[Harness],
        *,
        boot_id: str,
        measurements: Callable[[], Measurements] = Measurements,
        look: Callable[[], Survey] = survey,
    ) -> None:
        if config.warm.locked_mb >= seen.memory.usable_mb:
            problem = f"this host has {seen.memory.usable_mb} MiB for models, loaded and unloaded"
            raise ConfigError(path="`warm.locked_mb`", problem=problem)
        self._measurements, self._look = measurements, look
        self._config, self._entries = config, chosen(config, seen)
        self.devices: tuple[HostDevice, ...] = self._found(seen)
        self._missing = {device.index for device in self.devices if device.missing}
        self._seen, self._harnesses, self._boot_id = seen, harnesses, boot_id
        self._disk_free_mb: int | None = None
        self._health = read_health(self.devices, seen)
        self._changes = 0

    @property
    def blocked(self) -> str | None:
        """Why nothing can be loaded here: the driver is broken and it drives the only devices there are."""
        usable = any(device.memory_mb > 0 for device in self.devices)
        return None if usable else self._seen.cuda_unavailable_reason

    def _found(self, seen: Survey) -> tuple[HostDevice, ...]:
        return host_devices(self._entries, seen, kept_mb=self._config.warm.locked_mb)

    async def refresh(self, keeper: Keeper, library: Library, pool: Pool) -> bool:
        """Look again, in a thread, and tell who must know; whether there are other devices than before."""
        seen = await asyncio.to_thread(self._look)
        self._disk_free_mb = await asyncio.to_thread(library.disk_free_mb)
        changed = self._take(seen)
        for seat in self.seats():
            pool.seat(seat)
        self._health = read_health(self.devices, seen)
        held = {device.index: self._holds(device, seen, pool) for device in self.devices}
        keeper.refreshed(self.states(keeper.devices(), held), self.refs())
        if changed:
            self._changes += 1
            keeper.feed.publish(Event(kind="topology", boot_id=self._boot_id))
        return changed

    def _take(self, seen: Survey) -> bool:
        """A newer survey. A device that is gone has no memory from now on, and no worker once it was missing twice: a
        driver may hiccup."""
        gone_before = {device.index for device in self.devices if device.missing}
        before = _published(self.devices, self._seen)
        self._seen, self._entries = seen, chosen(self._config, seen, self._entries)
        self.devices = self._found(seen)
        self._missing = {device.index for device in self.devices if device.missing and device.index in gone_before}
        now = _published(self.devices, seen)
        for line in sorted(now - before):
            log.warning("this host now has %s", line)
        return now != before

    def seats(self) -> list[Seat]:
        """The devices' places in the pool of workers."""
        return [
            Seat(
                index=device.index,
                worker=device.worker_name,
                prepare=tuple(h.target for h in self._harnesses if h.light and h.installed and device.kind in h.kinds),
                unit=device.uuid,
                absent=f"there is no {device.kind} device {device.ordinal}" if device.index in self._missing else "",
            )
            for device in self.devices
        ]

    def refs(self) -> dict[int, DeviceRef]:
        """The devices as engines are told of them, by their numbers here."""
        return {device.index: device.as_ref() for device in self.devices}

    def states(
        self, known: Sequence[DeviceState] = (), held: Mapping[int, int | None] | None = None
    ) -> tuple[DeviceState, ...]:
        """The devices for the ledger. `held` is what our workers have of them, where that can be told."""
        reserved = {state.index: state.reserved_mb for state in known}
        foreign = foreign_mb(self.devices, self._seen, reserved, held or {})
        return tuple(device.as_state(foreign_mb=foreign[device.index]) for device in self.devices)

    def holds_mb(self, device: int, pool: Pool) -> int | None:
        """What a device's worker holds of it now. Blocking: a GPU's driver is asked."""
        found = next(each for each in self.devices if each.index == device)
        return self._holds(found, self._seen if found.kind == "cpu" else self._look(), pool)

    @staticmethod
    def _holds(device: HostDevice, seen: Survey, pool: Pool) -> int | None:
        pid = pool.pid(device.index)
        if pid is None:
            return None
        return anonymous_mb(pid) if device.kind == "cpu" else held_on_gpu(device, seen, pid)

    def readings(self) -> list[DeviceHealth]:
        """How the devices are, as their drivers say."""
        return self._health

    def discovery(self) -> Discovery:
        """The body of `GET /discovery`."""
        found = discover(
            self.devices,
            self._seen,
            formats={harness.name: harness.formats for harness in self._harnesses if harness.installed},
            boot_id=self._boot_id,
            neuron_version=helexa.__version__,
            disk_free_mb=self._disk_free_mb,
        )
        measured = [views.measured(row) for row in self._measurements().kept.values()]
        return msgspec.structs.replace(found, clock_s=round(time.time(), 3), measured=measured)

    def health(self, keeper: Keeper, pool: Pool, activation: Activation, uptime_s: float, locked_mb: int = 0) -> Health:
        """The body of `GET /health`."""
        ledger = {state.index: state for state in keeper.devices()}
        return Health(
            uptime_secs=int(uptime_s),
            devices=[_merged(reading, ledger[reading.index], pool) for reading in self._health],
            activation=activation,
            models=keeper.loads(),
            boot_id=self._boot_id,
            draining=keeper.draining,
            locked_mb=locked_mb,
            topology=self._changes,
        )

    def uuids(self) -> dict[str, int]:
        """The NVIDIA GPUs in use: their UUIDs with their numbers here."""
        return {device.uuid: device.index for device in self.devices if device.kind == "cuda" and device.uuid}

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


def _published(devices: Sequence[HostDevice], seen: Survey) -> set[str]:
    """What others plan with, in words."""
    shown = {f"{each.worker_name} ({each.name}) with {each.memory_mb} MiB {each.uuid}".rstrip() for each in devices}
    broken = seen.cuda_unavailable_reason
    return shown | {f"an NVIDIA driver that cannot be used: {broken}" if broken else f"driver {seen.driver_version}"}


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
