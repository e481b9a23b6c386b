"""Mapping C, first step: a chat-completions request into the inner form, for a neuron that speaks another dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helexa.base.errors import InvalidRequest
from helexa.wire import intake
from helexa.wire import openai_chat as shapes
from helexa.wire.canon import (
    Ask,
    Capabilities,
    Format,
    ImagePart,
    Part,
    Sampling,
    TextPart,
    Thinking,
    ThoughtPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from helexa.wire.checks import check_chat
from helexa.wire.translate.limits import clamped
from helexa.wire.translate.turns import settle

# What Messages has no word for. `strict` refuses them, otherwise they are noted and dropped.
_LOST = ("n", "logprobs", "top_logprobs", "logit_bias", "seed", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsk:
    """A chat request, read."""

    ask: Ask
    model: str  # as the client wrote it
    notices: tuple[str, ...]
    affinity: str | None
    include_usage: bool


def read_chat(body: bytes, *, can: Capabilities, model: str | None = None, strict: bool = False) -> ChatAsk:
    """Read a `/v1/chat/completions` body. Raises InvalidRequest."""
    request = check_chat(body)
    lost = tuple(name for name in _LOST if getattr(request, name) not in (None, False, {}) and _changes(request, name))
    if lost and strict:
        raise intake.refuse(lost[0], "is not supported by the model behind this server")
    system, turns = settle(_turns(request.messages), _Words(), mid_system=can.mid_system)
    tools, choice = _tools(request)
    ask = Ask(
        model=model or request.model,
        system=system,
        turns=turns,
        tools=tools,
        choice=choice,
        parallel=request.parallel_tool_calls is not False,
        sampling=_sampling(request, can),
        format=_format(request.response_format),
        thinking=_thinking(request.reasoning_effort),
        user=request.user or request.safety_identifier,
        stream=bool(request.stream),
    )
    return ChatAsk(
        ask=ask,
        model=request.model,
        notices=lost,
        affinity=request.affinity,
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
    )


def _changes(request: shapes.Request, name: str) -> bool:
    return request.n != 1 if name == "n" else getattr(request, name) != 0


class _Words:
    """OpenAI's own sentences."""

    def missing(self, calls: Sequence[ToolCall]) -> InvalidRequest:
        return InvalidRequest(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. These did not have response messages: {', '.join(call.id for call in calls)}",
            param=calls[0].at,
        )

    def orphan(self, result: ToolResult) -> InvalidRequest:
        text = "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
        return InvalidRequest(f"{text}; there is no call {result.call_id}", param=result.at)

    def twice(self, at: str, call_id: str) -> InvalidRequest:
        return InvalidRequest(f"The tool_call_id {call_id} is used more than once in one turn.", param=at)


def _turns(messages: list[shapes.MessageIn]) -> list[Turn]:
    turns: list[Turn] = []
    legacy = ""  # id of the last call in the old form, which has none
    for index, message in enumerate(messages):
        at = f"messages.{index}"
        match message:
            case shapes.SystemIn():
                turns.append(Turn("system", _parts(message.content)))
            case shapes.AssistantIn():
                legacy = f"call_{index}" if message.function_call else legacy
                turns.append(Turn("assistant", _said(message, at, legacy)))
            case shapes.ToolResultIn():
                result = ToolResult(message.tool_call_id, _parts(message.content), False, at)
                turns.append(Turn("user", (result,)))
            case shapes.FunctionResultIn():
                turns.append(Turn("user", (ToolResult(legacy, _parts(message.content), False, at),)))
            case shapes.UserIn():
                turns.append(Turn("user", _parts(message.content)))
    return [turn for turn in turns if turn.parts or turn.role == "user"]


def _parts(content: str | list[shapes.PartIn] | None) -> tuple[TextPart | ImagePart, ...]:
    if isinstance(content, str):
        return (TextPart(content),) if content else ()
    parts: list[TextPart | ImagePart] = []
    for part in content or ():
        if part.image_url:
            parts.append(ImagePart(part.image_url.url, part.image_url.detail))
        elif text := part.text or part.refusal:
            parts.append(TextPart(text))
    return tuple(parts)


def _said(message: shapes.AssistantIn, at: str, legacy: str) -> tuple[Part, ...]:
    thought = message.reasoning_content or message.reasoning
    parts: list[Part] = [ThoughtPart(thought)] if thought else []
    parts += _parts(message.content) or _parts(message.refusal)
    for index, call in enumerate(message.tool_calls or ()):
        if call.function is None:
            raise intake.refuse(f"{at}.tool_calls.{index}.function", "Field required")
        here = f"{at}.tool_calls.{index}"
        parts.append(ToolCall(call.id or "", call.function.name, call.function.arguments or "{}", here))
    if message.function_call:
        arguments = message.function_call.arguments or "{}"
        parts.append(ToolCall(legacy, message.function_call.name, arguments, f"{at}.function_call"))
    return tuple(parts)


def _tools(request: shapes.Request) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    functions = [tool.function for tool in request.tools or () if tool.function]
    tools = tuple(
        Tool(f.name, f.description, f.parameters if intake.given(f.parameters) else None, f.strict) for f in functions
    )
    choice = request.tool_choice
    if isinstance(choice, shapes.ChoiceIn):
        if choice.allowed_tools:
            allowed = {tool.function.name for tool in choice.allowed_tools.tools if tool.function}
            return tuple(tool for tool in tools if tool.name in allowed), _mode(choice.allowed_tools.mode)
        return tools, ToolChoice("tool", choice.function.name) if choice.function else None
    return tools, _mode(choice)


def _mode(mode: str | None) -> ToolChoice | None:
    match mode:
        case "auto" | "none" | "required":
            return ToolChoice(mode)
        case _:
            return None


def _sampling(request: shapes.Request, can: Capabilities) -> Sampling:
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    limit = request.max_completion_tokens
    return Sampling(
        max_tokens=clamped(limit if limit is not None else request.max_tokens, can),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=tuple(filter(str.strip, stop)),
    )


def _format(wanted: shapes.ResponseFormat | None) -> Format | None:
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema
    if schema is None or not intake.given(schema.schema):
        return Format()
    return Format(schema.schema, schema.name or "output", schema.strict)


def _thinking(effort: str | None) -> Thinking:
    return Thinking(on=False) if effort == "none" else Thinking(effort="low" if effort == "minimal" else effort)
