"""What the echo engine says: words as tokens, the user's own as the answer, and a model of a prefix cache. Pure."""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from helexa.neuron.engines.echo.options import EchoOptions, ToolCall

_WORD = re.compile(r"\s*\S+")
EMBEDDING_WIDTH = 32
CACHED_PROMPTS = 16


class Message(msgspec.Struct):
    """One turn, as lenient as clients are."""

    role: str = "user"
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Ask(msgspec.Struct):
    """A generation request of either kind, chat or completion."""

    model: str = ""
    messages: list[Message] = []
    prompt: str | list[str] = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int = 1
    tools: list[Any] = []

    @property
    def limit(self) -> int | None:
        """The most tokens to say; the newer name wins."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What will be said to one request. `finish` is how it ends when nothing goes wrong."""

    prompt: tuple[str, ...]
    tokens: tuple[str, ...]
    finish: str
    calls: tuple[ToolCall, ...] = ()


def words(text: str) -> list[str]:
    """Text as tokens; joined they are the text again, but for white space at its end."""
    return _WORD.findall(text)


def token_id(word: str) -> int:
    """A stable number for a word."""
    return zlib.crc32(word.encode()) & 0xFFFFFF


def write(ask: Ask, options: EchoOptions) -> Script:
    """The answer to a request."""
    prompt = _prompt(ask)
    if ask.tools and options.tool_calls and not (ask.messages and ask.messages[-1].role == "tool"):
        return Script(prompt=prompt, tokens=(), finish="tool_calls", calls=tuple(options.tool_calls))
    said = options.reply if options.reply is not None else _last_words(ask)
    stopped = min((said.index(stop) for stop in ask.stops if stop and stop in said), default=None)
    tokens = words(said if stopped is None else said[:stopped])
    if ask.limit is not None and len(tokens) > max(0, ask.limit):
        return Script(prompt=prompt, tokens=tuple(tokens[: max(0, ask.limit)]), finish="length")
    return Script(prompt=prompt, tokens=tuple(tokens), finish="stop")


def _prompt(ask: Ask) -> tuple[str, ...]:
    if not ask.messages:
        return tuple(words(_joined(ask.prompt)))
    return tuple(token for message in ask.messages for token in (f"<{message.role}>", *words(message.text)))


def _last_words(ask: Ask) -> str:
    if not ask.messages:
        return _joined(ask.prompt)
    return next((turn.text for turn in reversed(ask.messages) if turn.role == "user"), ask.messages[-1].text)


def _joined(prompt: str | Sequence[str]) -> str:
    return prompt if isinstance(prompt, str) else " ".join(prompt)


class PrefixCache:
    """How much of a prompt was seen before: the longest common prefix with one of the last few prompts."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, ...], None] = OrderedDict()

    def take(self, prompt: tuple[str, ...]) -> int:
        """Tokens of `prompt` that need no prefill; from now on it is known. The last token is always computed."""
        cached = max((_common(prompt, seen) for seen in self._seen), default=0)
        self._seen[prompt] = None
        self._seen.move_to_end(prompt)
        if len(self._seen) > CACHED_PROMPTS:
            self._seen.popitem(last=False)
        return min(cached, max(0, len(prompt) - 1))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    shared = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        shared += 1
    return shared


def embedding(text: str) -> list[float]:
    """A vector of length one that depends on nothing but the text."""
    raw = hashlib.sha256(text.encode()).digest()
    values = [byte / 127.5 - 1 for byte in raw[:EMBEDDING_WIDTH]]
    norm = math.sqrt(sum(value * value for value in values))
    return [value / norm for value in values]
