"""What a source holds, sorted: which weights, in which quantisations, and what belongs to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from helexa.base.ids import SourceId
from helexa.neuron.core.plan import Format, RemoteFile

PREFERENCE: Final = (
    "Q4_K_M", "Q4_K_L", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "MXFP4", "Q5_K_M", "Q5_K_S", "Q5_0", "Q5_1",
    "Q6_K", "Q8_0", "BF16", "F16", "F32",
)  # fmt: skip
"""Which quantisation is taken when none was asked for: four bits first (the best answers per byte for most models),
then upwards; what is not listed comes after these, smallest first."""

_LABEL = re.compile(
    r"(?:^|[-_./])(?P<label>(?:UD[-_])?(?:"
    r"[IT]?Q\d+(?:[-_](?:K|[0-9]|NL|S|M|L|XL|XS|XXS))*|B?F16|F32|FP16|FP32|MXFP4(?:[-_]MOE)?|NVFP4))(?=$|[-_./])",
    re.I,
)
_SHARD = re.compile(r"-(?P<index>\d{5})-of-(?P<count>\d{5})$")
_TEXT_SIDE = re.compile(r"^(?:[^/]+\.(?:json|jinja|txt|model|tiktoken)|additional_chat_templates/[^/]+\.jinja)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One look at a source: everything that it holds, needed or not."""

    source: SourceId
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One loadable set of GGUF files: a single file, or all shards of one model in order."""

    label: str
    files: tuple[RemoteFile, ...]
    missing: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int | None:
        sizes = [file.size_bytes for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


def classify(files: Iterable[RemoteFile]) -> Format:
    """gguf, dense_safetensors (sharded or not), mixed or empty."""
    held = tuple(files)
    match bool(gguf_sets(held)), bool(dense_files(held)):
        case True, True:
            return "mixed"
        case True, False:
            return "gguf"
        case False, True:
            return "dense_safetensors"
        case _:
            return "empty"


def gguf_sets(files: Iterable[RemoteFile]) -> tuple[Weights, ...]:
    """The GGUF models of a listing, shards joined; projectors and importance matrices are no models."""
    groups: dict[tuple[str, int], dict[int, RemoteFile]] = {}
    for file in files:
        if not file.name.lower().endswith(".gguf") or _is_side_file(file.name):
            continue
        stem = file.name[: -len(".gguf")]
        shard = _SHARD.search(stem)
        index, count = (int(shard["index"]), int(shard["count"])) if shard else (1, 1)
        groups.setdefault((stem[: shard.start()] if shard else stem, count), {})[index] = file
    return tuple(_weights(stem, count, parts) for (stem, count), parts in sorted(groups.items()))


def _weights(stem: str, count: int, parts: dict[int, RemoteFile]) -> Weights:
    missing = tuple(index for index in range(1, min(count, 10_000) + 1) if index not in parts)
    return Weights(label=_label(stem), files=tuple(file for _, file in sorted(parts.items())), missing=missing)


def _is_side_file(name: str) -> bool:
    base = PurePosixPath(name).name.lower()
    return "mmproj" in base or "imatrix" in base


def _label(stem: str) -> str:
    found = [match["label"] for match in _LABEL.finditer(stem)]
    if not found:
        return PurePosixPath(stem).name
    return found[-1].upper().replace("-", "_").replace("FP16", "F16").replace("FP32", "F32")


def projector(files: Iterable[RemoteFile]) -> RemoteFile | None:
    """The vision projector (`mmproj`) that goes with a GGUF model, the 16-bit one when there are several."""
    found = [f for f in files if f.name.lower().endswith(".gguf") and "mmproj" in PurePosixPath(f.name).name.lower()]
    return min(found, key=lambda f: (not re.search(r"(?<!b)f16", f.name, re.I), f.name), default=None)


def dense_files(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The safetensors weights at the top of a repository; adapters, and a second copy in one piece, left out."""
    top = [f for f in files if f.name.endswith(".safetensors") and "/" not in f.name and "adapter" not in f.name]
    own = [f for f in top if not f.name.startswith("consolidated")]
    return tuple(sorted(own or top, key=lambda f: f.name))


def side_files(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """What an engine needs beside dense weights: configuration, tokenizer, chat template, generation defaults."""
    return tuple(sorted((f for f in files if _TEXT_SIDE.match(f.name)), key=lambda f: f.name))


def pick(sets: Sequence[Weights], wanted: str | None) -> Weights | None:
    """The set that `wanted` names, whatever the case and separators; the best by PREFERENCE when nothing was named."""
    if not wanted:
        return min(sets, key=_rank, default=None)
    key = _key(wanted)
    exact = [each for each in sets if _key(each.label) == key]
    dressed = [each for each in sets if _key(each.label) == "UD" + key]
    named = [each for each in sets if key in (_key(name) for name in _names(each))]
    return min(exact or dressed or named, key=_rank, default=None)


def _names(weights: Weights) -> tuple[str, ...]:
    base = PurePosixPath(weights.files[0].name).name
    return base, base[: -len(".gguf")]


def _rank(weights: Weights) -> tuple[bool, int, int, str]:
    place = PREFERENCE.index(weights.label) if weights.label in PREFERENCE else len(PREFERENCE)
    return bool(weights.missing), place, weights.size_bytes or 0, weights.files[0].name


def _key(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", text.upper().replace("FP16", "F16").replace("FP32", "F32"))


def nearest(wanted: str, available: Sequence[str]) -> str | None:
    """The available label with the smallest edit distance to `wanted`."""
    key = _key(wanted)
    return min(available, key=lambda label: (edit_distance(key, _key(label)), label), default=None)


def edit_distance(one: str, other: str) -> int:
    """Levenshtein: insertions, deletions and substitutions that turn `one` into `other`."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]
