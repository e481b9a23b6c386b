"""The echo engine's HTTP side: one model on one Unix socket, on a loop of its own beside the device thread."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from helexa.http1.message import Request
from helexa.http1.server import Reply
from helexa.neuron.engines.echo import answers, script
from helexa.neuron.engines.echo.options import EchoOptions
from helexa.neuron.engines.serving import bodies

HARD_EXIT = 70
FAULT_TEXT = "CUDA error: an illegal memory access was encountered"


class Empty(msgspec.Struct):
    """A body whose fields do not matter."""


class TokenizeBody(msgspec.Struct):
    content: str = ""


class DetokenizeBody(msgspec.Struct):
    tokens: list[int] = []


class TemplateBody(msgspec.Struct):
    messages: list[script.Message] = []
    tools: list[Any] | None = None


class EmbeddingBody(msgspec.Struct):
    """`input` is one text or several; instead of a text there may be its tokens."""

    input: str | list[str | int | list[int]] = ""
    encoding_format: Literal["float", "base64"] | None = None

    @property
    def texts(self) -> list[str]:
        if isinstance(self.input, str):
            return [self.input]
        if self.input and isinstance(self.input[0], int):
            return [" ".join(map(str, self.input))]
        return [" ".join(map(str, text)) if isinstance(text, list) else str(text) for text in self.input]


class StepFailed(Exception):
    """The failure that `fail = "step:N"` asks for."""


class EchoModel:
    """One served model: `handle` is the http1 server's handler."""

    def __init__(self, model_id: str, options: EchoOptions, context: int) -> None:
        self._model_id, self._options, self._context = model_id, options, context
        self._cache = script.PrefixCache()
        self._words: dict[int, str] = {}
        self._served = 0
        self._hangs = False
        self._routes: dict[str, Callable[[Request, Reply], Awaitable[None]]] = {
            "/v1/chat/completions": self._generate,
            "/v1/completions": self._generate,
            "/v1/embeddings": self._embed,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/apply-template": self._template,
            "/health": self._health,
            "/slots": self._slots,
        }

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        route = self._routes.get(request.path)
        if route is None:
            return _refuse(reply, 404, f"no such endpoint: {request.path}", "not_found_error")
        try:
            await route(request, reply)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            _refuse(reply, 400, f"the body is not valid: {error}", "invalid_request_error")

    async def _generate(self, request: Request, reply: Reply) -> None:
        ask = msgspec.json.decode(request.body, type=script.Ask)
        plan = script.write(ask, self._options)
        if len(plan.prompt) > self._context:
            return self._too_long(reply, len(plan.prompt))
        cached = self._cache.take(plan.prompt)
        await self._prefill(len(plan.prompt) - cached)
        self._served += 1
        answer = bodies.Answer(
            f"echo-{self._served}", self._model_id, int(time.time()), chat=request.path == "/v1/chat/completions"
        )
        usage = bodies.usage(len(plan.prompt), plan.length * ask.choices, cached)
        if ask.stream:
            return await self._stream(reply, answer, plan, ask, usage)
        try:
            for at in range(plan.length):
                await self._step(at)
        except StepFailed as error:
            return _refuse(reply, 500, str(error), "server_error")
        return reply.send(
            200,
            bodies.JSON_HEADERS,
            answer.whole([answers.choice(answer, plan, index) for index in range(ask.choices)], usage),
        )

    async def _stream(
        self, reply: Reply, answer: bodies.Answer, plan: script.Script, ask: script.Ask, usage: dict[str, Any]
    ) -> None:
        reply.start(200, bodies.SSE_HEADERS)
        try:
            for index in range(ask.choices):
                await self._choice(reply, answer, plan, index, usage)
            if ask.with_usage:
                reply.write(answer.usage_frame(usage))
            reply.write(bodies.DONE)
        except StepFailed as error:
            reply.write(bodies.event(bodies.error(500, str(error), "server_error")))
        reply.finish()

    async def _choice(
        self, reply: Reply, answer: bodies.Answer, plan: script.Script, index: int, usage: dict[str, Any]
    ) -> None:
        reply.write(answer.frame({"role": "assistant", "content": ""}, index))
        thought = [("reasoning_content", token) for token in plan.thoughts]
        for at, (kind, token) in enumerate([*thought, *(("content", token) for token in plan.tokens)]):
            await self._step(at)
            reply.write(answer.frame({kind: token}, index))
            await reply.drain()
        for frame in answers.call_frames(answer, plan, index):
            reply.write(frame)
        reply.write(answer.streamed(answer.choice({}, index) | answers.ending(plan), timings=bodies.timings(usage)))

    async def _prefill(self, tokens: int) -> None:
        if self._options.prefill_tokens_per_s > 0:
            await asyncio.sleep(tokens / self._options.prefill_tokens_per_s)

    async def _step(self, done: int) -> None:
        """One token's time, or the failure that is due after `done` tokens."""
        failure = self._options.failure
        if failure is not None and failure.after == done:
            if failure.how == "step":
                raise StepFailed(f"the step after {done} tokens failed, as asked")
            if failure.how != "hang":
                die(failure.how)
            self._hangs = True
            await asyncio.Event().wait()
        if self._options.tokens_per_s > 0:
            await asyncio.sleep(1 / self._options.tokens_per_s)

    async def _embed(self, request: Request, reply: Reply) -> None:
        body = msgspec.json.decode(request.body, type=EmbeddingBody)
        texts, pack = body.texts, answers.packed if body.encoding_format == "base64" else list[float]
        vectors = [pack(script.embedding(text)) for text in texts]
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        count = sum(len(script.words(text)) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        _send(reply, {"object": "list", "data": data, "model": self._model_id, "usage": usage})

    async def _tokenize(self, request: Request, reply: Reply) -> None:
        body = msgspec.json.decode(request.body, type=TokenizeBody)
        found = {script.token_id(word): word for word in script.words(body.content)}
        self._words.update(found)
        _send(reply, {"tokens": [script.token_id(word) for word in script.words(body.content)]})

    async def _detokenize(self, request: Request, reply: Reply) -> None:
        body = msgspec.json.decode(request.body, type=DetokenizeBody)
        _send(reply, {"content": "".join(self._words.get(token, "?") for token in body.tokens)})

    async def _template(self, request: Request, reply: Reply) -> None:
        body = msgspec.json.decode(request.body, type=TemplateBody)
        _send(reply, {"prompt": script.render(body.messages, body.tools or ())})

    async def _health(self, request: Request, reply: Reply) -> None:
        del request
        _send(reply, {"status": "ok"})

    async def _slots(self, request: Request, reply: Reply) -> None:
        """Answered between two steps, as llama.cpp does: never, once a step hangs."""
        del request
        if self._hangs:
            await asyncio.Event().wait()
        _send(reply, {})

    def _too_long(self, reply: Reply, tokens: int) -> None:
        message = f"request ({tokens} tokens) exceeds the available context size ({self._context} tokens)"
        facts = bodies.error(400, message, "exceed_context_size_error", n_prompt_tokens=tokens, n_ctx=self._context)
        _send(reply, facts, status=400)


def die(how: str) -> None:
    """End, or stand still, as a faulty engine would."""
    if how == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    if how == "fault":
        print(FAULT_TEXT, file=sys.stderr, flush=True)  # noqa: T201
        os.abort()
    os._exit(HARD_EXIT)


def _send(reply: Reply, body: dict[str, Any], status: int = 200) -> None:
    reply.send(status, bodies.JSON_HEADERS, bodies.encode(body))


def _refuse(reply: Reply, status: int, message: str, kind: str) -> None:
    _send(reply, bodies.error(status, message, kind), status=status)
