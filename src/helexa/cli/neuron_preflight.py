"""`neuron preflight`: can this host load a model, and how? Answered without loading or downloading it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from helexa.base.units import human_bytes, human_seconds
from helexa.cli.link import AsJson
from helexa.cli.localhost import ConfigFile, Option, look, options_of
from helexa.cli.say import as_json, fail

if TYPE_CHECKING:
    from helexa.neuron.core.plan import LoadPlan, Share
    from helexa.wire.control import ModelSpec

WARMTH = {"memory": "in memory already", "disk": "on disk", "cold": "to be downloaded"}


def preflight(
    model: str,
    *,
    quant: Annotated[str | None, Parameter(name=("--quant", "-q"))] = None,
    context: str | None = None,
    harness: str | None = None,
    device: Annotated[list[int] | None, Parameter(negative="")] = None,
    tp: int | None = None,
    option: Option = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Say how a model would be loaded on this host while nothing else is, or why it would not.

    Parameters
    ----------
    model
        `org/name`, `scheme:org/name`, `file:/path` or `pypi:NAME`.
    quant
        The quantisation, in any spelling.
    context
        Tokens per sequence, or `max`: as many as fit.
    harness
        The engine; else the first one that can.
    device
        Only this device; may be given several times.
    tp
        Tensor parallelism: over so many devices.
    """
    from helexa.base.errors import Refused

    spec = spec_of(model, quant, context, harness, device, tp, option)
    host = look(config)
    try:
        plan = asyncio.run(host.library.plan(spec, host.view.states()))
    except Refused as error:
        if json:
            as_json({"ok": False, "error": {**error.fields, "message": error.message}})
            sys.exit(1)
        fail(f"{error.fields.get('kind')}: {error.message}")
    if json:
        from helexa.neuron.keeper import views

        as_json({"ok": True, "plan": views.plan(plan)})
        return
    print("\n".join(_lines(plan)))


def spec_of(
    model: str,
    quant: str | None,
    context: str | None,
    harness: str | None,
    devices: list[int] | None,
    tp: int | None,
    option: list[str] | None,
) -> ModelSpec:
    """A load request from what was typed. Raises InvalidRequest."""
    from helexa.base.errors import InvalidRequest
    from helexa.wire.control import ModelSpec

    if model.endswith(".gguf") and Path(model).expanduser().is_file():
        raise InvalidRequest(f"`{model}` is a file; write file:{Path(model).expanduser().resolve()}", param="model_id")
    if context is not None and context != "max" and not context.isdigit():
        raise InvalidRequest(f"--context is a number of tokens or `max`, not `{context}`", param="context")
    return ModelSpec(
        model_id=model,
        quant=quant,
        context="max" if context == "max" else int(context) if context else None,
        harness=harness,
        devices=devices,
        tensor_parallel=tp,
        options=options_of(option),
    )


def _lines(plan: LoadPlan) -> list[str]:
    files = [
        f"  file     {f.name}" + (f" ({human_bytes(f.size_bytes)})" if f.size_bytes else "") for f in plan.files[:8]
    ]
    more = [f"           and {len(plan.files) - 8} more"] if len(plan.files) > 8 else []
    return [
        f"{plan.model_id} would load with {plan.engine}",
        *files,
        *more,
        f"  weights  {WARMTH[plan.warmth]}" + _restored(plan),
        f"  context  {plan.context} tokens for each of {plan.slots} sequences",
        *(f"  device {share.device} {_sum(share)}" for share in plan.shares),
    ]


def _restored(plan: LoadPlan) -> str:
    return "" if plan.restore_s is None else f"; from there the last load took {human_seconds(plan.restore_s)}"


def _sum(share: Share) -> str:
    text = f"{share.needed_mb} MiB = {share.weights_mb} weights + {share.kv_mb} KV + {share.compute_mb} compute"
    return text + (f" {share.correction_mb:+d} as measured before" if share.correction_mb else "")
