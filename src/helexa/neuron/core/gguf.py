"""The head of a GGUF file: its metadata and where each tensor lies. Bytes in, facts out, nothing trusted.

A GGUF file may come from anywhere, so every count, length and offset is bounded before it is used, and each fault is
one typed error. Only the head is looked at: the caller hands over the first bytes (a read, a ranged download) and is
told by `Truncated` how many are needed when that was not enough.

Layout (GGUF v2 and v3, little-endian): magic, u32 version, u64 tensor count, u64 metadata count, the metadata pairs,
the tensor infos, padding to `general.alignment`, then the tensors' data. Source: the format's specification and block
sizes in ggml (`docs/gguf.md`, `ggml-common.h`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_PAIRS: Final = 65_536
MAX_TENSORS: Final = 262_144
MAX_KEY: Final = 65_535
MAX_TEXT: Final = 64 * 1024 * 1024
MAX_NAME: Final = 1024
MAX_ELEMENTS: Final = 1 << 26
MAX_DIMENSIONS: Final = 4
MAX_DEPTH: Final = 3
MAX_BYTES: Final = 1 << 50
MAX_COUNT: Final = 1 << 40
KEPT_ELEMENTS: Final = 4096
"""Number arrays up to this length are kept (per-layer facts); longer ones and texts (vocabularies) are only counted."""
DEFAULT_ALIGNMENT: Final = 32
MAX_ALIGNMENT: Final = 1 << 20

_TEXT, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SIZES: Final = {kind: struct.calcsize("<" + code) for kind, code in _NUMBERS.items()}

TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""ggml type id -> (name, elements per block, bytes per block)."""


class NotGguf(Exception):
    """The bytes are no GGUF file, or one that nobody should open; `reason` says which part is wrong."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Truncated(NotGguf):
    """The bytes end inside the head; at least `needed` bytes from the file's start must be there."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        super().__init__(f"the head needs at least {needed} bytes")


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array that was counted, not kept: a vocabulary, its merges, its scores."""

    length: int


Value = int | float | bool | str | tuple[int | float | bool, ...] | LongArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor: `shape` innermost first, as GGUF writes it; `offset` from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int

    @property
    def type_name(self) -> str:
        return TYPES[self.type_id][0]

    @property
    def size_bytes(self) -> int:
        """Exact: rows are whole blocks of the tensor's type."""
        _, per_block, block_bytes = TYPES[self.type_id]
        return math.prod(self.shape) // per_block * block_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the head of a file says. `data_offset` is where the tensors' data starts, in bytes from the file's start."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int

    @property
    def architecture(self) -> str:
        found = self.metadata.get("general.architecture")
        return found if isinstance(found, str) else ""

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def end_offset(self) -> int:
        """Where the last tensor ends: a shorter file was cut."""
        return self.data_offset + max((t.offset + t.size_bytes for t in self.tensors), default=0)

    def number(self, key: str) -> int | None:
        """The count at `<architecture>.<key>`, or None when it is absent, no number, or none that a model can have."""
        found = self.metadata.get(f"{self.architecture}.{key}")
        return int(found) if isinstance(found, int | float) and 0 <= found <= MAX_COUNT else None

    def numbers(self, key: str) -> tuple[int, ...] | None:
        """The same as a tuple: a per-layer array as it stands, one number as a tuple of one."""
        found = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(found, tuple):
            return tuple(int(each) if 0 <= each <= MAX_COUNT else 0 for each in found)
        one = self.number(key)
        return None if one is None else (one,)

    def length(self, key: str) -> int | None:
        """How many elements the array at the full `key` has."""
        found = self.metadata.get(key)
        if isinstance(found, LongArray):
            return found.length
        return len(found) if isinstance(found, tuple) else None


def read_header(data: bytes | memoryview, *, file_bytes: int | None = None) -> Header:
    """The head of the GGUF file whose first bytes are `data`.

    `file_bytes` is the whole file's size where it is known; a file too short for its tensors is refused.
    Raises Truncated when `data` ends too early, NotGguf for anything that is wrong with the file.
    """
    cursor = _Cursor(memoryview(data))
    version, tensors, pairs = _preamble(cursor)
    metadata = _metadata(cursor, pairs)
    infos = _tensors(cursor, tensors)
    alignment = _alignment(metadata)
    _check_offsets(infos, alignment)
    start = -(-cursor.at // alignment) * alignment
    header = Header(version=version, metadata=metadata, tensors=infos, data_offset=start)
    if file_bytes is not None and infos and header.end_offset > file_bytes:
        raise NotGguf(f"the file is cut: its tensors end at byte {header.end_offset}, the file at {file_bytes}")
    return header


def read_pairs(data: bytes | memoryview) -> dict[str, tuple[Value, bytes]]:
    """The metadata alone: each pair's value, and the pair as it stands in the file. Raises as `read_header` does."""
    cursor = _Cursor(memoryview(data))
    _, _, pairs = _preamble(cursor)
    found: dict[str, tuple[Value, bytes]] = {}
    for _ in range(pairs):
        start = cursor.at
        key = cursor.text(MAX_KEY, "a metadata key")
        found[key] = _value(cursor, cursor.u32(), key), bytes(cursor.data[start : cursor.at])
    return found


class _Cursor:
    """A position in the bytes; every step is bounded by their end."""

    __slots__ = ("at", "data")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> memoryview:
        end = self.at + count
        if end > len(self.data):
            raise Truncated(end)
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def skip(self, count: int) -> None:
        self.take(count)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self, limit: int, what: str) -> str:
        length = self.u64()
        if length > limit:
            raise NotGguf(f"{what} of {length} bytes is longer than {limit}")
        return bytes(self.take(length)).decode("utf-8", errors="replace")


def _preamble(cursor: _Cursor) -> tuple[int, int, int]:
    magic = bytes(cursor.data[:4])
    if magic != MAGIC[: len(magic)]:
        raise NotGguf("the file does not start with GGUF")
    cursor.skip(4)
    version = cursor.u32()
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        kind = "big-endian GGUF" if swapped in VERSIONS else f"GGUF version {version}"
        raise NotGguf(f"{kind} cannot be read; versions 2 and 3, little-endian, can")
    tensors, pairs = cursor.u64(), cursor.u64()
    if tensors > MAX_TENSORS or pairs > MAX_PAIRS:
        raise NotGguf(f"{tensors} tensors and {pairs} metadata pairs are beyond any real model")
    return version, tensors, pairs


def _metadata(cursor: _Cursor, pairs: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for _ in range(pairs):
        key = cursor.text(MAX_KEY, "a metadata key")
        if key in found:
            raise NotGguf(f"metadata key `{key[:100]}` is given twice")
        found[key] = _value(cursor, cursor.u32(), key)
    return found


def _value(cursor: _Cursor, kind: int, key: str) -> Value:
    if kind == _TEXT:
        return cursor.text(MAX_TEXT, f"metadata `{key[:100]}`")
    if kind == _ARRAY:
        return _array(cursor, key, 1)
    if kind not in _NUMBERS:
        raise NotGguf(f"metadata `{key[:100]}` has the unknown type {kind}")
    return _numbers(cursor, kind, 1)[0]


def _array(cursor: _Cursor, key: str, depth: int) -> Value:
    kind, count = cursor.u32(), cursor.u64()
    if count > MAX_ELEMENTS or depth > MAX_DEPTH:
        raise NotGguf(f"metadata `{key[:100]}` is an array of {count} elements, {depth} deep: beyond any real model")
    if kind in _NUMBERS:
        return _number_array(cursor, kind, count)
    if kind == _TEXT:
        _skip_texts(cursor, count)
    elif kind == _ARRAY:
        for _ in range(count):
            _array(cursor, key, depth + 1)
    else:
        raise NotGguf(f"metadata `{key[:100]}` is an array of the unknown type {kind}")
    return LongArray(count)


def _number_array(cursor: _Cursor, kind: int, count: int) -> Value:
    if count > KEPT_ELEMENTS:
        cursor.skip(count * _SIZES[kind])
        return LongArray(count)
    return _numbers(cursor, kind, count)


def _numbers(cursor: _Cursor, kind: int, count: int) -> tuple[int | float | bool, ...]:
    code = "B" if kind == _BOOL else _NUMBERS[kind]
    values = struct.unpack(f"<{count}{code}", cursor.take(count * _SIZES[kind]))
    return tuple(value != 0 for value in values) if kind == _BOOL else values


def _skip_texts(cursor: _Cursor, count: int) -> None:
    """A vocabulary has hundreds of thousands of texts, so this loop is written flat: 0.1 s for 262k texts."""
    data, at, end = cursor.data, cursor.at, len(cursor.data)
    unpack = struct.Struct("<Q").unpack_from
    for left in range(count, 0, -1):
        if at + 8 > end:
            raise Truncated(at + 8 * left)
        length: int = unpack(data, at)[0]
        if length > MAX_TEXT:
            raise NotGguf(f"a text of {length} bytes is longer than {MAX_TEXT}")
        at += 8 + length
    if at > end:
        raise Truncated(at)
    cursor.at = at


def _tensors(cursor: _Cursor, count: int) -> tuple[Tensor, ...]:
    tensors = tuple(_tensor(cursor) for _ in range(count))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise NotGguf("two tensors have the same name")
    if sum(tensor.size_bytes for tensor in tensors) > MAX_BYTES:
        raise NotGguf("the tensors together are beyond any real model")
    return tensors


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.text(MAX_NAME, "a tensor's name")
    dimensions = cursor.u32()
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise NotGguf(f"tensor `{name}` has {dimensions} dimensions")
    shape = tuple(cursor.u64() for _ in range(dimensions))
    type_id, offset = cursor.u32(), cursor.u64()
    if type_id not in TYPES:
        raise NotGguf(f"tensor `{name}` has the unknown type {type_id}")
    if not 0 < math.prod(shape) <= MAX_BYTES or offset > MAX_BYTES:
        raise NotGguf(f"tensor `{name}` of shape {shape} at {offset} is beyond any real model")
    if shape[0] % TYPES[type_id][1]:
        raise NotGguf(f"tensor `{name}`: rows of {shape[0]} are not whole {TYPES[type_id][0]} blocks")
    return Tensor(name=name, shape=shape, type_id=type_id, offset=offset)


def _alignment(metadata: Mapping[str, Value]) -> int:
    found = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(found, int) or not 0 < found <= MAX_ALIGNMENT or found & (found - 1):
        raise NotGguf(f"general.alignment {found!r} is no power of two")
    return found


def _check_offsets(tensors: tuple[Tensor, ...], alignment: int) -> None:
    for tensor in tensors:
        if tensor.offset % alignment:
            raise NotGguf(f"tensor `{tensor.name}` lies at {tensor.offset}, not aligned to {alignment}")
