"""Loads a GGUF into llama.cpp's own HTTP server on a Unix socket, and tells what was loaded."""

from __future__ import annotations

import contextlib
import gc
import os
from typing import Any

import msgspec

from helexa.base.resident import anonymous_mb
from helexa.base.units import MIB
from helexa.neuron.core.footprint import CHECKPOINTS, Settings, flash_attends, step_tokens
from helexa.neuron.engines.llama import fields, options, shelf
from helexa.neuron.engines.llama.binding import xl
from helexa.neuron.engines.llama.inside import ask
from helexa.neuron.harness import BadOption, DeviceRef, Engine, Facts, LoadOrder, Report, Resident

SPARE_HTTP_THREADS = 16
"""A kept-alive connection holds a thread of llama.cpp's server, so there are more threads than seats."""
ERRORS_ONLY = 1
MAX_OUTPUT_TOKENS = 8192


class _TemplateCaps(msgspec.Struct):
    supports_tools: bool = False
    supports_tool_calls: bool = False
    supports_reasoning_effort: bool = False
    supports_preserve_reasoning: bool = False


class _Modalities(msgspec.Struct):
    vision: bool = False
    audio: bool = False


class _Settings(msgspec.Struct):
    n_ctx: int = 0


class Props(msgspec.Struct):
    """What llama.cpp's `/props` says, as far as it matters here."""

    default_generation_settings: _Settings = msgspec.field(default_factory=_Settings)
    chat_template: str = ""
    chat_template_caps: _TemplateCaps = msgspec.field(default_factory=_TemplateCaps)
    modalities: _Modalities = msgspec.field(default_factory=_Modalities)


class _Meta(msgspec.Struct):
    n_vocab: int | None = None


class _Model(msgspec.Struct):
    meta: _Meta = msgspec.field(default_factory=_Meta)


class _Listed(msgspec.Struct):
    """What llama.cpp's `/v1/models` says of the one model that it serves."""

    data: list[_Model] = []


class LlamaResident:
    """A model that llama.cpp serves."""

    def __init__(self, server: Any, facts: Facts, order: LoadOrder) -> None:
        self._server, self._facts, self._order = server, facts, order

    @property
    def facts(self) -> Facts:
        return self._facts

    def unload(self) -> None:
        """Stop the server and free model and context; idle conversations are kept where the order says."""
        shelf.save(self._order.socket, self._order.kv_folder, self._order.kv_keep_tokens)
        self._server = None  # its destructor is the only way to stop it
        gc.collect()
        _forget(self._order.socket)


class LlamaEngine:
    """See harness.Engine."""

    def load(self, order: LoadOrder, report: Report) -> Resident:
        """Load `order.files[0]`. Raises BadOption; RuntimeError when llama.cpp cannot (its log tells why)."""
        params = make_params(order)
        _forget(order.socket)
        before_mb = _used_mb(order)
        report("load", None)
        try:
            server = xl.Server(params)
        except RuntimeError as error:
            _forget(order.socket)
            raise RuntimeError(f"llama.cpp could not load {order.files[0]}") from error
        report("ready", None)
        facts = _facts(read_props(order.socket), order, params, _used_mb(order) - before_mb)
        restored = shelf.restore(order.socket, order.kv_folder, order.slots)
        return LlamaResident(server, msgspec.structs.replace(facts, kv_restored_tokens=restored), order)

    def memory(self) -> tuple[int, int] | None:
        """Of the first GPU that llama.cpp drives; a CPU's memory is known better outside."""
        gpu = _gpu(0)
        return None if gpu is None else (_mib(gpu["memory_total"] - gpu["memory_free"]), _mib(gpu["memory_free"]))


def make_params(order: LoadOrder) -> Any:
    """The order as llama.cpp takes it. Raises BadOption."""
    params = xl.CommonParams()
    device = order.devices[0]
    params.model.path = order.files[0]
    params.model_alias = {order.model_id}
    params.hostnames = [order.socket]
    params.n_ctx = order.context * order.slots
    params.n_parallel = order.slots
    params.n_threads_http = 2 * order.slots + SPARE_HTTP_THREADS
    params.use_jinja = True
    params.ui = False
    params.cache_ram_mib = 0  # llama.cpp's own default is 8 GiB beside the plan; the option `cache_ram` is in the plan
    params.n_ctx_checkpoints = CHECKPOINTS
    params.fit_params = False  # the plan has decided; llama.cpp would quietly shrink it
    _place(params, order.devices)
    params.verbosity = ERRORS_ONLY
    params.slot_save_path = order.kv_folder and f"{order.kv_folder}/"
    if device.threads is not None:
        params.cpuparams.n_threads = device.threads
        params.cpuparams_batch.n_threads = device.threads
    options.apply(params, order.options)
    _attach_projector(params, order)
    drafted = order.slots * (1 + options.drafted(params, order.options))
    if device.kind == "cpu":
        _pace(params, order, drafted)
    if params.n_batch < drafted:  # llama.cpp ends its process at such a step
        raise BadOption("batch", options.KNOWN, f"at least {drafted}, for what all slots draft")
    return params


def _pace(params: Any, order: LoadOrder, drafted: int) -> None:
    """How many tokens a step on a CPU takes, and the attention that is quick for so many."""
    given = order.options
    settings = Settings(
        context=order.context,
        slots=order.slots,
        type_v=given.get("cache_type_v", "f16"),
        batch=given.get("batch"),
        ubatch=params.n_ubatch,
        whole=params.embedding or bool(params.mmproj.path),
        flash=given.get("flash_attn"),
    )
    if settings.batch is None:
        params.n_batch = max(drafted, step_tokens(settings, "cpu"))
    options.set_flash(params, flash_attends(settings, "cpu"))


def _place(params: Any, devices: tuple[DeviceRef, ...]) -> None:
    """All layers on the order's devices and on no others: llama.cpp would spread them over every GPU that it sees."""
    first = devices[0]
    params.n_gpu_layers = 0 if first.kind == "cpu" else 999
    params.main_gpu = 0 if first.kind == "cpu" else first.index
    if len(devices) == 1:
        params.split_mode = xl.llama_split_mode.LLAMA_SPLIT_MODE_NONE
        return
    parts = {device.index: device.part for device in devices}
    params.split_mode = xl.llama_split_mode.LLAMA_SPLIT_MODE_LAYER
    params.tensor_split = [parts.get(index, 0.0) for index in range(len(params.tensor_split))]


def _attach_projector(params: Any, order: LoadOrder) -> None:
    """A vision projector that came with the weights."""
    beside = [file for file in order.files[1:] if "mmproj" in os.path.basename(file).lower()]
    if beside and "mmproj" not in order.options:
        params.mmproj.path = beside[0]


def read_props(path: str) -> Props:
    """Ask the server that listens at `path` what it has loaded."""
    return msgspec.json.decode(ask(path, "GET", "/props")[1], type=Props)


def _vocabulary(path: str) -> int | None:
    listed = msgspec.json.decode(ask(path, "GET", "/v1/models")[1], type=_Listed)
    return listed.data[0].meta.n_vocab if listed.data else None


def _facts(props: Props, order: LoadOrder, params: Any, used_mb: int) -> Facts:
    caps = props.chat_template_caps
    tools = caps.supports_tools or caps.supports_tool_calls
    reasoning = caps.supports_reasoning_effort or "<think>" in props.chat_template
    context = props.default_generation_settings.n_ctx or order.context
    known = {"text": not params.embedding, "vision": props.modalities.vision, "tools": tools, "reasoning": reasoning}
    capabilities = [name for name, has in (known | _vectors(params)).items() if has]
    return Facts(
        context_length=context,
        max_output_tokens=min(context, MAX_OUTPUT_TOKENS),
        capabilities=tuple(capabilities),
        used_mb=max(0, used_mb),
        mapped=order.devices[0].kind == "cpu" and order.options.get("mmap", True),
        tool_call=tools,
        reasoning=reasoning,
        kv_tokens=order.context * order.slots if params.kv_unified else None,
        pulse="/slots",  # answered by the thread that decodes, after the step it is at
        hears_on_write=True,
        counts_choices=True,
        vocabulary=_vocabulary(order.socket),
        calls_by_schema=True,
        fields=fields.KNOWN,
        spellings=fields.SPELLINGS,
    )


def _vectors(params: Any) -> dict[str, bool]:
    """A model for vectors: of texts, or ranking texts by a query, which is a way of pooling."""
    ranks = params.pooling_type == xl.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    return {"embeddings": params.embedding and not ranks, "rerank": params.embedding and ranks}


def _used_mb(order: LoadOrder) -> int:
    """What the order's device has in use (MiB): by this process beside the files it maps for a CPU, by anybody for a
    GPU."""
    if order.devices[0].kind == "cpu":
        return anonymous_mb() or 0
    gpu = _gpu(order.devices[0].index)
    return 0 if gpu is None else _mib(gpu["memory_total"] - gpu["memory_free"])


def _gpu(index: int) -> dict[str, Any] | None:
    cpu = xl.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    gpus = [device for device in xl.get_device_info() if device["type"] != cpu]
    return gpus[index] if index < len(gpus) else None


def _mib(size_bytes: int) -> int:
    return size_bytes // MIB


def _forget(path: str) -> None:
    """A socket file that was left behind makes the next server refuse to start."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


_: type[Engine] = LlamaEngine
