"""A model's vocabulary and chat template as a GGUF of their own: what counting tokens needs of it, and nothing else.

llama.cpp's server renders templates and tokenises for a model that it has loaded. This makes one that is loaded in a
moment and in a few MiB: the metadata of the tokenizer as they stand in the real file, under one layer of 32 zeros.
"""

from __future__ import annotations

import math
import struct
from typing import Final

from helexa.neuron.core.gguf import DEFAULT_ALIGNMENT, LongArray, NotGguf, read_pairs

WIDTH: Final = 32
CONTEXT: Final = 256
_U32, _F32, _TEXT = 4, 6, 8
_TYPE_F32, _TYPE_F16 = 0, 1
_ELEMENT_BYTES: Final = {_TYPE_F32: 4, _TYPE_F16: 2}
_MATRICES: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_NORMS: Final = ("attn_norm", "ffn_norm")


def vocabulary_file(head: bytes) -> tuple[bytes, int]:
    """The first bytes of the small file and its whole size, of which the rest is zeros. `head` are the first bytes of
    the real one. Raises Truncated when they are too few, NotGguf for a file without a vocabulary."""
    pairs = read_pairs(head)
    tokens = pairs.get("tokenizer.ggml.tokens", (None, b""))[0]
    if not isinstance(tokens, LongArray):
        raise NotGguf("it holds no vocabulary")
    # Some tokenizers are told apart by the model's name.
    kept = [raw for key, (_, raw) in pairs.items() if key.startswith("tokenizer.") or key == "general.name"]
    own = _shape()
    infos, data_bytes = _tensors(tokens.length)
    out = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(own) + len(kept)) + b"".join((*own, *kept, *infos))
    out = out.ljust(_aligned(len(out)), b"\0")
    return out, len(out) + data_bytes


def _shape() -> list[bytes]:
    """The metadata of the smallest llama there is."""
    numbers = {
        "block_count": 1,
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": WIDTH,
        "attention.head_count": 1,
        "rope.dimension_count": WIDTH,
    }
    return [
        _text("general.architecture") + struct.pack("<I", _TEXT) + _text("llama"),
        *(_text(f"llama.{key}") + struct.pack("<II", _U32, value) for key, value in numbers.items()),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _F32, 1e-5),
    ]


def _tensors(tokens: int) -> tuple[list[bytes], int]:
    """The infos of its tensors, and how many bytes of zeros they stand for."""
    named: list[tuple[str, tuple[int, ...], int]] = [
        ("token_embd", (WIDTH, tokens), _TYPE_F16),
        ("output_norm", (WIDTH,), _TYPE_F32),
        *((f"blk.0.{name}", (WIDTH, WIDTH), _TYPE_F16) for name in _MATRICES),
        *((f"blk.0.{name}", (WIDTH,), _TYPE_F32) for name in _NORMS),
    ]
    infos: list[bytes] = []
    offset = 0
    for name, shape, kind in named:
        infos.append(_text(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        offset += _aligned(math.prod(shape) * _ELEMENT_BYTES[kind])
    return infos, offset


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _aligned(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
