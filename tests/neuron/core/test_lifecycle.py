"""Every arrow of a model's life, and that no sequence of events breaks its laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core import lifecycle as life
from helexa.neuron.core.plan import LoadPlan, Share
from helexa.neuron.harness import Facts

PLAN = LoadPlan(
    model_id="m",
    harness="echo",
    format="any",
    source=None,
    files=(),
    shares=(Share(device=0, weights_mb=64),),
    context=1024,
    slots=1,
    warmth="memory",
)
FACTS = Facts(context_length=1024, max_output_tokens=1024, capabilities=("text",), used_mb=64)

LOADING = life.Loading(job_id="j", since=0.0)
PLANNED = replace(LOADING, plan=PLAN)
LOADED = life.Loaded(plan=PLAN, facts=FACTS, since=0.0, load_s=1.0)
UNLOADING = life.Unloading(was=LOADED)
FREEING = life.Unloading(was=LOADED, freeing=True)
RECOVERING = life.Recovering(plan=PLAN, attempt=1, error="gone", since=0.0)
RELOADING = replace(RECOVERING, running=True)
POISONED = life.Poisoned(plan=PLAN, attempt=0, error="fault")
FAILED = life.Failed(error="no", since=0.0, harness="echo")

LOST = life.Lost(how="killed")
RELEASE = (life.Release(),)


PLANNED_LOSS = life.Lost(how="defrag", planned=True)
FAULTED = life.Faulted(cause="fault")
BROKE = life.Broke(error="no")
REFUSED = life.Broke(error="no", refused=True)
GAVE_UP = life.GaveUp(cause="no worker")
ASKED = life.Asked(job_id="k")
MOVED = life.Moved(stage="fetch", progress=0.5)
ARRIVED = life.Arrived(facts=FACTS)
NO_WORKER = life.Failed(error="no worker", since=9.0, harness="echo")


def recovering(attempt: int, error: str) -> life.Recovering:
    return life.Recovering(plan=PLAN, attempt=attempt, error=error, since=9.0)


def retry(seconds: float) -> tuple[life.Effect, ...]:
    return (life.WaitThenRetry(seconds=seconds),)


ARROWS: list[tuple[life.State | None, life.Event, life.State | None, tuple[life.Effect, ...]]] = [
    (None, ASKED, life.Loading(job_id="k", since=9.0), (life.Bring(),)),
    (FAILED, ASKED, life.Loading(job_id="k", since=9.0), (life.Bring(),)),
    (FAILED, life.UnloadAsked(), None, ()),
    (LOADING, life.Planned(plan=PLAN), PLANNED, ()),
    (LOADING, MOVED, replace(LOADING, stage="fetch", progress=0.5), ()),
    (LOADING, BROKE, life.Failed(error="no", since=9.0), RELEASE),
    (LOADING, REFUSED, None, RELEASE),
    (PLANNED, MOVED, replace(PLANNED, stage="fetch", progress=0.5), ()),
    (PLANNED, ARRIVED, life.Loaded(plan=PLAN, facts=FACTS, since=9.0, load_s=9.0), ()),
    (PLANNED, BROKE, life.Failed(error="no", since=9.0, harness="echo"), RELEASE),
    (PLANNED, REFUSED, None, RELEASE),
    (LOADED, LOST, recovering(1, "killed"), retry(0.0)),
    (LOADED, PLANNED_LOSS, recovering(0, "defrag"), retry(0.0)),
    (LOADED, FAULTED, POISONED, ()),
    (LOADED, life.UnloadAsked(), UNLOADING, ()),
    (UNLOADING, life.Emptied(), FREEING, (life.Free(plan=PLAN),)),
    (UNLOADING, life.DrainExpired(), LOADED, ()),
    *((state, end, None, RELEASE) for state in (UNLOADING, FREEING)
      for end in (life.Freed(), LOST, PLANNED_LOSS, FAULTED, BROKE, REFUSED, GAVE_UP)),
    (RECOVERING, life.Due(), RELOADING, (life.Reload(plan=PLAN),)),
    (RECOVERING, MOVED, replace(RECOVERING, stage="fetch", progress=0.5), ()),
    (RECOVERING, ARRIVED, replace(LOADED, since=9.0, load_s=9.0, attempt=1, error="gone"), ()),
    (RECOVERING, BROKE, recovering(2, "no"), retry(0.5)),
    (RECOVERING, REFUSED, recovering(2, "no"), retry(0.5)),
    (RECOVERING, GAVE_UP, NO_WORKER, RELEASE),
    (RECOVERING, life.UnloadAsked(), None, RELEASE),
    (RELOADING, MOVED, replace(RELOADING, stage="fetch", progress=0.5), ()),
    (RELOADING, ARRIVED, replace(LOADED, since=9.0, load_s=9.0, attempt=1, error="gone"), ()),
    (RELOADING, BROKE, recovering(2, "no"), retry(0.5)),
    (RELOADING, REFUSED, recovering(2, "no"), retry(0.5)),
    (RELOADING, GAVE_UP, NO_WORKER, RELEASE),
    (POISONED, LOST, recovering(1, "fault"), retry(0.0)),
    (POISONED, PLANNED_LOSS, recovering(1, "fault"), retry(0.0)),
    (POISONED, GAVE_UP, NO_WORKER, RELEASE),
    (POISONED, life.UnloadAsked(), None, RELEASE),
]  # fmt: skip
STATES = (None, FAILED, LOADING, PLANNED, LOADED, UNLOADING, FREEING, RECOVERING, RELOADING, POISONED)
HAPPENINGS = (
    ASKED, life.Planned(plan=PLAN), MOVED, ARRIVED, BROKE, REFUSED, LOST, PLANNED_LOSS, FAULTED, life.Due(), GAVE_UP,
    life.UnloadAsked(), life.Emptied(), life.DrainExpired(), life.Freed(),
)  # fmt: skip


@pytest.mark.parametrize(("state", "event", "after", "effects"), ARROWS)
def test_each_arrow_leads_where_it_is_drawn(
    state: life.State | None, event: life.Event, after: life.State | None, effects: tuple[life.Effect, ...]
) -> None:
    assert life.step(state, event, 9.0) == (after, effects)


def test_an_event_without_an_arrow_changes_nothing() -> None:
    drawn = [(state, event) for state, event, _, _ in ARROWS]
    others = [(state, event) for state in STATES for event in HAPPENINGS if (state, event) not in drawn]
    assert len(others) + len(drawn) == len(STATES) * len(HAPPENINGS)
    for state, event in others:
        same = replace(state, plan=PLAN) if state == PLANNED and isinstance(event, life.Planned) else state
        assert life.step(state, event, 9.0) == (same, ())


def test_a_large_model_may_take_longer_to_load() -> None:
    large = replace(PLAN, shares=(Share(device=0, weights_mb=20 * 1024), Share(device=1, weights_mb=20 * 1024)))
    assert life.load_limit_s(large, 300.0) == 300.0 + 40 * 20.0


def test_a_model_that_lost_its_worker_is_brought_back_at_once_and_then_ever_later() -> None:
    waits: list[float] = []
    state: life.State | None = LOADED
    for _ in life.RETRY_S:
        state, effects = life.step(state, LOST, 1.0)
        (wait,) = effects
        assert isinstance(wait, life.WaitThenRetry)
        waits.append(wait.seconds)
        state, _effects = life.step(state, life.Due(), 1.0)
        state, _effects = life.step(state, life.Arrived(facts=FACTS), 1.0)
    assert waits == list(life.RETRY_S)
    assert waits[0] == 0.0

    state, effects = life.step(state, LOST, 1.0)
    assert isinstance(state, life.Failed)
    assert effects == RELEASE


def test_a_model_that_served_for_long_starts_its_count_anew() -> None:
    tired = replace(LOADED, attempt=len(life.RETRY_S))
    state, _ = life.step(tired, LOST, life.STABLE_S)
    assert isinstance(state, life.Recovering)
    assert state.attempt == 1


def test_a_worker_that_was_recycled_on_purpose_costs_its_models_no_attempt() -> None:
    state: life.State | None = LOADED
    for _ in range(20):
        state, _effects = life.step(state, life.Lost(how="defrag", planned=True), 1.0)
        state, _effects = life.step(state, life.Due(), 1.0)
        state, _effects = life.step(state, life.Arrived(facts=FACTS), 1.0)
    assert isinstance(state, life.Loaded)


def test_a_poisoned_model_recovers_once_its_worker_is_gone() -> None:
    state, effects = life.step(POISONED, LOST, 1.0)
    assert isinstance(state, life.Recovering)
    assert effects == (life.WaitThenRetry(seconds=0.0),)


EVENTS = st.sampled_from(
    [
        life.Asked(job_id="j"),
        life.Planned(plan=PLAN),
        life.Moved(stage="load", progress=0.5),
        life.Arrived(facts=FACTS),
        life.Broke(error="no"),
        life.Broke(error="no", refused=True),
        LOST,
        life.Lost(how="defrag", planned=True),
        life.Faulted(cause="fault"),
        life.Due(),
        life.GaveUp(cause="no worker"),
        life.UnloadAsked(),
        life.Emptied(),
        life.DrainExpired(),
        life.Freed(),
    ]
)


@given(st.lists(EVENTS, max_size=60))
def test_memory_is_released_exactly_when_a_model_stops_holding_it(events: list[life.Event]) -> None:
    state: life.State | None = None
    holding = False
    for now, event in enumerate(events):
        state, effects = life.step(state, event, float(now))
        if isinstance(event, life.Planned) and isinstance(state, life.Loading):
            holding = True
        if life.Release() in effects:
            holding = False
        assert holding is False or not isinstance(state, life.Failed | None)
        assert not isinstance(state, life.Loaded) or state.plan is PLAN


@given(st.lists(EVENTS, max_size=60))
def test_a_model_is_never_loaded_or_freed_twice_at_the_same_time(events: list[life.Event]) -> None:
    state: life.State | None = None
    busy = 0
    for now, event in enumerate(events):
        before = state
        state, effects = life.step(state, event, float(now))
        started = sum(isinstance(effect, life.Bring | life.Reload | life.Free) for effect in effects)
        busy = _at_work(before) and _at_work(state)
        assert started <= 1
        assert not (started and busy)


def _at_work(state: life.State | None) -> bool:
    match state:
        case life.Loading():
            return True
        case life.Recovering():
            return state.running
        case life.Unloading():
            return state.freeing
        case _:
            return False


def test_the_time_in_its_devices_queue_is_no_part_of_what_a_load_takes() -> None:
    state: life.State | None = PLANNED
    told = [(2.0, life.Moved(stage=life.QUEUED, progress=None)), (7.0, life.Moved(stage="load", progress=None))]
    for now, event in (*told, (10.0, ARRIVED)):
        state, _ = life.step(state, event, now)
    assert state == life.Loaded(plan=PLAN, facts=FACTS, since=10.0, load_s=5.0)
