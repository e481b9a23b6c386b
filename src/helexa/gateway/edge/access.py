"""One line a request, worded and written in batches, off the request's own path."""

from __future__ import annotations

import sys
import time
from typing import Literal

import msgspec

from helexa.gateway.meter import Ended, Journey, Usage


class AccessLog:
    """Words what has ended, and writes it to stderr in one write."""

    def __init__(self, style: Literal["human", "json"]) -> None:
        self._words = _as_json if style == "json" else _for_people

    def write(self, ended: list[Ended]) -> None:
        wall = time.time() - time.monotonic()
        sys.stderr.buffer.write(self._words(ended, wall).encode())
        sys.stderr.buffer.flush()


def _for_people(ended: list[Ended], wall: float) -> str:
    """All have the time of the last one: a batch is a quarter of a second."""
    clock = time.strftime("%H:%M:%S", time.localtime(wall + ended[-1][4]))
    lines: list[str] = []
    for journey, status, error, usage, now in ended:
        began, first = journey.began, journey.first
        ttft = f"{int(1000 * (first - began))}ms" if first is not None else "-"
        tokens = f"{usage.prompt_tokens}({usage.cached})>{usage.completion_tokens}" if usage is not None else "-"
        lines.append(
            f"{clock} {status} {journey.endpoint} {journey.model or repr(journey.asked)} @{journey.node or '-'}"
            f" {int(1000 * (now - began))}ms ttft={ttft} tokens={tokens} {error or 'ok'} {journey.request_id}\n"
        )
    return "".join(lines)


def _as_json(ended: list[Ended], wall: float) -> str:
    return "".join(msgspec.json.encode(_row(*one, wall + one[4])).decode() + "\n" for one in ended)


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
