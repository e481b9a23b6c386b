"""Looks over a request that stays in its own dialect and travels as bytes: what is wrong with it, by field.

Lenient: unknown fields, unknown part types and unknown values pass, because an engine may know them. Refused are
mistyped fields, and what would be lost without a word: audio, files, tools that nobody here can run, and a choice of a
tool that was not offered.
"""

from __future__ import annotations

from helexa.base.errors import InvalidRequest
from helexa.wire import intake
from helexa.wire import openai_chat as shapes

_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_MODES = frozenset(("auto", "none", "required"))
_FORMATS = frozenset(("text", "json_object", "json_schema"))
_IMPOSSIBLE = frozenset(("input_audio", "file"))


def check_chat(body: bytes) -> None:
    """A `/v1/chat/completions` body. Raises InvalidRequest naming the field."""
    request = intake.read(shapes.REQUEST, body)
    if not request.messages:
        raise intake.refuse("messages", "at least one message is required")
    for index, message in enumerate(request.messages):
        _message(message, f"messages.{index}")
    if "audio" in (request.modalities or ()):
        raise intake.refuse("modalities", "audio is not supported by this server")
    if intake.given(request.audio):
        raise intake.refuse("audio", "is not supported by this server")
    _at_least_one("max_tokens", request.max_tokens)
    _at_least_one("max_completion_tokens", request.max_completion_tokens)
    _at_least_one("n", request.n)
    _format(request.response_format)
    _choice(request.tool_choice, _tools(request.tools or []))


def check_completions(body: bytes) -> None:
    """A `/v1/completions` body. Raises InvalidRequest naming the field."""
    request = intake.read(shapes.COMPLETION_REQUEST, body)
    _at_least_one("n", request.n)
    if request.max_tokens is not None and request.max_tokens < 0:
        raise intake.refuse("max_tokens", "must not be negative")


def check_embeddings(body: bytes) -> None:
    """A `/v1/embeddings` body. Raises InvalidRequest naming the field."""
    request = intake.read(shapes.EMBEDDING_REQUEST, body)
    if not request.input:
        raise intake.refuse("input", "must not be empty")
    if request.encoding_format not in (None, "float", "base64"):
        raise intake.refuse("encoding_format", f"must be float or base64, not '{request.encoding_format}'")
    _at_least_one("dimensions", request.dimensions)


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise intake.refuse(name, "must be at least 1")


def _message(message: shapes.MessageIn, at: str) -> None:
    if message.role not in _ROLES:
        raise intake.refuse(f"{at}.role", f"must be one of {', '.join(sorted(_ROLES))}, not '{message.role}'")
    if message.content is None and message.role in ("system", "developer", "user"):
        raise intake.refuse(f"{at}.content", "Field required")
    if message.role == "tool" and message.tool_call_id is None:
        raise intake.refuse(f"{at}.tool_call_id", "Field required")
    if isinstance(message.content, list):
        for index, part in enumerate(message.content):
            _part(part, f"{at}.content.{index}")


def _part(part: shapes.PartIn, at: str) -> None:
    if part.type in _IMPOSSIBLE:
        raise intake.refuse(f"{at}.type", f"parts of type '{part.type}' are not supported by this server")
    if part.type == "text" and part.text is None:
        raise intake.refuse(f"{at}.text", "Field required")
    if part.type == "image_url" and part.image_url is None:
        raise intake.refuse(f"{at}.image_url", "Field required")


def _format(wanted: shapes.ResponseFormat | None) -> None:
    if wanted is None:
        return
    if wanted.type not in _FORMATS:
        raise intake.refuse("response_format.type", f"must be text, json_object or json_schema, not '{wanted.type}'")
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise intake.refuse("response_format.json_schema", "Field required")
    if wanted.json_schema and intake.given(wanted.json_schema.schema):
        intake.an_object(wanted.json_schema.schema, "response_format.json_schema.schema")


def _tools(tools: list[shapes.ToolIn]) -> set[str]:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        at = f"tools.{index}"
        if tool.type != "function":
            raise intake.refuse(f"{at}.type", f"this server does not run tools of type '{tool.type}'")
        if tool.function is None:
            raise intake.refuse(f"{at}.function", "Field required")
        if intake.given(tool.function.parameters):
            intake.an_object(tool.function.parameters, f"{at}.function.parameters")
        names.add(tool.function.name)
    return names


def _choice(choice: str | shapes.ChoiceIn | None, names: set[str]) -> None:
    if choice is None:
        return
    if isinstance(choice, str):
        _mode("tool_choice", choice, names)
    elif choice.type == "allowed_tools":
        if choice.allowed_tools is None:
            raise intake.refuse("tool_choice.allowed_tools", "Field required")
        _mode("tool_choice.allowed_tools.mode", choice.allowed_tools.mode, names)
    elif choice.type != "function":
        raise intake.refuse("tool_choice.type", f"must be function or allowed_tools, not '{choice.type}'")
    elif choice.function is None:
        raise intake.refuse("tool_choice.function", "Field required")
    elif choice.function.name not in names:
        raise _absent(choice.function.name)


def _mode(at: str, mode: str, names: set[str]) -> None:
    if mode not in _MODES:
        raise intake.refuse(at, f"must be auto, none or required, not '{mode}'")
    if mode == "required" and not names:
        raise intake.refuse(at, "there are no tools to choose from")


def _absent(name: str) -> InvalidRequest:
    return intake.refuse("tool_choice.function.name", f"the tool '{name}' is not among the tools")
