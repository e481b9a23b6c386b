"""The control contract between gateway and neuron: lenient in (unknown fields ignored), strict out.

Field names are those of the wire; everything past the first group of a struct is an addition that older neurons do not
send, so each addition has a default that means "not said".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Int = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
"""What a JSON number carries everywhere. A larger one is no memory, time or count, and could not be passed on."""

DRAINING = "draining"
"""The `state` in the details of a refusal by a neuron that takes no new work; else it is its model's status."""
QUEUED = "queued"
"""The stage of a load whose turn on its device has not come."""


class Lean(msgspec.Struct, kw_only=True, omit_defaults=False):
    """Base of what travels: keyword-only; unknown fields from a newer peer are ignored."""


class Device(Lean):
    """One device of a host. `vram_total_mb` is MiB; for a CPU device it is the memory that models may use."""

    index: Int
    name: str = ""
    vram_total_mb: Int = 0
    compute_capability: str = ""
    kind: Literal["cuda", "rocm", "metal", "cpu"] | str = "cuda"


class MeasuredLoad(Lean):
    """What the last loads of a model were measured to take on one device of a kind, beside what was predicted (MiB)."""

    model_id: str
    weights: str
    context: int
    slots: int
    engine: str
    device_kind: str
    predicted_mb: int
    measured_mb: int


class Discovery(Lean):
    hostname: str
    os: str = ""
    kernel: str = ""
    cuda_version: str | None = None
    driver_version: str | None = None
    devices: list[Device] = []
    harnesses: list[str] = []
    boot_id: str = ""
    neuron_version: str = ""
    max_prompt_tokens: Int = 0
    disk_free_mb: Int | None = None
    cuda_unavailable_reason: str | None = None
    clock_s: float | None = None
    """The host's clock, seconds since 1970."""
    measured: list[MeasuredLoad] = []
    formats: dict[str, list[str]] = {}
    """harness name -> weight formats it reads ("gguf", "dense_safetensors", "any"); empty: not said."""


class WorkerExit(Lean):
    """How a device's worker ended last: in words, when (seconds of the epoch), and the last lines that it wrote."""

    how: str
    at: float
    lines: list[str] = []


class DeviceHealth(Lean):
    """How a device is. `worker_state`: idle starting ready quarantined poisoned restarting failed."""

    index: Int
    vram_used_mb: Int = 0
    vram_free_mb: Int = 0
    utilization_pct: Int | None = None
    temp_c: Int | None = None
    foreign_mb: Int | None = None
    """MiB held by what is no model of this neuron. Who subtracts the rows of a `/models` asked for a moment later takes
    a model that came or went in between for a stranger."""
    worker: str = ""
    worker_state: str = ""
    worker_error: str | None = None
    worker_restarts: Int = 0
    cycles: Int = 0
    """Models loaded and unloaded again since the worker was started."""
    worker_exit: WorkerExit | None = None


class FailedLoad(Lean):
    model_id: str
    error: str = ""


class Activation(Lean):
    """Progress of the neuron's default models; "ready" once each has loaded or failed. `retrying`: why those of
    `pending` that were tried already are tried again."""

    state: str = "ready"
    pending: list[str] = []
    retrying: list[FailedLoad] = []
    in_progress: str | None = None
    completed: list[str] = []
    failed: list[FailedLoad] = []


class ModelLoad(Lean):
    """How busy a model is. `kv_tokens` is the KV cache that its requests share; 0: each has its own."""

    id: str
    in_flight: Int = 0
    queue_depth: Int = 0
    max_in_flight: Int = 0
    max_queue_depth: Int = 0
    kv_tokens: Int = 0
    kv_tokens_reserved: Int = 0
    rejected_queue_full: Int = 0
    rejected_timeout: Int = 0
    tok_s_prefill: float = 0.0
    tok_s_decode: float = 0.0


class Health(Lean):
    """`locked_mb`: host memory that holds weights of unloaded models. `topology` counts how often the devices have
    changed: once it does, `/discovery` tells something new."""

    uptime_secs: Int = 0
    devices: list[DeviceHealth] = []
    activation: Activation = msgspec.field(default_factory=Activation)
    models: list[ModelLoad] = []
    boot_id: str = ""
    draining: bool = False
    locked_mb: Int = 0
    topology: Int = 0


class LoadingState(Lean):
    """Where a load stands. `progress` is 0..1 within the stage, or None while unknown; `eta_s` only when known.
    `behind`: what its device is busy with first while it is `queued`, such as "the load of org/b"."""

    stage: str = QUEUED
    progress: float | None = None
    eta_s: float | None = None
    behind: str | None = None


class Servable(Lean):
    ok: bool = True
    reason: str | None = None
    detail: str | None = None


class Limit(Lean):
    context: Int = 0
    output: Int = 0
    input: Int | None = None


class Model(Lean):
    """One row of a neuron's `GET /models`. Statuses: loading loaded poisoned recovering unloading failed."""

    id: str
    harness: str = ""
    harness_reason: str | None = None
    """Why it is this one, where the asker left it open."""
    status: str = "loaded"
    devices: list[Int] = []
    vram_used_mb: Int | None = None
    capabilities: list[str] = []
    limit: Limit | None = None
    tool_call: bool = False
    reasoning: bool = False
    servable: Servable | None = None
    loading: LoadingState | None = None
    error: str | None = None
    vram_predicted_mb: Int | None = None
    vram_measured_mb: Int | None = None
    load_s: float | None = None
    in_flight: Int = 0
    pinned: bool | None = None
    """An operator's word on whether it may be evicted; None where there was none."""
    kv_restored_tokens: Int = 0
    tier: str | None = None
    """Where its weights are: hot (on the device), warm (in the host's page cache), cold (on disk), remote."""
    loaded_from: str | None = None
    """The tier that `load_s` was measured from."""
    recoveries: Int = 0
    last_error: str | None = None
    """Why it was last brought back, while it is loaded again."""
    loaded_s: float | None = None
    """Seconds since it was loaded."""
    idle_s: float | None = None
    """Seconds since its last request ended, whoever sent it; 0 while one is in flight. None beside `loaded_s`: nobody
    has used it yet."""
    load_id: str = ""
    """Of the load that brought it here: another one when it has left and come back."""


class ModelSpec(Lean):
    """Body of `/models/load` and `/models/preflight`, and one `[[default_models]]` entry."""

    model_id: str
    harness: str | None = None
    quant: str | None = None
    tensor_parallel: Int | None = None
    devices: list[Int] | None = None
    context: Int | Literal["max"] | None = None
    """Tokens per sequence; "max": as many as fit, up to what the model was trained on."""
    source: str | None = None
    options: dict[str, Any] = {}


class CountTokens(Lean):
    """Body of `/models/count_tokens`: the prompt that `request`, a chat-completions body, would make of `model`."""

    model: ModelSpec
    request: msgspec.Raw


class Counted(Lean):
    tokens: Int


class PlanShare(Lean):
    """What one device would carry, in MiB."""

    device: Int
    needed_mb: Int
    weights_mb: Int = 0
    kv_mb: Int = 0
    compute_mb: Int = 0
    correction_mb: Int = 0
    """What earlier loads were measured to take beyond weights, KV cache and buffers."""


class PlanView(Lean):
    """What preflight decided, as the wire shows it; the loader executes just this."""

    model_id: str
    harness: str
    format: str
    harness_reason: str | None = None
    files: list[str] = []
    download_bytes: Int = 0
    context: Int = 0
    slots: Int = 0
    shares: list[PlanShare] = []
    warmth: str = "cold"
    """Where the weights are: "memory" (page cache), "disk", or "cold" (must be downloaded)."""
    restore_s: float | None = None
    """How long the last load like this took from there."""


class JobView(Lean):
    """A load as a job that outlives its asker. state: running | loaded | failed."""

    job_id: str
    model_id: str
    state: str = "running"
    loading: LoadingState | None = None
    error: dict[str, Any] | None = None


class Unload(Lean):
    """Body of `/models/unload`. Requests in flight are a 409, unless `force` ends them or `drain_s` waits for them with
    the door closed; so is a model that was loaded within `spare_unused_s` and not used yet, or used in `min_idle_s`, or
    that another load than `load_id` brought here, or with `spare_pinned` one that is pinned."""

    model_id: str
    force: bool = False
    drain_s: float | None = None
    spare_unused_s: float = 0.0
    min_idle_s: float = 0.0
    load_id: str = ""
    spare_pinned: bool = False


class Pin(Lean):
    """Body of `/models/pin`: for this stay of the model every gateway is told that it may not be evicted, or may."""

    model_id: str
    pinned: bool = True


class Lease(Lean):
    """Body of `/leases`: the gateway `holder` is about to load a model on the neuron with the boot id `on`, and the
    others are to know for so long. The answer is the lease that holds: this one, or another gateway's."""

    model_id: str
    on: str
    holder: str
    seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0


class Recycle(Lean):
    """Body of `/devices/{index}/recycle`: a 409 unless the worker has had so many load cycles, and rests."""

    after_cycles: Int = 0


class Event(Lean):
    """One line of `GET /events`: a model changed state or moved on in its load.

    kind: "model" (state changed), "progress" (a load moved on), "device", "gone" (a model is no longer there),
    "topology" (there are other devices; `/discovery` tells which).
    """

    kind: str
    boot_id: str = ""
    model: Model | None = None
    device: DeviceHealth | None = None
    model_id: str | None = None
