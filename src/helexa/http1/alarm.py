"""One timer for many deadlines, so that a request costs a comparison and not a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

NEVER = inf


class Alarm:
    """Calls `expire(now) -> next deadline` no earlier than the earliest deadline it was told of.

    Deadlines are not taken back: one that moved into the future costs a scan that finds nothing due. Scans are at
    least `grain_s` apart, which bounds their cost with many connections; a deadline is honoured up to that late.
    """

    __slots__ = ("_expire", "_grain_s", "_handle", "_loop", "at")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, expire: Callable[[float], float], *, grain_s: float = 0.1
    ) -> None:
        self._loop = loop
        self._expire = expire
        self._grain_s = grain_s
        self.at = NEVER
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, at: float) -> None:
        """Be awake at `at`, on the loop's clock."""
        if at < self.at:
            self.stop()
            self.at = at
            self._handle = self._loop.call_at(at, self._ring)

    def stop(self) -> None:
        """Forget every deadline."""
        self.at = NEVER
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self.at, self._handle = NEVER, None
        now = self._loop.time()
        self.watch(max(self._expire(now), now + self._grain_s))
