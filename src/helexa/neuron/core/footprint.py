"""How much memory a model takes, from its own metadata: weights, KV cache, buffers. Bytes, until the last step.

Weights are exact (the sum of the tensors). The KV cache follows llama.cpp's allocation: cells are padded to 256 per
sequence, a sliding-window layer keeps its window and one batch, a recurrent layer keeps one state per sequence. Compute
buffers are an estimate; `_graph_bytes` and `_runtime_bytes` say where their terms come from.

On a CPU llama.cpp copies some quantisations (Q4_0, Q4_K, IQ4_NL) into a layout that its kernels like. The mapped pages
of the file that it copied from stay resident as page cache until something else wants the room: they are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from helexa.base.units import MIB, mib
from helexa.neuron.core.gguf import TYPES, Header

DEFAULT_TRAINED: Final = 4096
CELL_PADDING: Final = 256
UBATCH: Final = 512
"""Tokens of one step; llama.cpp's default, which the engines here keep."""
CPU_STEP_TOKENS: Final = 16
"""Tokens of one step on a CPU. Everybody waits for its end: the other streams for their next token, a client that left
for its slot to be free."""
CPU_WHOLE_TOKENS: Final = 256
"""The same for a model that has to see a whole text or image in one step."""
CPU_FLASH_TOKENS: Final = 64
"""llama.cpp's flash attention on a CPU is quick for steps of this size; a shorter one it takes token by token, at half
the speed of plain attention once a thousand tokens are in the cache (its `GGML_FA_TILE_Q`)."""

_BLOCKS: Final = {name.lower(): (per_block, size) for name, per_block, size in TYPES.values()}
_WINDOW_EVERY: Final = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4, "llama4": 4,
    "plamo3": 8, "smallthinker": 4, "afmoe": 4,
}  # fmt: skip
"""Architectures whose files do not say which layers slide: every n-th sees everything, the others their window."""
CHECKPOINTS: Final = 1
"""llama.cpp's own default is 32 of each sequence, beside any plan: more than the rest of a small model together."""
CANDIDATE_BYTES: Final = 20
"""What one token of the vocabulary takes in the sampler of one sequence."""
DRIVER_MB: Final = 400
"""A GPU driver's context and the libraries' workspaces, as CUDA 12 and 13 take them, once for all models of a load."""
_COPIED_OFTEN: Final = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "Q2_K"})
_COPIED_AT_MOST: Final = _COPIED_OFTEN | {"Q5_K", "Q6_K", "Q8_0", "MXFP4"}
"""Quantisations that llama.cpp copies into another layout on a CPU: on most processors, and on some (ARM) beyond."""
_LAYER = re.compile(r"blk\.(\d+)\.([a-z0-9_]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one layer keeps: `k` and `v` values per cached token, the `window` it sees (None: everything), and
    `state_bytes` per sequence for a recurrent layer."""

    k: int = 0
    v: int = 0
    window: int | None = None
    state_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What decides whether a modest engine can read a GGUF: the types of its tensors, its tokenizer as "model/pre", and
    what is `unusual` about it, "" for nothing."""

    types: frozenset[str]
    tokenizer: str
    unusual: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The facts of a model that decide its memory."""

    architecture: str
    trained_context: int
    weight_bytes: int
    host_bytes: int = 0
    """Part of the weights that stays in host memory when the layers are on a GPU: an untied token embedding."""
    layers: tuple[Layer, ...] = ()
    embedding: int = 0
    feed_forward: int = 0
    query: int = 0
    """Values of one token's queries over all heads."""
    heads: int = 0
    vocabulary: int = 0
    copies: tuple[int, ...] = ()
    """How many bytes of the weights llama.cpp may hold a second time, in its own layout, on one CPU or another."""
    known_mb: int | None = None
    """The whole need (MiB) where it is declared by the asker."""
    traits: Traits | None = None
    draft: ModelShape | None = None
    """A smaller model that drafts for this one, on the same devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is asked of a model: `context` tokens for each of `slots` sequences, and how the KV cache is stored."""

    context: int
    slots: int
    type_k: str = "f16"
    type_v: str = "f16"
    ubatch: int = UBATCH
    batch: int | None = None
    """Tokens handed over at once, which a step never exceeds; None: the engine's default."""
    whole: bool = False
    """A text or an image has to fit into one step: vectors, ranking, vision."""
    unified: bool = False
    """All sequences share one pool of cells (llama.cpp `kv_unified`)."""
    swa_full: bool = False
    """Sliding-window layers keep the whole context too."""
    flash: bool | None = None
    """Flash attention, asked for or forbidden; None: where it is the quicker."""
    checkpoints: int = CHECKPOINTS
    """States of sliding and recurrent layers kept for each sequence, so that a prompt can be gone on with; in host
    memory."""
    host_cache_bytes: int = 0
    """Prompts kept in host memory; on a CPU device that is the device's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """MiB by purpose, each rounded up."""

    weights_mb: int
    kv_mb: int = 0
    compute_mb: int = 0
    scratch_mb: int = 0
    """Part of the whole that a load does not take yet: the graph's buffers are touched by the first full step, and each
    sequence's candidates and checkpoints come with its first request."""
    correction_mb: int = 0
    """What an earlier load under the same circumstances was measured to take beyond the prediction (or below it)."""

    @property
    def predicted_mb(self) -> int:
        return self.weights_mb + self.kv_mb + self.compute_mb

    @property
    def needed_mb(self) -> int:
        return self.predicted_mb + self.correction_mb

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            weights_mb=self.weights_mb + other.weights_mb,
            kv_mb=self.kv_mb + other.kv_mb,
            compute_mb=self.compute_mb + other.compute_mb,
            scratch_mb=self.scratch_mb + other.scratch_mb,
        )

    def corrected(self, measured_mb: int | None) -> Footprint:
        """The same, with what was measured for the whole; weights and KV cache are exact, so they are the least."""
        if measured_mb is None:
            return self
        least = self.weights_mb + self.kv_mb
        return replace(self, correction_mb=max(least, measured_mb) - self.predicted_mb)


def footprint(shape: ModelShape, settings: Settings, device_kind: str) -> Footprint:
    """What `shape` takes on one device of `device_kind` under `settings`."""
    if shape.known_mb is not None:
        return Footprint(weights_mb=shape.known_mb)
    settings = replace(settings, ubatch=step_tokens(settings, device_kind), flash=flash_attends(settings, device_kind))
    driver = Footprint(weights_mb=0, compute_mb=0 if device_kind == "cpu" else DRIVER_MB)
    own = _footprint(shape, settings, device_kind) + driver
    if shape.draft is None:
        return own
    kept = replace(settings, type_k="f16", type_v="f16", host_cache_bytes=0)  # llama.cpp's own for the draft's context
    return own + _footprint(shape.draft, kept, device_kind)


def _footprint(shape: ModelShape, settings: Settings, device_kind: str) -> Footprint:
    """Of one model alone, with the step and the attention settled."""
    on_cpu = device_kind == "cpu"
    graph, kept = _graph_bytes(shape, settings), _checkpoint_bytes(shape, settings)
    return Footprint(
        weights_mb=mib(shape.weight_bytes - (0 if on_cpu else shape.host_bytes)),
        kv_mb=mib(kv_bytes(shape, settings) + (settings.host_cache_bytes + kept if on_cpu else 0)),
        compute_mb=mib(graph + _runtime_bytes(shape, settings)),
        scratch_mb=(graph + kept + CANDIDATE_BYTES * shape.vocabulary * settings.slots) // MIB if on_cpu else 0,
    )


def step_tokens(settings: Settings, device_kind: str) -> int:
    """Tokens of one step: `ubatch`, but never more than are handed over at once."""
    if settings.batch is not None or device_kind != "cpu":
        return min(settings.ubatch, settings.batch or settings.ubatch)
    return min(settings.ubatch, CPU_WHOLE_TOKENS if settings.whole else max(CPU_STEP_TOKENS, 2 * settings.slots))


def flash_attends(settings: Settings, device_kind: str) -> bool:
    """Whether attention is llama.cpp's flash attention. A quantised V is kept for that alone."""
    if settings.flash is not None:
        return settings.flash
    return device_kind != "cpu" or step_tokens(settings, device_kind) >= CPU_FLASH_TOKENS or _quantised(settings.type_v)


def _quantised(kind: str) -> bool:
    return kind.lower() not in ("f32", "f16", "bf16")


def kv_bytes(shape: ModelShape, settings: Settings) -> int:
    """The KV cache and recurrent states of all sequences."""
    return sum(_layer_bytes(layer, settings) for layer in shape.layers)


def _checkpoint_bytes(shape: ModelShape, settings: Settings) -> int:
    """What is kept of layers that forget: the tokens in a sequence's window, and the recurrent state."""
    each = sum(
        min(layer.window or 0, settings.context) * _token_bytes(layer, settings) + layer.state_bytes
        for layer in shape.layers
    )
    return each * settings.checkpoints * settings.slots


def _layer_bytes(layer: Layer, settings: Settings) -> int:
    return _cells(layer, settings) * _token_bytes(layer, settings) + layer.state_bytes * settings.slots


def _token_bytes(layer: Layer, settings: Settings) -> int:
    return row_bytes(layer.k, settings.type_k) + row_bytes(layer.v, settings.type_v)


def _cells(layer: Layer, settings: Settings) -> int:
    """Cells of one layer over all sequences: one stream for all of them, or one for each."""
    return _stream_cells(layer.window, settings) * (1 if settings.unified else settings.slots)


def _stream_cells(window: int | None, settings: Settings) -> int:
    """Cells of one stream. A window costs window + ubatch, never more than the whole context; a unified stream holds
    every sequence's context or window and one batch (llama.cpp, `llama_kv_cache_iswa`)."""
    sequences = settings.slots if settings.unified else 1
    whole = _padded(settings.context * sequences)
    if window is None or settings.swa_full:
        return whole
    return _padded(min(whole, window * sequences + settings.ubatch))


def _padded(cells: int) -> int:
    return -(-cells // CELL_PADDING) * CELL_PADDING


def row_bytes(values: int, kind: str) -> int:
    """`values` numbers stored as ggml type `kind` ("f16", "q8_0"); rows are whole blocks. KeyError: no such type."""
    per_block, size = _BLOCKS[kind.lower()]
    return -(-values // per_block) * size


def _graph_bytes(shape: ModelShape, settings: Settings) -> int:
    """Scratch memory of one step of `ubatch` tokens, and the logits of all sequences.

    The widest point of the graph is a feed-forward (gate, up and their product, f32) beside five rows of the residual
    stream; attention adds an f16 mask over the cells of one stream, once for full and once for sliding layers. Plain
    attention is wider than that in a long context: a score of each head for each cell, f32, as the masks then are.
    Found by comparing with what llama.cpp (b11549, CPU) reserves for SmolLM2 and Gemma 3 at 512 to 8192 cells, unified
    and not: equal to 0.1 MiB.
    """
    wide = max(3 * shape.feed_forward, 2 * shape.query)
    cells = [_stream_cells(window, settings) for window in {layer.window for layer in shape.layers}]
    if not settings.flash:
        wide = max(wide, 2 * shape.query + shape.heads * max(cells, default=0))
    masks = (2 if settings.flash else 4) * sum(cells)
    logits = 4 * shape.vocabulary * settings.slots
    return settings.ubatch * (4 * (wide + 5 * shape.embedding) + masks) + logits


def _runtime_bytes(shape: ModelShape, settings: Settings) -> int:
    """What the engine keeps beside the model: its threads and graphs; the tokenizer (each token's text several times,
    in maps); each sequence's candidates when it samples. Measured (SmolLM2 and Gemma 3, 49,152 and 262,144 tokens)."""
    return 22 * MIB + shape.vocabulary * (160 + CANDIDATE_BYTES * settings.slots)


def gguf_shape(header: Header, *, weight_bytes: int | None = None) -> ModelShape:
    """The shape of the model behind a GGUF head; `weight_bytes` where it is spread over several files."""
    total = header.weight_bytes if weight_bytes is None else weight_bytes
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    embedding = sum(t.size_bytes for t in header.tensors if t.name == "token_embd.weight")
    heads = max(header.numbers("attention.head_count") or (1,))
    width = header.number("embedding_length") or 0
    return ModelShape(
        architecture=header.architecture,
        trained_context=header.number("context_length") or DEFAULT_TRAINED,
        weight_bytes=total,
        host_bytes=0 if tied else embedding,
        layers=_layers(header),
        embedding=width,
        feed_forward=_feed_forward(header),
        query=heads * (header.number("attention.key_length") or width // max(1, heads)),
        heads=heads,
        vocabulary=header.length("tokenizer.ggml.tokens") or header.number("vocab_size") or 0,
        copies=(_bytes_of(header, _COPIED_OFTEN), _bytes_of(header, _COPIED_AT_MOST)),
        traits=_traits(header),
    )


def with_draft(shape: ModelShape, draft: ModelShape) -> ModelShape:
    """`shape` with a model that drafts for it."""
    copies = tuple(own + its for own, its in zip(shape.copies, draft.copies, strict=True))
    return replace(shape, draft=draft, copies=copies)


def _traits(header: Header) -> Traits:
    word = [str(header.metadata.get(f"tokenizer.ggml.{key}", "")) for key in ("model", "pre")]
    types = frozenset(tensor.type_name for tensor in header.tensors)
    return Traits(types=types, tokenizer="/".join(word), unusual=_unusual(header))


def _unusual(header: Header) -> str:
    """What makes a model of a plain architecture another one."""
    if any(tensor.name.startswith("rope_freqs") for tensor in header.tensors):
        return "scaled positions"
    if header.metadata.get(f"{header.architecture}.rope.scaling.type", "none") != "none":
        return "scaled positions"
    if header.number("expert_count"):
        return "experts"
    if header.number("attention.sliding_window"):
        return "a sliding window"
    return "embeddings" if header.number("pooling_type") else ""


def _bytes_of(header: Header, types: frozenset[str]) -> int:
    return sum(t.size_bytes for t in header.tensors if t.type_name in types and t.name != "token_embd.weight")


def _feed_forward(header: Header) -> int:
    """Values of the widest feed-forward of one token; experts run several at once."""
    dense = max(header.numbers("feed_forward_length") or (0,))
    expert = header.number("expert_feed_forward_length") or 0
    return max(dense, expert * (header.number("expert_used_count") or 1))


def _layers(header: Header) -> tuple[Layer, ...]:
    count = max(0, (header.number("block_count") or 0) - (header.number("nextn_predict_layers") or 0))
    kept = max(0, count - (header.number("attention.shared_kv_layers") or 0))
    parts = _parts(header)
    return tuple(_layer(header, at, parts.get(at, frozenset()), cached=at < kept) for at in range(min(count, 4096)))


def _parts(header: Header) -> Mapping[int, frozenset[str]]:
    """The names of each layer's parts: what a layer is made of says more than any list of architectures."""
    found: dict[int, set[str]] = {}
    for tensor in header.tensors:
        match = _LAYER.match(tensor.name)
        if match:
            found.setdefault(int(match[1]), set()).add(match[2])
    return {at: frozenset(names) for at, names in found.items()}


def _layer(header: Header, at: int, parts: frozenset[str], *, cached: bool) -> Layer:
    recurrent = any(part.startswith(("ssm_", "shortconv", "time_mix")) for part in parts)
    attends = not recurrent or bool(parts & {"attn_k", "attn_kv_a_mqa"})
    layer = Layer(state_bytes=_state_bytes(header) if recurrent else 0)
    if not attends or not cached:
        return layer
    k, v = _kv_values(header, at, slides := _slides(header, at))
    return replace(layer, k=k, v=v, window=header.number("attention.sliding_window") if slides else None)


def _kv_values(header: Header, at: int, slides: bool) -> tuple[int, int]:
    """Values of K and V per token in layer `at`. Multi-head latent attention keeps one latent, and V is part of it."""
    heads = _at(header.numbers("attention.head_count"), at, 1)
    kv_heads = _at(header.numbers("attention.head_count_kv"), at, heads)
    usual = (header.number("embedding_length") or 0) // max(1, heads)
    suffix = "_swa" if slides and header.number("attention.key_length_swa") else ""
    k = header.number(f"attention.key_length{suffix}") or usual
    v = header.number(f"attention.value_length{suffix}") or usual
    if header.number("attention.kv_lora_rank") and header.number("attention.key_length_mla"):
        return kv_heads * k, 0
    return kv_heads * k, kv_heads * v


def _slides(header: Header, at: int) -> bool:
    if not header.number("attention.sliding_window"):
        return False
    pattern = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return bool(_at(tuple(int(each) for each in pattern), at, 0))
    every = int(pattern) if isinstance(pattern, int) else _WINDOW_EVERY.get(header.architecture, 0)
    return (at + 1) % every != 0 if every > 1 else False


def _at(values: tuple[int, ...] | None, at: int, default: int) -> int:
    if not values:
        return default
    return values[at] if at < len(values) else values[-1]


def _state_bytes(header: Header) -> int:
    """One recurrent layer's state of one sequence, f32: the convolution's tail and the state matrix (llama.cpp,
    `n_embd_r` and `n_embd_s`)."""
    inner, state = header.number("ssm.inner_size") or 0, header.number("ssm.state_size") or 0
    tail = max(0, (header.number("ssm.conv_kernel") or 1) - 1)
    groups = header.number("ssm.group_count") or 0
    convolution = tail * (inner + 2 * groups * state)
    short = max(0, (header.number("shortconv.l_cache") or 1) - 1) * (header.number("embedding_length") or 0)
    return 4 * (convolution + inner * state + short)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseConfig:
    """The parts of a `config.json` that decide memory; `raw` is the text model's own table."""

    raw: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def number(self, key: str, default: int = 0) -> int:
        found = self.raw.get(key)
        return int(found) if isinstance(found, int | float) and 0 <= found < 1 << 50 else default


def dense_shape(config: Mapping[str, Any], weight_bytes: int) -> ModelShape:
    """The shape of a safetensors model from its `config.json`; a multimodal one keeps the text model in a table."""
    inner = config.get("text_config")
    own = DenseConfig(raw=inner if isinstance(inner, dict) else config)  # pyright: ignore[reportUnknownArgumentType]
    width, heads = own.number("hidden_size"), own.number("num_attention_heads", 1)
    head = own.number("head_dim") or width // max(1, heads)
    kv = own.number("num_key_value_heads", heads) * head
    names = config.get("architectures")
    return ModelShape(
        architecture=str(config.get("model_type") or (names[0] if isinstance(names, list) and names else "")),  # pyright: ignore[reportUnknownArgumentType]
        trained_context=own.number("max_position_embeddings", DEFAULT_TRAINED) or DEFAULT_TRAINED,
        weight_bytes=weight_bytes,
        layers=tuple(Layer(k=kv, v=kv) for _ in range(min(4096, own.number("num_hidden_layers")))),
        embedding=width,
        feed_forward=own.number("intermediate_size"),
        query=heads * head,
        heads=heads,
        vocabulary=own.number("vocab_size"),
    )
