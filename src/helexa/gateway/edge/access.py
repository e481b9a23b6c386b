"""One line a request, worded and written in batches, off the request's own path."""

from __future__ import annotations

import functools
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
        lines = [self._words(*one, wall + one[4]) for one in said]
        sys.stderr.buffer.write(b"\n".join(lines) + b"\n")
        sys.stderr.buffer.flush()


@functools.lru_cache(maxsize=64)
def _time_of_day(wall_s: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(wall_s))


def _for_people(
    journey: Journey, status: int, error: str | None, usage: Usage | None, now: float, wall: float
) -> bytes:
    began = journey.began
    first = f"{int(1000 * (journey.first - began))}ms" if journey.first is not None else "-"
    tokens = f"{usage.prompt_tokens}({usage.cached})>{usage.completion_tokens}" if usage else "-"
    return (
        f"{_time_of_day(int(wall))} {status} {journey.endpoint}"
        f" {journey.model or journey.asked} @{journey.node or '-'} {int(1000 * (now - began))}ms ttft={first}"
        f" tokens={tokens} {error or 'ok'} {journey.request_id}"
    ).encode()


def _as_json(journey: Journey, status: int, error: str | None, usage: Usage | None, now: float, wall: float) -> bytes:
    return msgspec.json.encode(
        {
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
    )
