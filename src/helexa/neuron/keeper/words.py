"""What the keeper says when it cannot: each situation as one of the tree's errors, with its facts."""

from __future__ import annotations

import logging
from typing import assert_never

from helexa.base.errors import HelexaError, Refused, Unavailable, UpstreamFailed
from helexa.base.units import human_mib
from helexa.neuron.core import lifecycle as life
from helexa.neuron.core.ledger import Shortfall
from helexa.neuron.device.process import JobFailed
from helexa.wire.control import DRAINING

log = logging.getLogger(__name__)


def not_now(model_id: str, state: life.State | None) -> HelexaError:
    """Why a model that is known takes no request now. `state` is for gateways, which hold a request until it passes."""
    match state:
        case life.Loading():
            return Unavailable(model=model_id, reason="it is still loading", state="loading", retry_after=2.0)
        case life.Recovering() | life.Poisoned():
            why = f"it is recovering ({state.error})"
            return Unavailable(model=model_id, reason=why, state="recovering", retry_after=2.0)
        case life.Failed():
            return Unavailable(model=model_id, reason=f"it failed: {state.error}", retry_after=30.0)
        case life.Loaded() | life.Unloading() | None:
            return Unavailable(model=model_id, reason="it is being unloaded", state="unloading", retry_after=1.0)
        case _:
            assert_never(state)


def broken_off(model_id: str, state: life.State | None) -> HelexaError:
    """What a request in flight is told when its model goes from under it."""
    match state:
        case life.Recovering() | life.Poisoned() | life.Failed():
            return UpstreamFailed(node=model_id, reason=state.error, model=model_id)
        case _:
            return Unavailable(model=model_id, reason="it was unloaded meanwhile", state="unloading", retry_after=1.0)


def shutting_down(model_id: str) -> Unavailable:
    return Unavailable(model=model_id, reason="this neuron is shutting down", state=DRAINING, retry_after=15.0)


def because(state: life.State) -> str:
    error = getattr(state, "error", "")
    return f": {error}" if error else ""


def as_ours(error: Exception, model_id: str) -> HelexaError:
    """Any failure of a load as one of the tree, with its whole chain of causes; one we did not foresee is logged. An
    option that only the engine could see to be wrong is refused like one that preflight did."""
    if isinstance(error, JobFailed) and "option" in error.fields:
        hint = "mend the option, or leave it out"
        option = error.fields["option"]
        return Refused(error.message, kind="invalid_option", model_id=model_id, option=option, suggestion=hint)
    if isinstance(error, HelexaError):
        return error
    log.error("a load failed in a way nobody foresaw", exc_info=error)
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 8:
        causes.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    return HelexaError(": ".join(causes))


def does_not_fit(model_id: str, short: Shortfall) -> Refused:
    devices = [
        {
            "device": want.device,
            "needed_mb": want.needed_mb,
            "free_mb": want.free_mb,
            "total_mb": want.total_mb,
            "reserved_mb": want.reserved_mb,
            "foreign_mb": want.foreign_mb,
        }
        for want in short.wants
    ]
    missing = ", ".join(
        f"device {w.device}: {human_mib(w.needed_mb)} needed, {human_mib(w.free_mb)} free" for w in short.wants
    )
    suggestion = (
        "unload another model here" if short.evictable else "use a smaller context, a smaller quant or more devices"
    )
    return Refused(
        f"The model `{model_id}` does not fit ({missing}); {suggestion}.",
        kind="does_not_fit",
        model_id=model_id,
        needed_mb=short.needed_mb,
        per_device=devices,
        suggestion=suggestion,
        evictable=short.evictable,
    )
