"""What may be set of an engine: every refusal names the option and what would do."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.base.errors import ConfigError
from helexa.neuron import registry
from helexa.neuron.core.options import ECHO, LLAMA, OPENVINO, Options, read
from helexa.neuron.harness import BadOption


@pytest.mark.parametrize(
    ("known", "given", "said"),
    [
        (LLAMA, {"n_gpu_layer": 1}, "verbosity; did you mean `n_gpu_layers`?"),
        (LLAMA, {"zzz": 1}, "this engine knows slots, n_gpu_layers"),
        (LLAMA, {"quant": "Q8_0"}, "say it beside `options`, not in it"),
        (LLAMA, {"batch": "many"}, "expected int, got 'many'"),
        (LLAMA, {"batch": True}, "expected int, got True"),
        (LLAMA, {"cache_type_k": "q9"}, "`q9` is not one of f32, f16"),
        (LLAMA, {"cache_ram": -1}, "must be at least 0"),
        (OPENVINO, {"threads": 0}, "must be at least 1"),
        (ECHO, {"load_s": float("nan")}, "must be at least 0"),
        (ECHO, {"reply": 7}, "expected str or list, got 7"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(known: Options, given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption) as wrong:
        read(given, known)
    assert wrong.value.name in given
    assert str(wrong.value) == f"option `{wrong.value.name}`: {wrong.value.problem}"
    assert said in wrong.value.problem


def test_whole_numbers_do_for_others_and_words_are_taken_in_any_case() -> None:
    assert read({"load_s": 1, "reply": ["a"]}, ECHO) == {"load_s": 1.0, "reply": ["a"]}
    assert read({"cache_type_k": "Q8_0", "threads": 1}, LLAMA) == {"cache_type_k": "q8_0", "threads": 1}


def test_every_option_of_llama_can_be_set() -> None:
    pytest.importorskip("xllamacpp")
    from helexa.neuron.engines.llama.options import PUT

    assert {"slots", *PUT} == {*LLAMA}


def test_a_neuron_with_an_option_that_its_engine_does_not_have_does_not_start() -> None:
    with pytest.raises(ConfigError) as wrong:
        registry.offered((), {"llama": {"thread": 2}})
    assert "harness.llama: option `thread`" in wrong.value.message
    assert "did you mean `threads`?" in wrong.value.message
