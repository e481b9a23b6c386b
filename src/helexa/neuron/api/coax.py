"""Making an engine notice that its client has left, where it only does so when it writes.

llama.cpp's server looks at a connection when it sends something: a whole answer runs to its end for nobody, and so does
a long prefill. So every answer is asked for as a stream, with a progress frame for each batch of the prompt. The frames
do not reach the client, and a client that did not ask for a stream gets the whole answer put together here. Pure.
"""

from __future__ import annotations

from typing import Any

import msgspec

from helexa.wire.canon import BadAnswer
from helexa.wire.upstream import stream_fault

_PROGRESS = b"return_progress"
_PROGRESS_FRAME = b'"prompt_progress"'
_END = b"\n\n"
_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
_chunk = msgspec.json.Decoder(dict[str, Any])


def asks_for_progress(body: bytes) -> bool:
    """Whether the client wants the progress frames itself."""
    return _PROGRESS in body


def with_progress(body: bytes) -> bytes:
    """A request for a stream, asking for progress frames too. `body` is a JSON object with at least one field."""
    end = body.rindex(b"}")
    return body[:end] + b',"return_progress":true' + body[end:]


def as_stream(body: bytes) -> bytes:
    """A request for a whole answer as one for a stream that also tells its usage; every other field as it was."""
    fields = _raw.decode(body)
    fields["stream"] = fields[_PROGRESS.decode()] = msgspec.Raw(b"true")
    fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    return msgspec.json.encode(fields)


class Prefill:
    """Keeps progress frames back until the first frame of the answer has come; then `over`, and nothing is held."""

    def __init__(self) -> None:
        self.over = False
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What of `data` is the client's."""
        data = self._held + data
        end = data.rfind(_END)
        if end < 0:
            self._held = data
            return b""
        frames, self._held = data[: end + 2].split(_END)[:-1], data[end + 2 :]
        kept = [frame for frame in frames if _PROGRESS_FRAME not in frame]
        if not kept:
            return b""
        self.over = True
        rest, self._held = self._held, b""
        return _END.join(kept) + _END + rest


def gather(stream: bytes) -> bytes:
    """The whole answer that a stream of chat or completion chunks told.

    Raises BadAnswer with the fault that the stream ended in, or because it just broke off.
    """
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    done = False
    for frame in stream.split(_END):
        data = frame.strip().removeprefix(b"data:").strip()
        if data == b"[DONE]":
            done = True
        elif data and frame.strip().startswith(b"data:"):
            _add(_chunk.decode(data), data, whole, choices)
    if not done:
        raise BadAnswer("the engine's answer broke off")
    chat = str(whole.get("object", "")).startswith("chat.")
    whole["object"] = "chat.completion" if chat else "text_completion"
    whole["choices"] = [_closed(choices[index]) for index in sorted(choices)]
    return msgspec.json.encode(whole)


def _add(chunk: dict[str, Any], data: bytes, whole: dict[str, Any], choices: dict[int, dict[str, Any]]) -> None:
    if "error" in chunk:
        raise BadAnswer(fault=stream_fault(data))
    if "prompt_progress" in chunk:
        return
    for choice in chunk.pop("choices", None) or ():
        _add_choice(choices.setdefault(choice.get("index", 0), {"index": choice.get("index", 0)}), choice)
    whole.update(chunk)


def _add_choice(whole: dict[str, Any], choice: dict[str, Any]) -> None:
    if "delta" in choice:
        _add_delta(whole.setdefault("message", {"role": "assistant", "content": None}), choice["delta"])
    if "text" in choice:
        whole["text"] = whole.get("text", "") + (choice["text"] or "")
    if choice.get("logprobs"):
        _add_logprobs(whole.setdefault("logprobs", {}), choice["logprobs"])
    if "stop_reason" in choice:
        whole["stop_reason"] = choice["stop_reason"]
    if choice.get("finish_reason") is not None or "finish_reason" not in whole:
        whole["finish_reason"] = choice.get("finish_reason")


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value or ():
                _add_call(message.setdefault("tool_calls", []), call)
        elif name != "role" and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            message[name] = value


def _add_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    index: int = delta.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call.update({name: value for name, value in delta.items() if name not in ("index", "function")})
    function: dict[str, Any] = call["function"]
    told: dict[str, Any] = delta.get("function") or {}
    for name, value in told.items():
        function[name] = function.get(name, "") + (value or "")


def _add_logprobs(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        whole[name] = whole[name] + value if isinstance(value, list) and isinstance(whole.get(name), list) else value


def _closed(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    if message is not None and message["content"] is None and "tool_calls" not in message:
        message["content"] = ""
    return choice
