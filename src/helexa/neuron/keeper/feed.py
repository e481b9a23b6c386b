"""News for `GET /events`: whoever listens hears everything from then on, or is let go when it does not keep up."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from helexa.wire.control import Event

BACKLOG = 1024


class Feed:
    """Fan-out of events to any number of listeners; publishing never waits."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Event | None]] = set()

    def publish(self, event: Event) -> None:
        """Hand `event` to every listener."""
        for listener in tuple(self._listeners):
            if listener.qsize() >= BACKLOG:
                self._listeners.discard(listener)  # it may come back and will get the present state first
                listener.put_nowait(None)
            else:
                listener.put_nowait(event)

    @contextmanager
    def listen(self) -> Generator[asyncio.Queue[Event | None]]:
        """A queue of what is published from now on; None ends it."""
        listener: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """Let every listener go."""
        for listener in self._listeners:
            listener.put_nowait(None)
        self._listeners.clear()
