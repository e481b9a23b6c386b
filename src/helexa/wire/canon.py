"""The inner currency: what a request, an answer and a stream are once no dialect is left in them.

Every dialect is read into these shapes and written from them, so N dialects need N translations and never N².
Parts keep their order inside a turn; that is the form that loses least. The events at the end are the only thing a
stream's reader hands to a stream's writer, and a whole answer is read into the same events, so a streamed and a
non-streamed answer cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from helexa.base.errors import UpstreamFailed

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Words, of whoever holds the turn."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image by URL; inline ones are `data:` URLs."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ThoughtPart:
    """Reasoning the assistant wrote before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made. `arguments` is always JSON text, `"{}"` when there are none."""

    id: str
    name: str
    arguments: str
    at: str = field(default="", compare=False)  # where the client wrote it, for an error that names the field


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered. Keyed by the call's id: clients send parallel results in any order."""

    call_id: str
    parts: tuple[TextPart | ImagePart, ...] = ()
    failed: bool = False
    at: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The text of all parts, a line each."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images, which chat completions cannot carry in a tool message."""
        return tuple(part for part in self.parts if isinstance(part, ImagePart))


Part: TypeAlias = TextPart | ImagePart | ThoughtPart | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's turn. Tool results belong to the user's turn that follows the calls."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls made in this turn, in order."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def results(self) -> tuple[ToolResult, ...]:
        """The tool results brought by this turn, in the order they are to be rendered."""
        return tuple(part for part in self.parts if isinstance(part, ToolResult))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `schema` is the client's JSON, byte for byte."""

    name: str
    description: str | None = None
    schema: msgspec.Raw | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`tool` goes with a name; the other modes stand alone."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """The shape the answer must have: any JSON object, or JSON that obeys `schema`."""

    schema: msgspec.Raw | None = None
    name: str = "output"
    strict: bool | None = True


EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
"""What clients call an effort, and what engines do."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """None leaves the choice to the model's template."""

    on: bool | None = None
    budget_tokens: int | None = None
    effort: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling fields that mean the same in every dialect."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A whole request. `system` is the one leading system prompt, already joined."""

    model: str
    turns: tuple[Turn, ...]
    system: str = ""
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice | None = None
    parallel: bool = True
    sampling: Sampling = Sampling()
    format: Format | None = None
    thinking: Thinking = Thinking()
    user: str | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the model behind the answer can do, as far as it changes a translation.

    `mid_system`: its template accepts a system message that is not the first. `prefill`: it can continue an
    assistant turn. `context_tokens`: its window, to clamp `max_tokens`. `hosted_tools`: what to do with tools that
    only the dialect's own vendor can run.
    """

    vision: bool = True
    mid_system: bool = False
    prefill: bool = True
    context_tokens: int | None = None
    hosted_tools: Literal["drop", "refuse"] = "drop"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `prompt` includes `cached`, `completion` includes `reasoning`."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """Prompt and completion."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error without a dialect: what `envelopes` renders and what a stream can end in.

    `status` is HTTP, `code` a machine word, `details` the facts. `retryable` is said only where it is known.
    """

    status: int = 502
    code: str = "upstream_error"
    message: str = "The engine failed."
    param: str | None = None
    retry_after: float | None = None
    retryable: bool | None = None
    details: Mapping[str, object] = field(default_factory=dict[str, object])


class BadAnswer(UpstreamFailed):
    """The engine's answer cannot be used: {reason}."""

    def __init__(self, message: str = "", *, fault: Fault | None = None, reason: str = "") -> None:
        super().__init__(message or (fault.message if fault else ""), reason=reason)
        self.fault = fault


# ── Stream events ──────────────────────────────────────────────────────────────────────────────────────────────
# msgspec structs and not frozen dataclasses: one is made for every token, and these cost a fifth of the time.


class Text(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer."""

    text: str


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A piece of an explicit refusal."""

    text: str


class Thought(msgspec.Struct, frozen=True, gc=False):
    """A piece of reasoning."""

    text: str


class ToolDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of call number `index`; `id` and `name` are set in its first piece only. An empty id is to be minted."""

    index: int
    arguments: str = ""
    name: str | None = None
    id: str = ""


Finish: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]


class Done(msgspec.Struct, frozen=True, gc=False):
    """The answer is complete. `matched` is the stop sequence that ended it, where the engine says so."""

    finish: Finish
    matched: str | None = None
    usage: Usage | None = None


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The answer broke off; nothing follows."""

    fault: Fault


Event: TypeAlias = Text | Refusal | Thought | ToolDelta | Done | Failed
