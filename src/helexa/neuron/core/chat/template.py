"""A model's own chat template: a conversation in, the prompt out. See sandbox.py for what bounds it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

import jinja2

from helexa.base.errors import HelexaError, InvalidRequest
from helexa.neuron.core.chat.sandbox import BUDGET, Budget, Exhausted, Refused, Sandbox

MAX_SOURCE: Final = 256 * 1024

Message = dict[str, Any]
Tools = Sequence[dict[str, Any]]


class BadTemplate(HelexaError):
    """The model's chat template cannot be used: {reason}."""

    code = "bad_chat_template"
    status = 422


class BadConversation(InvalidRequest):
    """The model's chat template refuses this conversation: {reason}."""

    code = "invalid_conversation"


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template makes of a conversation, found out by trying. `typed`: it takes content as parts only. `objects`:
    a call's arguments as an object, otherwise as JSON text. `tools`: it shows them to the model. `nulls`: it takes a
    turn without content, otherwise an empty text."""

    typed: bool = False
    objects: bool = True
    tools: bool = False
    nulls: bool = True


class Template:
    """A template, compiled. `now` is a clock in seconds, `today` tells the date; `tokens` are `bos_token` and the like.

    Raises BadTemplate for a source that does not compile, or shows nothing of a plain message.
    """

    def __init__(self, source: str, *, now: Callable[[], float], today: Callable[[], datetime], **tokens: str) -> None:
        if len(source) > MAX_SOURCE:
            raise BadTemplate(reason=f"it is longer than {MAX_SOURCE} characters")
        self._now, self._tokens = now, tokens
        try:
            self._compiled = Sandbox(today).from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError, ValueError) as error:
            raise BadTemplate(reason=str(error)) from error
        self.habits = self._habits()

    def render(
        self, messages: Sequence[Message], tools: Tools | None = None, *, continued: bool = False, **more: object
    ) -> str:
        """The prompt for an answer to `messages`; or, `continued`, for the rest of the last message, the assistant's.

        `more` are the template's own variables. Raises BadConversation for a conversation that the template refuses,
        BadTemplate when it fails.
        """
        shown = [self._shown(message) for message in messages]
        if not continued:
            return self._render(shown, tools, add_generation_prompt=True, **more)
        text = shown[-1].get("content")
        if not isinstance(text, str):
            raise BadConversation(reason="the last message has no text to continue", param="messages")
        shown[-1] = shown[-1] | {"content": text.rstrip() + _CUT}
        prompt, found, _ = self._render(shown, tools, add_generation_prompt=False, **more).rpartition(_CUT)
        if not found:
            raise BadConversation(reason="it does not show the last message's text", param="messages")
        return prompt

    def _render(self, messages: Sequence[Message], tools: Tools | None, **more: object) -> str:
        budget = Budget(self._now)
        token = BUDGET.set(budget)
        try:
            return "".join(self._compiled.generate(messages=messages, tools=tools or None, **(self._tokens | more)))
        except Refused as error:
            raise BadConversation(reason=str(error), param="messages") from error
        except (Exhausted, RecursionError, MemoryError) as error:
            raise BadTemplate(reason=str(error) or "it goes too deep") from error
        except Exception as error:  # a template's own mistakes have any type
            raise BadTemplate(reason=f"{type(error).__name__}: {error}") from error
        finally:
            BUDGET.reset(token)

    def _shown(self, message: Message) -> Message:
        """A message as this template takes it."""
        shown = {name: value for name, value in message.items() if value is not None or name == "content"}
        if message.get("content") is None and not self.habits.nulls:
            shown["content"] = ""
        elif not self.habits.typed and isinstance(message.get("content"), list):
            shown["content"] = _text_of(message["content"])
        elif self.habits.typed and isinstance(message.get("content"), str):
            shown["content"] = [{"type": "text", "text": message["content"]}]
        if message.get("tool_calls"):
            shown["tool_calls"] = [_call(call, objects=self.habits.objects) for call in message["tool_calls"]]
        return shown

    def _habits(self) -> Habits:
        plain = _PROBE in self._try({"role": "user", "content": _PROBE})
        parts: Message = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
        if not plain and _PROBE not in self._try(parts):
            raise BadTemplate(reason="it shows nothing of a message")
        question: Message = {"role": "user", "content": "?" if plain else parts["content"]}
        function: Message = {"name": _PROBE, "description": "", "parameters": {"type": "object", "properties": {}}}
        calls = [{"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {_PROBE: 1}}}]
        called: Message = {"role": "assistant", "content": "", "tool_calls": calls}
        return Habits(
            typed=not plain,
            tools=_PROBE in self._try(question, tools=[{"type": "function", "function": function}]),
            objects=f'"{_PROBE}"' in (blank := self._try(question, called)),
            nulls=bool(self._try(question, called | {"content": None})) or not blank,
        )

    def _try(self, *messages: Message, tools: Tools | None = None) -> str:
        try:
            return self._render(messages, tools, add_generation_prompt=True)
        except (BadTemplate, BadConversation):
            return ""


_PROBE: Final = "helexaprobe"
_CUT: Final = "\ue000helexacut\ue001"


def _text_of(parts: Sequence[object]) -> str:
    """The text of a content that came in parts."""
    texts = [cast(Message, part).get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _call(call: Message, *, objects: bool) -> Message:
    """A call with its arguments as the template takes them; what is no JSON stays text."""
    function = cast(Message, call.get("function") or {})
    arguments = function.get("arguments")
    if objects and isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return call
    elif not objects and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return call | {"function": function | {"arguments": arguments}}
