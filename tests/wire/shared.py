"""Fixtures and small builders the wire tests share. The fixtures are real clients' request shapes, reduced."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helexa.wire.translate import MessagesExchange, ResponsesExchange, open_messages, open_responses

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(name: str) -> dict[str, Any]:
    """The body of one real request."""
    return json.loads((FIXTURES / f"{name}.json").read_text())["body"]


def all_fixtures() -> list[tuple[str, str, dict[str, Any]]]:
    """`(name, dialect, body)` of every real request."""
    documents = ((path.stem, json.loads(path.read_text())) for path in sorted(FIXTURES.glob("*.json")))
    return [(name, document["dialect"], document["body"]) for name, document in documents]


def counter() -> Callable[[str], str]:
    """An id maker that counts."""
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}{next(numbers)}"


def nothing_stored(_: str) -> None:
    """A lookup of an empty store."""


def encode(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def messages(body: dict[str, Any] | None = None, **more: Any) -> MessagesExchange:
    """A Messages exchange on `body`, which is completed with a model, a limit and one user message."""
    body = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **(body or {})}
    return open_messages(encode(body), ids=counter(), **more)


def responses(body: dict[str, Any] | None = None, **more: Any) -> ResponsesExchange:
    """A Responses exchange on `body`, which is completed with a model and an input."""
    more = {"lookup": nothing_stored, "ids": counter(), "now": 1_700_000_000, **more}
    return open_responses(encode({"model": "m", "input": "hi", **(body or {})}), **more)


def chat_of(exchange: MessagesExchange | ResponsesExchange) -> dict[str, Any]:
    """What the neuron would get."""
    return json.loads(exchange.request)


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One streamed chat chunk, framed."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return b"data: %b\n\n" % encode({"object": "chat.completion.chunk", "choices": [choice], **more})


def usage_chunk(prompt: int = 7, completion: int = 5, cached: int = 3, reasoning: int = 2) -> bytes:
    """The chunk that carries only usage."""
    return b"data: %b\n\n" % encode({"choices": [], "usage": usage(prompt, completion, cached, reasoning)})


def usage(prompt: int = 7, completion: int = 5, cached: int = 3, reasoning: int = 2) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


DONE = b"data: [DONE]\n\n"


def call(index: int, arguments: str | None = None, name: str | None = None, id: str | None = None) -> dict[str, Any]:
    """A delta with one piece of one tool call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    piece: dict[str, Any] = {"index": index, "function": function}
    return {"tool_calls": [piece | ({"id": id, "type": "function"} if id else {})]}


def answer(content: str | None = "Hello.", finish: str = "stop", **message: Any) -> bytes:
    """A whole chat answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return encode({"object": "chat.completion", "choices": [choice], "usage": usage()})
