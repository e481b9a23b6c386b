"""The small file that stands for a model's vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.neuron.core.gguf import LongArray, NotGguf, Truncated, read_header, read_pairs
from helexa.neuron.core.vocabulary import vocabulary_file

from .gguf_files import Array, gguf, tiny_llama


def test_the_small_file_is_whole_and_holds_the_vocabulary_as_it_stood() -> None:
    real = tiny_llama(general__name="Phi-3", tokenizer__chat_template="{{ messages }}", general__licence="x")
    head, size = vocabulary_file(real)
    header = read_header(head.ljust(size, b"\0"), file_bytes=size)
    assert header.end_offset == size
    assert header.architecture == "llama"
    assert header.metadata["tokenizer.ggml.tokens"] == LongArray(3)
    assert "general.licence" not in header.metadata
    before, after = read_pairs(real), read_pairs(head)
    for key in ("tokenizer.ggml.tokens", "tokenizer.chat_template", "general.name"):
        assert after[key] == before[key]


def test_it_stays_small_whatever_the_model_is(smollm2_path: Path) -> None:
    with smollm2_path.open("rb") as file:
        _, size = vocabulary_file(file.read(8 * 1024 * 1024))
    assert size < smollm2_path.stat().st_size / 10


def test_a_head_that_is_cut_says_how_much_more_is_needed() -> None:
    with pytest.raises(Truncated) as cut:
        vocabulary_file(tiny_llama()[:100])
    assert cut.value.needed > 100


@pytest.mark.parametrize("metadata", [{}, {"tokenizer.ggml.tokens": 5}, {"tokenizer.ggml.tokens": Array(4, [1, 2])}])
def test_a_file_without_a_vocabulary_is_refused(metadata: dict[str, object]) -> None:
    with pytest.raises(NotGguf, match="no vocabulary"):
        vocabulary_file(gguf({"general.architecture": "llama", **metadata}, {}))  # pyright: ignore[reportArgumentType]
