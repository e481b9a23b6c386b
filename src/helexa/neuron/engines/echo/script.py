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


class MadeFunction(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class MadeCall(msgspec.Struct):
    """A tool call of an earlier turn."""

    function: MadeFunction = msgspec.field(default_factory=MadeFunction)


class Message(msgspec.Struct):
    """One turn, as lenient as clients are."""

    role: str = "user"
    content: str | list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    tool_calls: list[MadeCall] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""

    @property
    def rendered(self) -> str:
        """As a template writes it: thoughts, words, calls without their ids."""
        calls = [f"{call.function.name} {call.function.arguments}" for call in self.tool_calls or ()]
        return "\n".join([f"<{self.role}>", *filter(None, (self.reasoning_content, self.text, *calls)), ""])


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Ask(msgspec.Struct):
    """A generation request of either kind, chat or completion. What may be left out may also be null."""

    model: str = ""
    messages: list[Message] = []
    prompt: str | list[str] = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    tools: list[Any] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def limit(self) -> int | None:
        """The most tokens to say; the newer name wins."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage is True


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What will be said to one request. `finish` is how it ends when nothing goes wrong."""

    prompt: tuple[str, ...]
    tokens: tuple[str, ...]
    finish: str
    stopped: str | None = None  # the stop string that ended it
    calls: tuple[ToolCall, ...] = ()
    thoughts: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """How many tokens are thought and said."""
        return len(self.thoughts) + len(self.tokens)


def words(text: str) -> list[str]:
    """Text as tokens; joined they are the text again, but for white space at its end."""
    return _WORD.findall(text)


def token_id(word: str) -> int:
    """A stable number for a word."""
    return zlib.crc32(word.encode()) & 0xFFFFFF


def write(ask: Ask, options: EchoOptions) -> Script:
    """The answer to a request."""
    prompt = tuple(words(render(ask.messages, ask.tools or ()) if ask.messages else _joined(ask.prompt)))
    thoughts = words(options.thoughts) if ask.messages else []
    if ask.tools and options.tool_calls and not (ask.messages and ask.messages[-1].role == "tool"):
        calls = tuple(options.tool_calls)
        return Script(prompt=prompt, thoughts=tuple(thoughts), tokens=(), finish="tool_calls", calls=calls)
    said = _reply(ask, options)
    stopped = min((stop for stop in ask.stops if stop and stop in said), key=said.index, default=None)
    tokens, finish = words(said if stopped is None else said[: said.index(stopped)]), "stop"
    if ask.limit is not None and len(thoughts) + len(tokens) > max(0, ask.limit):
        room = max(0, ask.limit)
        thoughts, tokens, finish = thoughts[:room], tokens[: max(0, room - len(thoughts))], "length"
        stopped = None
    return Script(prompt=prompt, thoughts=tuple(thoughts), tokens=tuple(tokens), finish=finish, stopped=stopped)


def render(messages: Sequence[Message], tools: Sequence[Any]) -> str:
    """A conversation as a template writes it: tools, then turns."""
    offered = [f"<tool> {msgspec.json.encode(tool).decode()}\n" for tool in tools]
    return "".join([*offered, *(turn.rendered for turn in messages)])


def _reply(ask: Ask, options: EchoOptions) -> str:
    match options.reply:
        case None:
            return _last_words(ask)
        case str(reply):
            return reply
        case replies:
            held = {turn.text for turn in ask.messages if turn.role == "assistant"}
            return next((reply for reply in replies if reply not in held), replies[-1])


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
