"""The keeper's states as the wire shows them."""

from __future__ import annotations

from typing import assert_never

from helexa.base.errors import HelexaError
from helexa.neuron.core import lifecycle as life
from helexa.neuron.core.measured import Measurement
from helexa.neuron.core.plan import LoadPlan, Warmth
from helexa.neuron.core.residency import Stay
from helexa.neuron.device.pool import Pool
from helexa.neuron.keeper.seats import Seats
from helexa.wire.control import (
    DeviceHealth,
    JobView,
    Limit,
    LoadingState,
    MeasuredLoad,
    Model,
    ModelLoad,
    PlanShare,
    PlanView,
    Servable,
    WorkerExit,
)

STATUS: dict[type[life.State], str] = {
    life.Loading: "loading",
    life.Loaded: "loaded",
    life.Unloading: "unloading",
    life.Recovering: "recovering",
    life.Poisoned: "poisoned",
    life.Failed: "failed",
}


_TIER: dict[Warmth, str] = {"memory": "warm", "disk": "cold", "cold": "remote"}


def plan_of(state: life.State | None) -> LoadPlan | None:
    """The plan that a state holds, if it holds one."""
    match state:
        case life.Loading() | life.Loaded() | life.Recovering() | life.Poisoned():
            return state.plan
        case life.Unloading():
            return state.was.plan
        case life.Failed() | None:
            return None
        case _:
            assert_never(state)


def model(model_id: str, state: life.State, *, held_mb: int, in_flight: int, stay: Stay | None) -> Model:
    """One row of `GET /models`. `held_mb` is what the ledger keeps for it (MiB)."""
    row = Model(id=model_id, status=STATUS[type(state)], in_flight=in_flight)
    if stay is not None:
        row.loaded_s = round(stay.loaded_s, 3)
        row.idle_s = None if stay.idle_s is None else round(stay.idle_s, 3)
        row.load_id = stay.load_id
    plan = plan_of(state)
    if plan is not None:
        row.harness = plan.harness
        row.harness_reason = plan.reason or None
        row.devices = list(plan.devices)
        row.vram_predicted_mb = sum(share.needed_mb for share in plan.shares)
        row.vram_used_mb = held_mb
        row.tier = row.loaded_from = _TIER[plan.warmth]
    match state:
        case life.Loaded():
            _served(row, state)
        case life.Unloading():
            _served(row, state.was)
            row.servable = Servable(ok=False, reason="unloading")
        case life.Loading():
            row.loading = LoadingState(stage=state.stage, progress=state.progress)
            row.servable = Servable(ok=False, reason="loading")
        case life.Recovering():
            row.loading = LoadingState(stage=state.stage, progress=state.progress)
            row.servable = Servable(ok=False, reason="recovering", detail=state.error)
        case life.Poisoned():
            row.servable = Servable(ok=False, reason="poisoned", detail=state.error)
        case life.Failed():
            row.harness, row.error = state.harness, state.error
            row.servable = Servable(ok=False, reason="failed", detail=state.error)
        case _:
            assert_never(state)
    return row


def _served(row: Model, state: life.Loaded) -> None:
    facts = state.facts
    row.tier = "hot"
    row.capabilities = list(facts.capabilities)
    row.limit = Limit(context=facts.context_length, output=facts.max_output_tokens)
    row.tool_call, row.reasoning = facts.tool_call, facts.reasoning
    row.load_s = round(state.load_s, 3)
    row.kv_restored_tokens = facts.kv_restored_tokens
    row.recoveries, row.last_error = state.attempt, state.error or None
    row.servable = Servable(ok=True)


def load(model_id: str, seats: Seats) -> ModelLoad:
    """How busy a model is."""
    gate = seats.gate
    return ModelLoad(
        id=model_id,
        in_flight=seats.in_flight,
        queue_depth=seats.waiting,
        max_in_flight=gate.seats,
        max_queue_depth=gate.queue,
        kv_tokens=gate.kv_tokens or 0,
        kv_tokens_reserved=seats.kv_reserved,
        rejected_queue_full=seats.turned_away["full"],
        rejected_timeout=seats.turned_away["late"],
    )


def with_worker(health: DeviceHealth, pool: Pool) -> DeviceHealth:
    """A device's reading, with how its worker is."""
    index, end = health.index, pool.last_exit(health.index)
    health.worker, health.worker_state = pool.name(index), pool.state(index)
    health.worker_error = pool.suspicion(index) or pool.why(index) or None
    health.worker_restarts, health.cycles = pool.restarts(index), pool.cycles(index)
    if end is not None:
        health.worker_exit = WorkerExit(how=end.how, at=end.at, lines=list(end.lines))
    return health


def measured(row: Measurement) -> MeasuredLoad:
    """One row of what loads were measured to take."""
    return MeasuredLoad(
        model_id=row.of.model_id,
        weights=row.of.weights,
        context=row.of.context,
        slots=row.of.slots,
        engine=row.of.engine,
        device_kind=row.of.device_kind,
        predicted_mb=row.predicted_mb,
        measured_mb=row.needed_mb,
    )


def plan(plan: LoadPlan) -> PlanView:
    """What preflight decided."""
    return PlanView(
        model_id=plan.model_id,
        harness=plan.harness,
        harness_reason=plan.reason or None,
        format=plan.format,
        files=[file.name for file in plan.files],
        download_bytes=plan.download_bytes,
        context=plan.context,
        slots=plan.slots,
        warmth=plan.warmth,
        restore_s=plan.restore_s,
        shares=[
            PlanShare(
                device=share.device,
                needed_mb=share.needed_mb,
                weights_mb=share.weights_mb,
                kv_mb=share.kv_mb,
                compute_mb=share.compute_mb,
                correction_mb=share.correction_mb,
            )
            for share in plan.shares
        ],
    )


def loading_of(state: life.State | None) -> LoadingState | None:
    """Where a load or reload stands."""
    match state:
        case life.Loading() | life.Recovering():
            return LoadingState(stage=state.stage, progress=state.progress)
        case _:
            return None


def job(job_id: str, model_id: str, word: str, error: HelexaError | None, state: life.State | None) -> JobView:
    """A load job."""
    view = JobView(job_id=job_id, model_id=model_id, state=word)
    if word == "running":
        view.loading = loading_of(state)
    if error is not None:
        view.error = {"code": error.code, "status": error.status, "message": error.message, **error.fields}
    return view
