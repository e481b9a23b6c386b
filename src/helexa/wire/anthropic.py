"""The Messages dialect's shapes: lenient in, strict out.

Only what changes the meaning of a request has a field; the rest (`cache_control`, `service_tier`, betas) is skipped
by the decoder. Schemas and tool inputs stay raw JSON: nobody here needs to look inside.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta

from helexa.wire.canon import EFFORTS
from helexa.wire.intake import (
    Count,
    MaybeObject,
    MaybeRaw,
    ModelName,
    Natural,
    NotNegative,
    Share,
    TopK,
    Unsupported,
    words,
)


class Source(msgspec.Struct, frozen=True):
    """Where an image or document comes from: `base64` or `url` of an image, `text` or `content`
    of a document."""

    type: Annotated[str, words("base64", "url", "text", "content")]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: str | list[ResultBlock] | None = None


class Text(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class Image(msgspec.Struct, frozen=True, tag_field="type", tag="image"):
    source: Source


class Document(msgspec.Struct, frozen=True, tag_field="type", tag="document"):
    source: Source
    title: str | None = None
    context: str | None = None


class SearchResult(msgspec.Struct, frozen=True, tag_field="type", tag="search_result"):
    content: list[Text]
    title: str | None = None
    source: str | None = None


class ToolReference(msgspec.Struct, frozen=True, tag_field="type", tag="tool_reference"):
    tool_name: str


class ToolUse(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw


class ToolResult(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None


class Thinking(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str


class RedactedThinking(msgspec.Struct, frozen=True, tag_field="type", tag="redacted_thinking"):
    pass


class HostedBlock(msgspec.Struct, frozen=True, tag_field="type", tag="hosted"):
    """What only Anthropic's own servers write. A history that holds such blocks can be continued without them."""


class ServerToolUse(HostedBlock, frozen=True, tag_field="type", tag="server_tool_use"):
    pass


class WebSearchResult(HostedBlock, frozen=True, tag_field="type", tag="web_search_tool_result"):
    pass


class WebFetchResult(HostedBlock, frozen=True, tag_field="type", tag="web_fetch_tool_result"):
    pass


class CodeResult(HostedBlock, frozen=True, tag_field="type", tag="code_execution_tool_result"):
    pass


class BashResult(HostedBlock, frozen=True, tag_field="type", tag="bash_code_execution_tool_result"):
    pass


class EditorResult(HostedBlock, frozen=True, tag_field="type", tag="text_editor_code_execution_tool_result"):
    pass


class SearchToolResult(HostedBlock, frozen=True, tag_field="type", tag="tool_search_tool_result"):
    pass


class McpToolUse(HostedBlock, frozen=True, tag_field="type", tag="mcp_tool_use"):
    pass


class McpToolResult(HostedBlock, frozen=True, tag_field="type", tag="mcp_tool_result"):
    pass


class ContainerUpload(HostedBlock, frozen=True, tag_field="type", tag="container_upload"):
    pass


class AdvisorResult(HostedBlock, frozen=True, tag_field="type", tag="advisor_tool_result"):
    pass


class Fallback(HostedBlock, frozen=True, tag_field="type", tag="fallback"):
    pass


class McpToolListing(HostedBlock, frozen=True, tag_field="type", tag="mcp_tool_listing"):
    pass


class Tool(msgspec.Struct, frozen=True):
    """A custom tool, or a typed one that the vendor (or the client, for `bash_…`) knows how to run."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: MaybeObject = UNSET
    strict: bool | None = None
    defer_loading: bool | None = None


class ChangedTool(msgspec.Struct, frozen=True):
    """A `tool_reference` by its name, or a `tool_definition`; the other kinds are of tools that the vendor runs."""

    type: str
    name: str | None = None
    definition: Tool | None = None


class ToolAddition(msgspec.Struct, frozen=True, tag_field="type", tag="tool_addition"):
    tool: ChangedTool


class ToolRemoval(msgspec.Struct, frozen=True, tag_field="type", tag="tool_removal"):
    tool: ChangedTool


ToolChange: TypeAlias = ToolAddition | ToolRemoval


class Compaction(msgspec.Struct, frozen=True, tag_field="type", tag="compaction"):
    content: str | None = None
    tool_changes: list[ToolChange] | None = None


ResultBlock: TypeAlias = Text | Image | Document | SearchResult | ToolReference
Hosted: TypeAlias = (
    ServerToolUse
    | WebSearchResult
    | WebFetchResult
    | CodeResult
    | BashResult
    | EditorResult
    | SearchToolResult
    | McpToolUse
    | McpToolResult
    | ContainerUpload
    | AdvisorResult
    | Fallback
    | McpToolListing
)
Block: TypeAlias = (
    Text
    | Image
    | Document
    | SearchResult
    | ToolReference
    | ToolUse
    | ToolResult
    | Thinking
    | RedactedThinking
    | Compaction
    | ToolChange
    | Hosted
)


class Message(msgspec.Struct, frozen=True):
    """Only a system message may come without content: it then sets something for its turn. One that is to be cleared
    `next_user_message` is shown to the model until a user's message follows it."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block] | None = None
    clear_at: Annotated[str, words("next_user_message", "never")] | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """`tool` goes with the name of one of the tools, `any` needs at least one."""

    type: Annotated[str, words("auto", "any", "tool", "none")]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct, frozen=True):
    type: Annotated[str, words("enabled", "adaptive", "between_tools", "disabled")]
    budget_tokens: Natural | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    type: Annotated[str, words("json_schema")]
    schema: MaybeObject = UNSET


class OutputConfig(msgspec.Struct, frozen=True):
    effort: Annotated[str, words(*EFFORTS)] | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for an answer and one for a count share."""

    model: ModelName
    messages: Annotated[list[Message], Meta(extra_json_schema={"minItems": 1})]
    system: str | list[Text] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    stop_sequences: list[str] | None = None
    temperature: NotNegative | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    metadata: Metadata | None = None
    stream: bool | None = None
    thread: Unsupported = UNSET
    mcp_servers: Annotated[list[msgspec.Raw], Meta(extra_json_schema={"maxItems": 0})] | None = None
    container: Unsupported = UNSET


class CountRequest(Prompt, frozen=True, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    max_tokens: Count | None = None


class Request(Prompt, frozen=True, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Count
    compaction: Unsupported = UNSET


REQUEST = msgspec.json.Decoder(Request)
COUNT_REQUEST = msgspec.json.Decoder(CountRequest)
FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
HONOURED = frozenset(Request.__struct_fields__)


# ── Out ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ThinkingTokens(msgspec.Struct, frozen=True):
    thinking_tokens: int = 0


class UsageOut(msgspec.Struct, frozen=True):
    """`input_tokens` is what was not cached; the four together are the truth."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    output_tokens_details: ThinkingTokens = ThinkingTokens()


class TextOut(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ThinkingOut(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class ToolUseOut(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw


BlockOut: TypeAlias = TextOut | ThinkingOut | ToolUseOut


class MessageOut(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """A whole answer, and the head of a streamed one."""

    id: str
    model: str
    content: list[BlockOut]
    stop_reason: str | None
    stop_sequence: str | None
    usage: UsageOut
    role: str = "assistant"


# ── An Anthropic server's answer ───────────────────────────────────────────────────────────────────────────────


class UsageIn(msgspec.Struct, frozen=True):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: ThinkingTokens | None = None


class BlockIn(msgspec.Struct, frozen=True):
    """Any block of an answer; kinds that are not known have no field that is read."""

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: MaybeRaw = UNSET


class DeltaIn(msgspec.Struct, frozen=True):
    """Of a block, or of the message; each kind has fields of its own."""

    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class AnswerIn(msgspec.Struct, frozen=True):
    type: str = "message"
    content: list[BlockIn] = []
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: UsageIn | None = None


class EventIn(msgspec.Struct, frozen=True):
    """Any event of a stream."""

    type: str
    message: AnswerIn | None = None
    content_block: BlockIn | None = None
    delta: DeltaIn | None = None
    usage: UsageIn | None = None


ANSWER = msgspec.json.Decoder(AnswerIn)
EVENT = msgspec.json.Decoder(EventIn)
