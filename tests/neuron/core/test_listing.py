"""Sorting what a repository holds: formats, quantisations, shards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core.listing import (
    PREFERENCE,
    classify,
    dense_files,
    edit_distance,
    gguf_sets,
    nearest,
    pick,
    projector,
    side_files,
)
from helexa.neuron.core.plan import RemoteFile


def files(*names: str) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(name=name, size_bytes=100) for name in names)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), "empty"),
        (("README.md", "config.json"), "empty"),
        (("pytorch_model.bin",), "empty"),
        (("a.Q4_K_M.gguf",), "gguf"),
        (("A.GGUF",), "gguf"),
        (("mmproj-model-f16.gguf",), "empty"),
        (("imatrix.gguf",), "empty"),
        (("model.safetensors", "config.json"), "dense_safetensors"),
        (("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), "dense_safetensors"),
        (("model.safetensors.index.json",), "empty"),
        (("adapter_model.safetensors",), "empty"),
        (("onnx/model.safetensors",), "empty"),
        (("model.safetensors", "a-Q8_0.gguf"), "mixed"),
    ],
)
def test_a_repository_has_one_class(names: tuple[str, ...], expected: str) -> None:
    assert classify(files(*names)) == expected


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen3-0.6B-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen3-0.6b-q4_k_m.gguf", "Q4_K_M"),
        ("Qwen3-0.6B-UD-Q4_K_XL.gguf", "UD_Q4_K_XL"),
        ("m-IQ2_XXS.gguf", "IQ2_XXS"),
        ("m-fp16.gguf", "F16"),
        ("m-BF16.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Q4_K_M/model-00001-of-00002.gguf", "Q4_K_M"),
        ("m-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("m-TQ1_0.gguf", "TQ1_0"),
        ("just-a-model.gguf", "just-a-model"),
    ],
)
def test_the_quantisation_is_read_from_a_files_name(name: str, label: str) -> None:
    assert [each.label for each in gguf_sets(files(name))] == [label]


@pytest.mark.parametrize("wanted", ["Q4_K_M", "q4_k_m", "Q4-K-M", "q4.k.m", "q4km"])
def test_case_and_separators_do_not_matter(wanted: str) -> None:
    found = pick(gguf_sets(files("m-Q4_K_S.gguf", "m-q4-k-m.gguf", "m-Q8_0.gguf")), wanted)
    assert found is not None
    assert found.files[0].name == "m-q4-k-m.gguf"


@pytest.mark.parametrize("wanted", ["Q4", "Q4_K", "K_M", "Q4_K_", "4_K_M"])
def test_a_part_of_a_quantisation_is_not_the_quantisation(wanted: str) -> None:
    assert pick(gguf_sets(files("m-Q4_K_M.gguf")), wanted) is None


def test_q4_k_is_found_when_it_is_there() -> None:
    found = pick(gguf_sets(files("m-Q4_K_M.gguf", "m-Q4_K.gguf")), "q4_k")
    assert found is not None
    assert found.label == "Q4_K"


def test_a_dressed_label_is_taken_only_when_the_plain_one_is_absent() -> None:
    both = gguf_sets(files("m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf"))
    alone = gguf_sets(files("m-UD-Q4_K_XL.gguf"))
    assert [pick(both, "q4_k_xl"), pick(alone, "q4_k_xl")] == [both[0], alone[0]]
    assert both[0].label == "Q4_K_XL"


def test_a_file_can_be_named_instead_of_a_quantisation() -> None:
    found = pick(gguf_sets(files("tiny.gguf", "m-Q8_0.gguf")), "tiny.gguf")
    assert found is not None
    assert found.files[0].name == "tiny.gguf"


def test_shards_are_joined_in_order_and_a_missing_one_is_known() -> None:
    whole, cut = gguf_sets(
        files(
            "a-Q8_0-00002-of-00002.gguf", "a-Q8_0-00001-of-00002.gguf",
            "b-Q8_0-00001-of-00003.gguf", "b-Q8_0-00003-of-00003.gguf",
        )
    )  # fmt: skip
    assert [file.name[-19:-5] for file in whole.files] == ["00001-of-00002", "00002-of-00002"]
    assert (whole.missing, cut.missing) == ((), (2,))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf"), "Q4_K_M"),
        (("m-Q8_0.gguf", "m-Q2_K.gguf"), "Q8_0"),
        (("m-F16.gguf", "m-Q6_K.gguf"), "Q6_K"),
        (("m-IQ1_S.gguf", "m-Q2_K.gguf"), "IQ1_S"),
    ],
)
def test_without_a_wish_the_preferred_quantisation_is_taken(names: tuple[str, ...], expected: str) -> None:
    found = pick(gguf_sets(files(*names)), None)
    assert found is not None
    assert found.label == expected


def test_a_whole_set_is_preferred_to_an_incomplete_one() -> None:
    found = pick(gguf_sets(files("a-Q4_K_M-00001-of-00002.gguf", "a-Q8_0.gguf")), None)
    assert found is not None
    assert found.label == "Q8_0"


def test_the_projector_in_sixteen_bits_is_preferred() -> None:
    found = projector(files("mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf", "m-Q8_0.gguf"))
    assert found is not None
    assert found.name == "mmproj-F16.gguf"
    assert projector(files("m-Q8_0.gguf")) is None


def test_dense_weights_leave_out_adapters_and_second_copies() -> None:
    held = files("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "consolidated.safetensors")
    assert [f.name for f in dense_files(held)] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert len(dense_files(files("consolidated.safetensors"))) == 1


def test_everything_that_a_dense_model_needs_beside_its_weights_is_fetched() -> None:
    needed = ("chat_template.jinja", "config.json", "generation_config.json", "merges.txt", "tokenizer.json")
    held = files(*needed, "README.md", "model.safetensors", "onnx/config.json", "tf_model.h5")
    assert tuple(f.name for f in side_files(held)) == needed


def test_the_nearest_quantisation_is_the_one_with_the_fewest_edits() -> None:
    assert nearest("Q4_K_N", ["Q8_0", "Q4_K_M", "Q2_K"]) == "Q4_K_M"
    assert nearest("Q4", []) is None


@given(st.sampled_from(PREFERENCE), st.sampled_from(PREFERENCE), st.sampled_from("-_. "), st.booleans())
def test_a_wish_finds_its_own_file_and_no_other(wanted: str, other: str, separator: str, lower: bool) -> None:
    sets = gguf_sets(files(f"m-{wanted}.gguf", *([f"m-{other}.gguf"] if other != wanted else [])))
    spelled = wanted.replace("_", separator)
    found = pick(sets, spelled.lower() if lower else spelled)
    assert found is not None
    assert found.label == wanted


@given(st.text(max_size=30))
def test_any_file_name_can_be_sorted(name: str) -> None:
    held = files(name, name + ".gguf", name + ".safetensors")
    assert classify(held) in {"gguf", "dense_safetensors", "mixed", "empty"}
    pick(gguf_sets(held), name or None)


@given(st.text("QK_M012", max_size=8), st.text("QK_M012", max_size=8), st.text("QK_M012", max_size=8))
def test_the_edit_distance_is_a_distance(a: str, b: str, c: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
