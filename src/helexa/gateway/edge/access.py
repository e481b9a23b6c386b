"""One line a request, worded and written in batches, off the request's own path."""

from __future__ import annotations

import sys
import time
from typing import Literal

import msgspec

from helexa.gateway.meter import Journey, Usage

MAX_PENDING = 4096

Said = tuple[Journey, int, str | None, Usage | None, float]


class AccessLog:
    """Collects what is to be said; `flush` puts it into words and writes it to stderr, in one write."""

    def __init__(self, style: Literal["human", "json"]) -> None:
        self._words = _as_json if style == "json" else _for_people
        self._pending: list[Said] = []

    def add(self, journey: Journey, status: int, error: str | None, usage: Usage | None, now: float) -> None:
        self._pending.append((journey, status, error, usage, now))
        if len(self._pending) >= MAX_PENDING:
            self._write()

    async def flush(self) -> None:
        self._write()

    def _write(self) -> None:
        if not self._pending:
            return
        said, self._pending = self._pending, []
        wall = time.time() - time.monotonic()
        sys.stderr.buffer.write(self._words(said, wall).encode())
        sys.stderr.buffer.flush()


def _for_people(said: list[Said], wall: float) -> str:
    """All have the time of the last one: a batch is a quarter of a second."""
    clock = time.strftime("%H:%M:%S", time.localtime(wall + said[-1][4]))
    lines: list[str] = []
    for journey, status, error, usage, now in said:
        began, first = journey.began, journey.first
        ttft = f"{int(1000 * (first - began))}ms" if first is not None else "-"
        tokens = f"{usage.prompt_tokens}({usage.cached})>{usage.completion_tokens}" if usage is not None else "-"
        lines.append(
            f"{clock} {status} {journey.endpoint} {journey.model or repr(journey.asked)} @{journey.node or '-'}"
            f" {int(1000 * (now - began))}ms ttft={ttft} tokens={tokens} {error or 'ok'} {journey.request_id}\n"
        )
    return "".join(lines)


def _as_json(said: list[Said], wall: float) -> str:
    return "".join(msgspec.json.encode(_row(*one, wall + one[4])).decode() + "\n" for one in said)


def _row(
    journey: Journey, status: int, error: str | None, usage: Usage | None, now: float, wall: float
) -> dict[str, object]:
    return {
        "at": round(wall, 3),
        "request_id": journey.request_id,
        "endpoint": journey.endpoint,
        "model": journey.model or journey.asked,
        "node": journey.node,
        "status": status,
        "error": error,
        "stream": journey.stream,
        "duration_s": round(now - journey.began, 4),
        "ttft_s": round(journey.first - journey.began, 4) if journey.first is not None else None,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "cached_tokens": usage.cached if usage else None,
    }
