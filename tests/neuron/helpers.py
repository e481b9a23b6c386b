"""Bounded waits, and the small stand-ins of the neuron's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from helexa.base.clock import SystemClock
from helexa.base.errors import Refused
from helexa.neuron.core.plan import DeviceState, LoadPlan, Share
from helexa.neuron.harness import DeviceRef, LoadOrder, Report
from helexa.wire.control import ModelSpec

ECHO = "helexa.neuron.engines.echo:EchoEngine"
PATIENCE_S = 30.0
"""Only ever waited in full by a test that fails: a machine may be slow."""


class HastyClock(SystemClock):
    """The system's time, but nobody sleeps; `slept` is what they would have."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Preparation:
    """Plans echo models of `memory_mb` on the first device with room; `held` stops every fetch until it is set."""

    def __init__(self) -> None:
        self.plans = 0
        self.fetches = 0
        self.held: asyncio.Event | None = None
        self.refuse: str | None = None

    async def plan(self, spec: ModelSpec, devices: Sequence[DeviceState]) -> LoadPlan:
        self.plans += 1
        await asyncio.sleep(0)
        needed = int(spec.options.get("memory_mb", 64))
        if self.refuse is not None:
            raise Refused("as asked", kind=self.refuse, model_id=spec.model_id)
        room = next((device for device in devices if device.free_mb >= needed), None)
        if room is None:
            raise Refused("too big", kind="does_not_fit", model_id=spec.model_id, evictable=True)
        return LoadPlan(
            model_id=spec.model_id,
            harness="echo",
            format="any",
            source=None,
            files=(),
            shares=(Share(device=room.index, weights_mb=needed),),
            context=1024,
            slots=2,
            warmth="memory",
            options=spec.options,
        )

    async def fetch(self, plan: LoadPlan, report: Report) -> tuple[str, ...]:
        self.fetches += 1
        report("fetch", 0.5)
        if self.held is not None:
            await self.held.wait()
        return ()


def order(model_id: str, socket: object, **options: object) -> LoadOrder:
    """An order for the echo engine."""
    return LoadOrder(
        model_id=model_id,
        files=(),
        devices=(DeviceRef(kind="cpu", index=0, memory_mb=100),),
        socket=str(socket),
        context=1024,
        slots=2,
        options=dict(options),
    )


async def until(what: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
    """Return once `what` is true; for the few things that nobody announces."""
    async with asyncio.timeout(within_s):
        while not what():  # noqa: ASYNC110 - bounded, and there is no event to wait for
            await asyncio.sleep(0.005)


def exists(path: str | Path) -> bool:
    """Whether there is something at `path`."""
    return Path(path).exists()


def is_socket(path: str | Path) -> bool:
    """Whether there is a socket at `path`."""
    return Path(path).is_socket()


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def command_line(pid: int) -> bytes:
    """What a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()
