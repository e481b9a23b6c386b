"""A client of the neuron for its tests: real sockets, bounded waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from helexa.http1.client import Answer, Origin
from helexa.neuron.app import Neuron
from tests.neuron.helpers import PATIENCE_S


class Got:
    """An answer, whole."""

    def __init__(self, answer: Answer, body: bytes) -> None:
        self.status, self.answer, self.body = answer.status, answer, body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of every event, decoded where it is JSON."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        return [line.decode() if line == b"[DONE]" else msgspec.json.decode(line) for line in lines]

    @property
    def text(self) -> str:
        """What a chat stream said."""
        chunks = [event for event in self.events if isinstance(event, dict) and event.get("choices")]
        return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)

    def header(self, name: bytes) -> bytes | None:
        return self.answer.header(name)


class Client:
    """Talks to one neuron. `patience_s` bounds each of its waits."""

    patience_s = PATIENCE_S

    def __init__(self, neuron: Neuron) -> None:
        self.neuron = neuron
        self.origin = Origin(host="127.0.0.1", port=neuron.port)
        self.headers: list[tuple[bytes, bytes]] = []

    async def get(self, path: str) -> Got:
        return await self._ask(b"GET", path, b"", [])

    async def head(self, path: str) -> Got:
        return await self._ask(b"HEAD", path, b"", [])

    async def post(self, path: str, body: object = None, *, headers: list[tuple[bytes, bytes]] | None = None) -> Got:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self._ask(b"POST", path, raw, headers or [])

    async def load(self, model_id: str, **options: object) -> Got:
        return await self.post("/models/load", {"model_id": model_id, "harness": "echo", "options": options})

    async def chat(self, model_id: str, text: str, **more: object) -> Got:
        return await self.post("/v1/chat/completions", chat_body(model_id, text, **more))

    @asynccontextmanager
    async def chatting(self, model_id: str, text: str, **more: object) -> AsyncIterator[Answer]:
        """An answer under way; leaving the block hangs up."""
        body = msgspec.json.encode(chat_body(model_id, text, **more))
        async with asyncio.timeout(PATIENCE_S):
            async with await self.origin.request(b"POST", b"/v1/chat/completions", self.headers, body) as answer:
                yield answer

    async def _ask(self, method: bytes, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> Got:
        async with asyncio.timeout(self.patience_s):
            answer = await self.origin.request(method, path.encode(), self.headers + headers, body)
            return Got(answer, await answer.read(1 << 22))


def chat_body(model_id: str, text: str, **more: object) -> dict[str, object]:
    return {"model": model_id, "messages": [{"role": "user", "content": text}], **more}
