"""A neuron with one CPU device of 1000 MiB, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import Admission, DeviceEntry, NeuronConfig
from tests.neuron.api.client import Client


def config(**more: object) -> NeuronConfig:
    """Any free port on loopback; the queue is short and impatient, so that its end can be seen."""
    settings = {
        "port": 0,
        "devices": [DeviceEntry(kind="cpu", memory_mb=1000)],
        "admission": Admission(max_in_flight=2, max_queue_depth=1, max_wait_s=5.0),
    }
    return NeuronConfig(**(settings | more))  # pyright: ignore[reportArgumentType]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Neuron(config(), drain_s=0.1) as neuron:
        client = Client(neuron)
        yield client
        await client.origin.aclose()
