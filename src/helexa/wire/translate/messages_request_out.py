"""Mapping C, second step: the inner form as an Anthropic Messages request."""

from __future__ import annotations

import re

import msgspec

from helexa.wire.canon import Ask, ImagePart, Part, TextPart, Tool, ToolCall, ToolResult, Turn
from helexa.wire.translate.turns import joined

_SAMPLED_UNTIL = "2026-10-21"  # from this protocol version on, sampling fields are refused upstream
_DEFAULT_MAX_TOKENS = 32_000
_ONLY_JSON = "Answer with one JSON object and nothing else."
_NO_SCHEMA = msgspec.Raw(b'{"type":"object","properties":{}}')
_CHOICES = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}
_DATA_URL = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")


def write_messages_request(ask: Ask, *, version: str = "2023-06-01", max_output_tokens: int | None = None) -> bytes:
    """The body for `POST /v1/messages`. Fields without a value are left out."""
    body: dict[str, object] = {
        "model": ask.model,
        "max_tokens": ask.sampling.max_tokens or max_output_tokens or _DEFAULT_MAX_TOKENS,
        "system": _system(ask),
        "messages": _messages(ask),
        "tools": [_tool(tool) for tool in ask.tools],
        "tool_choice": _choice(ask),
        "stop_sequences": list(ask.sampling.stop),
        "thinking": _thinking(ask),
        "output_config": _output_config(ask),
        "metadata": {"user_id": ask.user} if ask.user else None,
        "stream": ask.stream or None,
        **(_sampling(ask) if version < _SAMPLED_UNTIL else {}),
    }
    return msgspec.json.encode({key: value for key, value in body.items() if value not in (None, [], {}, "")})


def _system(ask: Ask) -> str:
    wants_object = ask.format is not None and ask.format.schema is None
    return "\n\n".join(filter(None, (ask.system, _ONLY_JSON if wants_object else "")))


def _sampling(ask: Ask) -> dict[str, object]:
    temperature = ask.sampling.temperature
    return {
        "temperature": None if temperature is None else min(temperature, 1.0),
        "top_p": ask.sampling.top_p,
        "top_k": ask.sampling.top_k,
    }


def _messages(ask: Ask) -> list[dict[str, object]]:
    ids = _Ids()
    messages = [_message(turn, ids) for turn in ask.turns]
    if not messages or messages[0]["role"] != "user":
        messages.insert(0, {"role": "user", "content": "."})  # the first must be the user's, and not empty
    return messages


class _Ids:
    """Ids as Anthropic allows them; a call and its result get the same one, two calls never do."""

    def __init__(self) -> None:
        self._clean: dict[str, str] = {}
        self._taken: set[str] = set()

    def __getitem__(self, id: str) -> str:
        if id not in self._clean:
            clean = _NOT_IN_ID.sub("_", id) or "_"
            while clean in self._taken:
                clean += "_"
            self._clean[id] = clean
            self._taken.add(clean)
        return self._clean[id]


def _message(turn: Turn, ids: _Ids) -> dict[str, object]:
    if turn.role == "system":
        return {"role": "system", "content": joined(turn.parts, "\n\n")}
    blocks = [block for part in turn.parts if (block := _block(part, ids))]
    if turn.role == "user" and not blocks:
        return {"role": "user", "content": "."}
    return {"role": turn.role, "content": blocks}


def _block(part: Part, ids: _Ids) -> dict[str, object] | None:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text} if part.text else None
        case ImagePart():
            return {"type": "image", "source": _source(part.url)}
        case ToolCall():
            return {"type": "tool_use", "id": ids[part.id], "name": part.name, "input": _input(part.arguments)}
        case ToolResult():
            content = [_block(inner, ids) for inner in part.parts]
            result: dict[str, object] = {"type": "tool_result", "tool_use_id": ids[part.call_id], "content": content}
            return result | ({"is_error": True} if part.failed else {})
        case _:
            return None  # a thought without its writer's signature is refused


def _source(url: str) -> dict[str, str]:
    if match := _DATA_URL.fullmatch(url):
        return {"type": "base64", "media_type": match[1], "data": match[2]}
    return {"type": "url", "url": url}


def _input(arguments: str) -> msgspec.Raw:
    """What a model once wrote as arguments need not be JSON; refusing it would end the conversation."""
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode({"_raw": arguments}))
    return msgspec.Raw(arguments.encode())


def _tool(tool: Tool) -> dict[str, object]:
    out: dict[str, object] = {"name": tool.name, "input_schema": tool.schema or _NO_SCHEMA}
    if tool.description:
        out["description"] = tool.description
    if tool.strict:
        out["strict"] = True
    return out


def _choice(ask: Ask) -> dict[str, object] | None:
    if not ask.tools or (ask.choice is None and ask.parallel):
        return None
    mode = ask.choice.mode if ask.choice else "auto"
    out: dict[str, object] = {"type": _CHOICES[mode]}
    if ask.choice and ask.choice.name:
        out["name"] = ask.choice.name
    if not ask.parallel and mode != "none":
        out["disable_parallel_tool_use"] = True
    return out


def _thinking(ask: Ask) -> dict[str, object] | None:
    if ask.thinking.on is False:
        return {"type": "disabled"}
    if ask.thinking.budget_tokens:
        return {"type": "enabled", "budget_tokens": ask.thinking.budget_tokens}
    return None


def _output_config(ask: Ask) -> dict[str, object]:
    out: dict[str, object] = {"effort": ask.thinking.effort} if ask.thinking.effort else {}
    if ask.format and ask.format.schema is not None:
        out["format"] = {"type": "json_schema", "schema": ask.format.schema}
    return out
