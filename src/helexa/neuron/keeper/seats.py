"""The requests in flight on one model, counted so that the count is right however a request ends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from helexa.base.errors import HelexaError, Unavailable
from helexa.neuron.core.admission import Gate
from helexa.neuron.harness import Facts


class Saturated(Unavailable):
    """The model `{model}` takes no more requests just now: {reason}."""

    code = "rate_limit_exceeded"


SERVICE_S = 2.0
"""What a request is expected to take before one has been seen."""
_NEWEST_SHARE = 0.3


@dataclass(slots=True, kw_only=True, eq=False)
class Seat:
    """One request in flight. `socket` is where its model is served, `facts` what is known of that; `on_cut` is called
    when it has to end early.
    `kv_tokens` of the model's KV cache are promised to it; it sits since `since_s`."""

    model_id: str
    socket: str
    facts: Facts
    kv_tokens: int = 0
    since_s: float = 0.0
    on_cut: Callable[[], None] | None = None
    cut_for: HelexaError | None = None

    def cut(self, why: HelexaError) -> None:
        """End the request: its model is going."""
        self.cut_for = self.cut_for or why
        if self.on_cut is not None:
            self.on_cut()


class Seats:
    """The seats and the queue of one loaded model."""

    def __init__(self, model_id: str, socket: str, gate: Gate, facts: Facts) -> None:
        self._model_id, self._socket, self._gate = model_id, socket, gate
        self._facts = facts
        self._decoding: set[Seat] = set()
        self._passing: set[Seat] = set()
        self._waiting: deque[tuple[asyncio.Future[Seat], int]] = deque()
        self._reserved = 0
        self._service_s = SERVICE_S
        self._loop = asyncio.get_running_loop()
        self.turned_away = {"full": 0, "late": 0}
        self._idle_since: float | None = None
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

    @property
    def gate(self) -> Gate:
        """What bounds them."""
        return self._gate

    @property
    def kv_reserved(self) -> int:
        """Tokens of KV cache that are promised."""
        return self._reserved

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one is in flight, or is just about to be."""
        if self.in_flight or self._idle_since is None:
            return 0.0
        return self._loop.time() - self._idle_since

    @asynccontextmanager
    async def take(self, *, queued: bool, body: bytes = b"") -> AsyncGenerator[Seat]:
        """Hold a seat for the length of the block. `queued` False is for calls that do not decode: they pass the gate.
        `body` is the request's, by which its share of the KV cache is reckoned.

        Raises Unavailable with a Retry-After when the queue is full, the wait is over, or the model goes.
        """
        if self._closed is not None:
            raise self._closed
        seat = await self._admit(self._gate.demand(body)) if queued else self._sit(self._passing, 0)
        try:
            yield seat
        finally:
            self._release(seat)

    def close(self, why: HelexaError) -> None:
        """No new requests: those that wait and those that come get `why`."""
        self._closed = why
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(why)

    def reopen(self) -> None:
        """Take requests again."""
        self._closed = None

    def cut(self, why: HelexaError) -> None:
        """End every request in flight; `why` is what its client is told."""
        for seat in (*self._decoding, *self._passing):
            seat.cut(why)

    async def empty(self) -> None:
        """Return when no request is in flight."""
        await self._empty.wait()

    async def _admit(self, demand: int) -> Seat:
        """A seat, with its share of the KV cache promised before anything is awaited."""
        waiting = len(self._waiting)
        verdict = self._gate.verdict(len(self._decoding), waiting, reserved=self._reserved, demand=demand)
        if verdict == "take":
            return self._sit(self._decoding, demand)
        if verdict == "full":
            raise self._turned_away("full", "its queue is full")
        return await self._wait(demand)

    async def _wait(self, demand: int) -> Seat:
        turn: asyncio.Future[Seat] = self._loop.create_future()
        place = (turn, demand)
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._gate.max_wait_s):
                return await turn
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
                self._seat_waiters()  # who wanted less may have waited behind it
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release(turn.result())  # its turn came in the moment it left: hand it on, or it is lost for ever
            if isinstance(error, TimeoutError):
                raise self._turned_away("late", f"no seat was free within {self._gate.max_wait_s:g} s") from None
            raise

    def _sit(self, row: set[Seat], demand: int) -> Seat:
        seat = Seat(
            model_id=self._model_id,
            socket=self._socket,
            kv_tokens=demand,
            since_s=self._loop.time(),
            facts=self._facts,
        )
        row.add(seat)
        self._reserved += demand
        self._empty.clear()
        return seat

    def _release(self, seat: Seat) -> None:
        """Free a seat and give it to who has waited longest, before anything else can run."""
        if seat in self._decoding:
            self._service_s += _NEWEST_SHARE * (self._loop.time() - seat.since_s - self._service_s)
        self._decoding.discard(seat)
        self._passing.discard(seat)
        self._reserved -= seat.kv_tokens
        self._seat_waiters()
        if not self._decoding and not self._passing:
            self._idle_since = self._loop.time()
            self._empty.set()

    def _seat_waiters(self) -> None:
        """Seat the oldest waiters as far as there is room; one that wants much is not overtaken, or it would starve."""
        while self._waiting:
            turn, demand = self._waiting[0]
            if not turn.done():
                if not self._gate.free(len(self._decoding), reserved=self._reserved, demand=demand):
                    return
                turn.set_result(self._sit(self._decoding, demand))
            self._waiting.popleft()

    def _turned_away(self, how: Literal["full", "late"], reason: str) -> Saturated:
        self.turned_away[how] += 1
        retry_after_s = self._gate.retry_after_s(len(self._waiting), self._service_s)
        return Saturated(model=self._model_id, reason=reason, retry_after=retry_after_s)
