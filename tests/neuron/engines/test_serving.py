"""What the server of token-only engines does with clients, on an engine that makes nothing until it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from helexa.neuron.core.chat.answer import Style
from helexa.neuron.engines.serving.ask import Sampling
from helexa.neuron.engines.serving.server import Model, ModelServer, Sink
from tests.http1.wires import Served, within


class Prefilling:
    """An engine, its tokenizer and its one sequence, which is taken in for ever."""

    cached = 0
    raw: Sequence[bytes] = [b"a"] * 8
    pieces = raw

    def __init__(self) -> None:
        self.started, self.stopped = asyncio.Event(), asyncio.Event()

    def encode(self, text: str, *, begin: bool) -> list[int]:
        return [1, 2, 3]

    def start(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling, sink: Sink) -> Prefilling:
        self.started.set()
        return self

    def stop(self) -> None:
        self.stopped.set()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_the_first_token_is_left_by_the_engine_at_once(stream: bool) -> None:
    engine = Prefilling()
    model = Model(name="m", context=100, steps=engine, words=engine, template=None, style=Style())
    served = await Served.start(ModelServer(model).handle)
    body = msgspec.json.encode({"model": "m", "prompt": "hi", "stream": stream})
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    try:
        client = await served.dial()
        await client.say(head + body)
        await within(engine.started.wait())
        client.hang_up()
        await within(engine.stopped.wait())
    finally:
        await served.end()
