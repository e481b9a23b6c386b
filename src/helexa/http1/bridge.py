"""Runs an ASGI 3 application (the control plane's Starlette) behind this room's server: HTTP only, no lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from helexa.http1.message import Header, Request
from helexa.http1.server import Handler, Reply

Event = MutableMapping[str, Any]  # ASGI's own currency
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Event, Receive, Send], Awaitable[None]]


def asgi_handler(app: App) -> Handler:
    """A handler that runs `app`. A client that leaves cancels the application; what it raises is the server's 500."""

    async def handle(request: Request, reply: Reply) -> None:
        exchange = _Exchange(request, reply)
        await app(_scope(request), exchange.receive, exchange.send)

    return handle


def _scope(request: Request) -> Event:
    raw_path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1" if request.http11 else "1.0",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": request.headers,
        "client": (request.peer, 0),
        "server": None,
    }


class _Exchange:
    """One request as ASGI events."""

    __slots__ = ("_given", "_head", "_reply", "_request")

    def __init__(self, request: Request, reply: Reply) -> None:
        self._request = request
        self._reply = reply
        self._given = False
        self._head: tuple[int, list[Header]] | None = None  # held until the first body event says what follows

    async def receive(self) -> Event:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        if not self._reply.finished:
            await asyncio.get_running_loop().create_future()  # until the server cancels this task: the client left
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        match event["type"]:
            case "http.response.start":
                headers = [(bytes(name), bytes(value)) for name, value in event.get("headers", ())]
                self._head = (cast(int, event["status"]), headers)
            case "http.response.body":
                self._body(bytes(event.get("body", b"")), more=bool(event.get("more_body", False)))
                await self._reply.drain()
            case other:
                raise RuntimeError(f"this server knows no ASGI event {other!r}")

    def _body(self, body: bytes, *, more: bool) -> None:
        reply = self._reply
        if not reply.started:
            if self._head is None:
                raise RuntimeError("http.response.body before http.response.start")
            status, headers = self._head
            length = dict(headers).get(b"content-length")
            if not more and (body or length is None):
                reply.send(status, headers, body)
                return
            reply.start(status, headers, length=int(length) if length is not None else None)
        reply.write(body)
        if more:
            reply.flush()
        else:
            reply.finish()
