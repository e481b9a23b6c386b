"""The Responses dialect's shapes: lenient in, strict out.

Input items are kept raw and read one by one by their `type`: new kinds of item appear with every release of every
client, and an unknown one must not refuse the request.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta

from helexa.wire.canon import EFFORTS
from helexa.wire.intake import Count, MaybeObject, ModelName, NotNegative, Share, Unsupported, words


class ItemKind(msgspec.Struct, frozen=True):
    """Enough of any item to know how to read the rest; the easy form of a message has no `type`."""

    type: str | None = None
    role: str | None = None


class Part(msgspec.Struct, frozen=True):
    """`input_text`, `output_text`, `input_image`, …; `image_url` is a plain string here."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Part]


class FunctionCall(msgspec.Struct, frozen=True):
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class CustomCall(msgspec.Struct, frozen=True):
    call_id: str
    name: str
    input: str


class CallOutput(msgspec.Struct, frozen=True):
    call_id: str
    output: str | list[Part] | None = None


class ReasoningText(msgspec.Struct, frozen=True):
    text: str = ""


class Reasoning(msgspec.Struct, frozen=True):
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None


class Reference(msgspec.Struct, frozen=True):
    id: str


class Tool(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: MaybeObject = UNSET
    strict: bool | None = None
    tools: list[Tool] | None = None


class AdditionalTools(msgspec.Struct, frozen=True):
    """An item of the input that offers more tools."""

    tools: list[Tool]


class AllowedTool(msgspec.Struct, frozen=True):
    type: str | None = None
    name: str | None = None


class Choice(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None
    mode: str | None = None
    tools: list[AllowedTool] | None = None
    namespace: str | None = None


class Format(msgspec.Struct, frozen=True):
    """`json_schema` goes with a schema."""

    type: Annotated[str, words("text", "json_object", "json_schema")]
    name: str | None = None
    schema: MaybeObject = UNSET
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True):
    format: Format | None = None


class ReasoningConfig(msgspec.Struct, frozen=True):
    effort: Annotated[str, words("none", *EFFORTS)] | None = None
    summary: str | None = None


Items: TypeAlias = Annotated[
    list[msgspec.Raw],
    Meta(extra_json_schema={"items": {"type": "object", "anyOf": [{"required": ["type"]}, {"required": ["role"]}]}}),
]


class Request(msgspec.Struct, frozen=True):
    """`POST /v1/responses`."""

    model: ModelName
    input: str | Items | None = None
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | Choice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Count | None = None
    temperature: NotNegative | None = None
    top_p: Share | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    stream: bool | None = None
    metadata: dict[str, str] | None = None
    previous_response_id: str | None = None
    conversation: Unsupported = UNSET
    prompt: Unsupported = UNSET
    background: Annotated[bool, Meta(extra_json_schema={"enum": [False]})] | None = None


REQUEST = msgspec.json.Decoder(Request)
FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
HONOURED = frozenset(Request.__struct_fields__)
ITEM_KIND = msgspec.json.Decoder(ItemKind)
MESSAGE = msgspec.json.Decoder(Message)
FUNCTION_CALL = msgspec.json.Decoder(FunctionCall)
CUSTOM_CALL = msgspec.json.Decoder(CustomCall)
CALL_OUTPUT = msgspec.json.Decoder(CallOutput)
REASONING = msgspec.json.Decoder(Reasoning)
ADDITIONAL_TOOLS = msgspec.json.Decoder(AdditionalTools)
REFERENCE = msgspec.json.Decoder(Reference)


# ── Out ────────────────────────────────────────────────────────────────────────────────────────────────────────


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[()] = ()


class RefusalOut(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


class SummaryText(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    text: str


class ReasoningTextOut(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class MessageItem(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    id: str
    status: str
    content: list[OutputText | RefusalOut]
    role: str = "assistant"


class FunctionCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call", omit_defaults=True):
    id: str
    status: str
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class ReasoningItem(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    id: str
    status: str
    summary: list[SummaryText]
    content: list[ReasoningTextOut]
    encrypted_content: None = None


Item: TypeAlias = MessageItem | FunctionCallItem | ReasoningItem
PartOut: TypeAlias = OutputText | RefusalOut | SummaryText | ReasoningTextOut


class InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0  # required by the openai SDK from 3.x on


class OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class UsageOut(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Incomplete(msgspec.Struct, frozen=True):
    reason: str


class Echo(msgspec.Struct, frozen=True):
    """What a response repeats of its request, encoded once. Raw values are the client's own JSON."""

    model: str
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: ReasoningConfig = ReasoningConfig()
    safety_identifier: str | None = None
    store: bool = True
    temperature: float | None = None
    text: msgspec.Raw = msgspec.Raw(b'{"format":{"type":"text"}}')
    tool_choice: msgspec.Raw = msgspec.Raw(b'"auto"')
    tools: msgspec.Raw = msgspec.Raw(b"[]")
    top_p: float | None = None
    user: str | None = None
    background: bool = False
    service_tier: str = "default"
    truncation: str = "disabled"


class State(msgspec.Struct, frozen=True):
    """A response at one moment; with an `Echo` it is the whole response object."""

    id: str
    created_at: int
    status: str
    output: list[Item]
    usage: UsageOut | None = None
    error: dict[str, str] | None = None
    incomplete_details: Incomplete | None = None
    object: str = "response"
