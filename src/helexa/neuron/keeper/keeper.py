"""The keeper: owns each model's life. `tell(model, event)` is the only writer, synchronous and without an await.

What a state needs done comes back as effects; slow ones run as named tasks of the crew and end by telling an event.
Nobody outside holds a model's state: askers hold a LoadJob, requests hold a Seat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from helexa.base.clock import Clock
from helexa.base.errors import Conflict, HelexaError, NotFound, Refused, Unavailable, UnknownModel, UpstreamFailed
from helexa.base.ids import canonical, fresh
from helexa.base.tasks import Crew
from helexa.neuron.core import lifecycle as life
from helexa.neuron.core.admission import Gate
from helexa.neuron.core.ledger import Ledger
from helexa.neuron.core.measured import circumstances
from helexa.neuron.core.plan import DeviceState, LoadPlan, Share, Warmth
from helexa.neuron.device.pool import Dead, Lost, News, Poisoned, Pool, Ready
from helexa.neuron.device.process import JobFailed
from helexa.neuron.harness import DeviceRef, Facts, LoadOrder, Report
from helexa.neuron.keeper import probe, views, words
from helexa.neuron.keeper.entry import Entry
from helexa.neuron.keeper.feed import Feed
from helexa.neuron.keeper.host import Host, Preparation
from helexa.neuron.keeper.loads import Jobs, LoadJob
from helexa.neuron.keeper.measuring import Scales, taken
from helexa.neuron.keeper.seats import Seat, Seats
from helexa.neuron.keeper.warmth import warm
from helexa.wire.control import DeviceHealth, Event, Model, ModelLoad, ModelSpec

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.1
KEPT_FAILURES = 64
FORCED_WAIT_S = 5.0


class Keeper:
    """All models of this neuron."""

    def __init__(self, host: Host, preparation: Preparation, pool: Pool, *, clock: Clock, crew: Crew) -> None:
        self._host, self._preparation, self._pool = host, preparation, pool
        self._clock, self._crew = clock, crew
        self._entries: dict[str, Entry] = {}
        self._ledger = Ledger(found=host.found)
        self._jobs = Jobs()
        self._sockets = 0
        self.feed = Feed()
        self.draining = False

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {views.STATUS[type(e.state)]}" for name, e in self._entries.items() if e.state)
        return f"Keeper({states or 'no models'}; {self._ledger!r})"

    # What is asked of it ----------------------------------------------------------------------------------------------

    def load(self, spec: ModelSpec) -> LoadJob:
        """Have a model loaded; every ask for the same model shares one job, and one that is loaded is a finished one.

        Raises Conflict while draining, Unavailable while the model is on its way out or nothing can be loaded here.
        """
        self._door(spec.model_id)
        model_id = canonical(spec.model_id)
        entry = self._entries.get(model_id) or Entry(model_id=model_id)
        match entry.state:
            case life.Loaded():
                return self._finished(model_id)
            case life.Unloading():
                raise Unavailable(model=model_id, reason="it is being unloaded", retry_after=1.0)
            case life.Loading() | life.Recovering() | life.Poisoned():
                entry.job = entry.job or self._jobs.add(LoadJob(id=fresh("load_"), model_id=model_id))
                return entry.job
            case None | life.Failed():
                job = entry.job = self._jobs.add(LoadJob(id=fresh("load_"), model_id=model_id))
                entry.spec, entry.error, entry.load_id, entry.pinned = spec, None, job.id, None
                self._entries[model_id] = entry
                self._tell(entry, life.Asked(job_id=job.id))
                return job

    async def preflight(self, spec: ModelSpec) -> LoadPlan:
        """What a load would do now, without doing it. Raises Refused."""
        return await self._preparation.plan(spec, self._ledger.devices())

    async def unload(
        self,
        model_id: str,
        *,
        force: bool = False,
        drain_s: float | None = None,
        spare_unused_s: float = 0.0,
        min_idle_s: float = 0.0,
        load_id: str = "",
        spare_pinned: bool = False,
    ) -> int:
        """Have a model go; returns the MiB that came free. Requests in flight: 409, unless `force` ends them or
        `drain_s` waits for them so long; the rest as `Stay.holds` says. Goes on when the asker leaves. Raises
        UnknownModel, Conflict."""
        entry = self._known(model_id)
        stay = entry.stay(self._clock.now())
        why = stay and stay.holds(spare_unused_s=spare_unused_s, min_idle_s=min_idle_s, load_id=load_id)
        why = "is pinned" if entry.pinned and spare_pinned else why
        if why is not None:
            raise Conflict(reason=f"`{entry.model_id}` {why}")
        match entry.state:
            case life.Loading():
                raise Conflict(reason=f"`{entry.model_id}` is still loading")
            case life.Recovering(running=True):
                raise Conflict(reason=f"`{entry.model_id}` is being brought back")
            case life.Loaded() if entry.in_flight and not force and drain_s is None:
                busy = entry.in_flight
                raise Conflict(reason=f"`{entry.model_id}` has {busy} requests in flight", in_flight=busy)
            case _:
                held_mb = self._ledger.of(entry.model_id)
        leaving = self._crew.start(self._leave(entry, force, drain_s), name=f"unload {entry.model_id}")
        await asyncio.wait((leaving,))
        if not entry.gone.is_set():
            why = (
                "is being brought back" if isinstance(entry.state, life.Recovering) else "still had requests in flight"
            )
            raise Conflict(reason=f"`{entry.model_id}` {why} after {drain_s or 0:g} s")
        return held_mb if entry.freed_mb is None else entry.freed_mb

    def pin(self, model_id: str, pinned: bool) -> None:
        """Tell every gateway that a model may not be evicted, or may, for as long as it stays. Raises UnknownModel."""
        entry = self._known(model_id)
        if entry.pinned != pinned:
            entry.pinned = pinned
            self._publish(entry)

    async def recycle(self, device: int, *, after_cycles: int = 0) -> list[str]:
        """Replace an idle device's worker, so that its memory is whole again, and bring its models back; returns their
        ids. Raises NotFound, and Conflict when the device is in use or its worker had fewer than `after_cycles`."""
        if device not in self._host.devices:
            raise NotFound(f"there is no device {device} on this neuron")
        here = [entry for entry in self._entries.values() if device in entry.devices]
        busy = [entry.model_id for entry in here if not entry.rests]
        cycles = self._pool.cycles(device)
        if busy:
            raise Conflict(reason=f"device {device} is in use by {', '.join(busy)}")
        if cycles < after_cycles:
            raise Conflict(reason=f"the worker of device {device} had {cycles} load cycles, not {after_cycles}")
        await self._pool.recycle(device, f"recycled after {cycles} load cycles")
        return [entry.model_id for entry in here]

    def seat(self, model_id: str, *, queued: bool = True, body: bytes = b"") -> AbstractAsyncContextManager[Seat]:
        """A seat on a loaded model. Raises UnknownModel, or Unavailable with a Retry-After."""
        if self.draining:
            raise words.shutting_down(model_id)
        entry = self._entries.get(canonical(model_id))
        if entry is None or entry.state is None:
            raise self._unknown(model_id)
        if not isinstance(entry.state, life.Loaded) or entry.seats is None:
            raise words.not_now(entry.model_id, entry.state)
        self._note_use(entry)
        return entry.seats.take(queued=queued, body=body)

    def drain(self) -> None:
        """Take no more work and turn away who waits; what runs is finished."""
        self.draining = True
        for entry in self._entries.values():
            if entry.seats is not None:
                entry.seats.close(words.shutting_down(entry.model_id))

    def undrain(self) -> None:
        """Take work again."""
        self.draining = False
        for entry in self._entries.values():
            if entry.seats is not None and isinstance(entry.state, life.Loaded):
                entry.seats.reopen()

    def job(self, job_id: str) -> LoadJob | None:
        """A load job by its id."""
        return self._jobs.get(job_id)

    # What it tells ----------------------------------------------------------------------------------------------------

    def status(self, model_id: str) -> life.State | None:
        """The state of a model; None when it is not here."""
        entry = self._entries.get(canonical(model_id))
        return entry.state if entry else None

    def models(self) -> list[Model]:
        """Every model that is here, or failed to be."""
        return [view for entry in self._entries.values() if (view := self._view(entry)) is not None]

    def loads(self) -> list[ModelLoad]:
        """How busy each loaded model is."""
        return [views.load(entry.model_id, entry.seats) for entry in self._entries.values() if entry.seats is not None]

    def devices(self) -> tuple[DeviceState, ...]:
        """The devices with what is reserved on them."""
        return self._ledger.devices()

    def sockets(self) -> set[str]:
        """Where models are served now."""
        return {entry.order.socket for entry in self._entries.values() if entry.order is not None}

    # What it hears ----------------------------------------------------------------------------------------------------

    def refreshed(self, found: tuple[DeviceState, ...], devices: Mapping[int, DeviceRef]) -> None:
        """A newer look at the devices."""
        self._host = replace(self._host, found=found, devices=devices)
        self._ledger = self._ledger.refreshed(found)

    def hear(self, news: News) -> None:
        """What the pool tells of a worker."""
        event: life.Event | None
        match news:
            case Lost():
                how = "; ".join((f"the worker ended: {news.how}", *news.lines))
                event = life.Lost(how=how, planned=news.planned)
            case Poisoned():
                event = life.Faulted(cause=news.cause)
            case Dead():
                event = life.GaveUp(cause=news.cause)
            case Ready():
                event = None
        self._announce_device(news.device)
        for entry in tuple(self._entries.values()):
            if event is not None and news.device in entry.devices[:1]:
                self._tell(entry, event)

    async def close(self, within_s: float) -> None:
        """Stop taking work, wake who waits, give requests `within_s` to end, then unload everything."""
        self.drain()
        if self._host.shelf is not None:
            self._host.shelf.clear()
        for job in self._jobs.running():
            job.finish(Conflict(reason="this neuron is shutting down"))
        loaded = [entry for entry in self._entries.values() if isinstance(entry.state, life.Loaded)]
        await asyncio.gather(*(self._close_one(entry, within_s) for entry in loaded))
        self.feed.close()

    async def _close_one(self, entry: Entry, within_s: float) -> None:
        if entry.seats is not None:
            await _bounded(entry.seats.empty(), within_s)
        await _bounded(self._leave(entry, force=True, drain_s=None), FORCED_WAIT_S)

    # The one writer ---------------------------------------------------------------------------------------------------

    def _tell(self, entry: Entry, event: life.Event) -> None:
        before = entry.state
        entry.state, effects = life.step(before, event, self._clock.now())
        for effect in effects:
            self._run(entry, effect)
        self._settle(entry, before)
        self._announce(entry, before)

    def _run(self, entry: Entry, effect: life.Effect) -> None:
        name = entry.model_id
        match effect:
            case life.Bring():
                self._crew.start(self._bring(entry), name=f"load {name}")
            case life.Reload():
                self._crew.start(self._reload(entry, effect.plan), name=f"reload {name}")
            case life.WaitThenRetry():
                self._crew.start(self._wait(entry, effect.seconds), name=f"back-off {name}")
            case life.Free():
                self._crew.start(self._free(entry, effect.plan), name=f"free {name}")
            case life.Release():
                self._ledger = self._ledger.release(name)

    def _settle(self, entry: Entry, before: life.State | None) -> None:
        """Keep seats, job and registration in step with the state."""
        state = entry.state
        if isinstance(state, life.Loaded) and entry.order is not None:
            if isinstance(before, life.Unloading) and entry.seats is not None:
                entry.seats.reopen()
            elif not isinstance(before, life.Loaded):
                entry.used = False
                entry.seats = Seats(
                    entry.model_id,
                    entry.order.socket,
                    self._gate(state),
                    state.facts,
                )
                if self.draining:
                    entry.seats.close(words.shutting_down(entry.model_id))
            self._end_job(entry, None)
        elif entry.seats is not None and not isinstance(state, life.Unloading | life.Loaded):
            entry.seats.close(words.not_now(entry.model_id, state))
            entry.seats.cut(words.broken_off(entry.model_id, state))
            entry.seats = None
        elif entry.seats is not None and isinstance(state, life.Unloading):
            entry.seats.close(words.not_now(entry.model_id, state))
        if state is None or isinstance(state, life.Failed):
            self._end_job(entry, entry.error or HelexaError(getattr(state, "error", "the load was given up")))
            entry.forget_socket()
            entry.order = None
        if state is None:
            entry.gone.set()
            if self._entries.get(entry.model_id) is entry:
                del self._entries[entry.model_id]

    def _end_job(self, entry: Entry, error: HelexaError | None) -> None:
        job, entry.job = entry.job, None
        if job is not None:
            job.finish(error)

    def _announce(self, entry: Entry, before: life.State | None) -> None:
        """Publish what changed; progress at most ten times a second for each model."""
        state, boot_id = entry.state, self._host.boot_id
        if state == before:
            return
        if state is None:
            log.info("%s is gone", entry.model_id)
            self.feed.publish(Event(kind="gone", boot_id=boot_id, model_id=entry.model_id))
            return
        moved = type(state) is type(before) and getattr(state, "stage", "") == getattr(before, "stage", "")
        now = self._clock.now()
        if moved and now - entry.told_s < PROGRESS_EVERY_S:
            return
        entry.told_s = now
        kind = "progress" if type(state) is type(before) else "model"
        if kind == "model":
            log.info("%s is %s%s", entry.model_id, views.STATUS[type(state)], words.because(state))
            self._forget_old_failures()
        self.feed.publish(Event(kind=kind, boot_id=boot_id, model_id=entry.model_id, model=self._view(entry)))

    def _announce_device(self, index: int) -> None:
        state = next((device for device in self._ledger.devices() if device.index == index), None)
        if state is not None:
            health = DeviceHealth(
                index=index,
                vram_used_mb=state.reserved_mb + state.foreign_mb,
                vram_free_mb=state.free_mb,
            )
            health = views.with_worker(health, self._pool)
            self.feed.publish(Event(kind="device", boot_id=self._host.boot_id, device=health))

    def _forget_old_failures(self) -> None:
        failed = [name for name, entry in self._entries.items() if isinstance(entry.state, life.Failed)]
        for name in failed[:-KEPT_FAILURES]:
            del self._entries[name]

    # Effects that take time -------------------------------------------------------------------------------------------

    async def _bring(self, entry: Entry) -> None:
        assert entry.spec is not None
        try:
            self._tell(entry, life.Moved(stage="preflight", progress=None))
            plan = await self._reserve(entry)
            self._tell(entry, life.Planned(plan=plan))
            files = await self._preparation.fetch(plan, self._reporter(entry))
            if plan.warmth == "disk":  # while its worker is busy with others, and faster than page by page
                self._crew.start(warm(files), name=f"read ahead {entry.model_id}")
            entry.order = self._order(entry.model_id, plan, files)
            await self._execute(entry, plan, plan.warmth)
        except Exception as error:  # noqa: BLE001 - whatever stops a load ends that load only
            self._broke(entry, words.as_ours(error, entry.model_id))

    async def _reload(self, entry: Entry, plan: LoadPlan) -> None:
        try:
            assert entry.order is not None
            await self._pool.replaced(plan.devices[0])
            entry.forget_socket()
            entry.order = self._order(entry.model_id, plan, entry.order.files)
            await self._execute(entry, plan, None)
        except Exception as error:  # noqa: BLE001 - whatever stops a load ends that load only
            self._broke(entry, words.as_ours(error, entry.model_id))

    async def _execute(self, entry: Entry, plan: LoadPlan, warmth: Warmth | None) -> None:
        """Have the worker execute the order. `warmth`: from where its time is measured, None for a model that is
        brought back."""
        assert entry.order is not None
        engine = self._host.engines[plan.harness]
        limit_s = life.load_limit_s(plan, self._host.load_limit_s)
        facts = await self._pool.load(plan.devices[0], engine, entry.order, self._reporter(entry), limit_s=limit_s)
        if self._pool.suspicion(plan.devices[0]):
            await self._try_out(entry, entry.order, plan.devices[0], facts)
        entry.taken = took = taken(plan, facts)
        if took is not None:
            self._ledger = self._ledger.measured(entry.model_id, took.share.device, took.measured_mb)
        self._tell(entry, life.Arrived(facts=facts))
        await asyncio.to_thread(self._host.larder.release, entry.order.files)
        if took is not None:
            of = circumstances(plan, self._host.devices[took.share.device].kind)
            load_s = {warmth: round(entry.state.load_s, 3)} if warmth and isinstance(entry.state, life.Loaded) else {}
            await asyncio.to_thread(self._host.note, of, took.share.predicted_mb, took.measured_mb, load_s)

    async def _try_out(self, entry: Entry, order: LoadOrder, device: int, facts: Facts) -> None:
        """The first model on a device in quarantine answers a prompt, or the device is condemned again."""
        self._tell(entry, life.Moved(stage="canary", progress=None))
        failure = await probe.canary(order.socket, entry.model_id, facts, self._host.step_limit_s)
        if failure is not None:
            self._pool.condemn(device, f"the canary prompt failed: {failure}")
            raise UpstreamFailed(node=self._pool.name(device), reason=f"the canary prompt failed: {failure}")
        log.info("%s answered the canary prompt: %s is out of quarantine", entry.model_id, self._pool.name(device))
        self._pool.acquit(device)
        self._announce_device(device)

    async def watch(self) -> None:
        """Feel the pulse of every engine that has requests in flight; one look, the answers come later."""
        for entry in self._entries.values():
            state, order, busy = entry.state, entry.order, entry.in_flight > 0
            if isinstance(state, life.Loaded) and state.facts.pulse and order is not None and busy and not entry.pulse:
                beat = self._feel_pulse(entry, state, order)
                entry.pulse = self._crew.start(beat, name=f"pulse {entry.model_id}")

    async def _feel_pulse(self, entry: Entry, state: life.Loaded, order: LoadOrder) -> None:
        limit_s = self._host.step_limit_s
        try:
            alive = await probe.answers(order.socket, state.facts.pulse, limit_s)
        finally:
            entry.pulse = None
        if not alive and entry.order is order:
            self._pool.condemn(state.plan.devices[0], f"stuck: `{entry.model_id}` made no step for {limit_s:g} s")

    async def _wait(self, entry: Entry, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._tell(entry, life.Due())

    async def _free(self, entry: Entry, plan: LoadPlan) -> None:
        device = plan.devices[0]
        scales = Scales(self._host, device)
        await scales.begin()
        try:
            await self._pool.unload(device, entry.model_id)
            entry.freed_mb = await scales.freed_mb(entry.model_id, entry.taken)
        except JobFailed as error:  # what it still holds is unknown; a fresh worker holds nothing
            log.error("unloading %s failed: %s", entry.model_id, error.message)
            await self._pool.recycle(device, f"unloading {entry.model_id} failed")
        except HelexaError:
            pass  # the worker is gone, and the model with it
        if self._host.shelf is not None and not self.draining:
            await asyncio.to_thread(self._host.shelf.prune)
        if entry.order is not None and not self.draining:
            keep = asyncio.to_thread(self._host.larder.keep, entry.order.files)
            self._crew.start(keep, name=f"keep {entry.model_id} in memory")
        self._tell(entry, life.Freed())

    async def _leave(self, entry: Entry, force: bool, drain_s: float | None) -> None:
        """Take a model out: close its door, empty it, free it."""
        self._tell(entry, life.UnloadAsked())
        if isinstance(entry.state, life.Unloading) and not entry.state.freeing:
            if entry.seats is not None and not await self._emptied(entry.model_id, entry.seats, force, drain_s):
                self._tell(entry, life.DrainExpired())
                return
            self._tell(entry, life.Emptied())
        if isinstance(entry.state, life.Unloading):  # else its worker died meanwhile, and it is gone or coming back
            await entry.gone.wait()

    async def _emptied(self, model_id: str, seats: Seats, force: bool, drain_s: float | None) -> bool:
        if force:
            seats.cut(words.broken_off(model_id, None))
        await _bounded(seats.empty(), FORCED_WAIT_S if force else drain_s or 0.0)
        return force or seats.in_flight == 0

    # Parts of a load --------------------------------------------------------------------------------------------------

    async def _reserve(self, entry: Entry) -> LoadPlan:
        """A plan whose memory is promised. Between plan and promise another load may win, so it is asked twice."""
        assert entry.spec is not None
        for _ in range(2):
            plan = await self._preparation.plan(entry.spec, self._trusted(entry.spec))
            outcome = self._ledger.reserve(entry.model_id, plan.shares)
            if isinstance(outcome, Ledger):
                self._ledger = outcome
                return plan
            shortfall = outcome
        raise words.does_not_fit(entry.model_id, shortfall)  # pyright: ignore[reportPossiblyUnboundVariable]

    def _trusted(self, spec: ModelSpec) -> Sequence[DeviceState]:
        """The devices for a new model: not those in quarantine, unless there are no others or they are asked for."""
        devices = self._ledger.devices()
        if spec.devices:
            return devices
        return [device for device in devices if not self._pool.suspicion(device.index)] or devices

    def _order(self, model_id: str, plan: LoadPlan, files: tuple[str, ...]) -> LoadOrder:
        """The plan as its engine gets it; a fresh socket each time, for a stale one makes a server refuse to start."""
        self._sockets += 1
        kv_folder, kv_keep_tokens = self._host.shelf.place(plan, files) if self._host.shelf else ("", 0)
        return LoadOrder(
            model_id=model_id,
            files=files,
            devices=tuple(self._device(share, plan) for share in plan.shares),
            socket=str(self._host.sockets / f"{self._sockets}.sock"),
            context=plan.context,
            slots=plan.slots,
            options=plan.options,
            kv_folder=kv_folder,
            kv_keep_tokens=kv_keep_tokens,
        )

    def _device(self, share: Share, plan: LoadPlan) -> DeviceRef:
        ref = self._host.devices[share.device]
        return DeviceRef(
            kind=ref.kind, index=ref.index, memory_mb=share.needed_mb, threads=ref.threads, part=plan.part(share)
        )

    def _reporter(self, entry: Entry) -> Report:
        def report(stage: str, progress: float | None) -> None:
            self._tell(entry, life.Moved(stage=stage, progress=progress))

        return report

    def _broke(self, entry: Entry, error: HelexaError) -> None:
        entry.error = error
        if isinstance(error, Refused):
            log.warning("%s refused: reason=%s detail=%s", entry.model_id, error.fields.get("kind"), error.message)
        refused = isinstance(error, Refused) and isinstance(entry.state, life.Loading)
        self._tell(entry, life.Broke(error=error.message, refused=refused))

    # Small answers ----------------------------------------------------------------------------------------------------

    def _door(self, model_id: str) -> None:
        if self.draining:
            raise Conflict(reason="this neuron is draining", model_id=model_id)
        if (why := self._host.blocked()) is not None:
            raise Unavailable(why, model=model_id, reason=why)

    def _finished(self, model_id: str) -> LoadJob:
        job = LoadJob(id=fresh("load_"), model_id=model_id)
        job.finish()
        return self._jobs.add(job)

    def _gate(self, state: life.Loaded) -> Gate:
        host, facts = self._host, state.facts
        return Gate(
            seats=host.max_in_flight or max(1, state.plan.slots),
            queue=host.max_queue_depth,
            max_wait_s=host.max_wait_s,
            context=facts.context_length,
            kv_tokens=facts.kv_tokens,
        )

    def _note_use(self, entry: Entry) -> None:
        """The first use of a load is news: from then on other gateways may want its room."""
        if not entry.used:
            entry.used = True
            self._publish(entry)

    def _publish(self, entry: Entry) -> None:
        row = self._view(entry)
        self.feed.publish(Event(kind="model", boot_id=self._host.boot_id, model_id=entry.model_id, model=row))

    def _view(self, entry: Entry) -> Model | None:
        view = entry.view(held_mb=self._ledger.of(entry.model_id), now=self._clock.now())
        if view is not None and view.loading is not None and view.loading.stage == life.QUEUED and entry.devices:
            view.loading.behind = self._pool.ahead_of(entry.devices[0], entry.model_id)
        return view

    def _known(self, model_id: str) -> Entry:
        entry = self._entries.get(canonical(model_id))
        if entry is None:
            raise self._unknown(model_id)
        return entry

    def _unknown(self, model_id: str) -> UnknownModel:
        here = ", ".join(f"`{name}`" for name, e in self._entries.items() if isinstance(e.state, life.Loaded))
        hint = f"Loaded here: {here}." if here else "Nothing is loaded here."
        return UnknownModel(f"The model `{model_id}` is not loaded on this neuron. {hint}", model=model_id, hint=hint)


async def _bounded(work: Awaitable[None], within_s: float) -> None:
    try:
        await asyncio.wait_for(work, within_s)
    except TimeoutError:
        return
