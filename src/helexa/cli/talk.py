"""One streamed answer as the command line takes it, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec

from helexa.cli.link import UNREACHABLE, GatewayRefused, call, decoded, headers, message_in, no_gateway, refused, url_of
from helexa.cli.say import fail


class Score:
    """What one answer cost: seconds to its first token, and tokens per second after it."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: float | None = None
        self.last = 0.0
        self.pieces = 0
        self.usage: dict[str, Any] = {}

    @property
    def tokens(self) -> int:
        return int(self.usage.get("completion_tokens") or self.pieces)

    @property
    def ttft_s(self) -> float | None:
        return None if self.first is None else self.first - self.began

    @property
    def tokens_per_s(self) -> float | None:
        """Of the tokens after the first; None where there are none."""
        took = 0.0 if self.first is None else self.last - self.first
        return (self.tokens - 1) / took if self.tokens > 1 and took > 0 else None

    def line(self) -> str:
        if self.ttft_s is None:
            return "no tokens"
        speed = "-" if self.tokens_per_s is None else f"{self.tokens_per_s:.1f}"
        details: dict[str, Any] = self.usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or 0
        prompt = f"{self.usage.get('prompt_tokens', '?')} prompt tokens" + (f" ({cached} cached)" if cached else "")
        return f"{self.tokens} tokens, {speed} tok/s, TTFT {self.ttft_s:.2f} s, {prompt}"


def first_model(endpoint: str | None) -> str:
    """A model that is loaded, else any of the catalogue."""
    found = call("GET", endpoint, "/v1/models")["data"]
    loaded = [model["id"] for model in found if model["loaded"]] or [model["id"] for model in found]
    return loaded[0] if loaded else fail("the fleet has no model; add one to models.toml, or start with `cortex up`")


def stream(endpoint: str | None, body: dict[str, Any], score: Score) -> Iterator[str]:
    """The pieces of an answer as they come. Raises NoGateway, GatewayRefused (also in mid-stream)."""
    url = url_of(endpoint)
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    timeout = httpx2.Timeout(10.0, read=None)
    try:
        with httpx2.stream(
            "POST", f"{url}/v1/chat/completions", json=asked, timeout=timeout, headers=headers()
        ) as answer:
            if answer.status_code != 200:
                answer.read()
                raise refused(url, answer.status_code, decoded(answer))
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield from _pieces(msgspec.json.decode(line[6:]), score)
    except UNREACHABLE as error:
        raise no_gateway(url, error) from error


def _pieces(chunk: dict[str, Any], score: Score) -> Iterator[str]:
    if chunk.get("error"):
        raise GatewayRefused(message_in(chunk))
    score.usage = chunk.get("usage") or score.usage
    choices: list[dict[str, Any]] = chunk.get("choices") or []
    for choice in choices:
        delta: dict[str, str | None] = choice["delta"]
        piece = delta.get("content") or delta.get("reasoning_content")
        if piece:
            score.last = time.monotonic()
            score.first = score.first or score.last
            score.pieces += 1
            yield piece
