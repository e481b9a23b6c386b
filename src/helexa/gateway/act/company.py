"""Signs of life for a streaming client while nothing comes for it: its model loads, or its node has a queue."""

from __future__ import annotations

import asyncio

from helexa.gateway.act.proxy import SSE, Trip, shown

EVERY_S = 0.9
"""A waiting client hears from us at least each second."""
QUEUED_S = 1.5
"""A node that takes in a prompt says so after a second; where it has not, the request stands in its queue."""


class Company:
    """Keeps one client company from `join` to `leave`, which may be called again and again."""

    __slots__ = ("_loop", "_timer", "_trip")

    def __init__(self, trip: Trip) -> None:
        self._trip = trip
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def join(self, first_s: float) -> None:
        """The next sign is due in so long, at most; once there was one they go on as they were. An answer that is
        wanted whole has no grammar for it."""
        self.leave()
        if self._trip.call.stream:
            self._timer = self._loop.call_later(EVERY_S if self._trip.reply.started else first_s, self._beat)

    def leave(self) -> None:
        """Something has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        call, reply = self._trip.call, self._trip.reply
        if reply.finished:
            return
        if not reply.started:
            reply.start(200, [*SSE, *shown(self._trip.journey)])
            reply.write(call.opening())
        else:
            reply.write(call.keepalive())
        self._timer = self._loop.call_later(EVERY_S, self._beat)
