"""What an answer cost, where the engine counts each choice alone and does not say how many tokens were thoughts. Pure.

Works on the bytes as they pass: only the chunks that tell counts are read, and thoughts are counted by their chunks, of
which there is one for each token.
"""

from __future__ import annotations

from typing import Any

import msgspec

from helexa.wire import sse

_END = b"\n\n"
_COUNTS, _THOUGHT = b'"timings":{', b'"reasoning_content":"'
_chunk = msgspec.json.Decoder(dict[str, Any])


class Totals:
    """Takes a stream cut anywhere. Counts come once, for all choices together: as usage at its end where the client
    `asked` for that, else beside the last word of the last choice. `thinks`: the model may. Of several `prompts` each
    has as many choices."""

    def __init__(self, *, asked: bool, thinks: bool, prompts: int = 1) -> None:
        self._asked, self._thinks = asked, thinks
        self._held = b""
        self._prompts = prompts
        self._thoughts = self._made = self._drafted = self._accepted = self._told = self._read = 0
        self._last: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        """What of the stream `data` makes certain."""
        if self._held or not data.endswith(_END):
            whole, end, self._held = (self._held + data).rpartition(_END)
            data = whole + end
        if self._thinks:
            self._thoughts += data.count(_THOUGHT)
        if _COUNTS not in data and self._last is None:
            return data
        return b"".join(self._frame(frame) for frame in data.split(_END) if frame)

    def _frame(self, frame: bytes) -> bytes:
        if self._last is not None and frame.endswith(b"[DONE]"):
            return sse.encode(msgspec.json.encode(self._last)) + sse.DONE
        if _COUNTS not in frame:
            return frame + _END
        chunk = _chunk.decode(frame.removeprefix(b"data:"))
        usage, choices = chunk.pop("usage", None), chunk["choices"]
        if usage is None and (self._asked or not any(choice["finish_reason"] for choice in choices)):
            return frame + _END
        self._made += chunk["timings"].get("predicted_n", 0)
        chunk["timings"]["predicted_n"] = self._made
        self._drafted += chunk["timings"].get("draft_n", 0)
        self._accepted += chunk["timings"].get("draft_n_accepted", 0)
        if usage is not None and self._asked:
            self._last = chunk | {"choices": [], "usage": self._total(usage)}
            del chunk["timings"]
        return sse.encode(msgspec.json.encode(chunk)) if choices else b""

    def _total(self, usage: dict[str, Any]) -> dict[str, Any]:
        self._told += 1
        self._read += usage["prompt_tokens"]
        read = self._read * self._prompts // self._told
        details = {"reasoning_tokens": self._thoughts}
        if self._drafted:
            details["accepted_prediction_tokens"] = self._accepted
            details["rejected_prediction_tokens"] = self._drafted - self._accepted
        return usage | {
            "prompt_tokens": read,
            "completion_tokens": self._made,
            "total_tokens": read + self._made,
            "completion_tokens_details": details,
        }
