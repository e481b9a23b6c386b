"""What the echo engine says, as the OpenAI dialect has it. Pure."""

from __future__ import annotations

import base64
import struct
from typing import Any

from helexa.neuron.engines.echo.options import ToolCall
from helexa.neuron.engines.echo.script import Script
from helexa.neuron.engines.serving.bodies import Answer, encode


def call_frames(answer: Answer, script: Script, index: int) -> list[bytes]:
    """The stream events of the tool calls."""
    deltas = [delta for at, call in enumerate(script.calls) for delta in call_deltas(call, at, answer.id)]
    return [answer.frame(delta, index) for delta in deltas]


def choice(answer: Answer, script: Script, index: int) -> dict[str, Any]:
    """One choice of an answer that is not streamed."""
    text = "".join(script.tokens)
    if not answer.chat:
        return {"index": index, "text": text} | ending(script)
    message: dict[str, Any] = {"role": "assistant", "content": text if not script.calls else None}
    if script.thoughts:
        message["reasoning_content"] = "".join(script.thoughts)
    if script.calls:
        message["tool_calls"] = [call_of(call, at, answer.id) for at, call in enumerate(script.calls)]
    return {"index": index, "message": message} | ending(script)


def ending(script: Script) -> dict[str, Any]:
    """How a choice says that it ended."""
    stopped = {} if script.stopped is None else {"stop_reason": script.stopped}
    return {"finish_reason": script.finish} | stopped


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


def packed(vector: list[float]) -> str:
    """A vector as base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
