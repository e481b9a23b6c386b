"""Serves the tokenizer and the template of a GGUF without its weights, to count for a model that is not loaded."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from helexa.neuron.core.gguf import NotGguf, Truncated
from helexa.neuron.core.vocabulary import CONTEXT, vocabulary_file
from helexa.neuron.engines.llama.engine import LlamaEngine
from helexa.neuron.harness import Engine, LoadOrder, Report, Resident

FIRST_BYTES = 16 * 1024 * 1024
MOST_BYTES = 256 * 1024 * 1024
LEAST_WORK = {"warmup": False, "batch": 32, "ubatch": 32}
CHANGES_PROMPT = ("chat_template",)
"""The options that have a say in what a prompt looks like; the others are about weights that are not there."""


class VocabularyEngine(LlamaEngine):
    """See harness.Engine. What it loads answers `/apply-template` and `/tokenize`; it cannot answer anything else."""

    def load(self, order: LoadOrder, report: Report) -> Resident:
        """Raises NotGguf for a file without a vocabulary, and what LlamaEngine raises."""
        small = Path(f"{order.socket}.gguf")
        options = {name: value for name, value in order.options.items() if name in CHANGES_PROMPT}
        try:
            _write(Path(order.files[0]), small)
            changed = msgspec.structs.replace(
                order, files=(str(small),), context=CONTEXT, slots=1, options={**options, **LEAST_WORK}
            )
            return super().load(changed, report)
        finally:
            small.unlink(missing_ok=True)


def _write(weights: Path, small: Path) -> None:
    head, size = _vocabulary_of(weights)
    with small.open("wb") as file:
        file.write(head)
        os.ftruncate(file.fileno(), size)


def _vocabulary_of(weights: Path) -> tuple[bytes, int]:
    """Reads as much of the file's head as it takes."""
    length = FIRST_BYTES
    while True:
        with weights.open("rb") as file:
            data = file.read(length)
        try:
            return vocabulary_file(data)
        except Truncated as error:
            if len(data) < length or length >= MOST_BYTES:
                raise NotGguf("its head is cut short, or beyond any real model's") from error
            length = min(MOST_BYTES, max(4 * length, error.needed))


_: type[Engine] = VocabularyEngine
