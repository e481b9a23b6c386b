"""The chat-completions dialect's shapes: lenient in, strict out.

Three groups: the request a client sends (read for checks and for Mapping C), the request a neuron gets, and what a
neuron answers, whole or streamed. The last is on the hot path: it names only what is needed, and the decoder skips
the rest of the chunk.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta

from helexa.wire.intake import (
    Count,
    Int64,
    MaybeObject,
    MaybeRaw,
    ModelName,
    Natural,
    NotNegative,
    Positive,
    Share,
    TopK,
    Unsupported,
    words,
)

Choices: TypeAlias = Annotated[int, Meta(ge=1, le=128)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
LogProbs: TypeAlias = Annotated[int, Meta(ge=0, le=20)]
Bias: TypeAlias = Annotated[dict[Natural, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=4096)]
"""By token id, which JSON writes as a string."""
LookBack: TypeAlias = Annotated[int, Meta(ge=-1, le=1_000_000)]
"""Tokens; -1 is the whole window. Engines allocate as many as they are told."""

# ── A client's request ─────────────────────────────────────────────────────────────────────────────────────────


class ImageUrl(msgspec.Struct, frozen=True, omit_defaults=True):
    url: str
    detail: str | None = None


class PartIn(msgspec.Struct, frozen=True, gc=False):
    """Unknown part types pass a check: an engine may know them."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None
    refusal: str | None = None


class FunctionIn(msgspec.Struct, frozen=True, gc=False):
    name: str
    arguments: str | None = None


class CallIn(msgspec.Struct, frozen=True, gc=False):
    function: FunctionIn | None = None
    id: str | None = None
    type: str | None = None


class SystemIn(msgspec.Struct, frozen=True, gc=False, tag_field="role", tag="system"):
    content: str | list[PartIn]
    name: str | None = None


class DeveloperIn(SystemIn, frozen=True, gc=False, tag_field="role", tag="developer"):
    pass


class UserIn(msgspec.Struct, frozen=True, gc=False, tag_field="role", tag="user"):
    content: str | list[PartIn]
    name: str | None = None


class AssistantIn(msgspec.Struct, frozen=True, gc=False, tag_field="role", tag="assistant"):
    content: str | list[PartIn] | None = None
    name: str | None = None
    tool_calls: list[CallIn] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    function_call: FunctionIn | None = None


class ToolResultIn(msgspec.Struct, frozen=True, gc=False, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str | list[PartIn] | None = None
    name: str | None = None


class FunctionResultIn(msgspec.Struct, frozen=True, gc=False, tag_field="role", tag="function"):
    """The old form of a tool's result; it has no id."""

    name: str
    content: str | list[PartIn] | None = None


MessageIn: TypeAlias = SystemIn | DeveloperIn | UserIn | AssistantIn | ToolResultIn | FunctionResultIn


class FunctionTool(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: MaybeObject = UNSET
    strict: bool | None = None


class ToolIn(msgspec.Struct, frozen=True):
    type: Annotated[str, words("function")]
    function: FunctionTool | None = None


class NamedFunction(msgspec.Struct, frozen=True):
    name: str


class AllowedTool(msgspec.Struct, frozen=True):
    type: str | None = None
    function: NamedFunction | None = None


class AllowedTools(msgspec.Struct, frozen=True):
    mode: Annotated[str, words("auto", "none", "required")]
    tools: list[AllowedTool]


class ChoiceIn(msgspec.Struct, frozen=True):
    """`function` names one of the tools."""

    type: Annotated[str, words("function", "allowed_tools")]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str = ""
    schema: MaybeObject = UNSET
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    """`schema` is llama.cpp's, beside `json_object`."""

    type: Annotated[str, words("text", "json_object", "json_schema")]
    json_schema: JsonSchema | None = None
    schema: MaybeObject = UNSET


class StreamOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    include_usage: bool | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a request of any kind may say, and all that routing needs to know of it."""

    model: ModelName
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def streamed(self) -> bool:
        """Whether the answer is wanted piece by piece; vectors, ranks and counts come whole, whatever is asked."""
        return False

    @property
    def affinity(self) -> str | None:
        """The client's word for which requests share a prompt prefix, the most telling first."""
        return self.prompt_cache_key or self.user or self.safety_identifier


class Generation(Asked, frozen=True, kw_only=True, gc=False):
    """What a request for generated text may say, whatever its prompt looks like."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    stop_token_ids: Annotated[list[Natural], Meta(max_length=64)] | None = None
    temperature: NotNegative | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    typical: Share | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    mirostat: Annotated[int, Meta(ge=0, le=2)] | None = None
    repetition_penalty: Positive | None = None
    repeat_penalty: Positive | None = None
    repeat_last_n: LookBack | None = None
    dry_penalty_last_n: LookBack | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Int64 | None = None
    n: Choices | None = None
    n_probs: LogProbs | None = None
    logit_bias: Bias | None = None
    json_schema: MaybeRaw = UNSET
    grammar: MaybeRaw = UNSET
    ignore_eos: bool | None = None

    @property
    def streamed(self) -> bool:
        """Whether the answer is wanted piece by piece."""
        return self.stream is True


class Request(Generation, frozen=True, kw_only=True, gc=False):
    """`POST /v1/chat/completions` as a client writes it."""

    messages: Annotated[list[MessageIn], Meta(min_length=1)]
    tools: list[ToolIn] | None = None
    tool_choice: Annotated[str, words("auto", "none", "required")] | ChoiceIn | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: LogProbs | None = None
    reasoning_effort: str | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    chat_template_kwargs: dict[str, msgspec.Raw] | None = None
    enable_thinking: bool | None = None
    verbosity: str | None = None
    modalities: list[str] | None = None
    audio: Unsupported = UNSET
    functions: Annotated[list[msgspec.Raw], Meta(extra_json_schema={"maxItems": 0})] | None = None


Tokens: TypeAlias = str | list[str | Natural | list[Natural]]
"""Text, texts, token ids, or lists of token ids."""


Piece: TypeAlias = str | list[str | Natural]
"""One text, also in parts that may be token ids."""


class CompletionRequest(Generation, frozen=True, kw_only=True, gc=False):
    """`POST /v1/completions`; the prompt may be token ids."""

    prompt: Tokens
    suffix: str | None = None
    max_tokens: Count | None = None
    best_of: Choices | None = None
    logprobs: LogProbs | None = None
    echo: bool | None = None


class EmbeddingRequest(Asked, frozen=True, kw_only=True, gc=False):
    """`POST /v1/embeddings`; langchain sends token ids by default."""

    input: Tokens
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None


class RerankDocument(msgspec.Struct, frozen=True, gc=False):
    text: str


class RerankRequest(Asked, frozen=True, kw_only=True, gc=False):
    """`POST /v1/rerank`, as Jina and Cohere write it."""

    query: str
    documents: Annotated[list[str | RerankDocument], Meta(min_length=1)]
    top_n: Count | None = None
    return_documents: bool | None = None


class TokenizeRequest(Asked, frozen=True, kw_only=True, gc=False):
    """`POST /tokenize`: llama.cpp calls the text `content`, vLLM `prompt`."""

    content: Piece | None = None
    prompt: Piece | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeRequest(Asked, frozen=True, kw_only=True, gc=False):
    """`POST /detokenize`."""

    tokens: list[Natural]


# ── The request a neuron gets ──────────────────────────────────────────────────────────────────────────────────


class TextOut(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ImageOut(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class FunctionOut(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class CallOut(msgspec.Struct, frozen=True):
    id: str
    function: FunctionOut
    type: str = "function"


class MessageOut(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str | list[TextOut | ImageOut]
    reasoning_content: str | None = None
    tool_calls: list[CallOut] | None = None
    tool_call_id: str | None = None


class FunctionToolOut(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: msgspec.Raw | None = None
    strict: bool | None = None


class ToolOut(msgspec.Struct, frozen=True):
    function: FunctionToolOut
    type: str = "function"


class ChoiceOut(msgspec.Struct, frozen=True):
    function: NamedFunction
    type: str = "function"


class TemplateOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    enable_thinking: bool | None = None


class RequestOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `from_canon` writes. Fields at their default are not sent."""

    model: str
    messages: list[MessageOut]
    tools: list[ToolOut] | None = None
    tool_choice: str | ChoiceOut | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    reasoning_effort: str | None = None
    thinking_budget_tokens: int | None = None
    verbose: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


# ── A neuron's answer ──────────────────────────────────────────────────────────────────────────────────────────


class FunctionDelta(msgspec.Struct, frozen=True):
    """Some engines send the arguments as an object and not as its text."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallDelta(msgspec.Struct, frozen=True):
    function: FunctionDelta | None = None
    index: int | None = None
    id: str | None = None


class Delta(msgspec.Struct, frozen=True):
    """The `delta` of a chunk and the `message` of a whole answer."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[CallDelta] | None = None
    function_call: FunctionDelta | None = None


class Choice(msgspec.Struct, frozen=True):
    """`stop_reason` is vLLM's and our own engines': the stop string, or the id of the stop token."""

    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    index: int | None = None


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class UsageIn(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Timings(msgspec.Struct, frozen=True):
    """llama.cpp's own count, on the chunk that finishes: of the prompt, `cache_n` came from the cache."""

    cache_n: int | None = None
    prompt_n: int | None = None
    predicted_n: int | None = None


class Verbose(msgspec.Struct, frozen=True):
    """llama.cpp's details, with the chunk that finishes: only there does it name the stop string."""

    stopping_word: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """A streamed chunk or a whole answer; `error` stands in either's place when the engine failed."""

    choices: list[Choice] | None = None
    usage: UsageIn | None = None
    timings: Timings | None = None
    verbose: Verbose | None = msgspec.field(default=None, name="__verbose")
    error: MaybeRaw = UNSET
    object: str | None = None


CHUNK = msgspec.json.Decoder(Chunk)
