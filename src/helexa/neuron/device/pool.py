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
from helexa.neuron.core import faults
from helexa.neuron.core.lifecycle import QUEUED
from helexa.neuron.device import jobs
from helexa.neuron.device.process import JobFailed, WorkerLost, WorkerProcess
from helexa.neuron.harness import Facts, LoadOrder, Report

log = logging.getLogger(__name__)

State = Literal["idle", "starting", "ready", "quarantined", "poisoned", "restarting", "failed"]
STABLE_S = 60.0
RESTART_S = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
GIVE_UP_AFTER = 5
"""So many workers in a row that died before they could say hello make a device `failed`..."""
FAILED_S = 60.0
"""... for so long; then it is tried again."""
WATCH_S = 5.0
SHORT_JOB_S = 60.0
"""Unload, Prepare and Memory take moments; one that takes this long is stuck."""
KEPT_EXIT_LINES = 8
BEGUN = "load"
"""The stage of a load whose turn has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A device's place in the pool: which worker drives it, and what that worker should have imported ahead. `unit` is
    the hardware's own name, where it has one; `absent` says that there is none, and so no worker."""

    index: int
    worker: str
    prepare: tuple[str, ...] = ()
    unit: str = ""
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker ended. `planned`: it was recycled on purpose, so nothing that it held is to blame."""

    device: int
    how: str
    planned: bool = False
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisoned:
    """The device met a fault, or its worker is stuck; the worker takes no more and is being replaced."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a device's worker ended last, `at` (seconds of the epoch), and what it wrote last."""

    how: str
    at: float
    lines: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Post:
    """What the pool holds of one device. `suspicion` is the fault for which it is in quarantine."""

    seat: Seat
    state: State = "idle"
    keeper: asyncio.Task[None] | None = None
    process: WorkerProcess | None = None
    unit: str = ""
    why: str = ""
    suspicion: str = ""
    exit: Exit | None = None
    restarts: int = 0
    cycles: int = 0
    recycling: bool = False
    crashes: int = 0
    stillborn: int = 0
    started_s: float = 0.0
    heard_s: float = 0.0
    silent_s: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Pool:
    """The workers of all devices, until `close`. `tell` hears the news, on the event loop; a worker that has no job and
    is silent for `silence_s` is stuck."""

    def __init__(
        self, seats: Sequence[Seat], *, clock: Clock, tell: Callable[[News], None], silence_s: float = 120.0
    ) -> None:
        self._posts = {seat.index: _Post(seat=seat) for seat in seats}
        self._clock = clock
        self._tell = tell
        self._silence_s = silence_s
        self._crew = Crew()
        self._closing = False

    def start(self) -> None:
        """Start every worker in the background, so that the first load finds one."""
        for post in self._posts.values():
            self._begin(post)
        self._crew.loop(self._watch, name="watch workers", clock=self._clock, every_s=WATCH_S)

    def seat(self, seat: Seat) -> None:
        """A device as it is now: a new one gets a worker, one that is gone loses its own, and one in whose place there
        is another gets a fresh one. To be told again and again: what could not be done at once is done then."""
        if self._closing:
            return
        post = self._posts.setdefault(seat.index, _Post(seat=seat))
        post.seat = seat
        if seat.absent:
            self._end(post, seat.absent)
        elif seat.unit and post.unit and seat.unit != post.unit:
            self._end(post, "there is another device in its place")
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

    def cycles(self, device: int) -> int:
        """Models that this worker has loaded and unloaded again: each may leave the device's memory in more pieces."""
        return self._posts[device].cycles

    def ahead_of(self, device: int, model_id: str) -> str | None:
        """What the device's worker is busy with before it comes to this model; None when there is nothing."""
        process = self._posts[device].process
        match process.job if process is not None else None:
            case jobs.Load(order=order) if order.model_id != model_id:
                return f"the load of {order.model_id}"
            case jobs.Unload() as job:
                return f"the unload of {job.model_id}"
            case _:
                return None

    def suspicion(self, device: int) -> str:
        """The fault for which the device is in quarantine; empty when it is not."""
        return self._posts[device].suspicion

    def last_exit(self, device: int) -> Exit | None:
        """How the device's last worker ended; None when none did."""
        return self._posts[device].exit

    async def load(self, device: int, engine: str, order: LoadOrder, report: Report, *, limit_s: float) -> Facts:
        """Load a model on a device. A load that does not move for `limit_s` is stuck, and costs the worker.

        Raises JobFailed, WorkerLost or Unavailable (poisoned, failed)."""
        done = await self._ask(device, lambda id: jobs.Load(id=id, engine=engine, order=order), limit_s, report)
        assert done.facts is not None
        return done.facts

    async def unload(self, device: int, model_id: str) -> None:
        """Unload a model. Raises as `load` does."""
        await self._ask(device, lambda id: jobs.Unload(id=id, model_id=model_id), SHORT_JOB_S)
        self._posts[device].cycles += 1

    async def memory(self, device: int) -> tuple[int, int] | None:
        """(used, free) MiB as the worker's engines see the device, or None when they cannot say."""
        done = await self._ask(device, lambda id: jobs.Memory(id=id), SHORT_JOB_S)
        return None if done.used_mb is None or done.free_mb is None else (done.used_mb, done.free_mb)

    def condemn(self, device: int, cause: str) -> None:
        """The device met a fault, seen from outside: its worker is replaced, and the device is in quarantine."""
        post = self._posts[device]
        if post.process is not None and post.state in _WORKING:
            self._poison(post, post.process, cause)
        else:
            post.suspicion = cause

    async def replaced(self, device: int) -> None:
        """Return once the device has no poisoned worker any more."""
        post = self._posts[device]
        while post.state == "poisoned":
            await post.changed.wait()

    def acquit(self, device: int) -> None:
        """A prompt was answered on the device: the quarantine is over."""
        post = self._posts[device]
        post.suspicion = ""
        if post.state == "quarantined":
            self._set(post, "ready")

    async def recycle(self, device: int, why: str) -> None:
        """Replace the device's worker by a fresh one, with an empty device. The owner hears of it as Lost."""
        post = self._posts[device]
        if self._end(post, why) and post.process is not None:
            await post.process.ended.wait()

    def _end(self, post: _Post, why: str) -> bool:
        """End a worker that works, on purpose; whether there was one."""
        if post.state not in _WORKING or post.process is None:
            return False
        post.recycling = True
        self._lose(post, why, ())  # before it ends: a request that still found it would be lost with it
        post.process.kill()
        return True

    def _lose(self, post: _Post, how: str, lines: tuple[str, ...]) -> None:
        self._set(post, "restarting", how)
        self._tell(Lost(device=post.seat.index, how=how, planned=post.recycling, lines=lines))

    async def _ask(
        self, device: int, make: Callable[[int], jobs.Job], limit_s: float, report: Report | None = None
    ) -> jobs.Done:
        """One job's reply. Jobs go to a worker one at a time, so that a job's limit counts from its own beginning."""
        post = self._posts[device]
        queued = report if post.turn.locked() else None
        if queued is not None:
            queued(QUEUED, None)
        async with post.turn:
            process = await self._ready(post)
            if queued is not None:
                queued(BEGUN, None)
            try:
                async with asyncio.timeout(limit_s) as limit:
                    return await process.ask(make, _prolonging(limit, limit_s, report))
            except JobFailed as error:
                if error.fault:
                    self._poison(post, process, error.causes[0])
                raise
            except TimeoutError:
                stuck = f"stuck: its job did not move for {limit_s:g} s"
                self._poison(post, process, stuck)
                raise WorkerLost(worker=post.seat.worker, how=stuck, lines=process.lines[-KEPT_EXIT_LINES:]) from None

    async def _ready(self, post: _Post) -> WorkerProcess:
        if post.state == "idle":
            self._begin(post)
        while post.state in ("starting", "restarting"):
            await post.changed.wait()
        if post.state not in _WORKING or post.process is None:
            raise Unavailable(
                f"the worker {post.seat.worker} is {post.state}: {post.why}",
                retry_after=5.0,
                worker=post.seat.worker,
                state=post.state,
                reason=post.why,
            )
        return post.process

    def _poison(self, post: _Post, process: WorkerProcess, cause: str) -> None:
        if post.process is not process or post.state not in _WORKING:
            return
        log.error("worker %s is poisoned: %s", post.seat.worker, cause)
        post.suspicion = cause
        self._set(post, "poisoned", cause)
        self._tell(Poisoned(device=post.seat.index, cause=cause))
        process.kill()

    async def _watch(self) -> None:
        """Find workers that are not heard of. Only time in which this loop itself ran counts: a host that was suspended
        has no stuck workers. During a job the job's own limit holds: an engine may keep the interpreter to itself."""
        for post in self._posts.values():
            process = post.process
            if process is None or post.state not in _WORKING or post.turn.locked():
                post.silent_s = 0.0
            elif process.last_heard_s != post.heard_s:
                post.heard_s, post.silent_s = process.last_heard_s, 0.0
            else:
                post.silent_s += WATCH_S
                if post.silent_s >= self._silence_s:
                    self._poison(post, process, f"stuck: it was not heard of for {post.silent_s:g} s")

    def _begin(self, post: _Post) -> None:
        if post.seat.absent and post.state == "idle":
            self._set(post, "failed", post.seat.absent)
        if not post.seat.absent and (post.keeper is None or post.keeper.done()):
            self._set(post, "starting")
            post.keeper = self._crew.start(self._keep(post), name=f"worker {post.seat.worker}")

    async def _keep(self, post: _Post) -> None:
        """Keep one worker alive for as long as the pool is open and the device is there."""
        while not self._closing:
            try:
                await self._run_once(post)
                pause_s = RESTART_S[min(max(post.crashes - 1, 0), len(RESTART_S) - 1)]
            except WorkerLost as error:
                pause_s = self._stillborn(post, error)
            if post.seat.absent:
                self._set(post, "failed", post.seat.absent)
                self._tell(Dead(device=post.seat.index, cause=post.seat.absent))
                return
            post.restarts += 1
            await self._clock.sleep(pause_s)

    async def _run_once(self, post: _Post) -> None:
        """Start a worker and stay with it until it ends. Raises WorkerLost when it does not even start."""
        unit = post.seat.unit
        process = await WorkerProcess.start(post.seat.worker)
        again = post.restarts > 0
        post.unit = unit
        post.process, post.started_s, post.stillborn, post.cycles = process, self._clock.now(), 0, 0
        self._set(post, "quarantined" if post.suspicion else "ready", post.suspicion)
        self._crew.start(self._prepare(post, process), name=f"prepare {post.seat.worker}")
        if again:
            self._tell(Ready(device=post.seat.index))
        await process.ended.wait()
        self._mourn(post, process)
        await process.stop()

    def _mourn(self, post: _Post, process: WorkerProcess) -> None:
        planned = post.recycling
        lines = process.lines[-KEPT_EXIT_LINES:]
        fault = None if planned else faults.in_lines(process.lines)
        if fault is not None:  # an engine that aborts on a fault has no other way to tell of it than its last words
            self._poison(post, process, fault)
        stable = planned or self._clock.now() - post.started_s >= STABLE_S
        post.crashes = 0 if stable else post.crashes + 1
        how = post.why if planned else process.how
        post.exit = Exit(how=how, at=self._clock.wall(), lines=lines)
        log.warning("worker %s ended: %s", post.seat.worker, how)
        if not planned:
            self._lose(post, how, lines)
        post.recycling = False

    def _stillborn(self, post: _Post, error: WorkerLost) -> float:
        """A worker that died before its hello; returns how long to wait before the next."""
        post.stillborn += 1
        cause = error.message
        post.exit = Exit(how=str(error.fields.get("how", "")), at=self._clock.wall(), lines=error.lines)
        log.error("worker %s did not start: %s", post.seat.worker, cause)
        if post.stillborn < GIVE_UP_AFTER:
            self._set(post, "restarting", cause)
            return RESTART_S[post.stillborn]
        self._set(post, "failed", cause)
        self._tell(Dead(device=post.seat.index, cause=cause))
        return FAILED_S

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


_WORKING = ("ready", "quarantined")


def _prolonging(limit: asyncio.Timeout, limit_s: float, report: Report | None) -> Report:
    """`report`, by which a job also shows that it moves."""

    def heard(stage: str, progress: float | None) -> None:
        if not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time() + limit_s)
        if report is not None:
            report(stage, progress)

    return heard
