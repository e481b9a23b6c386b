"""The daemon's workers: one per device, started ahead, restarted with back-off, refused at the door when poisoned.

The pool knows processes, not models: it tells its owner (the keeper) when a worker is lost, poisoned or back, and the
owner decides what becomes of the models. Whoever wants something of a device asks here; there is no other way to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from helexa.base.clock import Clock
from helexa.base.errors import Unavailable
from helexa.base.tasks import Crew
from helexa.neuron.device import jobs
from helexa.neuron.device.process import JobFailed, WorkerLost, WorkerProcess
from helexa.neuron.harness import Facts, LoadOrder, Report

log = logging.getLogger(__name__)

State = Literal["idle", "starting", "ready", "poisoned", "restarting", "failed"]
STABLE_S = 60.0
RESTART_S = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
GIVE_UP_AFTER = 5
"""So many workers in a row that died before they could say hello make a device `failed`..."""
QUARANTINE_S = 60.0
"""... for so long; then it is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A device's place in the pool: which worker drives it, and what that worker should have imported ahead."""

    index: int
    worker: str
    prepare: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker ended. `planned`: it was recycled on purpose, so nothing that it held is to blame."""

    device: int
    how: str
    planned: bool = False
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisoned:
    """A job met a device fault; the worker takes no more and is being replaced."""

    device: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A fresh worker took over after one that was lost or poisoned."""

    device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """No worker can be started on this device for now."""

    device: int
    cause: str


News = Lost | Poisoned | Ready | Dead


@dataclass(slots=True, kw_only=True)
class _Post:
    """What the pool holds of one device."""

    seat: Seat
    state: State = "idle"
    process: WorkerProcess | None = None
    why: str = ""
    restarts: int = 0
    recycling: bool = False
    crashes: int = 0
    stillborn: int = 0
    started_s: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Pool:
    """`async with Pool(...)`; leaving it ends every worker. `tell` hears the news, on the event loop."""

    def __init__(self, seats: Sequence[Seat], *, clock: Clock, tell: Callable[[News], None]) -> None:
        self._posts = {seat.index: _Post(seat=seat) for seat in seats}
        self._clock = clock
        self._tell = tell
        self._crew = Crew()
        self._closing = False

    def start(self) -> None:
        """Start every worker in the background, so that the first load finds one."""
        for post in self._posts.values():
            self._begin(post)

    async def close(self) -> None:
        """End every worker; returns when no process is left."""
        self._closing = True
        await self._crew.dismiss()
        processes = [post.process for post in self._posts.values() if post.process is not None]
        await asyncio.gather(*(process.stop() for process in processes))

    def state(self, device: int) -> State:
        """How the device's worker is."""
        return self._posts[device].state

    def why(self, device: int) -> str:
        """Why it is so, where there is something to tell."""
        return self._posts[device].why

    def name(self, device: int) -> str:
        """The worker's name, `cuda-dev-0`."""
        return self._posts[device].seat.worker

    def pid(self, device: int) -> int | None:
        """The worker's process id while it runs."""
        process = self._posts[device].process
        return process.pid if process is not None and not process.ended.is_set() else None

    def restarts(self, device: int) -> int:
        """How often this device's worker was replaced."""
        return self._posts[device].restarts

    async def load(self, device: int, engine: str, order: LoadOrder, report: Report) -> Facts:
        """Load a model on a device. Raises JobFailed, WorkerLost or Unavailable (poisoned, failed)."""
        done = await self._ask(device, lambda id: jobs.Load(id=id, engine=engine, order=order), report)
        assert done.facts is not None
        return done.facts

    async def unload(self, device: int, model_id: str) -> None:
        """Unload a model. Raises as `load` does."""
        await self._ask(device, lambda id: jobs.Unload(id=id, model_id=model_id))

    async def memory(self, device: int) -> tuple[int, int] | None:
        """(used, free) MiB as the worker's engines see the device, or None when they cannot say."""
        done = await self._ask(device, lambda id: jobs.Memory(id=id))
        return None if done.used_mb is None or done.free_mb is None else (done.used_mb, done.free_mb)

    async def recycle(self, device: int, why: str) -> None:
        """Replace the device's worker by a fresh one, with an empty device. The owner hears of it as Lost."""
        post = self._posts[device]
        if post.state == "ready" and post.process is not None:
            post.why, post.recycling = why, True
            post.process.kill()
            await post.process.ended.wait()

    async def _ask(self, device: int, make: Callable[[int], jobs.Job], report: Report | None = None) -> jobs.Done:
        process = await self._ready(self._posts[device])
        try:
            return await process.ask(make, report)
        except JobFailed as error:
            if error.fault:
                self._poison(self._posts[device], process, error.causes[0])
            raise

    async def _ready(self, post: _Post) -> WorkerProcess:
        if post.state == "idle":
            self._begin(post)
        while post.state in ("starting", "restarting"):
            await post.changed.wait()
        if post.state != "ready" or post.process is None:
            raise Unavailable(
                f"the worker {post.seat.worker} is {post.state}: {post.why}",
                retry_after=5.0,
                worker=post.seat.worker,
                state=post.state,
                reason=post.why,
            )
        return post.process

    def _poison(self, post: _Post, process: WorkerProcess, cause: str) -> None:
        if post.process is not process or post.state != "ready":
            return
        log.error("worker %s is poisoned: %s", post.seat.worker, cause)
        self._set(post, "poisoned", cause)
        self._tell(Poisoned(device=post.seat.index, cause=cause))
        process.kill()

    def _begin(self, post: _Post) -> None:
        if post.state == "idle":
            self._set(post, "starting")
            self._crew.start(self._keep(post), name=f"worker {post.seat.worker}")

    async def _keep(self, post: _Post) -> None:
        """Keep one worker alive for as long as the pool is open."""
        while not self._closing:
            try:
                await self._run_once(post)
                pause_s = RESTART_S[min(max(post.crashes - 1, 0), len(RESTART_S) - 1)]
            except WorkerLost as error:
                pause_s = self._stillborn(post, error)
            post.restarts += 1
            await self._clock.sleep(pause_s)

    async def _run_once(self, post: _Post) -> None:
        """Start a worker and stay with it until it ends. Raises WorkerLost when it does not even start."""
        process = await WorkerProcess.start(post.seat.worker)
        again = post.restarts > 0
        post.process, post.started_s, post.stillborn = process, self._clock.now(), 0
        self._set(post, "ready")
        self._crew.start(self._prepare(post, process), name=f"prepare {post.seat.worker}")
        if again:
            self._tell(Ready(device=post.seat.index))
        await process.ended.wait()
        self._mourn(post, process)
        await process.stop()

    def _mourn(self, post: _Post, process: WorkerProcess) -> None:
        planned, post.recycling = post.recycling, False
        stable = planned or self._clock.now() - post.started_s >= STABLE_S
        post.crashes = 0 if stable else post.crashes + 1
        how = post.why if planned else process.how
        log.warning("worker %s ended: %s", post.seat.worker, how)
        self._set(post, "restarting", how)
        self._tell(Lost(device=post.seat.index, how=how, planned=planned, lines=process.lines[-8:]))

    def _stillborn(self, post: _Post, error: WorkerLost) -> float:
        """A worker that died before its hello; returns how long to wait before the next."""
        post.stillborn += 1
        cause = "; ".join((error.message, *error.lines))
        log.error("worker %s did not start: %s", post.seat.worker, cause)
        if post.stillborn < GIVE_UP_AFTER:
            self._set(post, "restarting", cause)
            return RESTART_S[post.stillborn]
        self._set(post, "failed", cause)
        self._tell(Dead(device=post.seat.index, cause=cause))
        return QUARANTINE_S

    async def _prepare(self, post: _Post, process: WorkerProcess) -> None:
        for engine in post.seat.prepare:
            try:
                await process.ask(lambda id, engine=engine: jobs.Prepare(id=id, engine=engine))
            except JobFailed as error:  # the load that needs it will say so to its asker
                log.warning("worker %s cannot import %s: %s", post.seat.worker, engine, error.message)
            except WorkerLost:
                return

    def _set(self, post: _Post, state: State, why: str = "") -> None:
        post.state, post.why = state, why
        post.changed.set()
        post.changed = asyncio.Event()
