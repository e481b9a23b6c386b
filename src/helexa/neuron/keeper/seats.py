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
    hears_on_write: bool = False
    on_cut: Callable[[], None] | None = None
    was_cut: bool = False

    def cut(self) -> None:
        """End the request: its model is going."""
        self.was_cut = True
        if self.on_cut is not None:
            self.on_cut()


class Seats:
    """The seats and the queue of one loaded model."""

    def __init__(self, model_id: str, socket: str, gate: Gate, *, hears_on_write: bool = False) -> None:
        self._model_id, self._socket, self._gate = model_id, socket, gate
        self._hears_on_write = hears_on_write
        self._decoding: set[Seat] = set()
        self._passing: set[Seat] = set()
        self._waiting: deque[asyncio.Future[Seat]] = deque()
        self._closed: HelexaError | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def __repr__(self) -> str:
        return f"Seats({self._model_id}: {self.in_flight} of {self._gate.seats}, {self.waiting} waiting)"

    @property
    def in_flight(self) -> int:
        """Requests that hold a seat."""
        return len(self._decoding) + len(self._passing)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(self, *, queued: bool) -> AsyncGenerator[Seat]:
        """Hold a seat for the length of the block. `queued` False is for calls that do not decode: they pass the gate.

        Raises Unavailable with a Retry-After when the queue is full, the wait is over, or the model goes.
        """
        if self._closed is not None:
            raise self._closed
        seat = await self._admit() if queued else self._sit(self._passing)
        try:
            yield seat
        finally:
            self._release(seat)

    def close(self, why: HelexaError) -> None:
        """No new requests: those that wait and those that come get `why`."""
        self._closed = why
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(why)

    def reopen(self) -> None:
        """Take requests again."""
        self._closed = None

    def cut(self) -> None:
        """End every request in flight."""
        for seat in (*self._decoding, *self._passing):
            seat.cut()

    async def empty(self) -> None:
        """Return when no request is in flight."""
        await self._empty.wait()

    async def _admit(self) -> Seat:
        verdict = self._gate.verdict(len(self._decoding), len(self._waiting))
        if verdict == "take":
            return self._sit(self._decoding)
        if verdict == "full":
            raise self._turned_away("its queue is full")
        return await self._wait()

    async def _wait(self) -> Seat:
        turn: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._gate.max_wait_s):
                return await turn
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release(turn.result())  # its turn came in the moment it left: hand it on, or it is lost for ever
            if isinstance(error, TimeoutError):
                raise self._turned_away(f"no seat was free within {self._gate.max_wait_s:g} s") from None
            raise

    def _sit(self, row: set[Seat]) -> Seat:
        seat = Seat(model_id=self._model_id, socket=self._socket, hears_on_write=self._hears_on_write)
        row.add(seat)
        self._empty.clear()
        return seat

    def _release(self, seat: Seat) -> None:
        """Free a seat and give it to who has waited longest, before anything else can run."""
        self._decoding.discard(seat)
        self._passing.discard(seat)
        while self._waiting and self._gate.free(len(self._decoding)):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._sit(self._decoding))
        if not self._decoding and not self._passing:
            self._empty.set()

    def _turned_away(self, reason: str) -> Unavailable:
        retry_after_s = self._gate.retry_after_s(len(self._waiting))
        return Unavailable(model=self._model_id, reason=reason, retry_after=retry_after_s, code="rate_limit_exceeded")
