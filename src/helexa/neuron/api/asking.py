"""What an engine is asked, when a client asks: the same bytes where that will do. Pure.

Evens out how an engine's own server differs from what the neuron promises, as its `Facts` tell: fields by another
name, a tool that must be called, a client that it does not see leave. What it cannot do at all is refused, what it
would leave out is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from helexa.base.ids import fresh
from helexa.neuron.api import coax
from helexa.neuron.api.calling import Calls
from helexa.neuron.api.likelihoods import Lists, StopTokens
from helexa.neuron.api.rewriting import Stage
from helexa.neuron.api.usage import Totals
from helexa.neuron.core import bounds, unheard
from helexa.neuron.core.chat import choice
from helexa.neuron.harness import Facts
from helexa.wire import intake
from helexa.wire import openai_chat as shapes

_STREAMABLE: Final = frozenset(("/v1/chat/completions", "/v1/completions"))
_ABILITY: Final = {"/v1/embeddings": "embeddings", "/v1/rerank": "rerank"}
_NOT_SAMPLING: Final = frozenset(
    ("model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity",
     "prompt_cache_retention", "modalities", "verbose")
)  # fmt: skip
_raw: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_TOKENIZE: Final = "/tokenize"
_THINKING: Final = "enable_thinking"
_REPLACED: Final = frozenset((_THINKING, "stop_token_ids"))
_VARIABLES: Final = "chat_template_kwargs"
_TRUE: Final = msgspec.Raw(b"true")
_NO_EFFORT, _NO_THINKING, _NULL = msgspec.Raw(b'"none"'), msgspec.Raw(b"false"), msgspec.Raw(b"null")
_NO_SCHEMA: Final = msgspec.Raw(b'{"type":"object","properties":{}}')


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`body` is for the engine. Its answer begins with progress frames (`progress`), is a stream to be made whole
    (`gathered`), is changed on its way (`stages`), needs its tokens added up (`totals`). `stops` is the stage that may
    end it. `ignored` are the fields that it will not see to."""

    body: bytes
    progress: bool = False
    gathered: bool = False
    stages: tuple[Stage, ...] = ()
    stops: StopTokens | None = None
    totals: Totals | None = None
    ignored: tuple[str, ...] = ()


def question(path: str, body: bytes, asked: shapes.Asked, facts: Facts) -> Question:
    """Raises InvalidRequest for what the model cannot do, naming the field."""
    _able(path, asked, facts)
    fields = _raw.decode(body) if facts.fields or path == _TOKENIZE else {}
    foreign = unheard.OF_CHATS if isinstance(asked, shapes.CompletionRequest) else ()
    given = [name for name, raw in fields.items() if facts.fields and raw != _NULL]
    ignored = [name for name in given if name in foreign or not _known(name, facts)]
    meant = [name for name in ignored if name in unheard.MEANT]
    if meant:
        unheard.check(_any.decode(body), meant)
    must_call = isinstance(asked, shapes.Request) and facts.calls_by_schema and bool(asked.tools) and _must_call(asked)
    edits = _respelled(path, fields, facts) | _documents(asked) | _stops(asked, facts) | _turns(asked, fields, facts)
    edits |= _thinking(fields, facts, at_all=not must_call)
    if isinstance(asked, shapes.Request) and asked.tools and facts.calls_by_schema:
        changed, untold = _call(asked, facts) if must_call else _choice(asked, facts)
        edits |= changed
        ignored += untold
    stops = _stop_tokens(asked, facts, calls=must_call)
    edits |= _likelihoods(asked, facts, stopping=stops is not None, calls=must_call)
    if fields.get("ignore_eos") == _TRUE and _formed(asked):
        edits |= _fields({"ignore_eos": False})
        ignored.append("ignore_eos")
    if edits:
        kept = {name: raw for name, raw in fields.items() if name not in facts.spellings and name not in _REPLACED}
        body = msgspec.json.encode(kept | edits)
    question = Question(
        body=body, stages=_stages(asked, facts, stops, calls=must_call), stops=stops, ignored=(*ignored,)
    )
    whole = _only_whole(asked) and not must_call and stops is None
    if not facts.hears_on_write or path not in _STREAMABLE or whole:
        return question
    return _streamed(question, asked, facts)


def _streamed(question: Question, asked: shapes.Asked, facts: Facts) -> Question:
    """The same, asked for as a stream, so that the engine hears when its client leaves."""
    totals = _totals(asked, facts)
    if not asked.streamed:
        return replace(question, body=coax.as_stream(question.body), gathered=True, totals=totals)
    progress = not coax.asks_for_progress(question.body)
    body = coax.with_progress(question.body) if progress else question.body
    return replace(question, body=body, progress=progress, totals=totals)


def _totals(asked: shapes.Asked, facts: Facts) -> Totals | None:
    if not facts.counts_choices or not isinstance(asked, shapes.Generation):
        return None
    told = _tells_usage(asked)
    if not told and (asked.n or 1) == 1 and _prompts(asked) == 1:
        return None
    return Totals(asked=told, thinks=facts.reasoning, prompts=_prompts(asked))


def _prompts(asked: shapes.Generation) -> int:
    """Completions may be asked for of several texts, or lists of tokens."""
    return bounds.texts_of(asked.prompt) if isinstance(asked, shapes.CompletionRequest) else 1


def _tells_usage(asked: shapes.Generation) -> bool:
    """A whole answer always does, a stream when it is asked to."""
    return not asked.streamed or (asked.stream_options is not None and asked.stream_options.include_usage is True)


def _able(path: str, asked: shapes.Asked, facts: Facts) -> None:
    ability = _ABILITY.get(path)
    if ability is not None and ability not in facts.capabilities:
        hint = f"`{asked.model}` is not loaded for {ability}; its profile may set options = {{ {ability} = true }}"
        raise intake.refuse("model", hint)
    known = facts.vocabulary
    for name, tokens in _token_ids(asked):
        if known is not None and (most := max(tokens or (0,))) >= known:
            raise intake.refuse(name, f"there is no token {most}; the vocabulary has {known}")
    if isinstance(asked, shapes.Request) and len(asked.messages) > facts.context_length:
        raise intake.refuse("messages", f"at most one for each of the window's {facts.context_length} tokens")
    if isinstance(asked, shapes.Request) and "vision" not in facts.capabilities:
        for field, _ in bounds.images(asked):
            raise intake.refuse(field, f"`{asked.model}` does not see")


def _token_ids(asked: shapes.Asked) -> tuple[tuple[str, Iterable[int] | None], ...]:
    """The fields that name tokens. Those of prompts are the engines' to look at."""
    match asked:
        case shapes.Generation():
            return ("logit_bias", asked.logit_bias), ("stop_token_ids", asked.stop_token_ids)
        case shapes.DetokenizeRequest():
            return (("tokens", asked.tokens),)
        case _:
            return ()


def _known(name: str, facts: Facts) -> bool:
    return name in facts.fields or name in facts.spellings or name in _NOT_SAMPLING or name in _REPLACED


def _respelled(path: str, fields: dict[str, msgspec.Raw], facts: Facts) -> dict[str, msgspec.Raw]:
    spellings = facts.spellings | ({"prompt": "content"} if path == _TOKENIZE and "content" not in fields else {})
    return {spellings[name]: raw for name, raw in fields.items() if name in spellings}


def _documents(asked: shapes.Asked) -> dict[str, msgspec.Raw]:
    """As texts: llama.cpp knows none that are objects."""
    if not isinstance(asked, shapes.RerankRequest) or all(isinstance(each, str) for each in asked.documents):
        return {}
    return _fields({"documents": [each if isinstance(each, str) else each.text for each in asked.documents]})


def _thinking(fields: dict[str, msgspec.Raw], facts: Facts, *, at_all: bool) -> dict[str, msgspec.Raw]:
    """Whether to think, as the variable of templates that it is; what is said in `chat_template_kwargs` itself wins. A
    call that must come leaves no room to think `at_all`."""
    quiet = not at_all or fields.get("reasoning_effort") == _NO_EFFORT
    said = fields.get(_THINKING, _NO_THINKING if quiet else None)
    if said is None or _VARIABLES not in facts.fields:
        return {}
    given = intake.read(_raw, fields[_VARIABLES], _VARIABLES) if fields.get(_VARIABLES, _NULL) != _NULL else {}
    return {_VARIABLES: msgspec.Raw(msgspec.json.encode({_THINKING: said} | given))}


def _turns(asked: shapes.Asked, fields: dict[str, msgspec.Raw], facts: Facts) -> dict[str, msgspec.Raw]:
    """Without a last turn of the assistant's that says nothing: llama.cpp would go on with it, and before its head."""
    if not isinstance(asked, shapes.Request) or not facts.fields or len(asked.messages) < 2:
        return {}
    last = asked.messages[-1]
    if not isinstance(last, shapes.AssistantIn) or last.content or last.tool_calls or last.reasoning_content:
        return {}
    return _fields({"messages": _list.decode(fields["messages"])[:-1]})


def _formed(asked: shapes.Asked) -> bool:
    """Whether a grammar may hold the answer: at its end llama.cpp fails if it may not end the answer too."""
    if not isinstance(asked, shapes.Generation):
        return False
    form = asked.response_format if isinstance(asked, shapes.Request) else None
    calls = isinstance(asked, shapes.Request) and bool(asked.tools)
    return calls or intake.given(asked.json_schema) or (form is not None and form.type != "text")


def _only_whole(asked: shapes.Asked) -> bool:
    """llama.cpp tells no probabilities in a stream when tools are offered."""
    return isinstance(asked, shapes.Request) and bool(asked.tools and asked.logprobs and not asked.streamed)


# ── Tokens and their probabilities ─────────────────────────────────────────────────────────────────────────────────


def _stops(asked: shapes.Asked, facts: Facts) -> dict[str, msgspec.Raw]:
    """Without the empty ones, at which llama.cpp stops before the first word."""
    stop = asked.stop if isinstance(asked, shapes.Generation) and facts.fields else None
    given = [stop] if isinstance(stop, str) else stop or []
    return {} if all(given) else _fields({"stop": [each for each in given if each]})


def _stop_ids(asked: shapes.Asked) -> frozenset[int]:
    return frozenset(asked.stop_token_ids or ()) if isinstance(asked, shapes.Generation) else frozenset()


def _stop_tokens(asked: shapes.Asked, facts: Facts, *, calls: bool) -> StopTokens | None:
    """What ends an answer at a token, where the engine cannot. Raises InvalidRequest beside tools that the model may
    choose to call: while llama.cpp reads what may be a call it tells of no token."""
    if not isinstance(asked, shapes.Generation) or not facts.fields or not _stop_ids(asked):
        return None
    if isinstance(asked, shapes.Request) and asked.tools and asked.tool_choice != "none" and not calls:
        hint = "this engine cannot end an answer at a token beside tools that may be called; say it as `stop`"
        raise intake.refuse("stop_token_ids", hint)
    told = bool(asked.logprobs) if isinstance(asked, shapes.Request) else getattr(asked, "logprobs", None) is not None
    choices = (asked.n or 1) * _prompts(asked)
    return StopTokens(_stop_ids(asked), choices, shown=told and not calls, usage=_tells_usage(asked))


def _likelihoods(asked: shapes.Asked, facts: Facts, *, stopping: bool, calls: bool) -> dict[str, msgspec.Raw]:
    """llama.cpp tells of no token at all where no rivals of it are asked for, and of twenty where nobody says. Raises
    InvalidRequest for a stream beside tools, in which it tells of none."""
    if not facts.fields:
        return {}
    more = {"timings_per_token": True} if stopping else {}
    if isinstance(asked, shapes.Request) and stopping and asked.tools:  # a stream beside tools takes no `logprobs`
        return _fields({"n_probs": asked.top_logprobs or 1, "logprobs": False, "top_logprobs": None, **more})
    if isinstance(asked, shapes.Request) and asked.logprobs and asked.tools and asked.streamed and not calls:
        hint = "this engine tells none in a stream beside tools; ask for the whole answer, or leave the tools out"
        raise intake.refuse("logprobs", hint)
    if isinstance(asked, shapes.Request) and (asked.logprobs or stopping) and not calls:
        return _fields({"logprobs": True, "top_logprobs": asked.top_logprobs or 1, **more})
    if isinstance(asked, shapes.CompletionRequest) and (asked.logprobs is not None or stopping):
        return _fields({"logprobs": asked.logprobs or 1, **more})
    return {}


def _stages(asked: shapes.Asked, facts: Facts, stops: StopTokens | None, *, calls: bool) -> tuple[Stage, ...]:
    stages: list[Stage] = [] if stops is None else [stops]
    if facts.fields and isinstance(asked, shapes.CompletionRequest) and asked.logprobs is not None:
        stages.append(Lists())
    if calls:
        stages.append(Calls(lambda: fresh("call_")))
    return (*stages,)


# ── Tools ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _must_call(asked: shapes.Request) -> bool:
    match asked.tool_choice:
        case "required":
            return True
        case shapes.ChoiceIn(type="allowed_tools", allowed_tools=shapes.AllowedTools(mode=mode)):
            return mode == "required"
        case shapes.ChoiceIn():
            return True
        case _:
            return False


def _choice(asked: shapes.Request, facts: Facts) -> tuple[dict[str, msgspec.Raw], list[str]]:
    """The fields that have to change for calls that may come, and those that the model is not told of."""
    ignored = [] if facts.tool_call or asked.tool_choice == "none" else ["tools"]
    if not isinstance(asked.tool_choice, shapes.ChoiceIn):
        return {}, ignored
    return _fields({"tools": _shown(asked), "tool_choice": "auto"}), ignored


def _call(asked: shapes.Request, facts: Facts) -> tuple[dict[str, msgspec.Raw], list[str]]:
    """The fields that make a call come, and the keywords of its schemas that are not held."""
    tokens = choice.room(asked.max_completion_tokens or asked.max_tokens, facts.context_length)
    functions = [_function(at, tool.function) for at, tool in _offered(asked) if tool.function]
    grammar, lost = choice.call_grammar(functions, parallel=bool(asked.parallel_tool_calls), tokens=tokens)
    form = {"response_format": {"type": "text"}, "json_schema": None, "grammar": grammar}
    untold = {"logprobs": False, "top_logprobs": None} if asked.logprobs else {}
    unheard = [*(["logprobs"] if untold else []), *(f"schema.{name}" for name in lost)]
    return _fields({"tools": _shown(asked), "tool_choice": "none", **form, **untold}), unheard


def _fields(values: dict[str, object]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}


def _shown(asked: shapes.Request) -> list[dict[str, object]]:
    return [_tool(tool.function) for _, tool in _offered(asked) if tool.function]


def _offered(asked: shapes.Request) -> list[tuple[int, shapes.ToolIn]]:
    allowed = _allowed(asked)
    return [(at, tool) for at, tool in enumerate(asked.tools or ()) if tool.function and tool.function.name in allowed]


def _allowed(asked: shapes.Request) -> Sequence[str]:
    match asked.tool_choice:
        case shapes.ChoiceIn(function=shapes.NamedFunction(name=name)):
            return (name,)
        case shapes.ChoiceIn(allowed_tools=shapes.AllowedTools(tools=allowed)):
            return [tool.function.name for tool in allowed if tool.function]
        case _:
            return [tool.function.name for tool in asked.tools or () if tool.function]


def _tool(function: shapes.FunctionTool) -> dict[str, object]:
    """A tool as templates take it; many read `description` and `parameters` without asking whether they are there."""
    parameters = function.parameters if intake.given(function.parameters) else _NO_SCHEMA
    told = {"name": function.name, "description": function.description or "", "parameters": parameters}
    return {"type": "function", "function": told}


def _function(at: int, function: shapes.FunctionTool) -> choice.Function:
    parameters = _any.decode(function.parameters) if intake.given(function.parameters) else None
    return choice.Function(function.name, parameters, f"tools.{at}.function.parameters")
