"""The life of one model: a state, what happened, and what to do about it. Pure; the keeper runs the effects.

    (nothing) ─Asked→ Loading ─Arrived→ Loaded ─UnloadAsked→ Unloading ─Freed→ (nothing)
                         │Broke           │Lost             │DrainExpired→ Loaded
                         ↓                ↓
                      Failed ←gave up─ Recovering ←Lost─ Poisoned ←Faulted─ Loaded

`Recovering` holds the model's route while its worker is replaced and its own order is executed again; a first load that
fails is not repeated, a model that served before is, with back-off, until it gave up. Absence is `None`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from helexa.neuron.core.plan import LoadPlan
from helexa.neuron.harness import Facts

RETRY_S = (0.0, 0.5, 1.0, 2.0, 4.0)
"""The wait before the n-th attempt to bring a model back; past the last one it has failed."""
LOAD_S_PER_GIB = 20.0
QUEUED = "queued"
"""The stage of a load that has not begun, or whose device is busy with another job."""
STABLE_S = 60.0
"""A model that served for so long starts its count of attempts anew."""


# States ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """A first load. `plan` is None until preflight has made it; from then on memory is reserved. `queued_at`: since
    when it has stood in its device's queue, which is no part of what the load takes."""

    job_id: str
    since: float
    queued_at: float | None = None
    stage: str = QUEUED
    progress: float | None = None
    plan: LoadPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """It serves. `attempt` counts the recoveries that led here since it was last stable, `error` is why the last one
    was needed."""

    plan: LoadPlan
    facts: Facts
    since: float
    load_s: float
    attempt: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unloading:
    """No new requests. `was` is what it returns to when the drain runs out of time; `freeing`: the worker is at it."""

    was: Loaded
    freeing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovering:
    """It served and will again. `running`: the reload is under way, otherwise it waits for a worker or a back-off."""

    plan: LoadPlan
    attempt: int
    error: str
    since: float
    running: bool = False
    stage: str = QUEUED
    progress: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisoned:
    """Its device met a fault; the worker is being replaced."""

    plan: LoadPlan
    attempt: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """It could not be loaded, or could not be brought back. Holds no memory; a new ask tries again."""

    error: str
    since: float
    harness: str = ""


State = Loading | Loaded | Unloading | Recovering | Poisoned | Failed


# Events ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Somebody wants it loaded; `job_id` is used if this ask begins a load."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Preflight made the plan and the memory is reserved."""

    plan: LoadPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The load went on."""

    stage: str
    progress: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """The engine serves it."""

    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Broke:
    """The load or reload failed. `refused`: preflight said no, so there is nothing to remember here."""

    error: str
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The worker under it ended. `planned`: it was recycled on purpose."""

    how: str
    planned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulted:
    """The device under it met a fault."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The back-off before a reload is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp:
    """No worker can be had."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadAsked:
    """Somebody wants it gone; the keeper has checked that it may go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptied:
    """No request is in flight any more, or they were told to go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainExpired:
    """Requests were still in flight when the drain's time was up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """The worker freed it."""


Event = (
    Asked
    | Planned
    | Moved
    | Arrived
    | Broke
    | Lost
    | Faulted
    | Due
    | GaveUp
    | UnloadAsked
    | Emptied
    | DrainExpired
    | Freed
)


# Effects --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bring:
    """Preflight, reserve, fetch and load it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """Execute its plan again."""

    plan: LoadPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitThenRetry:
    """Tell `Due` after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Have the worker unload it."""

    plan: LoadPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Take its memory back in the ledger."""


Effect = Bring | Reload | WaitThenRetry | Free | Release
Step = tuple[State | None, tuple[Effect, ...]]


def load_limit_s(plan: LoadPlan, base_s: float) -> float:
    """How long a load may take without moving: `base_s`, and more for a large model."""
    return base_s + LOAD_S_PER_GIB * sum(share.weights_mb for share in plan.shares) / 1024


# The machine ----------------------------------------------------------------------------------------------------------


def step(state: State | None, event: Event, now: float) -> Step:
    """The next state and what to do. An event that means nothing in a state changes nothing."""
    match state:
        case None | Failed():
            return _absent(state, event, now)
        case Loading():
            return _loading(state, event, now)
        case Loaded():
            return _loaded(state, event, now)
        case Unloading():
            return _unloading(state, event, now)
        case Recovering():
            return _recovering(state, event, now)
        case Poisoned():
            return _poisoned(state, event, now)
        case _:
            assert_never(state)


def _absent(state: Failed | None, event: Event, now: float) -> Step:
    match event:
        case Asked():
            return Loading(job_id=event.job_id, since=now), (Bring(),)
        case UnloadAsked():
            return None, ()
        case _:
            return state, ()


def _loading(state: Loading, event: Event, now: float) -> Step:
    match event:
        case Planned():
            return replace(state, plan=event.plan), ()
        case Moved():
            since = state.since if state.queued_at is None else state.since + now - state.queued_at
            queued_at = now if event.stage == QUEUED else None
            moved = replace(state, since=since, queued_at=queued_at, stage=event.stage, progress=event.progress)
            return moved, ()
        case Arrived() if state.plan is not None:
            return Loaded(plan=state.plan, facts=event.facts, since=now, load_s=now - state.since), ()
        case Broke(refused=True):
            return None, (Release(),)
        case Broke():
            return Failed(error=event.error, since=now, harness=state.plan.harness if state.plan else ""), (Release(),)
        case _:
            # Lost, Faulted and GaveUp reach a load as the failure of its own job, with the causes: as Broke.
            return state, ()


def _loaded(state: Loaded, event: Event, now: float) -> Step:
    attempt = 0 if now - state.since >= STABLE_S else state.attempt
    match event:
        case Lost(planned=True):
            return _retry(state.plan, attempt - 1, event.how, now)
        case Lost():
            return _retry(state.plan, attempt, event.how, now)
        case Faulted():
            return Poisoned(plan=state.plan, attempt=attempt, error=event.cause), ()
        case UnloadAsked():
            return Unloading(was=state), ()
        case _:
            return state, ()


def _unloading(state: Unloading, event: Event, now: float) -> Step:
    match event:
        case Emptied() if not state.freeing:
            return replace(state, freeing=True), (Free(plan=state.was.plan),)
        case DrainExpired() if not state.freeing:
            return state.was, ()
        case Freed() | Lost() | Faulted() | Broke() | GaveUp():
            return None, (Release(),)  # with its worker gone the memory is free as well
        case _:
            return state, ()


def _recovering(state: Recovering, event: Event, now: float) -> Step:
    match event:
        case Due() if not state.running:
            return replace(state, running=True), (Reload(plan=state.plan),)
        case Moved():
            return replace(state, stage=event.stage, progress=event.progress), ()
        case Arrived():
            back = Loaded(plan=state.plan, facts=event.facts, since=now, load_s=now - state.since)
            return replace(back, attempt=state.attempt, error=state.error), ()
        case Broke():
            return _retry(state.plan, state.attempt, event.error, now)
        case GaveUp():
            return _fail(state.plan, event.cause, now)
        case UnloadAsked() if not state.running:
            return None, (Release(),)
        case _:
            return state, ()  # a Lost while it runs arrives as the reload's own failure


def _poisoned(state: Poisoned, event: Event, now: float) -> Step:
    match event:
        case Lost():
            return _retry(state.plan, state.attempt, state.error, now)
        case GaveUp():
            return _fail(state.plan, event.cause, now)
        case UnloadAsked():
            return None, (Release(),)
        case _:
            return state, ()


def _retry(plan: LoadPlan, attempts: int, error: str, now: float) -> Step:
    """Bring it back, unless `attempts` were enough."""
    if attempts >= len(RETRY_S):
        return _fail(plan, error, now)
    wait = WaitThenRetry(seconds=RETRY_S[max(0, attempts)])
    return Recovering(plan=plan, attempt=attempts + 1, error=error, since=now), (wait,)


def _fail(plan: LoadPlan, error: str, now: float) -> Step:
    return Failed(error=error, since=now, harness=plan.harness), (Release(),)
