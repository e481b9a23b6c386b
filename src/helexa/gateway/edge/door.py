"""The front door: which call a path is, and everything that is not `/v1/*` to the operator's application."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import msgspec

from helexa.base.errors import HelexaError, InvalidRequest, NotFound
from helexa.base.ids import fresh
from helexa.gateway.act.proxy import Call, Headers
from helexa.gateway.edge.passing import Passing, openai_refusal
from helexa.gateway.flow import Flow
from helexa.http1.server import Handler, Reply, Request

log = logging.getLogger(__name__)

PASSING = {
    "/v1/chat/completions": "/v1/chat/completions",
    "/v1/completions": "/v1/completions",
    "/v1/embeddings": "/v1/embeddings",
    "/v1/rerank": "/v1/rerank",
    "/tokenize": "/tokenize",
}


class MethodNotAllowed(InvalidRequest):
    """{path} takes {allowed}."""

    code = "method_not_allowed"
    status = 405


class Door:
    """The HTTP server's handler. `entries` and `entry` are the catalogue's two views."""

    def __init__(
        self,
        flow: Flow,
        admin: Handler,
        *,
        entries: Callable[[], list[dict[str, Any]]],
        entry: Callable[[str], dict[str, Any]],
    ) -> None:
        self._flow = flow
        self._admin = admin
        self._entries = entries
        self._entry = entry

    async def __call__(self, request: Request, reply: Reply) -> None:
        path = request.path
        endpoint = PASSING.get(path)
        if endpoint is not None:
            await self._passing(request, reply, endpoint)
        elif path.startswith("/v1/"):
            await self._guarded(request, reply, self._listing)
        else:
            await self._admin(request, reply)

    async def _passing(self, request: Request, reply: Reply, endpoint: str) -> None:
        try:
            if request.method != "POST":
                raise MethodNotAllowed(path=endpoint, allowed="POST")
            call: Call = Passing(request, endpoint)
        except HelexaError as error:
            reply.send(*openai_refusal(error, _request_id(request)))
            return
        await self._flow.serve(call, request, reply)

    async def _guarded(self, request: Request, reply: Reply, work: Callable[[Request], Awaitable[object]]) -> None:
        try:
            body = msgspec.json.encode(await work(request))
            request_id = _request_id(request).encode("latin-1", "replace")
            reply.send(200, [(b"content-type", b"application/json"), (b"x-request-id", request_id)], body)
        except HelexaError as error:
            reply.send(*openai_refusal(error, _request_id(request)))

    async def _listing(self, request: Request) -> object:
        path = request.path
        if path == "/v1/models" or path.startswith("/v1/models/"):
            if request.method not in ("GET", "HEAD"):
                raise MethodNotAllowed(path="/v1/models", allowed="GET")
            name = unquote(path.removeprefix("/v1/models").strip("/"))
            if name:
                return self._entry(name)
            wanted = "feasible=true" in request.query.split("&")
            data = [entry for entry in self._entries() if not wanted or entry["feasible_on"] or entry["locations"]]
            return {"object": "list", "data": data}
        raise NotFound(path=path)


def _request_id(request: Request) -> str:
    given = request.header(b"x-request-id")
    return given.decode("latin-1") if given else fresh("req_")


def refuse_framing(status: int, code: str, message: str, target: bytes) -> tuple[Headers, bytes]:
    """Errors that the HTTP server finds before there is a request, in OpenAI's envelope."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "code": code, "param": None}}
    return [(b"content-type", b"application/json")], msgspec.json.encode(body)
