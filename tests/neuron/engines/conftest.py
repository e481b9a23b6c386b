"""A neuron with the real model loaded, once for all tests of a module that ask for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from helexa.neuron.app import Neuron
from helexa.neuron.config import Admission, DeviceEntry, NeuronConfig
from tests.neuron.api.client import Client

OPTIONS: dict[str, object] = {"slots": 4}


class Chat(Client):
    """Asks one model; `ask` is a chat of one user message, `complete` the choice that came of it."""

    def __init__(self, neuron: Neuron, model: str) -> None:
        super().__init__(neuron)
        self.model = model

    async def ask(self, text: str = "Say hello.", **fields: object):
        fields = {"max_tokens": 8, "temperature": 0, **fields}
        messages = fields.pop("messages", [{"role": "user", "content": text}])
        return await self.post("/v1/chat/completions", {"model": self.model, "messages": messages, **fields})

    async def say(self, text: str = "Say hello.", **fields: object) -> str:
        got = await self.ask(text, **fields)
        assert got.status == 200, got.body
        return got.json["choices"][0]["message"]["content"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[Client]:
    """A neuron with nothing loaded, and one thread."""
    async with Neuron(NeuronConfig(port=0, devices=[DeviceEntry(kind="cpu", memory_mb=2000, threads=1)])) as neuron:
        client = Client(neuron)
        client.patience_s = 60
        yield client
        await client.origin.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat(smollm2_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Chat]:
    """One thread: two of them wait for each other where other work is on the machine. `OPTIONS` of the module are the
    load's."""
    pytest.importorskip("xllamacpp")
    config = NeuronConfig(
        port=0,
        devices=[DeviceEntry(kind="cpu", memory_mb=4000, threads=1)],
        admission=Admission(max_wait_s=120.0),
    )
    async with Neuron(config, drain_s=0.5) as neuron:
        client = Chat(neuron, f"file:{smollm2_path}")
        client.patience_s = 150.0
        options = getattr(request.module, "OPTIONS", OPTIONS)
        order = {"model_id": client.model, "harness": "llama", "context": 2048, "options": options}
        loaded = await client.post("/models/load", order)
        assert loaded.status == 200, loaded.body
        yield client
        await client.origin.aclose()
