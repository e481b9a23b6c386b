"""What a profile or a load request may set of llama.cpp, each by one line of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helexa.neuron.engines.llama.binding import xl
from helexa.neuron.harness import BadOption

Params = Any  # xllamacpp ships no types
_POOLINGS = ("none", "mean", "cls", "last", "rank")
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_REASONING = ("none", "auto", "deepseek", "deepseek_legacy")
_SPLITS = ("none", "layer", "row", "tensor")
DRAFTED = 8
"""Tokens drafted at once where nobody says `draft_max`; llama.cpp's 48 and 64 are more than a short step holds."""
MATCHED = 4
"""Tokens that have to be alike before what followed them last time is drafted; llama.cpp's 12 are seldom found."""
_BY_MODEL = ("draft_simple", "draft_eagle3")
_SPECULATION = ("draft_simple", "ngram_simple", "ngram_mod", "ngram_cache", "ngram_map_k", "draft_mtp", "draft_eagle3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: the type of its value, how it is set, and the words it may be where it is a word."""

    kind: type
    put: Callable[[Params, Any], None]
    words: tuple[str, ...] = ()


def _attribute(name: str, kind: type) -> Option:
    return Option(kind=kind, put=lambda params, value: setattr(params, name, value))


def _word(enum: type, prefix: str, words: tuple[str, ...], put: Callable[[Params, Any], None]) -> Option:
    """An option whose words are the names of an enum, less their prefix."""
    return Option(kind=str, words=words, put=lambda params, value: put(params, getattr(enum, prefix + value.upper())))


def _set(name: str) -> Callable[[Params, Any], None]:
    return lambda params, value: setattr(params, name, value)


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


OPTIONS: dict[str, Option] = {
    "n_gpu_layers": _attribute("n_gpu_layers", int),
    "main_gpu": _attribute("main_gpu", int),
    "split_mode": _word(xl.llama_split_mode, "LLAMA_SPLIT_MODE_", _SPLITS, _set("split_mode")),
    "tensor_split": Option(kind=list, put=_tensor_split),
    "threads": Option(kind=int, put=_threads),
    "batch": _attribute("n_batch", int),
    "ubatch": _attribute("n_ubatch", int),
    "cache_type_k": _word(xl.ggml_type, "GGML_TYPE_", _CACHE_TYPES, _set("cache_type_k")),
    "cache_type_v": _word(xl.ggml_type, "GGML_TYPE_", _CACHE_TYPES, _set("cache_type_v")),
    "cache_ram": _attribute("cache_ram_mib", int),
    "cache_reuse": _attribute("n_cache_reuse", int),
    "checkpoints": _attribute("n_ctx_checkpoints", int),
    "flash_attn": Option(kind=bool, put=set_flash),
    "kv_unified": _attribute("kv_unified", bool),
    "swa_full": _attribute("swa_full", bool),
    "context_shift": _attribute("ctx_shift", bool),
    "embeddings": _attribute("embedding", bool),
    "rerank": Option(kind=bool, put=_rerank),
    "pooling": _word(xl.llama_pooling_type, "LLAMA_POOLING_TYPE_", _POOLINGS, _set("pooling_type")),
    "mmproj": Option(kind=str, put=_mmproj),
    "chat_template": _attribute("chat_template", str),
    "reasoning_format": _word(
        xl.common_reasoning_format, "COMMON_REASONING_FORMAT_", _REASONING, _set("reasoning_format")
    ),
    "rope_freq_base": _attribute("rope_freq_base", float),
    "rope_freq_scale": _attribute("rope_freq_scale", float),
    "draft": Option(kind=str, put=_draft),
    "draft_max": Option(kind=int, put=_draft_max),
    "draft_min": Option(kind=int, put=_draft_min),
    "speculation": _word(xl.common_speculative_type, "COMMON_SPECULATIVE_TYPE_", _SPECULATION, _speculation),
    "warmup": _attribute("warmup", bool),
    "mmap": Option(kind=bool, put=lambda params, value: _mmap(params, value)),
    "verbosity": _attribute("verbosity", int),
}


def _mmap(params: Params, value: bool) -> None:
    mode = xl.llama_load_mode
    params.load_mode = mode.LLAMA_LOAD_MODE_MMAP if value else mode.LLAMA_LOAD_MODE_NONE


KNOWN = tuple(OPTIONS)


def apply(params: Params, options: dict[str, Any]) -> None:
    """Set every option. Raises BadOption for one that is not known, or a value it cannot be."""
    for name, value in options.items():
        option = OPTIONS.get(name)
        if option is None:
            raise BadOption(name, KNOWN)
        option.put(params, _checked(name, option, value))


def drafted(params: Params, options: dict[str, Any]) -> int:
    """Tokens that a step may draft for each sequence; sets what speculation leaves open. Raises BadOption."""
    kind = options.get("speculation", "draft_simple" if "draft" in options else None)
    if kind is None:
        return 0
    if kind.lower() in _BY_MODEL and "draft" not in options:
        raise BadOption("speculation", KNOWN, f"option `speculation`: `{kind}` needs a model to draft with, as `draft`")
    if "draft_max" not in options:
        _draft_max(params, DRAFTED)
    params.speculative.ngram_simple.size_n = params.speculative.ngram_map_k.size_n = MATCHED
    OPTIONS["speculation"].put(params, kind)
    return params.speculative.draft.n_max


def _checked(name: str, option: Option, value: Any) -> Any:
    if option.kind is float and type(value) is int:
        return float(value)
    if type(value) is not option.kind:
        raise BadOption(name, KNOWN, f"option `{name}`: expected {option.kind.__name__}, got {value!r}")
    if option.words and value.lower() not in option.words:
        raise BadOption(name, KNOWN, f"option `{name}`: `{value}` is not one of {', '.join(option.words)}")
    return value
