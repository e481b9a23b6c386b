"""The operator API and the health pages: an ordinary ASGI application, reached through the bridge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

import helexa
from helexa.base.errors import Conflict, HelexaError, InvalidRequest, MethodNotAllowed, NotFound
from helexa.base.ids import fresh
from helexa.gateway.edge import openapi, orders, render
from helexa.gateway.edge.page import PAGE
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.plan.place import candidates
from helexa.gateway.plan.step import foreseen
from helexa.gateway.plan.wait import reason
from helexa.wire import envelopes, intake

T = TypeVar("T")


class Desk(Protocol):
    """What the operator API needs of the gateway."""

    @property
    def fleet(self) -> Fleet: ...
    def now(self) -> float: ...
    def tell(self, event: ev.Event) -> None: ...
    def resolve(self, name: str) -> str: ...
    def catalogue(self) -> list[dict[str, Any]]: ...
    def decision(self, decision: str) -> dict[str, Any] | None: ...
    async def reload(self) -> dict[str, Any]: ...
    async def drain(self, node: str, on: bool) -> None: ...
    async def pin(self, model: str, nodes: Sequence[str], pinned: bool) -> None: ...
    def feed(self) -> AsyncIterator[bytes]: ...


def build(desk: Desk) -> Starlette:
    """The ASGI application over `desk`."""
    there = _Admin(desk)
    routes = [
        Route("/", there.hello, methods=["GET", "HEAD"]),
        Route("/api/hello", there.hello, methods=["GET", "HEAD"]),
        Route("/health", there.health),
        Route("/version", there.version),
        Route("/ui", there.ui),
        Route("/openapi.json", there.openapi),
        Route("/cortex/v1/nodes", there.nodes),
        Route("/cortex/v1/models", there.models),
        Route("/cortex/v1/events", there.events),
        Route("/cortex/v1/decisions/{decision}", there.decision),
        Route("/cortex/v1/load", there.load, methods=["POST"]),
        Route("/cortex/v1/unload", there.unload, methods=["POST"]),
        Route("/cortex/v1/pin", there.pin, methods=["POST"]),
        Route("/cortex/v1/drain", there.drain, methods=["POST"]),
        Route("/cortex/v1/plan", there.plan, methods=["POST"]),
        Route("/cortex/v1/reload", there.reload, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HelexaError: _refuse, 404: _missing, 405: _wrong_method})


def json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HelexaError)
    status, headers, body = envelopes.openai(error, request_id=request.headers.get("x-request-id") or fresh("req_"))
    return Response(body, status, dict(headers))


async def _missing(request: Request, error: Exception) -> Response:
    return await _refuse(request, openapi.nothing_at(request.url.path))


async def _wrong_method(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "another method")
    answer = await _refuse(request, MethodNotAllowed(path=request.url.path, allowed=allowed))
    answer.headers["allow"] = allowed
    return answer


class _Admin:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def hello(self, request: Request) -> Response:
        return json({} if request.method == "HEAD" else render.health(self._desk.fleet))

    async def health(self, request: Request) -> Response:
        return json(render.health(self._desk.fleet))

    async def version(self, request: Request) -> Response:
        return json({"package_version": helexa.__version__, "name": "cortex"})

    async def ui(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def openapi(self, request: Request) -> Response:
        return Response(openapi.document(), media_type="application/json")

    async def nodes(self, request: Request) -> Response:
        return json({"nodes": render.nodes(self._desk.fleet, self._desk.now())})

    async def models(self, request: Request) -> Response:
        return json({"models": self._desk.catalogue()})

    async def decision(self, request: Request) -> Response:
        """Why one request was served, made to wait or refused."""
        name = request.path_params["decision"]
        found = self._desk.decision(name)
        if found is None:
            raise NotFound(f"there is no decision `{name}` here; the last few thousand are kept")
        return json(found)

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._desk.feed(), media_type="text/event-stream")

    async def load(self, request: Request) -> Response:
        """Ask for a model to be loaded; the answer does not wait for it."""
        model = self._desk.resolve((await _body(request, orders.Named)).model)
        self._desk.tell(ev.Wanted(model=model))
        return json({"status": "accepted", "model": model}, 202)

    async def unload(self, request: Request) -> Response:
        asked = await _body(request, orders.Named)
        order = self._unwanted(asked.model, asked.node)
        self._desk.tell(order)
        return json({"status": "accepted", "model": order.model}, 202)

    def _unwanted(self, name: str, node: str | None) -> ev.Unwanted:
        model = self._desk.resolve(name)
        there = self._desk.fleet.places.get(model, {})
        if not there or (node is not None and node not in there):
            raise NotFound(f"`{model}` is not loaded{f' on {node}' if node else ''}")
        busy = [place.node for place in there.values() if place.in_flight]
        if busy:
            raise Conflict(f"`{model}` has requests in flight on {', '.join(busy)}; drain the node or wait")
        return ev.Unwanted(model=model, node=node)

    async def pin(self, request: Request) -> Response:
        asked = await _body(request, orders.Pin)
        model = self._desk.resolve(asked.model)
        nodes = [node for node in self._desk.fleet.places.get(model, {}) if asked.node in (None, node)]
        if not nodes:
            raise NotFound(f"`{model}` is not loaded; pin it in models.toml or load it first")
        await self._desk.pin(model, nodes, asked.pinned)
        return json({"model": model, "pinned": asked.pinned, "nodes": nodes})

    async def drain(self, request: Request) -> Response:
        asked = await _body(request, orders.Drain)
        self._must_know(asked.node)
        await self._desk.drain(asked.node, asked.drain)
        return json({"node": asked.node, "draining": asked.drain})

    def _must_know(self, node: str) -> None:
        if node not in self._desk.fleet.nodes:
            raise NotFound(f"there is no node `{node}`; nodes: {', '.join(self._desk.fleet.nodes) or 'none'}")

    async def plan(self, request: Request) -> Response:
        """A dry run: the very planner, on a copy that is thrown away."""
        asked = await _body(request, orders.Plan)
        fleet, now = self._desk.fleet, self._desk.now()
        event, model = self._meant(asked)
        after, out = foreseen(fleet, event, now)
        shown: dict[str, Any] = {"actions": [render.instruction(one) for one in out]}
        if asked.drain is not None:
            shown["actions"].insert(0, render.drain(fleet, asked.drain))
        if model is not None:
            shown["model"] = model
            weighed = sorted(candidates(fleet, model, now), key=lambda one: fleet.place(model, one.node) is None)
            shown["candidates"] = [render.weighed(found, fleet.place(model, found.node)) for found in weighed]
            shown["not_weighed"] = len(fleet.nodes) - len(weighed)
            shown["waits"] = model in after.asks
            shown |= {"waits_for": reason(after, model, now)} if shown["waits"] else {}
            habit = fleet.habits.get(model)
            shown |= {"expected_load_s": habit.load_s} if habit and habit.load_s is not None else {}
        return json(shown)

    def _meant(self, asked: orders.Plan) -> tuple[ev.Event, str | None]:
        if sum(one is not None for one in (asked.model, asked.unload, asked.drain)) != 1:
            raise InvalidRequest("give one of `model`, `unload`, `drain`", param="model")
        if asked.model is not None:
            model = self._desk.resolve(asked.model)
            return ev.Arrived(ask=-1, model=model), model
        if asked.unload is not None:
            return self._unwanted(asked.unload, None), None
        assert asked.drain is not None
        self._must_know(asked.drain)
        return ev.Drained(node=asked.drain, draining=True), None

    async def reload(self, request: Request) -> Response:
        return json(await self._desk.reload())


async def _body(request: Request, shape: type[T]) -> T:
    return intake.read(msgspec.json.Decoder(shape), await request.body())
