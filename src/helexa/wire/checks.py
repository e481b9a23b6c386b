"""Reads a request that stays in its own dialect and travels as bytes: what routing needs, and what is wrong with it.

One decode in C does nearly all of it, types, ranges and roles; the rest is looked at only where it was given. Lenient:
unknown fields, unknown part types and unknown values pass, because an engine may know them. Refused are mistyped
fields, and what would be lost without a word: audio, files, tools that nobody here can run, and a choice of a tool
that was not offered.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TypeAlias, TypeVar

import msgspec

from helexa.base.errors import InvalidRequest
from helexa.wire import intake
from helexa.wire import openai_chat as shapes

Check: TypeAlias = Callable[[bytes], shapes.Asked]
_A = TypeVar("_A", bound=shapes.Asked)

_NO_NAMES: frozenset[str] = frozenset()
_MODES = frozenset(("auto", "none", "required"))
_FORMATS = frozenset(("text", "json_object", "json_schema"))
_NO_VARIABLES = frozenset(("messages", "tools"))
_IMPOSSIBLE = frozenset(("input_audio", "file"))

_CHAT = msgspec.json.Decoder(shapes.Request)


def check_chat(body: bytes) -> shapes.Request:
    """A `/v1/chat/completions` body. Raises InvalidRequest naming the field."""
    request = intake.read(_CHAT, body)
    for index, message in enumerate(request.messages):
        if message.content.__class__ is list:
            _parts(message, f"messages.{index}.content")
    if request.modalities and "audio" in request.modalities:
        raise intake.refuse("modalities", "audio is not supported by this server")
    if intake.given(request.audio):
        raise intake.refuse("audio", "is not supported by this server")
    if request.functions:
        raise intake.refuse("functions", "is not supported by this server; send them as tools")
    for name in _NO_VARIABLES.intersection(request.chat_template_kwargs or ()):
        raise intake.refuse(f"chat_template_kwargs.{name}", "is a field of the request itself")
    if request.response_format is not None:
        _format(request.response_format)
    names = _tools(request.tools) if request.tools else _NO_NAMES
    if request.tool_choice is not None:
        _choice(request.tool_choice, names)
    return request


def check_embeddings(body: bytes) -> shapes.EmbeddingRequest:
    """A `/v1/embeddings` body. Raises InvalidRequest naming the field."""
    request = intake.read(_EMBEDDING, body)
    _not_empty("input", request.input)
    return request


def check_completions(body: bytes) -> shapes.CompletionRequest:
    """A `/v1/completions` body. Raises InvalidRequest naming the field."""
    request = intake.read(_COMPLETION, body)
    _not_empty("prompt", request.prompt)
    return request


def check_tokenize(body: bytes) -> shapes.TokenizeRequest:
    """A `/tokenize` body. Raises InvalidRequest naming the field."""
    request = intake.read(_TOKENIZE, body)
    if request.content is None and request.prompt is None:
        raise intake.refuse("content", "Field required")
    return request


def _not_empty(name: str, given: shapes.Tokens) -> None:
    """Refuses what is nothing to begin with, also as one of several."""
    if not given or (isinstance(given, list) and any(each in ("", []) for each in given)):
        raise intake.refuse(name, "must not be empty")


def _plain(shape: type[_A]) -> Callable[[bytes], _A]:
    """The check of a request whose shape says it all."""
    decoder = msgspec.json.Decoder(shape)
    return lambda body: intake.read(decoder, body)


_EMBEDDING = msgspec.json.Decoder(shapes.EmbeddingRequest)
_COMPLETION = msgspec.json.Decoder(shapes.CompletionRequest)
_TOKENIZE = msgspec.json.Decoder(shapes.TokenizeRequest)
CHECKS: dict[str, Check] = {
    "/v1/chat/completions": check_chat,
    "/v1/completions": check_completions,
    "/v1/embeddings": check_embeddings,
    "/v1/rerank": _plain(shapes.RerankRequest),
    "/tokenize": check_tokenize,
    "/detokenize": _plain(shapes.DetokenizeRequest),
    "/apply-template": check_chat,
}
"""The check of each path that a neuron serves: returns the request, raises InvalidRequest naming the field."""


def _parts(message: shapes.MessageIn, at: str) -> None:
    assert isinstance(message.content, list)
    for index, part in enumerate(message.content):
        if part.type in _IMPOSSIBLE:
            problem = f"parts of type '{part.type}' are not supported by this server"
            raise intake.refuse(f"{at}.{index}.type", problem)
        if part.type == "text" and part.text is None:
            raise intake.refuse(f"{at}.{index}.text", "Field required")
        if part.type == "image_url" and part.image_url is None:
            raise intake.refuse(f"{at}.{index}.image_url", "Field required")


def _format(wanted: shapes.ResponseFormat) -> None:
    if wanted.type not in _FORMATS:
        raise intake.refuse("response_format.type", f"must be text, json_object or json_schema, not '{wanted.type}'")
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise intake.refuse("response_format.json_schema", "Field required")
    if wanted.json_schema and intake.given(wanted.json_schema.schema):
        intake.an_object(wanted.json_schema.schema, "response_format.json_schema.schema")


def _tools(tools: list[shapes.ToolIn]) -> set[str]:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.type != "function":
            raise intake.refuse(f"tools.{index}.type", f"this server does not run tools of type '{tool.type}'")
        if tool.function is None:
            raise intake.refuse(f"tools.{index}.function", "Field required")
        if intake.given(tool.function.parameters):
            intake.an_object(tool.function.parameters, "tools", index, "function.parameters")
        names.add(tool.function.name)
    return names


def _choice(choice: str | shapes.ChoiceIn, names: AbstractSet[str]) -> None:
    if isinstance(choice, str):
        _mode("tool_choice", choice, names)
    elif choice.type == "allowed_tools":
        if choice.allowed_tools is None:
            raise intake.refuse("tool_choice.allowed_tools", "Field required")
        _mode("tool_choice.allowed_tools.mode", choice.allowed_tools.mode, names)
        _allowed(choice.allowed_tools, names)
    elif choice.type != "function":
        raise intake.refuse("tool_choice.type", f"must be function or allowed_tools, not '{choice.type}'")
    elif choice.function is None:
        raise intake.refuse("tool_choice.function", "Field required")
    elif choice.function.name not in names:
        raise _absent("tool_choice.function.name", choice.function.name)


def _allowed(choice: shapes.AllowedTools, names: AbstractSet[str]) -> None:
    if choice.mode == "required" and not choice.tools:
        raise intake.refuse("tool_choice.allowed_tools.tools", "there are no tools to choose from")
    for index, tool in enumerate(choice.tools):
        at = f"tool_choice.allowed_tools.tools.{index}.function"
        if tool.function is None:
            raise intake.refuse(at, "Field required")
        if tool.function.name not in names:
            raise _absent(f"{at}.name", tool.function.name)


def _mode(at: str, mode: str, names: AbstractSet[str]) -> None:
    if mode not in _MODES:
        raise intake.refuse(at, f"must be auto, none or required, not '{mode}'")
    if mode == "required" and not names:
        raise intake.refuse(at, "there are no tools to choose from")


def _absent(at: str, name: str) -> InvalidRequest:
    return intake.refuse(at, f"the tool '{name}' is not among the tools")
