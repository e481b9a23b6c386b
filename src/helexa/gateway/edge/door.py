"""The front door: which call a path is, and everything that is not `/v1/*` to the operator's application."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from helexa.base.errors import HelexaError, InvalidRequest, MethodNotAllowed, NotFound, Unavailable
from helexa.base.ids import fresh
from helexa.gateway.act.proxy import Call, Headers
from helexa.gateway.edge.listing import anthropic_page, anthropic_row
from helexa.gateway.edge.openapi import nothing_at
from helexa.gateway.edge.passing import Passing, session_of
from helexa.gateway.edge.shelf import Shelf
from helexa.gateway.edge.translated import Translated, as_answer, dialect_of, refusal
from helexa.gateway.flow import Flow
from helexa.http1.server import Handler, Reply, Request, Work
from helexa.wire import envelopes
from helexa.wire.canon import Capabilities, Fault
from helexa.wire.peek import peek
from helexa.wire.translate import count_tokens_request, open_messages, open_responses, responses_count_request

PASSING = frozenset(
    ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize")
)
ALLOWED = b"GET, HEAD, POST, DELETE, OPTIONS"
COUNTING = frozenset(("/v1/messages/count_tokens", "/v1/responses/input_tokens"))
RESTART_S = 5.0
"""When to ask again after a gateway that was stopping; behind a load balancer the next try meets another."""


class Stopping(Unavailable):
    """This gateway is being stopped: it finishes what it has begun and takes nothing new."""


class House(Protocol):
    """What the door needs of the gateway."""

    def resolve(self, name: str) -> str: ...
    def capabilities(self, model: str) -> Capabilities: ...
    def catalogue(self) -> list[dict[str, Any]]: ...
    def entry(self, name: str) -> dict[str, Any]: ...
    def wall(self) -> int: ...
    async def count(self, model: str, body: bytes) -> int: ...


class Door:
    """The HTTP server's handler."""

    def __init__(self, flow: Flow, admin: Handler, house: House) -> None:
        self._flow = flow
        self._admin = admin
        self._house = house
        self._shelf = Shelf()

    def __call__(self, request: Request, reply: Reply) -> Work | None:
        path = request.path
        if request.method == "OPTIONS":
            reply.send(204, [(b"allow", ALLOWED)], b"")
            return None
        try:
            if path in PASSING:
                if request.method != "POST":
                    raise MethodNotAllowed(path=path, allowed="POST")
                return self._flow.start(self._passing(request, path), request, reply)
            if path == "/v1/messages":
                request_id = _request_id(request)
                return self._flow.start(self._messages(request, request_id), request, reply, request_id)
            if path == "/v1/responses":
                return self._flow.start(self._responses(request), request, reply)
            if path in COUNTING:
                _only(request, "POST")
                return self._count(request, reply)
            if not path.startswith("/v1/"):
                return self._admin(request, reply)
            self._send(request, reply, self._read(request, path))
        except HelexaError as error:
            _refuse(request, reply, error)
        return None

    def turn_away(self, request: Request, reply: Reply) -> Work | None:
        """The handler of a gateway that is being stopped; operators are served to the end."""
        if not request.path.startswith("/v1/"):
            return self._admin(request, reply)
        _refuse(request, reply, Stopping(retry_after=RESTART_S))
        return None

    def _passing(self, request: Request, path: str) -> Call:
        try:
            return Passing(request, path)
        except InvalidRequest:
            with contextlib.suppress(InvalidRequest):
                self._house.resolve(peek(request.body).model)  # that it is not here is what a client has to know first
            raise

    def _messages(self, request: Request, request_id: str) -> Call:
        _only(request, "POST")
        asked = peek(request.body).model
        model = self._house.resolve(asked)
        version = request.header(b"anthropic-version")
        exchange = open_messages(
            request.body,
            version=version.decode("latin-1") if version else None,
            model=model,
            can=self._house.capabilities(model),
            ids=fresh,
            request_id=request_id,
        )
        return Translated(exchange, asked, envelopes.anthropic, session_of(request), _nothing)

    def _responses(self, request: Request) -> Call:
        _only(request, "POST")
        asked = peek(request.body).model
        model = self._house.resolve(asked)
        exchange = open_responses(
            request.body,
            lookup=self._shelf.lookup,
            model=model,
            can=self._house.capabilities(model),
            ids=fresh,
            now=self._house.wall(),
        )

        def keep() -> None:
            if exchange.record is not None:
                self._shelf.put(exchange.record, exchange.items)

        return Translated(exchange, asked, envelopes.responses, session_of(request), keep)

    async def _count(self, request: Request, reply: Reply) -> None:
        try:
            self._send(request, reply, await self._counted(request))
        except HelexaError as error:
            _refuse(request, reply, error)

    async def _counted(self, request: Request) -> object:
        model = self._house.resolve(peek(request.body).model)
        can = self._house.capabilities(model)
        if request.path == "/v1/messages/count_tokens":
            body = count_tokens_request(request.body, model=model, can=can)
            return {"input_tokens": await self._house.count(model, body)}
        body = responses_count_request(request.body, lookup=self._shelf.lookup, model=model, can=can)
        return {"object": "response.input_tokens", "input_tokens": await self._house.count(model, body)}

    def _read(self, request: Request, path: str) -> object:
        """The answers that need no model: the catalogue, and responses that were kept."""
        if path == "/v1/models" or path.startswith("/v1/models/"):
            _only(request, "GET", "HEAD")
            return self._models(request, unquote(path.removeprefix("/v1/models").strip("/")))
        if path.startswith("/v1/responses/") and request.method != "POST":
            _only(request, "GET", "DELETE")
            return self._kept(request, path.removeprefix("/v1/responses/"))
        raise nothing_at(path)

    def _models(self, request: Request, name: str) -> object:
        anthropic = request.header(b"anthropic-version") is not None
        if name:
            entry = self._house.entry(name)
            return anthropic_row(entry) if anthropic else entry
        asked = dict(parse_qsl(request.query))
        entries = self._house.catalogue()
        if asked.get("feasible") == "true":
            entries = [entry for entry in entries if entry["feasible_on"] or entry["locations"]]
        return anthropic_page(entries, asked) if anthropic else {"object": "list", "data": entries}

    def _kept(self, request: Request, response_id: str) -> object:
        if "/" in response_id:
            raise NotFound(path=request.path)
        if dict(parse_qsl(request.query)).get("stream") == "true":
            raise InvalidRequest("stream: a response that is stored comes whole", param="stream")
        body = self._shelf.get(response_id)
        if body is None:
            raise NotFound(f"the response `{response_id}` is not stored here", param="response_id")
        if request.method == "DELETE":
            self._shelf.drop(response_id)
            return {"id": response_id, "object": "response", "deleted": True}
        return msgspec.Raw(body)

    def _send(self, request: Request, reply: Reply, answer: object) -> None:
        request_id = _request_id(request).encode("latin-1", "replace")
        headers: Headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id)]
        reply.send(200, [*headers, (b"request-id", request_id)], msgspec.json.encode(answer))


def _refuse(request: Request, reply: Reply, error: HelexaError) -> None:
    reply.send(*refusal(dialect_of(request), error, _request_id(request)))


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(path=request.path, allowed=" or ".join(methods))


def _nothing() -> None:
    """A finished Messages answer is not kept: its clients send their whole conversation."""


def _request_id(request: Request) -> str:
    given = request.header(b"x-request-id")
    return given.decode("latin-1") if given else fresh("req_")


def refuse_framing(status: int, code: str, message: str, target: bytes) -> tuple[Headers, bytes]:
    """Errors that the HTTP server finds before there is a request, in the envelope of the path's dialect."""
    render = envelopes.anthropic if target.startswith(b"/v1/messages") else envelopes.openai
    fault = Fault(status=status, code=code, message=message)
    _, headers, body = as_answer(render(fault, request_id=fresh("req_")))
    return headers, body
