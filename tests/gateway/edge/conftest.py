"""A gateway in this process in front of a scripted neuron, which records what reaches it byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from helexa.gateway import config as cfg
from helexa.gateway.app import Cortex
from helexa.testing.neuron import FakeModel, ScriptedNeuron
from tests.http1.wires import eventually

WARM, COLD = "org/warm", "org/cold"
ALIASES = {"an alias": WARM, "gpt-*": WARM}


class Edge:
    """`http` talks to the gateway, `neuron` is what stands behind it; `WARM` is loaded there, `COLD` is not."""

    def __init__(self, neuron: ScriptedNeuron, cortex: Cortex, http: httpx2.AsyncClient) -> None:
        self.neuron, self.cortex, self.http = neuron, cortex, http

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> httpx2.Response:
        """These very bytes."""
        return await self.http.post(path, content=body, headers={"content-type": "application/json", **(headers or {})})


@asynccontextmanager
async def standing(**limits: float) -> AsyncIterator[Edge]:
    async with ScriptedNeuron(FakeModel(id=WARM, loaded=True), FakeModel(id=COLD)) as neuron:
        gateway = {"max_wait_s": 0.3, "max_queue": 1, "max_body_mb": 1, **limits}
        config = cfg.CortexConfig(
            gateway=cfg.Gateway(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", **gateway),
            neurons=(cfg.Neuron(name="n1", endpoint=neuron.url),),
            polling=cfg.Polling(restart_s=0),
        )
        models = cfg.ModelsFile(models=(cfg.Profile(id=COLD),), aliases=ALIASES)
        cortex = Cortex(config, models)
        (url,) = await cortex.start()
        try:
            await eventually(lambda: WARM in cortex.fleet.places)
            async with httpx2.AsyncClient(base_url=url, timeout=20.0) as http:
                yield Edge(neuron, cortex, http)
        finally:
            await cortex.stop(0.0)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with standing() as found:
        yield found


@pytest.fixture
async def impatient() -> AsyncIterator[Edge]:
    """The same, but a node that is silent for a moment is given up."""
    async with standing(silence_s=0.2, answer_s=0.2) as found:
        yield found
