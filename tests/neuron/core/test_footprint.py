"""Memory from metadata: exact where llama.cpp is exact, close to what was measured where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.units import MIB
from helexa.neuron.core.footprint import (
    DRIVER_MB,
    Footprint,
    Layer,
    ModelShape,
    Settings,
    dense_shape,
    flash_attends,
    footprint,
    gguf_shape,
    kv_bytes,
    row_bytes,
    step_tokens,
    with_draft,
)
from helexa.neuron.core.gguf import read_header

from .gguf_files import LLAMA, TENSORS, Array, Written, gguf, tiny_llama


def shape_of(metadata: dict[str, Written], tensors: dict[str, tuple[tuple[int, ...], int]] | None = None) -> ModelShape:
    return gguf_shape(read_header(gguf(metadata, tensors or {})))


SMOLLM2: dict[str, Written] = {
    "general.architecture": "llama",
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.vocab_size": 49152,
}
GEMMA: dict[str, Written] = {
    "general.architecture": "gemma3",
    "gemma3.block_count": 18,
    "gemma3.context_length": 32768,
    "gemma3.embedding_length": 640,
    "gemma3.feed_forward_length": 2048,
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 256,
    "gemma3.attention.value_length": 256,
    "gemma3.attention.sliding_window": 512,
    "gemma3.vocab_size": 262144,
}
WEIGHTS_OF_GEMMA = 246_587_904


@pytest.mark.parametrize(
    ("context", "kind", "measured_mb"),
    [(512, "f16", 180), (512, "q8_0", 159), (2048, "f16", 320), (2048, "q8_0", 236),
     (8192, "f16", 860), (8192, "q8_0", 523)],
)  # fmt: skip
def test_smollm2_is_predicted_close_to_what_it_took(
    smollm2_path: Path, context: int, kind: str, measured_mb: int
) -> None:
    """Resident memory that llama.cpp added for this file with four slots and steps of 256, after a long prompt."""
    with smollm2_path.open("rb") as file:
        shape = gguf_shape(read_header(file.read(4 * MIB)))
    need = footprint(shape, Settings(context=context, slots=4, type_k=kind, type_v=kind, batch=256), "cpu")
    assert need.needed_mb == pytest.approx(measured_mb, rel=0.06)


@pytest.mark.parametrize(
    ("context", "kind", "measured_mb"),
    [(512, "f16", 361), (512, "q8_0", 353), (2048, "f16", 395), (2048, "q8_0", 389),
     (8192, "f16", 508), (8192, "q8_0", 430)],
)  # fmt: skip
def test_gemma_3_is_predicted_close_to_what_it_took(context: int, kind: str, measured_mb: int) -> None:
    shape = replace(shape_of(GEMMA), weight_bytes=WEIGHTS_OF_GEMMA)
    settings = Settings(context=context, slots=4, type_k=kind, type_v=kind, checkpoints=0, batch=256)
    assert footprint(shape, settings, "cpu").needed_mb == pytest.approx(measured_mb, rel=0.07)


@pytest.mark.parametrize(
    ("context", "slots", "unified", "kind", "full_mib", "sliding_mib"),
    [
        (512, 4, False, "f16", 6.0, 30.0),
        (2048, 4, False, "f16", 24.0, 60.0),
        (2048, 4, False, "q8_0", 12.75, 31.875),
        (8192, 4, False, "f16", 96.0, 60.0),
        (8192, 1, False, "f16", 24.0, 15.0),
        (2048, 4, True, "f16", 24.0, 37.5),
    ],
)
def test_the_kv_cache_of_sliding_layers_is_what_llama_cpp_allocates(
    context: int, slots: int, unified: bool, kind: str, full_mib: float, sliding_mib: float
) -> None:
    settings = Settings(context=context, slots=slots, unified=unified, type_k=kind, type_v=kind)
    assert kv_bytes(shape_of(GEMMA), settings) == (full_mib + sliding_mib) * MIB


@pytest.mark.parametrize(
    ("settings", "device_kind", "tokens"),
    [
        (Settings(context=4096, slots=4), "cpu", 16),
        (Settings(context=4096, slots=64), "cpu", 128),
        (Settings(context=4096, slots=4, whole=True), "cpu", 256),
        (Settings(context=4096, slots=4, batch=512), "cpu", 512),
        (Settings(context=4096, slots=4, batch=2048), "cpu", 512),
        (Settings(context=4096, slots=4), "cuda", 512),
    ],
)
def test_a_step_on_a_cpu_is_short_unless_a_text_has_to_fit_into_it(
    settings: Settings, device_kind: str, tokens: int
) -> None:
    assert step_tokens(settings, device_kind) == tokens


@pytest.mark.parametrize(
    ("settings", "device_kind", "flash"),
    [
        (Settings(context=4096, slots=4), "cpu", False),
        (Settings(context=4096, slots=4, batch=64), "cpu", True),
        (Settings(context=4096, slots=4, type_v="q8_0"), "cpu", True),
        (Settings(context=4096, slots=4, flash=True), "cpu", True),
        (Settings(context=4096, slots=4, batch=64, flash=False), "cpu", False),
        (Settings(context=4096, slots=4), "cuda", True),
    ],
)
def test_short_steps_on_a_cpu_take_plain_attention_unless_a_quantised_v_needs_the_other(
    settings: Settings, device_kind: str, flash: bool
) -> None:
    assert flash_attends(settings, device_kind) is flash


@pytest.mark.parametrize(
    ("context", "unified", "more_mib"), [(2048, False, 0.5), (8192, False, 4.0), (8192, True, 18.8)]
)
def test_plain_attention_takes_as_much_more_as_llama_cpp_reserves(context: int, unified: bool, more_mib: float) -> None:
    settings = Settings(context=context, slots=4, unified=unified)
    plain, flash = (footprint(shape_of(SMOLLM2), replace(settings, flash=flash), "cpu") for flash in (False, True))
    assert plain.compute_mb - flash.compute_mb == pytest.approx(more_mib, abs=1.0)


def test_the_kv_cache_counts_kv_heads_and_pads_cells() -> None:
    shape = gguf_shape(read_header(tiny_llama()))
    assert shape.layers == (Layer(k=32, v=32),) * 2
    assert kv_bytes(shape, Settings(context=100, slots=2)) == 256 * 2 * 2 * (32 + 32) * 2


def test_weights_are_the_sum_of_the_tensors() -> None:
    assert gguf_shape(read_header(tiny_llama())).weight_bytes == 64 * 96 // 32 * 34 + 2 * (64 * 32 // 32 * 18) + 64 * 4


def test_a_tied_embedding_goes_to_the_gpu_and_an_untied_one_stays_on_the_host() -> None:
    tied = shape_of(dict(LLAMA), dict(TENSORS))
    untied = shape_of(dict(LLAMA), {**TENSORS, "output.weight": ((64, 96), 8)})
    assert tied.host_bytes == 0
    assert untied.host_bytes == 64 * 96 // 32 * 34


def test_layers_can_have_different_heads_and_some_none() -> None:
    shape = shape_of({**LLAMA, "llama.attention.head_count_kv": Array(5, [4, 0])})
    assert shape.layers == (Layer(k=64, v=64), Layer())


def test_a_pattern_in_the_file_says_which_layers_slide() -> None:
    metadata = {
        **LLAMA,
        "llama.attention.sliding_window": 128,
        "llama.attention.sliding_window_pattern": Array(7, [True, False]),
    }
    assert [layer.window for layer in shape_of(metadata).layers] == [128, None]


def test_sliding_layers_can_have_heads_of_their_own_size() -> None:
    metadata = {
        **LLAMA,
        "llama.attention.sliding_window": 128,
        "llama.attention.sliding_window_pattern": Array(7, [True, False]),
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.attention.key_length_swa": 32,
        "llama.attention.value_length_swa": 32,
    }
    assert [layer.k for layer in shape_of(metadata).layers] == [64, 128]


def test_an_unknown_architecture_with_a_window_is_taken_at_its_largest() -> None:
    assert [layer.window for layer in shape_of({**LLAMA, "llama.attention.sliding_window": 128}).layers] == [None, None]


def test_recurrent_layers_keep_a_state_per_sequence_instead_of_cells() -> None:
    metadata = {
        **LLAMA, "llama.ssm.inner_size": 128, "llama.ssm.state_size": 16, "llama.ssm.conv_kernel": 4,
        "llama.ssm.group_count": 2,
    }  # fmt: skip
    tensors = {"blk.0.ssm_conv1d.weight": ((4, 128), 0), "blk.1.attn_k.weight": ((64, 32), 0)}
    recurrent, attending = shape_of(metadata, tensors).layers
    assert recurrent == Layer(state_bytes=4 * (3 * (128 + 2 * 2 * 16) + 128 * 16))
    assert attending == Layer(k=32, v=32)


def test_a_layer_that_does_both_pays_for_both() -> None:
    tensors = {"blk.0.ssm_in.weight": ((64, 32), 0), "blk.0.attn_k.weight": ((64, 32), 0)}
    layer = shape_of({**LLAMA, "llama.ssm.inner_size": 64, "llama.ssm.state_size": 8}, tensors).layers[0]
    assert layer.k == 32
    assert layer.state_bytes == 4 * 64 * 8


def test_latent_attention_keeps_one_latent_and_no_values() -> None:
    metadata = {
        **LLAMA, "llama.attention.head_count_kv": 1, "llama.attention.key_length": 576,
        "llama.attention.value_length": 512, "llama.attention.kv_lora_rank": 512, "llama.attention.key_length_mla": 192,
    }  # fmt: skip
    assert shape_of(metadata).layers[0] == Layer(k=576, v=0)


def test_prediction_layers_and_shared_caches_keep_nothing() -> None:
    metadata = {**LLAMA, "llama.block_count": 5, "llama.nextn_predict_layers": 1, "llama.attention.shared_kv_layers": 2}
    assert [layer.k for layer in shape_of(metadata).layers] == [32, 32, 0, 0]


def test_experts_are_as_wide_as_those_that_run_at_once() -> None:
    metadata = {**LLAMA, "llama.expert_feed_forward_length": 96, "llama.expert_used_count": 8}
    assert shape_of(metadata).feed_forward == 768


def test_the_sum_of_shards_takes_the_place_of_the_first_ones_tensors() -> None:
    assert gguf_shape(read_header(tiny_llama()), weight_bytes=10**9).weight_bytes == 10**9


def test_a_known_need_is_taken_as_it_is() -> None:
    shape = ModelShape(architecture="", trained_context=1, weight_bytes=0, known_mb=64)
    assert footprint(shape, Settings(context=8192, slots=4), "cpu") == Footprint(weights_mb=64)


@pytest.mark.parametrize("on", ["cpu", "cuda"])
def test_a_model_that_drafts_takes_what_it_would_take_alone_and_no_second_driver(on: str) -> None:
    shape, draft = gguf_shape(read_header(tiny_llama())), shape_of(SMOLLM2)
    settings = Settings(context=2048, slots=4, type_k="q8_0", type_v="q8_0", host_cache_bytes=64 * MIB, flash=True)
    alone = footprint(draft, Settings(context=2048, slots=4, flash=True), on)
    both, one = footprint(with_draft(shape, draft), settings, on), footprint(shape, settings, on)
    driver_mb = 0 if on == "cpu" else DRIVER_MB
    assert (both.weights_mb, both.kv_mb) == (one.weights_mb + alone.weights_mb, one.kv_mb + alone.kv_mb)
    assert both.compute_mb == one.compute_mb + alone.compute_mb - driver_mb


def test_prompts_kept_in_host_memory_count_on_a_cpu_only() -> None:
    shape = gguf_shape(read_header(tiny_llama()))
    plain, caching = Settings(context=256, slots=1), Settings(context=256, slots=1, host_cache_bytes=64 * MIB)
    assert footprint(shape, caching, "cpu").kv_mb == footprint(shape, plain, "cpu").kv_mb + 64
    assert footprint(shape, caching, "cuda") == footprint(shape, plain, "cuda")


def test_checkpoints_of_sliding_layers_take_host_memory_for_each_sequence() -> None:
    shape = replace(shape_of(GEMMA), weight_bytes=WEIGHTS_OF_GEMMA)
    none, one = (Settings(context=8192, slots=4, checkpoints=count) for count in (0, 1))
    one_window = 15 * 512 * 2 * 256 * 2
    assert footprint(shape, one, "cpu").kv_mb - footprint(shape, none, "cpu").kv_mb == 4 * one_window // MIB
    assert footprint(shape, one, "cuda") == footprint(shape, none, "cuda")
    attending = gguf_shape(read_header(tiny_llama()))
    assert footprint(attending, one, "cpu") == footprint(attending, none, "cpu")


@pytest.mark.parametrize(("kind", "expected"), [("f32", 256), ("F16", 128), ("q8_0", 68), ("q4_0", 36)])
def test_rows_are_whole_blocks_of_their_type(kind: str, expected: int) -> None:
    assert row_bytes(64, kind) == expected


def test_a_dense_model_is_read_from_its_configuration() -> None:
    config = {
        "model_type": "qwen3", "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 128, "vocab_size": 1000,
        "max_position_embeddings": 40960,
    }  # fmt: skip
    shape = dense_shape(config, 10**6)
    assert shape.layers == (Layer(k=64, v=64),) * 3
    assert (shape.architecture, shape.trained_context, shape.weight_bytes) == ("qwen3", 40960, 10**6)
    assert dense_shape({"model_type": "vl", "text_config": config}, 10**6).layers == shape.layers


def test_a_dense_configuration_of_nonsense_is_no_crash() -> None:
    shape = dense_shape({"num_hidden_layers": "x", "hidden_size": -1, "text_config": 7, "architectures": ["A"]}, 5)
    assert (shape.architecture, shape.layers, shape.weight_bytes) == ("A", (), 5)


SIZES = st.integers(1, 64).map(lambda n: n * 256)


@given(
    SIZES, st.integers(1, 8), st.booleans(), st.sampled_from(["f16", "q8_0", "q4_0"]), st.sampled_from(["cpu", "cuda"])
)
def test_more_context_or_slots_never_take_less(context: int, slots: int, unified: bool, kind: str, on: str) -> None:
    shape = replace(shape_of(GEMMA), weight_bytes=WEIGHTS_OF_GEMMA)
    settings = Settings(context=context, slots=slots, unified=unified, type_k=kind, type_v=kind)
    base = footprint(shape, settings, on)
    for larger in (replace(settings, context=context + 256), replace(settings, slots=slots + 1)):
        more = footprint(shape, larger, on)
        assert more.kv_mb >= base.kv_mb
        assert more.compute_mb >= base.compute_mb


ANY_NUMBER = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=3), st.booleans())
KEYS = [key for key in (*LLAMA, "llama.attention.sliding_window", "llama.attention.key_length", "llama.ssm.conv_kernel",
        "llama.nextn_predict_layers", "llama.attention.shared_kv_layers", "llama.attention.sliding_window_pattern")
        if key.startswith("llama.")]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), ANY_NUMBER))
def test_no_metadata_makes_a_prediction_fail(changes: dict[str, Written]) -> None:
    shape = shape_of({**LLAMA, **changes}, dict(TENSORS))
    need = footprint(shape, Settings(context=4096, slots=4), "cpu")
    assert need.weights_mb >= 0
    assert need.needed_mb > 0
    assert shape.trained_context > 0
