"""Answers on the wire: OpenAI bodies and stream chunks as bytes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
JSON_HEADERS = [(b"content-type", b"application/json")]
SSE_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]

encode = msgspec.json.encode


class Answer:
    """One answer: its id and the shape that its endpoint speaks. `chat` False is the older completions dialect."""

    def __init__(self, answer_id: str, model: str, created: int, *, chat: bool) -> None:
        self.id, self._model, self._created, self.chat = answer_id, model, created, chat

    def frame(self, delta: dict[str, Any], index: int, finish: str | None = None, **more: object) -> bytes:
        """One stream event; `more` fields stand beside its choices."""
        return self.streamed(self.choice(delta, index, finish), **more)

    def streamed(self, choice: dict[str, Any], **more: object) -> bytes:
        """A stream event of one choice that is made already."""
        return event(self._body([choice], streamed=True) | more)

    def choice(self, delta: dict[str, Any], index: int, finish: str | None = None) -> dict[str, Any]:
        """One streamed choice."""
        if self.chat:
            return {"index": index, "delta": delta, "finish_reason": finish}
        return {"index": index, "text": delta.get("content", ""), "finish_reason": finish}

    def usage_frame(self, usage: dict[str, Any]) -> bytes:
        """The last event of a stream that was asked for its usage."""
        return event(self._body([], streamed=True) | {"usage": usage})

    def whole(self, choices: Sequence[dict[str, Any]], usage: dict[str, Any], **more: object) -> bytes:
        """The body of an answer that is not streamed."""
        return encode(self._body(choices, streamed=False) | {"usage": usage} | more)

    def _body(self, choices: Sequence[dict[str, Any]], *, streamed: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if streamed else "chat.completion") if self.chat else "text_completion"
        head = {"id": self.id, "object": kind, "created": self._created, "model": self._model}
        return head | {"choices": choices}


def event(body: dict[str, Any]) -> bytes:
    """An SSE event."""
    return b"data: " + encode(body) + b"\n\n"


def usage(prompt: int, completion: int, cached: int, reasoning: int | None = None) -> dict[str, Any]:
    """Counts as OpenAI gives them."""
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return counts


def timings(usage: dict[str, Any]) -> dict[str, int]:
    """The same counts as llama.cpp gives them with the end of every stream, asked for or not."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "prompt_n": usage["prompt_tokens"] - cached,
        "cache_n": cached,
        "predicted_n": usage["completion_tokens"],
    }


def error(status: int, message: str, kind: str, **facts: object) -> dict[str, Any]:
    """An error body."""
    return {"error": {"code": status, "message": message, "type": kind, **facts}}
