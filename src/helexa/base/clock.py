"""Time as an argument: the shells read this clock, the pure core is handed its readings."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds for intervals, wall seconds for stamps, and the only sleep in the house."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock. Its readings are the C functions themselves: a request asks for the time seven times."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


_: Clock = SystemClock()
