"""Mapping A, first half: an Anthropic Messages request into the inner form.

Never refuses what a local model can do without (`cache_control`, betas, sampling fields), always refuses what would
change the meaning if it were ignored, and strips what ruins the engine's prefix cache: Claude Code's billing line
changes with every request and stands first in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import msgspec

from helexa.base.errors import InvalidRequest
from helexa.wire import anthropic as shapes
from helexa.wire import intake
from helexa.wire.canon import (
    EFFORTS,
    Ask,
    Capabilities,
    Format,
    ImagePart,
    Part,
    Role,
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
from helexa.wire.translate.client_tools import CLIENT_TOOLS
from helexa.wire.translate.limits import clamped
from helexa.wire.translate.turns import settle

_T = TypeVar("_T")

_BILLING = "x-anthropic-billing-header:"
_CLIENTS_OWN = (None, "custom", "function")  # the last is OpenAI's word, and such a tool must not be lost unseen
_CHOICES: dict[str, Literal["auto", "required", "none"]] = {"auto": "auto", "any": "required", "none": "none"}


@dataclass(slots=True)
class _Reading:
    """What is gathered on the way through the blocks."""

    can: Capabilities
    loaded: set[str] = field(default_factory=set[str])  # deferred tools that the conversation has brought in
    removed: set[str] = field(default_factory=set[str])  # tools that it has taken away
    defined: dict[str, tuple[str, shapes.Tool]] = field(  # tools that it has defined, by name, and where
        default_factory=dict[str, tuple[str, shapes.Tool]]
    )
    notices: set[str] = field(default_factory=set[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesAsk:
    """A Messages request, read. `affinity` is the client's session, if it names one."""

    ask: Ask
    model: str  # as the client wrote it
    notices: tuple[str, ...]
    affinity: str | None


def read_messages(body: bytes, *, can: Capabilities, model: str | None = None, counting: bool = False) -> MessagesAsk:
    """Read a `/v1/messages` body, or with `counting` a `/v1/messages/count_tokens` body. Raises InvalidRequest."""
    request = intake.read(shapes.COUNT_REQUEST, body) if counting else intake.read(shapes.REQUEST, body)
    _refuse_state(request)
    reading = _Reading(can)
    lead = Turn("system", (TextPart(text),)) if (text := _system(request.system)) else None
    spoken = _turns(request.messages, reading)
    system, turns = settle([lead, *spoken] if lead else spoken, _Words(), mid_system=can.mid_system)
    _check_prefill(turns, request, can)
    tools = _tools(request.tools or [], reading)
    choice, parallel = _choice(request.tool_choice, tools)
    user = request.metadata.user_id if request.metadata else None
    ask = Ask(
        model=model or request.model,
        system=system,
        turns=turns,
        tools=tools,
        choice=choice,
        parallel=parallel,
        sampling=_sampling(request, can),
        format=_format(request),
        thinking=_thinking(request),
        user=user,
        stream=bool(request.stream) and not counting,
    )
    return MessagesAsk(ask=ask, model=request.model, notices=_notices(body, reading), affinity=_affinity(user))


# ── Refusals ───────────────────────────────────────────────────────────────────────────────────────────────────


def _refuse_state(request: shapes.Prompt) -> None:
    if intake.given(request.thread):
        # The one answer on which the SDK's tool runner drops `thread` and sends the whole history again.
        raise InvalidRequest(
            "thread: this server keeps no message threads; send the whole conversation",
            param="thread",
            details={"error_code": "thread_unsupported_request", "unsupported": []},
        )
    if request.mcp_servers:
        raise intake.refuse("mcp_servers", "is not supported by this server")
    if intake.given(request.container):
        raise intake.refuse("container", "is not supported by this server")
    if isinstance(request, shapes.Request) and intake.given(request.compaction):
        raise intake.refuse("compaction", "is not supported by this server; summarise the conversation yourself")
    if not request.messages:
        raise intake.refuse("messages", "at least one message is required")


class _Words:
    """Anthropic's own sentences; its clients show them, and some look for them."""

    def missing(self, calls: Sequence[ToolCall]) -> InvalidRequest:
        at = calls[-1].at.split(".content.")[0]
        ids = ", ".join(call.id for call in calls)
        return intake.refuse(
            at,
            f"`tool_use` ids were found without `tool_result` blocks immediately after: {ids}. Each `tool_use` block "
            "must have a corresponding `tool_result` block in the next message.",
        )

    def orphan(self, result: ToolResult) -> InvalidRequest:
        return intake.refuse(
            intake.join(result.at, "tool_use_id"),
            f"unexpected `tool_use_id` found in `tool_result` blocks: {result.call_id}. Each `tool_result` block must "
            "have a corresponding `tool_use` block in the previous message.",
        )

    def twice(self, at: str, call_id: str) -> InvalidRequest:
        return intake.refuse(at, f"each `tool_use` must have a single result. Found the id {call_id} more than once")


def _check_prefill(turns: tuple[Turn, ...], request: shapes.Prompt, can: Capabilities) -> None:
    if turns and turns[-1].role == "assistant" and not can.prefill:
        at = intake.join("messages", len(request.messages) - 1, "role")
        raise intake.refuse(at, "this model cannot continue an assistant message; end with a user message")


# ── Messages ───────────────────────────────────────────────────────────────────────────────────────────────────


def _system(system: str | list[shapes.Text] | None) -> str:
    texts = [system] if isinstance(system, str) else [block.text for block in system or ()]
    return "\n\n".join(filter(None, map(_without_billing, texts)))


def _without_billing(text: str) -> str:
    if not text.startswith(_BILLING):
        return text
    return text.partition("\n")[2].lstrip("\n")


def _turns(messages: list[shapes.Message], reading: _Reading) -> list[Turn]:
    turns: list[Turn] = []
    last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    for index, message in enumerate(messages):
        parts = _parts(message.content, message.role, f"messages.{index}.content", reading)
        cleared = message.clear_at == "next_user_message" and index < last_user
        if (parts and not cleared) or message.role == "user":
            turns.append(Turn(message.role, parts))
    return turns


def _parts(content: str | list[shapes.Block] | None, role: Role, at: str, reading: _Reading) -> tuple[Part, ...]:
    if content is None:
        if role != "system":
            raise intake.refuse(at, "Field required")
        return ()
    if isinstance(content, str):
        return (TextPart(content),) if content else ()
    parts: list[Part] = []
    for index, block in enumerate(content):
        parts += _block(block, role, f"{at}.{index}", reading)
    return tuple(parts)


def _block(block: shapes.Block, role: Role, at: str, reading: _Reading) -> Sequence[Part]:
    if isinstance(block, shapes.ToolUse | shapes.Thinking | shapes.RedactedThinking):
        _belongs(role, "assistant", at)
        return _assistant_block(block, at, reading)
    if isinstance(block, shapes.ToolResult):
        _belongs(role, "user", at)
        return (_result(block, at, reading),)
    if isinstance(block, shapes.Compaction):
        for index, change in enumerate(block.tool_changes or ()):
            _change(change, f"{at}.tool_changes.{index}.tool", reading)
        return (TextPart(block.content),) if block.content else ()
    if isinstance(block, shapes.ToolAddition | shapes.ToolRemoval):
        _change(block, f"{at}.tool", reading)
        return ()
    if isinstance(block, shapes.HostedBlock):
        reading.notices.add(f"{at}.type")
        return ()
    if not isinstance(block, shapes.Text):
        _belongs(role, "user", at)
    return _user_block(block, at, reading)


def _change(change: shapes.ToolChange, at: str, reading: _Reading) -> None:
    """A tool comes or goes in the middle of the conversation."""
    tool = change.tool
    if tool.type == "tool_definition":
        definition, at = _need(tool.definition, at, "definition"), f"{at}.definition"
        name = definition.name or at
        reading.defined[name] = (at, definition)
    elif tool.type == "tool_reference":
        name = _need(tool.name, at, "name")
    else:
        reading.notices.add(f"{at}.type")
        return
    if isinstance(change, shapes.ToolRemoval):
        reading.removed.add(name)
    else:
        reading.removed.discard(name)
        reading.loaded.add(name)


def _belongs(role: Role, wanted: Role, at: str) -> None:
    if role != wanted:
        raise intake.refuse(f"{at}.type", f"this block may only stand in messages of role '{wanted}'")


def _assistant_block(
    block: shapes.ToolUse | shapes.Thinking | shapes.RedactedThinking, at: str, reading: _Reading
) -> Sequence[Part]:
    if isinstance(block, shapes.ToolUse):
        reading.loaded.add(block.name)
        raw = intake.an_object(block.input, f"{at}.input")
        return (ToolCall(block.id, block.name, msgspec.json.format(bytes(raw), indent=-1).decode(), at),)
    if isinstance(block, shapes.Thinking) and block.thinking:
        return (ThoughtPart(block.thinking),)
    return ()  # nothing thought, or redacted: only Anthropic can read that


def _result(block: shapes.ToolResult, at: str, reading: _Reading) -> ToolResult:
    parts = _result_parts(block.content, f"{at}.content", reading)
    return ToolResult(block.tool_use_id, parts, bool(block.is_error), at)


def _result_parts(
    content: str | list[shapes.ResultBlock] | None, at: str, reading: _Reading
) -> tuple[TextPart | ImagePart, ...]:
    if not content:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    parts: list[TextPart | ImagePart] = []
    for index, block in enumerate(content):
        parts += _user_block(block, f"{at}.{index}", reading)
    return tuple(parts)


def _user_block(block: shapes.ResultBlock, at: str, reading: _Reading) -> Sequence[TextPart | ImagePart]:
    match block:
        case shapes.Text():
            return (TextPart(block.text),) if block.text else ()
        case shapes.Image():
            return (_image(block.source, f"{at}.source", reading.can),)
        case shapes.Document():
            return _document(block, at, reading)
        case shapes.SearchResult():
            head = [TextPart(text) for text in (block.title, block.source) if text]
            return [*head, *(TextPart(text.text) for text in block.content)]
        case _:
            reading.loaded.add(block.tool_name)
            return (TextPart(f"The tool {block.tool_name} is available now."),)


def _image(source: shapes.Source, at: str, can: Capabilities) -> ImagePart:
    if not can.vision:
        raise intake.refuse(at.removesuffix(".source"), "this model does not support images")
    if source.type == "base64":
        return ImagePart(f"data:{_need(source.media_type, at, 'media_type')};base64,{_need(source.data, at, 'data')}")
    if source.type == "url":
        return ImagePart(_need(source.url, at, "url"))
    raise intake.refuse(f"{at}.type", f"image sources of type '{source.type}' are not supported")


def _document(block: shapes.Document, at: str, reading: _Reading) -> Sequence[TextPart | ImagePart]:
    source, at = block.source, f"{at}.source"
    head = [TextPart(text) for text in (block.title, block.context) if text]
    if source.type == "text":
        return [*head, TextPart(_need(source.data, at, "data"))]
    if source.type == "content":
        return [*head, *_result_parts(_need(source.content, at, "content"), f"{at}.content", reading)]
    raise intake.refuse(f"{at}.type", f"documents of type '{source.type}' are not supported; send their text")


def _need(value: _T | None, at: str, name: str) -> _T:
    if value is None:
        raise intake.refuse(f"{at}.{name}", "Field required")
    return value


# ── Tools ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _tools(tools: list[shapes.Tool], reading: _Reading) -> tuple[Tool, ...]:
    declared = [(f"tools.{index}", tool) for index, tool in enumerate(tools) if tool.name not in reading.defined]
    out: list[Tool] = []
    for at, tool in (*declared, *reading.defined.values()):
        if tool.name in reading.removed or (tool.defer_loading and tool.name not in reading.loaded):
            continue
        if intake.given(tool.input_schema):
            schema = intake.an_object(tool.input_schema, f"{at}.input_schema")
            out.append(Tool(_need(tool.name, at, "name"), tool.description, schema, tool.strict))
        elif tool.type in _CLIENTS_OWN:
            raise intake.refuse(f"{at}.input_schema", "Field required")
        elif known := CLIENT_TOOLS.get(tool.type.rpartition("_")[0]):
            out.append(Tool(tool.name or known.name, known.description, known.schema))
        elif reading.can.hosted_tools == "refuse":
            raise intake.refuse(f"{at}.type", f"this server does not run the tool '{tool.type}'")
        else:
            reading.notices.add(f"{at}.type")
    return tuple(out)


def _choice(choice: shapes.ToolChoice | None, tools: tuple[Tool, ...]) -> tuple[ToolChoice | None, bool]:
    if choice is None:
        return None, True
    parallel = not choice.disable_parallel_tool_use
    if choice.type == "tool":
        name = _need(choice.name, "tool_choice", "name")
        if name not in {tool.name for tool in tools}:
            raise intake.refuse("tool_choice.name", f"the tool '{name}' is not among the tools this server can offer")
        return ToolChoice("tool", name), parallel
    mode = _CHOICES.get(choice.type)
    if mode is None:
        raise intake.refuse("tool_choice.type", f"Input should be 'auto', 'any', 'tool' or 'none', not '{choice.type}'")
    if mode == "required" and not tools:
        raise intake.refuse("tool_choice", "there is no tool this server can offer")
    return (ToolChoice(mode) if tools else None), parallel


# ── The rest ───────────────────────────────────────────────────────────────────────────────────────────────────


def _sampling(request: shapes.Request | shapes.CountRequest, can: Capabilities) -> Sampling:
    for index, stop in enumerate(request.stop_sequences or ()):
        if stop and not stop.strip():
            raise intake.refuse(f"stop_sequences.{index}", "each stop sequence must contain non-whitespace")
    return Sampling(
        max_tokens=clamped(request.max_tokens, can),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=tuple(filter(None, request.stop_sequences or ())),
    )


def _format(request: shapes.Prompt) -> Format | None:
    at, wanted = "output_config.format", request.output_config.format if request.output_config else None
    if wanted is None:
        at, wanted = "output_format", request.output_format
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        raise intake.refuse(f"{at}.type", f"Input should be 'json_schema', not '{wanted.type}'")
    if not intake.given(wanted.schema):
        raise intake.refuse(f"{at}.schema", "Field required")
    return Format(intake.an_object(wanted.schema, f"{at}.schema"))


def _thinking(request: shapes.Prompt) -> Thinking:
    effort = request.output_config.effort if request.output_config else None
    if effort is not None and effort not in EFFORTS:
        raise intake.refuse("output_config.effort", f"Input should be one of {', '.join(EFFORTS)}, not '{effort}'")
    known = EFFORTS.get(effort or "")
    wanted = request.thinking
    if wanted is None or wanted.type in ("adaptive", "between_tools"):
        return Thinking(effort=known)
    if wanted.type == "disabled":
        return Thinking(on=False)
    if wanted.type == "enabled":
        return Thinking(on=True, budget_tokens=wanted.budget_tokens, effort=known)
    problem = f"Input should be 'enabled', 'adaptive', 'between_tools' or 'disabled', not '{wanted.type}'"
    raise intake.refuse("thinking.type", problem)


class _UserId(msgspec.Struct):
    session_id: str | None = None


_USER_ID = msgspec.json.Decoder(_UserId)


def _affinity(user: str | None) -> str | None:
    """Claude Code's user id is JSON with the session inside; anyone else's is itself the best key there is."""
    if not user or not user.startswith("{"):
        return user or None
    try:
        return _USER_ID.decode(user).session_id or user
    except (msgspec.DecodeError, RecursionError):
        return user


def _notices(body: bytes, reading: _Reading) -> tuple[str, ...]:
    ignored = set(shapes.FIELDS.decode(body)) - shapes.HONOURED
    return tuple(sorted(ignored | reading.notices))
