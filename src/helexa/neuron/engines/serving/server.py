"""Serves a model that takes tokens: routes, chat turns, answers. One loop, on the thread that also steps the engine.

A step's tokens are written to their streams by the engine's own loop, right after the step: no task is woken for a
token. A handler waits for the end of its answer, and stops its sequences when its client leaves.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from helexa.base.errors import HelexaError, InvalidRequest, NotFound, Unavailable
from helexa.base.ids import fresh
from helexa.http1.message import Header, Request
from helexa.http1.server import Reply
from helexa.neuron.core import unheard
from helexa.neuron.core.chat.answer import DEMANDED, Style, opens_thoughts
from helexa.neuron.core.chat.answer import Answer as Reading
from helexa.neuron.core.chat.template import Template
from helexa.neuron.engines.serving import bodies
from helexa.neuron.engines.serving.ask import Ask, Sampling, read_chat, read_completion
from helexa.neuron.engines.serving.choice import Choice, Finish
from helexa.wire import envelopes, intake

UNHEARD_HEADER = b"x-helexa-ignored"
"""Names the fields of a request that had no effect."""


class Running(Protocol):
    """A sequence that is being made. `cached` are the tokens of its prompt that needed no prefill."""

    @property
    def cached(self) -> int: ...

    def stop(self) -> None:
        """Leave it at the next step."""
        ...


class Sink(Protocol):
    """Takes what a step made of a sequence."""

    def take(self, tokens: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Tokens of one step; True to end the sequence here."""
        ...

    def done(self, finish: Finish) -> None: ...
    def failed(self, error: HelexaError) -> None: ...


class Steps(Protocol):
    """The engine, as far as serving needs it."""

    def start(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling, sink: Sink) -> Running:
        """Have a sequence made; raises HelexaError for what the engine refuses."""
        ...


class Words(Protocol):
    """The tokenizer. `raw` are each token's bytes, `pieces` none for those that nobody should see."""

    @property
    def raw(self) -> Sequence[bytes]: ...

    @property
    def pieces(self) -> Sequence[bytes]: ...

    def encode(self, text: str, *, begin: bool) -> list[int]:
        """Token ids; `begin`: with the tokens that begin a text of its own."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Everything that one served model is made of. `template` None: there is none that can be used, for the `flaw`."""

    name: str
    context: int
    steps: Steps
    words: Words
    template: Template | None
    style: Style
    flaw: str = ""

    @property
    def shows_tools(self) -> bool:
        return self.template is not None and self.template.habits.tools

    def prompt(self, ask: Ask) -> str:
        """The text that a chat is put to the model as. Raises InvalidRequest, BadTemplate."""
        if self.template is None:
            raise InvalidRequest(f"this model has no chat template that can be used: {self.flaw}", param="messages")
        return self.template.render(ask.messages, ask.tools, continued=ask.continued, **ask.variables)


class Strand:
    """One choice's way from the engine to the client; `ended` resolves when it is complete."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running: Running | None = None

    def take(self, tokens: Sequence[int], logprobs: Sequence[float]) -> bool:
        return self.choice.take(tokens, logprobs)

    def done(self, finish: Finish) -> None:
        self.choice.end(finish)
        if not self.ended.done():
            self.ended.set_result(None)

    def failed(self, error: HelexaError) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)


class ModelServer:
    """`handle` is the http1 server's handler."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._routes: dict[str, Callable[[Request, Reply], Awaitable[None]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._complete,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/apply-template": self._apply,
            "/health": self._health,
        }

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request; an error of ours becomes its envelope, or the stream's last event."""
        try:
            route = self._routes.get(request.path)
            if route is None:
                raise NotFound(path=request.path)
            await route(request, reply)
        except HelexaError as error:
            _fail(reply, error)

    async def _chat(self, request: Request, reply: Reply) -> None:
        ask = read_chat(request.body, self._model.context)
        prompt = self._model.prompt(ask)
        if ask.tools and not ask.called and not self._model.shows_tools:
            ask = replace(ask, unheard=(*ask.unheard, "tools"))
        tokens = self._model.words.encode(prompt, begin=False)
        await self._answer(ask, [tokens], reply, self._reading(ask, prompt), chat=True)

    async def _complete(self, request: Request, reply: Reply) -> None:
        ask = read_completion(request.body)
        await self._answer(
            ask,
            [self._tokens(prompt) for prompt in ask.prompts],
            reply,
            lambda: Reading("", _call_id, stops=ask.stops),
            chat=False,
        )

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        """Raises InvalidRequest for a token that there is not."""
        if isinstance(prompt, str):
            return self._model.words.encode(prompt, begin=True)
        known = len(self._model.words.pieces)
        if unknown := [token for token in prompt if not 0 <= token < known]:
            raise intake.refuse("prompt", f"there is no token {unknown[0]}; the vocabulary has {known}")
        return prompt

    def _reading(self, ask: Ask, prompt: str) -> Callable[[], Reading]:
        """How the answer is read: a call alone where one was demanded, else as the model's template shows."""
        style = self._model.style
        if ask.called:
            return lambda: Reading(DEMANDED, _call_id, stops=ask.stops)
        family = style.family if ask.tools or style.family == "harmony" else ""
        thinking = opens_thoughts(prompt) if style.thinks and ask.sampling.grammar is None else None
        return lambda: Reading(family, _call_id, thinking=thinking, stops=ask.stops)

    async def _answer(
        self, ask: Ask, prompts: list[list[int]], reply: Reply, reading: Callable[[], Reading], *, chat: bool
    ) -> None:
        for prompt in prompts:
            if not 0 < len(prompt) < self._model.context:
                raise _does_not_fit(len(prompt), self._model.context)
        answer = bodies.Answer(fresh("chatcmpl-" if chat else "cmpl-"), self._model.name, int(time.time()), chat=chat)
        write = reply.write if ask.stream else None
        pieces = self._model.words.pieces
        made = [
            Strand(
                Choice(
                    index, answer, reading(), pieces, logprobs=ask.logprobs, stop_tokens=ask.stop_tokens, write=write
                )
            )
            for index in range(len(prompts) * ask.choices)
        ]
        headers = _headers(ask)
        try:
            for index, each in enumerate(made):
                prompt = prompts[index // ask.choices]
                room = self._model.context - len(prompt)
                each.running = self._model.steps.start(
                    prompt, min(ask.max_tokens or room, room), _seeded(ask.sampling, index), each
                )
            if ask.stream:
                reply.start(200, bodies.SSE_HEADERS + headers)
                reply.flush()
                for each in made:
                    each.choice.begin()
            for each in made:
                await each.ended
                if ask.stream:
                    reply.write(each.choice.last_frame(timings=bodies.timings(_usage(made, prompts))))
        finally:
            for each in made:
                # Who leaves while it is awaited cancels it, and then it is over for us and not for the engine.
                if each.running is not None and (each.ended.cancelled() or not each.ended.done()):
                    each.running.stop()
                each.ended.cancel()
        _finish(ask, answer, made, _usage(made, prompts), reply, headers)

    async def _tokenize(self, request: Request, reply: Reply) -> None:
        body = intake.read(_TOKENIZE, request.body)
        if body.parse_special is False:
            raise intake.refuse("parse_special", unheard.MEANT["parse_special"])
        tokens = self._model.words.encode(body.content, begin=bool(body.add_special))
        _send(reply, {"tokens": [self._piece(token) for token in tokens] if body.with_pieces else tokens})

    def _piece(self, token: int) -> dict[str, object]:
        """A token with its text as llama.cpp tells it: as numbers where its bytes are none."""
        raw = self._model.words.raw[token]
        try:
            return {"id": token, "piece": raw.decode()}
        except UnicodeDecodeError:
            return {"id": token, "piece": [*raw]}

    async def _detokenize(self, request: Request, reply: Reply) -> None:
        body = intake.read(_DETOKENIZE, request.body)
        known = self._model.words.raw
        raw = b"".join(known[token] for token in body.tokens if 0 <= token < len(known))
        _send(reply, {"content": raw.decode(errors="replace")})

    async def _apply(self, request: Request, reply: Reply) -> None:
        _send(reply, {"prompt": self._model.prompt(read_chat(request.body, self._model.context))})

    async def _health(self, request: Request, reply: Reply) -> None:
        """Answered between two steps, since the loop is the steps' own."""
        del request
        _send(reply, {"status": "ok"})


class _Tokenize(msgspec.Struct):
    content: str = ""
    add_special: bool | None = None
    with_pieces: bool | None = None
    parse_special: bool | None = None


class _Detokenize(msgspec.Struct):
    tokens: list[int] = []


_TOKENIZE = msgspec.json.Decoder(_Tokenize)
_DETOKENIZE = msgspec.json.Decoder(_Detokenize)


def _finish(
    ask: Ask, answer: bodies.Answer, made: Sequence[Strand], usage: dict[str, Any], reply: Reply, headers: list[Header]
) -> None:
    if not ask.stream:
        whole = answer.whole([each.choice.whole() for each in made], usage, timings=bodies.timings(usage))
        reply.send(200, bodies.JSON_HEADERS + headers, whole)
        return
    if ask.with_usage:
        reply.write(answer.usage_frame(usage))
    reply.write(bodies.DONE)
    reply.finish()


def _usage(made: Sequence[Strand], prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Each prompt once, however many choices there are of it."""
    firsts = made[:: len(made) // len(prompts)]
    cached = sum(each.running.cached for each in firsts if each.running is not None)
    tokens = sum(each.choice.tokens for each in made)
    size = sum(len(prompt) for prompt in prompts)
    return bodies.usage(size, tokens, cached, sum(each.choice.thought_tokens for each in made))


def _seeded(sampling: Sampling, index: int) -> Sampling:
    """Each choice its own seed, also where none was given."""
    seed = secrets.randbits(62) if sampling.seed is None else sampling.seed + index
    return replace(sampling, seed=seed)


def _headers(ask: Ask) -> list[Header]:
    return [(UNHEARD_HEADER, ", ".join(ask.unheard).encode("latin-1", "replace"))] if ask.unheard else []


def _call_id() -> str:
    return fresh("call_")


def _does_not_fit(prompt: int, context: int) -> HelexaError:
    if not prompt:
        return intake.refuse("prompt", "must not be empty")
    return ContextExceeded(prompt_tokens=prompt, context_tokens=context, param="messages")


class ContextExceeded(InvalidRequest):
    """request ({prompt_tokens} tokens) exceeds the available context size ({context_tokens} tokens)"""

    code = envelopes.CONTEXT


def overloaded(model: str) -> Unavailable:
    """The engine has no room for a sequence that it has begun."""
    return Unavailable(model=model, reason="its KV cache is full", retry_after=1.0)


def _send(reply: Reply, body: dict[str, Any]) -> None:
    reply.send(200, bodies.JSON_HEADERS, bodies.encode(body))


def _fail(reply: Reply, error: HelexaError) -> None:
    if not reply.started:
        rendered = envelopes.openai(error, request_id="")
        reply.send(rendered.status, bodies.JSON_HEADERS, rendered.body)
    elif not reply.finished:
        reply.write(envelopes.chat_event(error))
        reply.finish()
