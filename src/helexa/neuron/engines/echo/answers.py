"""The echo engine's answers on the wire: OpenAI bodies and stream chunks as bytes. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from helexa.neuron.engines.echo.options import ToolCall
from helexa.neuron.engines.echo.script import Script

DONE = b"data: [DONE]\n\n"
JSON_HEADERS = [(b"content-type", b"application/json")]
SSE_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]

encode = msgspec.json.encode


class Answer:
    """One answer: its id and the shape that its endpoint speaks. `chat` False is the older completions dialect."""

    def __init__(self, answer_id: str, model: str, created: int, *, chat: bool) -> None:
        self._id, self._model, self._created, self._chat = answer_id, model, created, chat

    def frame(self, delta: dict[str, Any], index: int, finish: str | None = None, **more: object) -> bytes:
        """One stream event; `more` fields stand beside its choices."""
        if self._chat:
            choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish}
        else:
            choice = {"index": index, "text": delta.get("content", ""), "finish_reason": finish}
        return event(self._body([choice], "chat.completion.chunk" if self._chat else "text_completion") | more)

    def call_frames(self, script: Script, index: int) -> list[bytes]:
        """The stream events of the tool calls."""
        deltas = [delta for at, call in enumerate(script.calls) for delta in call_deltas(call, at, self._id)]
        return [self.frame(delta, index) for delta in deltas]

    def usage_frame(self, usage: dict[str, Any]) -> bytes:
        """The last event of a stream that was asked for its usage."""
        body = self._body([], "chat.completion.chunk" if self._chat else "text_completion")
        return event(body | {"usage": usage})

    def whole(self, script: Script, choices: int, usage: dict[str, Any]) -> bytes:
        """The body of an answer that is not streamed."""
        made = [self._choice(script, index) for index in range(choices)]
        return encode(self._body(made, "chat.completion" if self._chat else "text_completion") | {"usage": usage})

    def _choice(self, script: Script, index: int) -> dict[str, Any]:
        text = "".join(script.tokens)
        if not self._chat:
            return {"index": index, "text": text, "finish_reason": script.finish}
        message: dict[str, Any] = {"role": "assistant", "content": text if not script.calls else None}
        if script.thoughts:
            message["reasoning_content"] = "".join(script.thoughts)
        if script.calls:
            message["tool_calls"] = [call_of(call, at, self._id) for at, call in enumerate(script.calls)]
        return {"index": index, "message": message, "finish_reason": script.finish}

    def _body(self, choices: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return head | {"choices": choices}


def event(body: dict[str, Any]) -> bytes:
    """An SSE event."""
    return b"data: " + encode(body) + b"\n\n"


def call_of(call: ToolCall, at: int, answer_id: str) -> dict[str, Any]:
    """A tool call with its arguments as text; its id is like no other's."""
    text = call.arguments if isinstance(call.arguments, str) else encode(call.arguments).decode()
    return {"id": f"call_{answer_id}_{at}", "type": "function", "function": {"name": call.name, "arguments": text}}


def call_deltas(call: ToolCall, at: int, answer_id: str) -> list[dict[str, Any]]:
    """A tool call as a stream tells it: its name first, then its arguments in two pieces."""
    whole = call_of(call, at, answer_id)
    text = whole["function"]["arguments"]
    half = len(text) // 2
    first = whole | {"index": at, "function": {"name": call.name, "arguments": ""}}
    rest = [{"index": at, "function": {"arguments": part}} for part in (text[:half], text[half:]) if part]
    return [{"tool_calls": [delta]} for delta in (first, *rest)]


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """Counts as OpenAI gives them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


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
