"""What a profile or a load request may set of each engine, as plain data: preflight refuses what an engine would.

`slots` is in every table because it is said beside them; the plan takes it out, and no engine sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from helexa.neuron.harness import BadOption
from helexa.wire.control import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: the types that its value may have (an int will do for a float), the words that it may be in any case,
    the least number and the most. What an engine finds wrong beyond that is a BadOption of its load."""

    kinds: tuple[type, ...]
    words: tuple[str, ...] = ()
    least: float | None = None
    most: float = inf


Options = Mapping[str, Option]

_SWITCH, _TEXT, _LIST = Option(kinds=(bool,)), Option(kinds=(str,)), Option(kinds=(list,))
_WHOLE, _NUMBER = Option(kinds=(int,)), Option(kinds=(float,))
_FROM_0, _FROM_1 = Option(kinds=(int,), least=0), Option(kinds=(int,), least=1)
_RATE = Option(kinds=(float,), least=0)


def _words(*words: str) -> Option:
    return Option(kinds=(str,), words=words)


_CACHE_TYPE = _words("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")

LLAMA: Final[Options] = {
    "slots": _FROM_1,
    "n_gpu_layers": _WHOLE,
    "main_gpu": _WHOLE,
    "split_mode": _words("none", "layer", "row", "tensor"),
    "tensor_split": _LIST,
    "threads": _WHOLE,
    "batch": _FROM_1,
    "ubatch": _FROM_1,
    "cache_type_k": _CACHE_TYPE,
    "cache_type_v": _CACHE_TYPE,
    "cache_ram": _FROM_0,
    "cache_reuse": _FROM_0,
    "checkpoints": _FROM_0,
    "flash_attn": _SWITCH,
    "kv_unified": _SWITCH,
    "swa_full": _SWITCH,
    "context_shift": _SWITCH,
    "embeddings": _SWITCH,
    "rerank": _SWITCH,
    "pooling": _words("none", "mean", "cls", "last", "rank"),
    "mmproj": _TEXT,
    "chat_template": _TEXT,
    "reasoning_format": _words("none", "auto", "deepseek", "deepseek_legacy"),
    "rope_freq_base": _NUMBER,
    "rope_freq_scale": _NUMBER,
    "draft": _TEXT,
    "draft_max": _FROM_0,
    "draft_min": _FROM_0,
    "speculation": _words(
        "draft_simple", "ngram_simple", "ngram_mod", "ngram_cache", "ngram_map_k", "draft_mtp", "draft_eagle3"
    ),
    "warmup": _SWITCH,
    "mmap": _SWITCH,
    "verbosity": _WHOLE,
}
OPENVINO: Final[Options] = {
    "slots": _FROM_1,
    "threads": _FROM_1,
    "batch": _FROM_1,
    "kv_cache": _words("u8", "f16"),
    "prefix_cache": _SWITCH,
}
ECHO: Final[Options] = {
    "slots": _FROM_1,
    "memory_mb": _FROM_0,
    "load_s": Option(kinds=(float,), least=0, most=86_400),
    "tokens_per_s": _RATE,
    "prefill_tokens_per_s": _RATE,
    "reply": Option(kinds=(str, list)),
    "thoughts": _TEXT,
    "tool_calls": _LIST,
    "fail": _TEXT,
}


def read(given: Mapping[str, Any], known: Options) -> dict[str, Any]:
    """The options as an engine takes them: words in lower case, floats where floats are meant. Raises BadOption for the
    first one that is not known, or whose value it cannot be."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        option = known.get(name)
        problem = _stranger(name, known) if option is None else _flaw(option, value)
        if problem is not None:
            raise BadOption(name, tuple(known), problem)
        found[name] = _settled(known[name], value)
    return found


def _settled(option: Option, value: Any) -> Any:
    if option.words:
        return value.lower()
    return float(value) if option.kinds == (float,) else value


def _flaw(option: Option, value: object) -> str | None:
    kind = type(value)
    if kind not in option.kinds and not (kind is int and float in option.kinds):
        return f"expected {' or '.join(each.__name__ for each in option.kinds)}, got {value!r}"
    if option.words and str(value).lower() not in option.words:
        return f"`{value}` is not one of {', '.join(option.words)}"
    if option.least is not None and isinstance(value, int | float) and not value >= option.least:
        return f"must be at least {option.least}"
    if isinstance(value, int | float) and value > option.most:
        return f"must be at most {option.most}"
    return None


def _stranger(name: str, known: Options) -> str:
    if name in ModelSpec.__struct_fields__:
        return "is no option of the engine; say it beside `options`, not in it"
    import difflib  # only for who errs: workers load this module while somebody waits

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return f"this engine knows {', '.join(known)}{hint}"
