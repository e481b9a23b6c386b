"""`cortex chat`: talk to a model in the terminal, streaming; tokens per second and time to first token at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import httpx2
import msgspec
from cyclopts import Parameter

from helexa.base.errors import HelexaError
from helexa.cli.link import Endpoint, GatewayRefused, NoGateway, call, message_in, url_of
from helexa.cli.say import fail


class Score:
    """What one answer cost: seconds to its first token, and tokens per second after it."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: float | None = None
        self.pieces = 0
        self.usage: dict[str, Any] = {}

    def line(self) -> str:
        if self.first is None:
            return "no tokens"
        tokens = int(self.usage.get("completion_tokens") or self.pieces)
        took = time.monotonic() - self.first
        speed = f"{(tokens - 1) / took:.1f} tok/s" if tokens > 1 and took > 0 else "- tok/s"
        details: dict[str, Any] = self.usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or 0
        prompt = f"{self.usage.get('prompt_tokens', '?')} prompt tokens" + (f" ({cached} cached)" if cached else "")
        return f"{tokens} tokens, {speed}, TTFT {self.first - self.began:.2f} s, {prompt}"


def chat(
    *prompt: str,
    model: Annotated[str | None, Parameter(name=("--model", "-m"))] = None,
    system: Annotated[str | None, Parameter(name=("--system", "-s"))] = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    endpoint: Endpoint = None,
) -> None:
    """Talk to a model. With a PROMPT (or a piped one) answer once; without, hold a conversation until Ctrl-D.

    Parameters
    ----------
    model
        A model id or alias; the first loaded model when not given.
    system
        A system prompt.
    """
    chosen = model or _first_model(endpoint)
    options = {"max_tokens": max_tokens, "temperature": temperature}
    body = {"model": chosen, **{name: value for name, value in options.items() if value is not None}}
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    once = " ".join(prompt) or ("" if sys.stdin.isatty() else sys.stdin.read().strip())
    if once:
        _turn(endpoint, body, [*messages, {"role": "user", "content": once}])
        return
    print(f"{chosen}; Ctrl-D ends, Ctrl-C stops an answer")
    while (said := _read()) is not None:
        if not said.strip():
            continue
        messages.append({"role": "user", "content": said})
        try:
            messages.append({"role": "assistant", "content": _turn(endpoint, body, messages)})
        except HelexaError as error:
            messages.pop()
            print(f"error: {error.message}", file=sys.stderr)


def _first_model(endpoint: str | None) -> str:
    found = call("GET", endpoint, "/v1/models")["data"]
    loaded = [model["id"] for model in found if model["loaded"]] or [model["id"] for model in found]
    return loaded[0] if loaded else fail("the fleet has no model; add one to models.toml, or start with `cortex up`")


def _read() -> str | None:
    try:
        return input("> ")
    except EOFError:
        print()
        return None


def _turn(endpoint: str | None, body: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """One answer, printed as it comes. Ctrl-C stops it and keeps what there is."""
    score, text = Score(), ""
    try:
        for piece in _stream(endpoint, {**body, "messages": messages}, score):
            print(piece, end="", flush=True)
            text += piece
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    print()
    print(score.line(), file=sys.stderr)
    return text


def _stream(endpoint: str | None, body: dict[str, Any], score: Score) -> Iterator[str]:
    url = url_of(endpoint)
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    timeout = httpx2.Timeout(10.0, read=None)
    try:
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=timeout) as answer:
            if answer.status_code != 200:
                answer.read()
                raise GatewayRefused(message_in(answer.json()) or f"HTTP {answer.status_code}")
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield from _pieces(msgspec.json.decode(line[6:]), score)
    except httpx2.HTTPError as error:
        raise NoGateway(url=url, reason=str(error) or type(error).__name__) from error


def _pieces(chunk: dict[str, Any], score: Score) -> Iterator[str]:
    if chunk.get("error"):
        raise GatewayRefused(message_in(chunk))
    score.usage = chunk.get("usage") or score.usage
    choices: list[dict[str, Any]] = chunk.get("choices") or []
    for choice in choices:
        delta: dict[str, str | None] = choice["delta"]
        piece = delta.get("content") or delta.get("reasoning_content")
        if piece:
            score.first = score.first or time.monotonic()
            score.pieces += 1
            yield piece
