"""What a profile or a load request may set of llama.cpp, each by one line of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helexa.neuron.core.options import LLAMA, read
from helexa.neuron.engines.llama.binding import xl
from helexa.neuron.harness import BadOption

Params = Any  # xllamacpp ships no types
Put = Callable[[Params, Any], None]
DRAFTED = 8
"""Tokens drafted at once where nobody says `draft_max`; llama.cpp's 48 and 64 are more than a short step holds."""
MATCHED = 4
"""Tokens that have to be alike before what followed them last time is drafted; llama.cpp's 12 are seldom found."""
_BY_MODEL = ("draft_simple", "draft_eagle3")


def _attribute(name: str) -> Put:
    return lambda params, value: setattr(params, name, value)


def _word(enum: type, prefix: str, put: Put) -> Put:
    """An option whose words are the names of an enum, less their prefix."""
    return lambda params, value: put(params, getattr(enum, prefix + value.upper()))


def _threads(params: Params, value: int) -> None:
    params.cpuparams.n_threads = value
    params.cpuparams_batch.n_threads = value


def set_flash(params: Params, value: bool) -> None:
    """Whether attention is flash attention."""
    kind = xl.llama_flash_attn_type
    params.flash_attn_type = kind.LLAMA_FLASH_ATTN_TYPE_ENABLED if value else kind.LLAMA_FLASH_ATTN_TYPE_DISABLED


def _mmproj(params: Params, value: str) -> None:
    params.mmproj.path = value


def _draft(params: Params, value: str) -> None:
    params.speculative.draft.mparams.path = value


def _draft_max(params: Params, value: int) -> None:
    """However it is drafted."""
    kinds = params.speculative
    kinds.draft.n_max = value
    kinds.ngram_simple.size_m = kinds.ngram_map_k.size_m = value
    kinds.ngram_mod.n_max = value
    kinds.ngram_mod.n_min = min(kinds.ngram_mod.n_min, value)


def _draft_min(params: Params, value: int) -> None:
    params.speculative.draft.n_min = value


def _speculation(params: Params, value: Any) -> None:
    params.speculative.types = [value]


def _rerank(params: Params, value: bool) -> None:
    if value:
        params.embedding, params.pooling_type = True, xl.llama_pooling_type.LLAMA_POOLING_TYPE_RANK


def _tensor_split(params: Params, value: list[float]) -> None:
    room = len(params.tensor_split)
    parts = [float(part) for part in value[:room]]
    params.tensor_split = parts + [0.0] * (room - len(parts))


def _mmap(params: Params, value: bool) -> None:
    mode = xl.llama_load_mode
    params.load_mode = mode.LLAMA_LOAD_MODE_MMAP if value else mode.LLAMA_LOAD_MODE_NONE


PUT: dict[str, Put] = {
    "n_gpu_layers": _attribute("n_gpu_layers"),
    "main_gpu": _attribute("main_gpu"),
    "split_mode": _word(xl.llama_split_mode, "LLAMA_SPLIT_MODE_", _attribute("split_mode")),
    "tensor_split": _tensor_split,
    "threads": _threads,
    "batch": _attribute("n_batch"),
    "ubatch": _attribute("n_ubatch"),
    "cache_type_k": _word(xl.ggml_type, "GGML_TYPE_", _attribute("cache_type_k")),
    "cache_type_v": _word(xl.ggml_type, "GGML_TYPE_", _attribute("cache_type_v")),
    "cache_ram": _attribute("cache_ram_mib"),
    "cache_reuse": _attribute("n_cache_reuse"),
    "checkpoints": _attribute("n_ctx_checkpoints"),
    "flash_attn": set_flash,
    "kv_unified": _attribute("kv_unified"),
    "swa_full": _attribute("swa_full"),
    "context_shift": _attribute("ctx_shift"),
    "embeddings": _attribute("embedding"),
    "rerank": _rerank,
    "pooling": _word(xl.llama_pooling_type, "LLAMA_POOLING_TYPE_", _attribute("pooling_type")),
    "mmproj": _mmproj,
    "chat_template": _attribute("chat_template"),
    "reasoning_format": _word(xl.common_reasoning_format, "COMMON_REASONING_FORMAT_", _attribute("reasoning_format")),
    "rope_freq_base": _attribute("rope_freq_base"),
    "rope_freq_scale": _attribute("rope_freq_scale"),
    "draft": _draft,
    "draft_max": _draft_max,
    "draft_min": _draft_min,
    "speculation": _word(xl.common_speculative_type, "COMMON_SPECULATIVE_TYPE_", _speculation),
    "warmup": _attribute("warmup"),
    "mmap": _mmap,
    "verbosity": _attribute("verbosity"),
}
"""How each of LLAMA's options is set."""

KNOWN = tuple(LLAMA)


def apply(params: Params, options: dict[str, Any]) -> None:
    """Set every option. Raises BadOption for one that is not known, or a value it cannot be."""
    for name, value in read(options, LLAMA).items():
        PUT[name](params, value)


def drafted(params: Params, options: dict[str, Any]) -> int:
    """Tokens that a step may draft for each sequence; sets what speculation leaves open. Raises BadOption."""
    kind = options.get("speculation", "draft_simple" if "draft" in options else None)
    if kind is None:
        return 0
    if kind.lower() in _BY_MODEL and "draft" not in options:
        raise BadOption("speculation", KNOWN, f"`{kind}` needs a model to draft with, as `draft`")
    if "draft_max" not in options:
        _draft_max(params, DRAFTED)
    params.speculative.ngram_simple.size_n = params.speculative.ngram_map_k.size_n = MATCHED
    PUT["speculation"](params, kind)
    return params.speculative.draft.n_max
