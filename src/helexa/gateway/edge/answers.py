"""What answers look like, for the OpenAPI document. Engines' own answers pass as bytes, and may hold more than this."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Details = dict[str, Any]


class Shape(msgspec.Struct, kw_only=True, frozen=True):
    """Fields without a default are always there."""


# ── Errors ─────────────────────────────────────────────────────────────────────────────────────────────────────


class OpenaiFault(Shape, frozen=True):
    """`param` names the field at fault; `details` holds the facts."""

    message: str
    type: str
    param: str | None
    code: str | None
    details: Details = {}


class OpenaiError(Shape, frozen=True):
    error: OpenaiFault


class AnthropicFault(Shape, frozen=True):
    type: str
    message: str
    details: Details = {}


class AnthropicError(Shape, frozen=True):
    type: Literal["error"]
    error: AnthropicFault
    request_id: str = ""


# ── OpenAI ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Usage(Shape, frozen=True):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: Details = {}
    completion_tokens_details: Details = {}


class SaidFunction(Shape, frozen=True):
    """`arguments` is JSON as text."""

    name: str
    arguments: str


class SaidCall(Shape, frozen=True):
    id: str
    type: Literal["function"]
    function: SaidFunction


class Said(Shape, frozen=True):
    role: Literal["assistant"]
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[SaidCall] = []


class ChatChoice(Shape, frozen=True):
    index: int
    message: Said
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ChatAnswer(Shape, frozen=True):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(Shape, frozen=True):
    index: int
    text: str
    finish_reason: str | None


class TextAnswer(Shape, frozen=True):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(Shape, frozen=True):
    """Numbers, or their bytes as base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Shape, frozen=True):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Ranked(Shape, frozen=True):
    index: int
    relevance_score: float


class Ranking(Shape, frozen=True):
    results: list[Ranked]


class Place(Shape, frozen=True):
    """Where a model is, on which engine, why on that one where nobody named it, and whether it may not be evicted."""

    node: str
    status: str
    vram_estimate_mb: int | None
    harness: str | None = None
    harness_reason: str | None = None
    pinned: bool = False


class Model(Shape, frozen=True):
    """An entry of the catalogue; `reason` says why it cannot be served, with the arithmetic."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loaded: bool
    status: Literal["loaded", "loading", "recovering", "cold", "infeasible", "failed"]
    feasible_on: list[str]
    locations: list[Place]
    capabilities: list[str]
    aliases: list[str]
    alias_of: str | None = None
    reason: str = ""
    loading: Details = {}
    expected_load_s: float = 0.0
    context_length: int = 0
    max_output_tokens: int = 0
    cost: Details = {}


class Models(Shape, frozen=True):
    """With the header `anthropic-version` the list has Anthropic's shape, and its pages."""

    object: Literal["list"]
    data: list[Model]


class Deleted(Shape, frozen=True):
    id: str
    object: Literal["response"]
    deleted: bool


class ResponseTokens(Shape, frozen=True):
    object: Literal["response.input_tokens"]
    input_tokens: int


class MessageTokens(Shape, frozen=True):
    input_tokens: int


# ── Operators ──────────────────────────────────────────────────────────────────────────────────────────────────


class NodeCount(Shape, frozen=True):
    healthy: int
    total: int


class Health(Shape, frozen=True):
    status: Literal["ok", "degraded", "impaired"]
    nodes: NodeCount
    unservable: list[Details] = []


class Version(Shape, frozen=True):
    package_version: str
    name: Literal["cortex"]


class Node(Shape, frozen=True):
    name: str
    healthy: bool
    draining: bool
    problem: str | None
    circuit: Literal["open", "closed"]
    devices: list[Details]
    models: list[Details]


class Nodes(Shape, frozen=True):
    nodes: list[Node]


class Catalogue(Shape, frozen=True):
    models: list[Model]


class Accepted(Shape, frozen=True):
    status: Literal["accepted"]
    model: str


class Pinned(Shape, frozen=True):
    model: str
    pinned: bool
    nodes: list[str]


class Draining(Shape, frozen=True):
    node: str
    draining: bool


class Planned(Shape, frozen=True):
    """`actions` in their order; for a model also each node's verdict, and whether the request would wait,
    and for what."""

    actions: list[Details]
    model: str = ""
    candidates: list[Details] = []
    waits: bool = False
    waits_for: str = ""
    expected_load_s: float = 0.0


class Reloaded(Shape, frozen=True):
    """The tables of the configuration that differ from before, what of it is read at the start only, and the models
    that stay loaded as they were and get their new settings with their next load."""

    changed: list[str]
    after_restart: list[str]
    at_next_load: list[str]
