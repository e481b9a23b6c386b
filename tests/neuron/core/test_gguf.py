"""Reading the head of a GGUF file: exact on good ones, one typed error on all others."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core import gguf as subject
from helexa.neuron.core.gguf import LongArray, NotGguf, Truncated, read_header

from .gguf_files import LLAMA, TENSORS, Array, gguf, padded, size_of, text, tiny_llama

GOOD = tiny_llama()


def problem(data: bytes, **known: int) -> str:
    with pytest.raises(NotGguf) as caught:
        read_header(data, **known)
    return caught.value.reason


def test_metadata_and_tensors_are_read() -> None:
    header = read_header(GOOD, file_bytes=len(GOOD))
    assert (header.version, header.architecture, header.number("block_count")) == (3, "llama", 2)
    assert header.metadata["tokenizer.ggml.tokens"] == LongArray(3)
    assert [(t.name, t.shape, t.type_name) for t in header.tensors] == [
        ("token_embd.weight", (64, 96), "Q8_0"),
        ("blk.0.attn_k.weight", (64, 32), "Q4_0"),
        ("blk.1.attn_k.weight", (64, 32), "Q4_0"),
        ("output_norm.weight", (64,), "F32"),
    ]
    assert header.data_offset % 32 == 0


def test_the_real_model_is_read_to_the_byte(smollm2_path: Path) -> None:
    size = smollm2_path.stat().st_size
    with smollm2_path.open("rb") as file:
        header = read_header(file.read(4 * 1024 * 1024), file_bytes=size)
    assert (header.architecture, len(header.tensors)) == ("llama", 272)
    assert header.data_offset + header.weight_bytes == header.end_offset == size == 98_362_432


@pytest.mark.parametrize("kind", sorted(subject.TYPES))
def test_tensor_sizes_are_exact_for_every_type(kind: int) -> None:
    _, per_block, block_bytes = subject.TYPES[kind]
    header = read_header(gguf(LLAMA, {"t": ((per_block * 3, 5), kind)}))
    assert header.tensors[0].size_bytes == 15 * block_bytes


def test_version_two_has_the_same_layout() -> None:
    assert read_header(gguf(LLAMA, TENSORS, version=2)).version == 2


def test_per_layer_arrays_are_kept_and_vocabularies_only_counted() -> None:
    metadata = {**LLAMA, "llama.attention.head_count_kv": Array(5, [2, 0, 4]), "x.scores": Array(6, [0.5] * 5000)}
    header = read_header(gguf(metadata, {}))
    assert header.numbers("attention.head_count_kv") == (2, 0, 4)
    assert header.length("x.scores") == 5000
    assert header.length("general.architecture") is None


def test_a_number_that_is_a_text_or_absent_is_none() -> None:
    header = read_header(gguf({**LLAMA, "llama.block_count": "many"}, {}))
    assert header.number("block_count") is None
    assert header.numbers("nothing") is None


def test_a_head_without_an_architecture_has_an_empty_one() -> None:
    assert read_header(gguf({"general.architecture": 7}, {})).architecture == ""


@pytest.mark.parametrize("length", range(0, 620, 13))
def test_bytes_that_end_too_early_say_how_many_are_needed(length: int) -> None:
    with pytest.raises(Truncated) as caught:
        read_header(GOOD[:length])
    assert length < caught.value.needed <= len(GOOD)


def test_asking_again_with_what_was_needed_ends(smollm2_path: Path) -> None:
    data, length, rounds = smollm2_path.read_bytes()[: 4 * 1024 * 1024], 64, 0
    while (needed := missing(data[:length])) is not None:
        assert needed > length
        length, rounds = max(needed, 4 * length), rounds + 1
    assert rounds < 12


def missing(data: bytes) -> int | None:
    """How many bytes the reader would need, or None when it had enough."""
    try:
        read_header(data)
    except Truncated as error:
        return error.needed
    return None


def test_a_file_shorter_than_its_tensors_is_refused() -> None:
    header = read_header(GOOD)
    assert "the file is cut" in problem(GOOD, file_bytes=header.end_offset - 1)
    assert read_header(GOOD, file_bytes=header.end_offset) == header


def raw(tensors: int, pairs: int, rest: bytes = b"", *, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest


def pair(key: str, kind: int, body: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + body


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "at least 4 bytes"),
        (b"PK\x03\x04" * 20, "does not start with GGUF"),
        (b"\x00" * 64, "does not start with GGUF"),
        (raw(0, 0, version=1), "GGUF version 1 cannot be read"),
        (raw(0, 0, version=4), "GGUF version 4 cannot be read"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "big-endian"),
        (raw(1 << 63, 0), "beyond any real model"),
        (raw(0, 1 << 63), "beyond any real model"),
        (raw(0, 1, struct.pack("<Q", 1 << 62)), "a metadata key of"),
        (raw(0, 1, pair("k", 8, struct.pack("<Q", 1 << 62))), "metadata `k` of"),
        (raw(0, 1, pair("k", 13, b"")), "unknown type 13"),
        (raw(0, 1, pair("k", 9, struct.pack("<IQ", 4, 1 << 60))), "is an array of"),
        (raw(0, 1, pair("k", 9, struct.pack("<IQ", 77, 1))), "array of the unknown type 77"),
        (raw(0, 1, pair("k", 9, struct.pack("<IQQ", 8, 1, 1 << 60))), "a text of"),
        (raw(0, 1, pair("k", 9, struct.pack("<IQ", 9, 1) * 10)), "4 deep"),
        (raw(0, 2, pair("k", 7, b"\1") * 2), "given twice"),
        (raw(2, 0, tensor("t", (32,), 0, 0) * 2), "the same name"),
        (raw(1, 0, text("t") + struct.pack("<I", 0)), "has 0 dimensions"),
        (raw(1, 0, text("t") + struct.pack("<I", 9)), "has 9 dimensions"),
        (raw(1, 0, tensor("t", (32,), 99, 0)), "unknown type 99"),
        (raw(1, 0, tensor("t", (0,), 0, 0)), "beyond any real model"),
        (raw(1, 0, tensor("t", (1 << 40, 1 << 40), 0, 0)), "beyond any real model"),
        (raw(1, 0, tensor("t", (32,), 0, 1 << 60)), "beyond any real model"),
        (raw(1, 0, tensor("t", (33,), 2, 0)), "not whole Q4_0 blocks"),
        (raw(1, 0, tensor("t", (32,), 0, 7)), "not aligned to 32"),
        (raw(1, 0, struct.pack("<Q", 4096)), "a tensor's name of"),
        (raw(2, 0, tensor("a", (1 << 48,), 0, 0) + tensor("b", (1 << 48,), 0, 0)), "together are beyond"),
        (raw(0, 1, pair("general.alignment", 4, struct.pack("<I", 3))), "no power of two"),
        (raw(0, 1, pair("general.alignment", 4, struct.pack("<I", 0))), "no power of two"),
        (raw(0, 1, pair("general.alignment", 8, text("x"))), "no power of two"),
    ],
)
def test_each_fault_of_a_file_is_one_typed_error(data: bytes, expected: str) -> None:
    assert expected in problem(data)


@given(st.data())
def test_no_mutation_of_a_good_file_gets_past_the_type(data: st.DataObject) -> None:
    mutated = bytearray(GOOD[: data.draw(st.integers(0, 900))])
    for _ in range(data.draw(st.integers(1, 6))):
        if mutated:
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = read_header(bytes(mutated), file_bytes=len(mutated))
    except NotGguf:
        return
    assert header.end_offset <= len(mutated) or not header.tensors


@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_are_read_or_refused(rest: bytes) -> None:
    with contextlib.suppress(NotGguf):
        read_header(b"GGUF" + rest)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20), st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=50))
    ),
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 2, 8, 12])), max_size=8),
)
def test_what_was_written_is_read_back(metadata: dict[str, int | str], rows: list[tuple[int, int]]) -> None:
    tensors = {f"t{at}": ((256, count), kind) for at, (count, kind) in enumerate(rows)}
    metadata.pop("general.alignment", None)
    data = gguf(metadata, tensors)
    header = read_header(data, file_bytes=len(data))
    assert header.metadata == metadata
    assert {t.name: (t.shape, t.type_id) for t in header.tensors} == tensors
    assert header.weight_bytes == sum(size_of(shape, kind) for shape, kind in tensors.values())
    assert header.end_offset <= len(data) == header.data_offset + sum(padded(t.size_bytes) for t in header.tensors)
