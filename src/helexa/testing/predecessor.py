"""A node of the system that came before: its control contract and its chat, replayed from `predecessor.json`.

It has no events, no preflight, no boot id and no rows for what is cold; a load answers when it is done, `harness` is
required, an unload that fails is a 404 whatever the reason, and control errors are flat. The facts in the file are what
such a node answers; which models are loaded is kept here.

    async with Predecessor() as node:
        ... a gateway whose [[neurons]] endpoint is node.url ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import msgspec

from helexa.http1.message import Request
from helexa.http1.server import Reply, Server
from helexa.wire.sse import COMMENT, DONE, encode

JSON = [(b"content-type", b"application/json")]
STREAM = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class Spec(msgspec.Struct):
    """Body of `/models/load`: no more and no less is understood; `harness` has to be a text."""

    model_id: str
    harness: str
    quant: str | None = None
    tensor_parallel: int | None = None
    devices: list[int] | None = None


class Named(msgspec.Struct):
    model_id: str


class Chat(msgspec.Struct):
    model: str
    messages: list[dict[str, Any]]
    stream: bool = False


@dataclass
class Refused(Exception):
    status: int
    error: object


def transcript() -> dict[str, Any]:
    """What such a node answers."""
    return msgspec.json.decode(files("helexa.testing").joinpath("predecessor.json").read_bytes())


class Predecessor:
    """See the module. `asked` holds method and path of every request."""

    def __init__(self) -> None:
        self.facts = transcript()
        self.loaded: dict[str, Spec] = {}
        self.asked: list[str] = []
        self._server = Server(self._handle)
        self._turn = asyncio.Lock()
        self.url = ""

    async def __aenter__(self) -> Self:
        ((host, port),) = await self._server.listen("127.0.0.1", 0)
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.drain(0.0)

    async def _handle(self, request: Request, reply: Reply) -> None:
        path = request.path
        self.asked.append(f"{request.method} {path}")
        try:
            if (request.method, path) == ("POST", "/v1/chat/completions"):
                self._chat(msgspec.json.decode(request.body, type=Chat), reply)
                return
            answer = await self._control(request.method, path, request.body)
        except Refused as refused:
            answer, status = {"error": refused.error}, refused.status
        except msgspec.DecodeError as error:  # its framework's answer to a body that it cannot read: plain text
            reply.send(422, [(b"content-type", b"text/plain")], str(error).encode())
            return
        else:
            status = 200
        reply.send(status, JSON, msgspec.json.encode(answer))

    async def _control(self, method: str, path: str, body: bytes) -> object:
        facts: dict[str, Callable[[], object]] = {
            "GET /discovery": lambda: self.facts["discovery"],
            "GET /health": self._health,
            "GET /models": lambda: [self._row(spec) for spec in self.loaded.values()],
            "GET /version": lambda: self.facts["version"],
        }
        orders: dict[str, Callable[[bytes], Awaitable[object]]] = {
            "POST /models/load": self._load,
            "POST /models/unload": self._unload,
        }
        asked = f"{method} {path}"
        if asked in facts:
            return facts[asked]()
        if asked in orders:
            return await orders[asked](body)
        return self._about(path)

    def _about(self, path: str) -> object:
        """`/models/{id}/endpoint` and `/models/{id}/capabilities`."""
        name, _, what = path.removeprefix("/models/").rpartition("/")
        if unquote(name) not in self.loaded or what not in ("endpoint", "capabilities"):
            raise Refused(404, "not found")
        return {"url": self.url} if what == "endpoint" else {"capabilities": ["text"]}

    def _health(self) -> object:
        return self.facts["health"] | {"models": [{"id": name} | self.facts["load_of"] for name in self.loaded]}

    def _row(self, spec: Spec) -> object:
        return {"id": spec.model_id, "devices": spec.devices or [0]} | self.facts["row"]

    async def _load(self, body: bytes) -> object:
        spec = msgspec.json.decode(body, type=Spec)
        refusal = self.facts["refused"].get(spec.model_id)
        async with self._turn:
            if spec.model_id in self.loaded:
                raise Refused(400, f"model {spec.model_id} is already loaded")
            if spec.harness not in self.facts["discovery"]["harnesses"]:
                raise Refused(400, f"unknown harness: {spec.harness}")
            if refusal is not None:
                raise Refused(refusal["status"], refusal["error"])
            if spec.model_id not in self.facts["loadable"]:
                raise Refused(400, f"load model: {spec.model_id}: no such repository")
            self.loaded[spec.model_id] = spec
        return {"status": "loaded"}

    async def _unload(self, body: bytes) -> object:
        name = msgspec.json.decode(body, type=Named).model_id
        if self.loaded.pop(name, None) is None:
            raise Refused(404, f"model {name} is not loaded")
        return {"status": "unloaded"}

    def _chat(self, chat: Chat, reply: Reply) -> None:
        if chat.model not in self.loaded:
            message = f"model {chat.model} is not loaded"
            error = {"message": message, "type": "invalid_request_error", "code": "model_not_found", "param": None}
            reply.send(404, JSON, msgspec.json.encode({"error": error}))
        elif chat.stream:
            self._stream(chat.model, reply)
        else:
            message = {"role": "assistant", "content": "".join(self.facts["words"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = self._head("chat.completion", chat.model) | {"choices": [choice], "usage": self.facts["usage"]}
            reply.send(200, JSON, msgspec.json.encode(body))

    def _stream(self, model: str, reply: Reply) -> None:
        head = self._head("chat.completion.chunk", model)
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant"}, None)]
        deltas += [({"content": word}, None) for word in self.facts["words"]]
        reply.start(200, STREAM)
        reply.write(COMMENT)
        for delta, finish in [*deltas, ({}, "stop")]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            reply.write(encode(msgspec.json.encode(head | {"choices": [choice]})))
        reply.write(encode(msgspec.json.encode(head | {"choices": [], "usage": self.facts["usage"]})))
        reply.write(DONE)
        reply.finish()

    def _head(self, kind: str, model: str) -> dict[str, Any]:
        return {"id": "chatcmpl-17f3a9", "object": kind, "created": 1_764_000_000, "model": model}
