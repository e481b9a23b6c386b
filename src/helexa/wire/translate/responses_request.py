"""A Responses request into the inner form.

Items are read one by one: unknown kinds are skipped and noted, because clients send new ones with every release and a
refused request is a dead client. State that lives elsewhere (`previous_response_id`, `item_reference`) is asked of
`lookup`; a reasoning item that cannot be found is left out, any other loss of context is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from helexa.base.errors import InvalidRequest
from helexa.wire import intake
from helexa.wire import openai_responses as shapes
from helexa.wire.canon import (
    EFFORTS,
    Ask,
    Capabilities,
    Format,
    ImagePart,
    Role,
    Sampling,
    TextPart,
    Thinking,
    ThoughtPart,
    ToolCall,
    ToolResult,
    Turn,
)
from helexa.wire.translate.limits import clamped
from helexa.wire.translate.responses_tools import Names, read_choice, read_tools
from helexa.wire.translate.turns import settle

Lookup = Callable[[str], Sequence[bytes] | None]
"""The items of a stored response (its input and its output), or the one item, by id; None if it is not known."""

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text"))
_IMPOSSIBLE = frozenset(("input_file", "input_audio"))


class PreviousResponseNotFound(InvalidRequest):
    """The response `{id}` is not stored here; send the whole conversation as `input`."""

    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesAsk:
    """A Responses request, read. `items` is its input with everything stored put in its place."""

    ask: Ask
    names: Names
    echo: shapes.Echo
    items: tuple[bytes, ...]
    notices: tuple[str, ...]
    affinity: str | None


@dataclass(frozen=True, slots=True)
class _Item:
    raw: msgspec.Raw | bytes
    at: str
    kind: str | None
    """Its type, where it says one."""


def read_responses(
    body: bytes, *, lookup: Lookup, can: Capabilities, model: str | None = None, counting: bool = False
) -> ResponsesAsk:
    """Read a `/v1/responses` body. Raises InvalidRequest."""
    request = intake.read(shapes.REQUEST, body)
    fields = shapes.FIELDS.decode(body)
    _refuse_state(request)
    notices = set(fields) - shapes.HONOURED
    names = Names()
    items = _items(request, lookup, notices)
    tools = read_tools(list(_offered(request, items)), names, can, notices)
    system, turns = settle(_turns(request, items, names, can, notices), _Words(), mid_system=can.mid_system)
    if not turns and not system:
        raise intake.refuse("input", "at least one item is required")
    tools, choice = read_choice(request.tool_choice, tools, names)
    ask = Ask(
        model=model or request.model,
        system=system,
        turns=turns,
        tools=tools,
        choice=choice,
        parallel=request.parallel_tool_calls is not False,
        sampling=_sampling(request, can),
        format=_format(request),
        thinking=_thinking(request),
        user=request.user or request.safety_identifier,
        stream=bool(request.stream) and not counting,
    )
    return ResponsesAsk(
        ask=ask,
        names=names,
        echo=_echo(request, fields),
        items=tuple(bytes(item.raw) for item in items),
        notices=tuple(sorted(notices)),
        affinity=request.prompt_cache_key or request.user or request.safety_identifier,
    )


def _refuse_state(request: shapes.Request) -> None:
    for name in ("conversation", "prompt"):
        if intake.given(getattr(request, name)):
            raise intake.refuse(name, "is not supported by this server")
    if request.background:
        raise intake.refuse("background", "is not supported by this server")


class _Words:
    """OpenAI's own sentences."""

    def missing(self, calls: Sequence[ToolCall]) -> InvalidRequest:
        return InvalidRequest(f"No tool output found for function call {calls[0].id}.", param=calls[0].at)

    def orphan(self, result: ToolResult) -> InvalidRequest:
        text = f"No tool call found for function call output with call_id {result.call_id}."
        return InvalidRequest(text, param=result.at)

    def twice(self, at: str, call_id: str) -> InvalidRequest:
        return InvalidRequest(f"The call_id {call_id} is used more than once in one turn.", param=at)


# ── Items ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _items(request: shapes.Request, lookup: Lookup, notices: set[str]) -> list[_Item]:
    items: list[_Item] = []
    if request.previous_response_id:
        stored = lookup(request.previous_response_id)
        if stored is None:
            raise PreviousResponseNotFound(id=request.previous_response_id, param="previous_response_id")
        items += (_item(raw, "previous_response_id") for raw in stored)
    if isinstance(request.input, str):
        message = {"type": "message", "role": "user", "content": request.input}
        items.append(_item(msgspec.json.encode(message), "input"))
    elif request.input is not None:
        for index, raw in enumerate(request.input):
            items += _resolved(raw, f"input.{index}", lookup, notices)
    elif not items:
        raise intake.refuse("input", "Field required")
    return items


def _resolved(raw: msgspec.Raw, at: str, lookup: Lookup, notices: set[str]) -> list[_Item]:
    kind = intake.read(shapes.ITEM_KIND, raw, at)
    if kind.type is None and kind.role is None:
        raise intake.refuse(f"{at}.type", "Field required")
    if kind.type != "item_reference":
        return [_Item(raw, at, kind.type)]
    reference = intake.read(shapes.REFERENCE, raw, at)
    stored = lookup(reference.id)
    if stored is None:
        notices.add(f"{at}.id")
    return [_item(found, at) for found in stored or ()]


def _item(raw: msgspec.Raw | bytes, at: str) -> _Item:
    return _Item(raw, at, intake.read(shapes.ITEM_KIND, raw, at).type)


def _offered(request: shapes.Request, items: list[_Item]) -> Iterator[tuple[str, shapes.Tool]]:
    """Every tool with where it stands: the request's own, and those that its items bring along."""
    yield from ((f"tools.{index}", tool) for index, tool in enumerate(request.tools or ()))
    for item in items:
        if item.kind == "additional_tools":
            more = intake.read(shapes.ADDITIONAL_TOOLS, item.raw, item.at).tools
            yield from ((f"{item.at}.tools.{index}", tool) for index, tool in enumerate(more))


def _turns(
    request: shapes.Request, items: list[_Item], names: Names, can: Capabilities, notices: set[str]
) -> list[Turn]:
    turns = [Turn("system", (TextPart(request.instructions),))] if request.instructions else []
    for item in items:
        if turn := _turn(item, names, can, notices):
            turns.append(turn)
    return _with_results_after_calls(turns)


def _turn(item: _Item, names: Names, can: Capabilities, notices: set[str]) -> Turn | None:
    match item.kind:
        case None | "message":
            return _message(item, can, notices)
        case "function_call":
            call = intake.read(shapes.FUNCTION_CALL, item.raw, item.at)
            name = names.flat(call.namespace, call.name)
            return Turn("assistant", (ToolCall(call.call_id, name, call.arguments or "{}", item.at),))
        case "custom_tool_call":
            custom = intake.read(shapes.CUSTOM_CALL, item.raw, item.at)
            arguments = msgspec.json.encode({"input": custom.input}).decode()
            return Turn("assistant", (ToolCall(custom.call_id, custom.name, arguments, item.at),))
        case "function_call_output" | "custom_tool_call_output":
            return Turn("user", (_output(item, can, notices),))
        case "reasoning":
            text = _thought(intake.read(shapes.REASONING, item.raw, item.at))
            return Turn("assistant", (ThoughtPart(text),)) if text else None
        case "additional_tools":
            return None  # read with the other tools
        case "compaction_trigger":
            problem = "items of type 'compaction_trigger' are not supported; summarise the conversation yourself"
            raise intake.refuse(f"{item.at}.type", problem)
        case _:
            notices.add(f"{item.at}.type")
            return None


def _thought(item: shapes.Reasoning) -> str:
    return "\n".join(part.text for part in item.content or item.summary or ())


def _message(item: _Item, can: Capabilities, notices: set[str]) -> Turn | None:
    message = intake.read(shapes.MESSAGE, item.raw, item.at)
    role = _ROLES.get(message.role)
    if role is None:
        problem = f"Input should be 'user', 'assistant', 'system' or 'developer', not '{message.role}'"
        raise intake.refuse(f"{item.at}.role", problem)
    parts = _parts(message.content, f"{item.at}.content", can, notices)
    return Turn(role, tuple(parts)) if parts or role == "user" else None


def _output(item: _Item, can: Capabilities, notices: set[str]) -> ToolResult:
    output = intake.read(shapes.CALL_OUTPUT, item.raw, item.at)
    parts = _parts(output.output or "", f"{item.at}.output", can, notices)
    return ToolResult(output.call_id, tuple(parts), False, item.at)


def _parts(
    content: str | list[shapes.Part], at: str, can: Capabilities, notices: set[str]
) -> list[TextPart | ImagePart]:
    if isinstance(content, str):
        return [TextPart(content)] if content else []
    parts = (_part(part, f"{at}.{index}", can, notices) for index, part in enumerate(content))
    return [part for part in parts if part is not None]


def _part(part: shapes.Part, at: str, can: Capabilities, notices: set[str]) -> TextPart | ImagePart | None:
    if part.type in _TEXTS or part.type == "refusal":
        text = part.refusal if part.type == "refusal" else part.text
        if text is None:
            raise intake.refuse(f"{at}.{'refusal' if part.type == 'refusal' else 'text'}", "Field required")
        return TextPart(text) if text else None
    if part.type == "input_image":
        return _image(part, at, can)
    if part.type in _IMPOSSIBLE:
        raise intake.refuse(f"{at}.type", f"parts of type '{part.type}' are not supported by this server")
    notices.add(f"{at}.type")
    return None


def _image(part: shapes.Part, at: str, can: Capabilities) -> ImagePart:
    if not can.vision:
        raise intake.refuse(at, "this model does not support images")
    if part.image_url is None:
        raise intake.refuse(f"{at}.image_url", "is required: this server stores no files")
    return ImagePart(part.image_url, part.detail)


def _with_results_after_calls(turns: Iterable[Turn]) -> list[Turn]:
    """Outputs may stand anywhere after their call; templates want them right behind it, in the order of the calls."""
    waiting: dict[str, deque[Turn]] = {}
    turns = list(turns)
    for turn in turns:
        for result in turn.results:
            waiting.setdefault(result.call_id, deque()).append(turn)
    out: list[Turn] = []
    calls: list[ToolCall] = []
    for turn in turns:
        if turn.role == "assistant":
            calls += turn.calls
            out.append(turn)
            continue
        _place(calls, waiting, out)
        if not turn.results:
            out.append(turn)
    _place(calls, waiting, out)
    out += (turn for left in waiting.values() for turn in left)  # without a call: refused when they are paired
    return out


def _place(calls: list[ToolCall], waiting: dict[str, deque[Turn]], out: list[Turn]) -> None:
    for call in calls:
        if found := waiting.get(call.id):
            out.append(found.popleft())
    calls.clear()


# ── The rest ───────────────────────────────────────────────────────────────────────────────────────────────────


def _sampling(request: shapes.Request, can: Capabilities) -> Sampling:
    limit = clamped(request.max_output_tokens, can)
    return Sampling(max_tokens=limit, temperature=request.temperature, top_p=request.top_p)


def _format(request: shapes.Request) -> Format | None:
    wanted = request.text.format if request.text else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Format()
    if wanted.type != "json_schema":
        raise intake.refuse("text.format.type", f"must be text, json_object or json_schema, not '{wanted.type}'")
    if not intake.given(wanted.schema):
        raise intake.refuse("text.format.schema", "Field required")
    schema = intake.an_object(wanted.schema, "text.format.schema")
    return Format(schema, wanted.name or "output", wanted.strict)


def _thinking(request: shapes.Request) -> Thinking:
    effort = request.reasoning.effort if request.reasoning else None
    if effort is None:
        return Thinking()
    if effort == "none":
        return Thinking(on=False)
    if effort not in EFFORTS:
        raise intake.refuse("reasoning.effort", f"must be none, {', '.join(EFFORTS)}, not '{effort}'")
    return Thinking(effort=EFFORTS[effort])


def _echo(request: shapes.Request, fields: dict[str, msgspec.Raw]) -> shapes.Echo:
    default = shapes.Echo(model=request.model)
    return shapes.Echo(
        model=request.model,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=request.reasoning or shapes.ReasoningConfig(),
        safety_identifier=request.safety_identifier,
        store=request.store is not False,
        temperature=request.temperature,
        top_p=request.top_p,
        user=request.user,
        text=default.text if request.text is None else _one_line(fields["text"]),
        tool_choice=default.tool_choice if request.tool_choice is None else _one_line(fields["tool_choice"]),
        tools=default.tools if request.tools is None else _one_line(fields["tools"]),
    )


def _one_line(raw: msgspec.Raw) -> msgspec.Raw:
    """The client's JSON as it may stand in a stream: a newline between its tokens would end the frame's line."""
    text = bytes(raw)
    return msgspec.Raw(msgspec.json.format(text, indent=-1)) if b"\n" in text or b"\r" in text else raw
