"""A vision projector for llama.cpp that is made here: one layer of a SigLIP, four tokens an image, weights by chance.

What a model says of an image through it means nothing; that the image gets there, and what it costs, is real.
"""

from __future__ import annotations

import array
import random
import struct
from collections.abc import Mapping
from pathlib import Path

from tests.neuron.core.gguf_files import padded, text

WIDTH, HEADS, FORWARD, PATCH, SIDE = 32, 2, 64, 8, 64
IMAGE_TOKENS = (SIDE // PATCH // 4) ** 2
_U32, _F32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9

_NUMBERS: Mapping[str, int] = {
    "clip.vision.embedding_length": WIDTH,
    "clip.vision.feed_forward_length": FORWARD,
    "clip.vision.attention.head_count": HEADS,
    "clip.vision.block_count": 1,
    "clip.vision.image_size": SIDE,
    "clip.vision.patch_size": PATCH,
}


def write_projector(path: Path, text_width: int) -> Path:
    """A projector into the embeddings, `text_width` wide, of a text model."""
    pairs = [
        text("general.architecture") + struct.pack("<I", _STRING) + text("clip"),
        text("clip.projector_type") + struct.pack("<I", _STRING) + text("gemma3"),
        text("clip.has_vision_encoder") + struct.pack("<I?", _BOOL, True),
        text("clip.use_gelu") + struct.pack("<I?", _BOOL, True),
        text("clip.vision.attention.layer_norm_epsilon") + struct.pack("<If", _F32, 1e-6),
        *(text(name) + struct.pack("<II", _U32, number) for name, number in _numbers(text_width).items()),
        *(
            text(f"clip.vision.image_{name}") + struct.pack("<IIQ3f", _ARRAY, _F32, 3, *[0.5] * 3)
            for name in ("mean", "std")
        ),
    ]
    tensors = _tensors(text_width)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs)
    chance, data = random.Random(1), b""
    for name, shape in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += _values(shape, chance)
    path.write_bytes(head.ljust(padded(len(head)), b"\0") + data)
    return path


def _numbers(text_width: int) -> dict[str, int]:
    return {**_NUMBERS, "clip.vision.projection_dim": text_width}


def _tensors(text_width: int) -> dict[str, tuple[int, ...]]:
    block = {f"attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "out")}
    block |= {f"attn_{part}.bias": (WIDTH,) for part in ("q", "k", "v", "out")}
    block |= {f"ln{at}.{kind}": (WIDTH,) for at in (1, 2) for kind in ("weight", "bias")}
    block |= {"ffn_up.weight": (WIDTH, FORWARD), "ffn_up.bias": (FORWARD,)}
    block |= {"ffn_down.weight": (FORWARD, WIDTH), "ffn_down.bias": (WIDTH,)}
    return {
        "v.patch_embd.weight": (PATCH, PATCH, 3, WIDTH),
        "v.patch_embd.bias": (WIDTH,),
        "v.position_embd.weight": (WIDTH, (SIDE // PATCH) ** 2),
        **{f"v.blk.0.{name}": shape for name, shape in block.items()},
        "v.post_ln.weight": (WIDTH,),
        "v.post_ln.bias": (WIDTH,),
        "mm.soft_emb_norm.weight": (WIDTH,),
        "mm.input_projection.weight": (text_width, WIDTH),
    }


def _values(shape: tuple[int, ...], chance: random.Random) -> bytes:
    count = 1
    for each in shape:
        count *= each
    raw = array.array("f", (chance.gauss(0.0, 0.05) for _ in range(count))).tobytes()
    return raw.ljust(padded(len(raw)), b"\0")
