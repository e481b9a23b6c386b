"""The requests in flight on one model, counted so that the count is right however a request ends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from helexa.base.errors import HelexaError, Unavailable
from helexa.neuron.core.admission import Gate


@dataclass(slots=True, kw_only=True, eq=False)
class Seat:
    """One request in flight. `socket` is where its model is served; `on_cut` is called when it has to end early."""

    model_id: str
    socket: str
    on_cut: Callable[[], None] | None = None
    was_cut: bool = False

    def cut(self) -> None:
        """End the request: its model is going."""
        self.was_cut = True
        if self.on_cut is not None:
            self.on_cut()


class Seats:
    """The seats and the queue of one loaded model."""

    def __init__(self, model_id: str, socket: str, gate: Gate) -> None:
        self._model_id, self._socket, self._gate = model_id, socket, gate
        self._taken: set[Seat] = set()
        self._passing = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed: HelexaError | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def __repr__(self) -> str:
        return f"Seats({self._model_id}: {len(self._taken)} of {self._gate.seats}, {len(self._waiting)} waiting)"

    @property
    def in_flight(self) -> int:
        return len(self._taken)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def take(self, *, queued: bool) -> AsyncGenerator[Seat]:
        """Hold a seat for the length of the block. `queued` False is for calls that do not decode: they pass the gate.

        Raises Unavailable with a Retry-After when the queue is full, the wait is over, or the model goes.
        """
        if queued:
            await self._admit()
        elif self._closed is not None:
            raise self._closed
        seat = Seat(model_id=self._model_id, socket=self._socket)
        self._taken.add(seat)
        self._passing += not queued
        self._empty.clear()
        try:
            yield seat
        finally:
            self._taken.discard(seat)
            self._passing -= not queued
            self._leave()

    async def _admit(self) -> None:
        """Return when a seat is free, with nothing awaited after that was known."""
        if self._closed is not None:
            raise self._closed
        verdict = self._gate.verdict(self._decoding, len(self._waiting))
        if verdict == "take":
            return
        if verdict == "full":
            raise self._turned_away("its queue is full")
        await self._wait()

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._gate.max_wait_s):
                await turn
        except TimeoutError:
            raise self._turned_away(f"no seat was free within {self._gate.max_wait_s:g} s") from None
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._granted -= 1
                if asyncio.current_task() and asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    self._leave()
