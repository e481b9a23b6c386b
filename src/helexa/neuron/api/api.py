"""Routes of the neuron, one handler each: decode, ask the keeper, encode. What takes time happens in the keeper."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from helexa.base.errors import (
    Conflict,
    HelexaError,
    InvalidRequest,
    NotFound,
    Refused,
    Unauthorized,
    Unavailable,
    UnknownModel,
)
from helexa.base.ids import fresh
from helexa.http1.message import Request
from helexa.http1.server import Reply
from helexa.neuron.api import answers
from helexa.neuron.api.counting import Counting
from helexa.neuron.api.metrics import Metrics
from helexa.neuron.api.relay import Relay
from helexa.neuron.core import lifecycle as life
from helexa.neuron.core.leases import Leases
from helexa.neuron.keeper import Keeper, LoadJob, views
from helexa.wire import envelopes
from helexa.wire.control import CountTokens, Discovery, Event, Health, Lease, ModelSpec, Pin, Recycle, Unload

T = TypeVar("T")
Handler = Callable[[Request, Reply], Awaitable[None]]

EVENT_SILENCE_S = 10.0
DECODING = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"))
OPEN = frozenset(("/health", "/ready"))
"""For whoever watches the host without being told its token."""
PASSING = frozenset(("/tokenize", "/detokenize", "/apply-template"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What this neuron says of itself. The callables answer from caches; none may wait for a device."""

    discovery: Callable[[], Discovery]
    health: Callable[[], Health]
    unready: Callable[[], list[str]]
    version: dict[str, Any]
    url: Callable[[], str]
    token: str | None = None
    boot_id: str = ""


class Api:
    """The http1 server's handler: `await Api(...)(request, reply)`."""

    def __init__(self, keeper: Keeper, node: Node, metrics: Metrics, relay: Relay, counting: Counting) -> None:
        self._keeper, self._node, self._metrics, self._relay = keeper, node, metrics, relay
        self._counting = counting
        self._leases = Leases()
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/discovery"): self._discovery,
            ("GET", "/health"): self._health,
            ("GET", "/ready"): self._ready,
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._render_metrics,
            ("GET", "/models"): self._models,
            ("GET", "/events"): self._events,
            ("POST", "/models/load"): self._load,
            ("POST", "/models/preflight"): self._preflight,
            ("POST", "/models/unload"): self._unload,
            ("POST", "/models/pin"): self._pin,
            ("POST", "/models/count_tokens"): self._count_tokens,
            ("POST", "/leases"): self._lease,
            ("POST", "/drain"): self._drain,
            ("POST", "/undrain"): self._undrain,
            ("GET", "/v1/models"): self._v1_models,
            ("HEAD", "/v1/models"): self._v1_models,
        }
        self._paths = frozenset(path for _, path in self._routes) | DECODING | PASSING

    async def __call__(self, request: Request, reply: Reply) -> None:
        """Answer one request; every error of ours becomes its envelope."""
        openai = request.path in DECODING or request.path in PASSING or request.path.startswith("/v1/")
        try:
            self._authorise(request)
            if request.method == "POST" and (request.path in DECODING or request.path in PASSING):
                await self._relay(request, reply, queued=request.path in DECODING)
            else:
                await self._route(request)(request, reply)
        except HelexaError as error:
            if reply.started:
                reply.abort()
            elif openai:
                send_openai_error(request, reply, error)
            else:
                answers.refuse(reply, error)

    def _authorise(self, request: Request) -> None:
        token = self._node.token
        if token is None or request.path in OPEN:
            return
        given = request.header(b"authorization") or b""
        if not hmac.compare_digest(given, b"Bearer " + token.encode()):
            raise Unauthorized()

    def _route(self, request: Request) -> Handler:
        handler = self._routes.get((request.method, request.path)) or self._named(request)
        if handler is not None:
            return handler
        if request.path in self._paths:
            raise WrongMethod(method=request.method, path=request.path)
        raise NotFound(path=request.path)

    def _named(self, request: Request) -> Handler | None:
        """Routes with an id in them; a model's id may hold slashes."""
        path = request.path
        if request.method == "POST" and path.startswith("/devices/") and path.endswith("/recycle"):
            return self._recycle
        if request.method != "GET":
            return None
        if path.startswith("/jobs/"):
            return self._job
        if path.startswith("/models/") and path.endswith("/endpoint"):
            return self._endpoint
        if path.startswith("/models/") and path.endswith("/capabilities"):
            return self._capabilities
        return None

    # What this neuron is ----------------------------------------------------------------------------------------------

    async def _discovery(self, _: Request, reply: Reply) -> None:
        answers.send(reply, self._node.discovery())

    async def _health(self, _: Request, reply: Reply) -> None:
        answers.send(reply, self._node.health())

    async def _ready(self, _: Request, reply: Reply) -> None:
        """`/health` says that the process lives, and is 200 as long as it does; this says that work may be sent."""
        reasons = self._node.unready()
        answers.send(reply, {"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _version(self, _: Request, reply: Reply) -> None:
        answers.send(reply, self._node.version)

    async def _render_metrics(self, _: Request, reply: Reply) -> None:
        content_type, body = self._metrics.render()
        reply.send(200, [(b"content-type", content_type.encode())], body)

    # Models -----------------------------------------------------------------------------------------------------------

    async def _models(self, _: Request, reply: Reply) -> None:
        answers.send(reply, self._keeper.models())

    async def _v1_models(self, _: Request, reply: Reply) -> None:
        rows = [row for row in self._keeper.models() if row.status == "loaded"]
        data = [{"id": row.id, "object": "model", "created": 0, "owned_by": "helexa"} for row in rows]
        answers.send(reply, {"object": "list", "data": data})

    async def _endpoint(self, request: Request, reply: Reply) -> None:
        self._state_of(_model_in(request, "/endpoint"))
        answers.send(reply, {"url": self._node.url()})

    async def _capabilities(self, request: Request, reply: Reply) -> None:
        model_id = _model_in(request, "/capabilities")
        state = self._state_of(model_id)
        if not isinstance(state, life.Loaded):
            raise UnknownModel(f"what `{model_id}` can do is not known before it is loaded", model=model_id)
        answers.send(reply, {"capabilities": list(state.facts.capabilities)})

    async def _load(self, request: Request, reply: Reply) -> None:
        job = self._keeper.load(_decode(request, ModelSpec))
        if b"respond-async" in (request.header(b"prefer") or b"").lower():
            location = [(b"location", b"/jobs/" + job.id.encode())]
            return answers.send(reply, self._job_view(job), 202, location)
        try:
            await job.wait()
        except (Refused, Conflict, Unavailable, InvalidRequest):
            raise
        except HelexaError as error:
            return answers.refuse(reply, error, 400)
        state = self._keeper.status(job.model_id)
        took = {"load_s": round(state.load_s, 3)} if isinstance(state, life.Loaded) else {}
        return answers.send(reply, {"status": "loaded", **took})

    async def _job(self, request: Request, reply: Reply) -> None:
        job = self._keeper.job(request.path.removeprefix("/jobs/"))
        if job is None:
            raise NotFound(path=request.path)
        answers.send(reply, self._job_view(job))

    async def _preflight(self, request: Request, reply: Reply) -> None:
        plan = await self._keeper.preflight(_decode(request, ModelSpec))
        answers.send(reply, {"ok": True, "plan": views.plan(plan)})

    async def _unload(self, request: Request, reply: Reply) -> None:
        body = _decode(request, Unload)
        freed_mb = await self._keeper.unload(
            body.model_id,
            force=body.force,
            drain_s=body.drain_s,
            spare_unused_s=body.spare_unused_s,
            min_idle_s=body.min_idle_s,
            load_id=body.load_id,
            spare_pinned=body.spare_pinned,
        )
        answers.send(reply, {"status": "unloaded", "freed_mb": freed_mb})

    async def _pin(self, request: Request, reply: Reply) -> None:
        body = _decode(request, Pin)
        self._keeper.pin(body.model_id, body.pinned)
        answers.send(reply, body)

    async def _count_tokens(self, request: Request, reply: Reply) -> None:
        answers.send(reply, await self._counting(_decode(request, CountTokens)))

    async def _lease(self, request: Request, reply: Reply) -> None:
        self._leases, lease = self._leases.asked(_decode(request, Lease), asyncio.get_running_loop().time())
        answers.send(reply, lease)

    async def _recycle(self, request: Request, reply: Reply) -> None:
        number = request.path.removeprefix("/devices/").removesuffix("/recycle")
        if not number.isdecimal():
            raise NotFound(path=request.path)
        order = _decode(request, Recycle)
        reloads = await self._keeper.recycle(int(number), after_cycles=order.after_cycles)
        answers.send(reply, {"status": "recycled", "reloads": reloads})

    async def _drain(self, _: Request, reply: Reply) -> None:
        self._keeper.drain()
        answers.send(reply, {"status": "draining"})

    async def _undrain(self, _: Request, reply: Reply) -> None:
        self._keeper.undrain()
        answers.send(reply, {"status": "ready"})

    # News -------------------------------------------------------------------------------------------------------------

    async def _events(self, _: Request, reply: Reply) -> None:
        with self._keeper.feed.listen() as news:
            reply.start(200, answers.SSE)
            reply.write(b": helexa\n\n")
            for row in self._keeper.models():
                reply.write(_line(Event(kind="model", boot_id=self._node.boot_id, model_id=row.id, model=row)))
            while True:
                try:
                    event = await asyncio.wait_for(news.get(), EVENT_SILENCE_S)
                except TimeoutError:
                    reply.write(answers.SIGN_OF_LIFE)
                    continue
                if event is None:
                    break
                reply.write(_line(event))
                await reply.drain()
        reply.finish()

    def _state_of(self, model_id: str) -> life.State:
        state = self._keeper.status(model_id)
        if state is None:
            raise UnknownModel(f"the model `{model_id}` is not loaded on this neuron", model=model_id)
        return state

    def _job_view(self, job: LoadJob) -> object:
        return views.job(job.id, job.model_id, job.state, job.error, self._keeper.status(job.model_id))


class WrongMethod(NotFound):
    """{method} is not a method of {path}."""

    code = "method_not_allowed"
    status = 405


def send_openai_error(request: Request, reply: Reply, error: HelexaError) -> None:
    """An error of `/v1/*` before the first byte."""
    given = request.header(b"x-request-id")
    rendered = envelopes.openai(error, request_id=given.decode("latin-1") if given else fresh("req_"))
    headers = [(name.encode(), value.encode()) for name, value in rendered.headers]
    reply.send(rendered.status, headers, rendered.body)


def _decode(request: Request, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=shape)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the body is not valid: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error


def _model_in(request: Request, suffix: str) -> str:
    return request.path.removeprefix("/models/").removesuffix(suffix)


def _line(event: Event) -> bytes:
    return b"data: " + answers.encode(event) + b"\n\n"
