"""What a request asks of an engine that takes tokens: sampling, the answer's shape, and what goes unheard. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec

from helexa.neuron.core import unheard
from helexa.neuron.core.chat import choice as calls
from helexa.neuron.core.chat import schema
from helexa.neuron.core.chat.grammar import grammar
from helexa.wire import intake
from helexa.wire import openai_chat as shapes
from helexa.wire.checks import check_chat, check_completions

MOST_CHOICES: Final = 16
PLACES: Final = 128
"""How far a grammar counts. While xgrammar reads it everybody waits, about 8 ms for each place on two cores with a
vocabulary of 49,000; and a repetition of more than 128 costs it seconds at each token."""

_RAW: Final[msgspec.json.Decoder[dict[str, Any]]] = msgspec.json.Decoder(dict[str, Any])
_HEARD: Final = frozenset((
    "model", "messages", "prompt", "tools", "tool_choice", "response_format", "max_tokens", "max_completion_tokens",
    "stop", "stop_token_ids", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "repeat_penalty",
    "presence_penalty", "frequency_penalty", "seed", "n", "logprobs", "stream", "stream_options", "ignore_eos",
    "chat_template_kwargs", "reasoning_effort", "enable_thinking", "add_generation_prompt", "continue_final_message",
))  # fmt: skip
_WITHOUT_EFFECT: Final = frozenset((
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "cache_prompt", "return_progress", "timings_per_token", "id_slot", "modalities", "parallel_tool_calls", "verbosity",
    "verbose",
))  # fmt: skip
"""Fields that do not change what is said here, or that hold without anything being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; the defaults are llama.cpp's, so that an answer does not change with the engine."""

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    ignore_eos: bool = False
    grammar: str | None = None
    """What the answer must obey, in xgrammar's EBNF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A generation request of either dialect. `prompts` are for completions; `unheard` are the fields without effect
    here, to be named to the client; `called` that the answer must be a call."""

    sampling: Sampling
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    prompts: tuple[str | list[int], ...] = ()
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    called: bool = False
    continued: bool = False
    variables: dict[str, Any] = field(default_factory=dict[str, Any])
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    choices: int = 1
    logprobs: bool = False
    stream: bool = False
    with_usage: bool = False
    unheard: tuple[str, ...] = ()


def read_chat(body: bytes, window: int) -> Ask:
    """A `/v1/chat/completions` body; `window` is the model's, in tokens. Raises InvalidRequest that names the field."""
    request = check_chat(body)
    raw = intake.read(_RAW, body)
    choice = request.tool_choice
    tools = [] if choice == "none" else _allowed(choice, cast(list[dict[str, Any]], raw.get("tools") or []))
    must = _must_call(choice, tools)
    limit = request.max_completion_tokens or request.max_tokens
    if must:
        tokens = calls.room(limit, window)
        form, lost = calls.call_schema(must, parallel=bool(request.parallel_tool_calls), tokens=tokens, places=PLACES)
    else:
        form, lost = _form(request.response_format)
        _check_begun(raw, form)
    endless = ("ignore_eos",) if form is not None and raw.get("ignore_eos") is True else ()  # a form has an end
    return Ask(
        sampling=_sampling(request, raw, form),
        messages=_text_only(raw["messages"]),
        tools=tools,
        called=bool(must),
        continued=_continued(raw),
        variables=({"enable_thinking": False} if must else {}) | _variables(request, raw),
        max_tokens=limit,
        stops=_stops(request.stop),
        stop_tokens=frozenset(request.stop_token_ids or ()),
        choices=_choices(request.n),
        logprobs=bool(request.logprobs),
        stream=bool(request.stream),
        with_usage=bool(request.stream_options and request.stream_options.include_usage),
        unheard=(*_unheard(raw, _HEARD), *endless, *(f"schema.{name}" for name in lost)),
    )


def read_completion(body: bytes) -> Ask:
    """A `/v1/completions` body. Raises InvalidRequest that names the field."""
    request = check_completions(body)
    raw = intake.read(_RAW, body)
    if request.logprobs:  # 0 asks for the tokens themselves, without their rivals
        raise intake.refuse("logprobs", unheard.MEANT["top_logprobs"])
    prompts, choices = _prompts(request.prompt), _choices(request.n)
    return Ask(
        sampling=_sampling(request, raw, None),
        prompts=prompts,
        max_tokens=request.max_tokens,
        stops=_stops(request.stop),
        stop_tokens=frozenset(request.stop_token_ids or ()),
        choices=choices,
        logprobs=request.logprobs is not None,
        stream=bool(request.stream),
        with_usage=bool(request.stream_options and request.stream_options.include_usage),
        unheard=_unheard(raw, _HEARD - unheard.OF_CHATS),
    )


def _prompts(prompt: object) -> tuple[str | list[int], ...]:
    """A text or its tokens, or a list of such."""
    if isinstance(prompt, str):
        return (prompt,)
    given = cast(list[Any], prompt)
    prompts = (given,) if _are_tokens(given) else (*given,)
    if not all(isinstance(each, str) or _are_tokens(each) for each in prompts):
        raise intake.refuse("prompt", "must be a text or its tokens, or a list of such")
    return prompts


def _are_tokens(prompt: object) -> bool:
    return isinstance(prompt, list) and all(isinstance(each, int) for each in cast(list[Any], prompt))


def _unheard(raw: dict[str, Any], heard: frozenset[str]) -> tuple[str, ...]:
    """Raises InvalidRequest where one of them may not go unheard."""
    names = tuple(name for name, value in raw.items() if value is not None and name not in heard | _WITHOUT_EFFECT)
    unheard.check(raw, names)
    return names


def _sampling(
    request: shapes.Request | shapes.CompletionRequest, raw: dict[str, Any], form: dict[str, Any] | None
) -> Sampling:
    repetition = raw.get("repetition_penalty", raw.get("repeat_penalty"))
    if repetition is not None and not (isinstance(repetition, int | float) and 0 < repetition <= 10):
        raise intake.refuse("repetition_penalty", "must be over 0, and at most 10")
    given: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": repetition,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "seed": request.seed,
        "ignore_eos": (raw.get("ignore_eos") is True and form is None) or None,
        "grammar": None if form is None else grammar(form, counted=PLACES),
    }
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _choices(n: int | None) -> int:
    if n is not None and n > MOST_CHOICES:
        raise intake.refuse("n", f"must be at most {MOST_CHOICES}")
    return n or 1


def _form(wanted: shapes.ResponseFormat | None) -> tuple[dict[str, Any] | None, list[str]]:
    if wanted is None or wanted.type == "text":
        return None, []
    inner = wanted.json_schema
    if wanted.type == "json_object" or inner is None or not intake.given(inner.schema):
        return {"type": "object"}, []
    return schema.constrained(msgspec.json.decode(inner.schema), "response_format.json_schema.schema", PLACES)


def _must_call(choice: str | shapes.ChoiceIn | None, tools: list[dict[str, Any]]) -> list[calls.Function]:
    """The tools of which one has to be called; none when the model may decide."""
    offered = [
        calls.Function(tool["function"]["name"], tool["function"].get("parameters"), f"tools.{at}.function.parameters")
        for at, tool in enumerate(tools)
    ]
    match choice:
        case "required":
            return offered
        case shapes.ChoiceIn(function=shapes.NamedFunction(name=name)):
            return [each for each in offered if each.name == name]
        case shapes.ChoiceIn(allowed_tools=shapes.AllowedTools(mode="required")):
            return offered
        case _:
            return []


def _allowed(choice: str | shapes.ChoiceIn | None, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools that the model is told of."""
    if not isinstance(choice, shapes.ChoiceIn) or choice.allowed_tools is None:
        return tools
    names = {each.function.name for each in choice.allowed_tools.tools if each.function is not None}
    return [tool for tool in tools if tool["function"]["name"] in names]


def _text_only(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as templates know them. Raises InvalidRequest for a part that is no text."""
    for at, message in enumerate(messages):
        content = message.get("content")
        for part in cast(list[dict[str, Any]], content) if isinstance(content, list) else ():
            if part.get("type") not in ("text", "refusal"):
                raise intake.refuse(f"messages.{at}.content", "this model takes text only")
    return [message | {"role": "system"} if message["role"] == "developer" else message for message in messages]


def _continued(raw: dict[str, Any]) -> bool:
    """Whether the answer goes on with the last message, the assistant's."""
    last = raw["messages"][-1]
    if raw.get("add_generation_prompt") is True or raw.get("continue_final_message") is False:
        return False
    return last.get("role") == "assistant" and bool(last.get("content")) and not last.get("tool_calls")


def _check_begun(raw: dict[str, Any], form: dict[str, Any] | None) -> None:
    """Refuses to go on with a value that is begun: a grammar begins at the answer's first token."""
    last = raw["messages"][-1].get("content")
    if form is not None and _continued(raw) and isinstance(last, str) and last.lstrip()[:1] in ("{", "["):
        hint = "this engine begins it anew after what the assistant said last; leave that message out, or "
        raise intake.refuse("response_format", hint + 'set harness = "llama" in the profile of the model')


def _variables(request: shapes.Request, raw: dict[str, Any]) -> dict[str, Any]:
    """The template's own variables that the request sets."""
    found: dict[str, Any] = {}
    if request.reasoning_effort is not None:
        found["reasoning_effort"] = request.reasoning_effort
        if request.reasoning_effort == "none":
            found["enable_thinking"] = False
    if request.enable_thinking is not None:
        found["enable_thinking"] = request.enable_thinking
    more = cast(dict[str, Any], raw.get("chat_template_kwargs") or {})
    found |= {name: value for name, value in more.items() if name != "add_generation_prompt"}
    return found
