"""GGUF files by hand: the writer that the reader's tests need, small enough to get wrong on purpose."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helexa.neuron.core.gguf import TYPES, Tensor, read_header, read_pairs

ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Array:
    kind: int
    values: Sequence[object]


Written = int | float | bool | str | Array


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: Written) -> bytes:
    """A metadata value with its type in front."""
    match item:
        case bool():
            return struct.pack("<I?", 7, item)
        case int():
            return struct.pack("<Iq", 11, item)
        case float():
            return struct.pack("<Id", 12, item)
        case str():
            return struct.pack("<I", 8) + text(item)
        case Array(kind, values):
            body = b"".join(text(str(each)) for each in values) if kind == 8 else numbers(kind, values)
            return struct.pack("<IIQ", 9, kind, len(values)) + body


def numbers(kind: int, values: Sequence[object]) -> bytes:
    code = {0: "B", 4: "I", 5: "i", 6: "f", 7: "?"}[kind]
    return struct.pack(f"<{len(values)}{code}", *values)


def gguf(
    metadata: Mapping[str, Written],
    tensors: Mapping[str, tuple[tuple[int, ...], int]],
    *,
    version: int = 3,
    data: bool = True,
) -> bytes:
    """A whole file; each tensor is (shape, type id), laid out in order, its data zeros."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value(item) for key, item in metadata.items())
    offset = 0
    for name, (shape, kind) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += padded(size_of(shape, kind))
    return head.ljust(padded(len(head)), b"\0") + (b"\0" * offset if data else b"")


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def size_of(shape: tuple[int, ...], kind: int) -> int:
    _, per_block, block_bytes = TYPES[kind]
    count = 1
    for each in shape:
        count *= each
    return count // per_block * block_bytes


LLAMA: Mapping[str, Written] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": Array(8, ["a", "b", "c"]),
}
TENSORS = {
    "token_embd.weight": ((64, 96), 8),
    "blk.0.attn_k.weight": ((64, 32), 2),
    "blk.1.attn_k.weight": ((64, 32), 2),
    "output_norm.weight": ((64,), 0),
}


def tiny_llama(**changes: Written) -> bytes:
    """A two-layer llama: 16 values per head, two KV heads."""
    return gguf({**LLAMA, **{key.replace("__", "."): item for key, item in changes.items()}}, TENSORS)


def split(path: Path, folder: Path, label: str, parts: int) -> list[Path]:
    """A real file in shards `label-00001-of-0000N.gguf`, laid out as llama.cpp's own splitter does: all metadata in the
    first, in each its number, how many there are, and how many tensors they hold together."""
    data = memoryview(path.read_bytes())
    header, pairs = read_header(data), read_pairs(data)
    metadata = [pair for _, pair in pairs.values()]
    each = -(-len(header.tensors) // parts)
    files: list[Path] = []
    for at in range(parts):
        tensors = header.tensors[at * each : (at + 1) * each]
        numbers = (
            ("split.no", 2, "H", at),
            ("split.count", 2, "H", parts),
            ("split.tensors.count", 5, "i", len(header.tensors)),
        )
        own = [text(key) + struct.pack(f"<I{code}", kind, number) for key, kind, code, number in numbers]
        files.append(folder / f"{label}-{at + 1:05d}-of-{parts:05d}.gguf")
        files[-1].write_bytes(_shard(own if at else metadata + own, tensors, data[header.data_offset :]))
    return files


def _shard(metadata: Sequence[bytes], tensors: Sequence[Tensor], data: memoryview) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata)
    body = bytearray()
    for tensor in tensors:
        dimensions = len(tensor.shape)
        head += text(tensor.name) + struct.pack(
            f"<I{dimensions}QIQ", dimensions, *tensor.shape, tensor.type_id, len(body)
        )
        body += data[tensor.offset : tensor.offset + tensor.size_bytes]
        body += bytes(padded(len(body)) - len(body))
    return head.ljust(padded(len(head)), b"\0") + bytes(body)
