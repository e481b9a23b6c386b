"""The only writer of the fleet: `tell(event)` folds, plans and hands out the instructions, without ever awaiting.

Because it never awaits it needs no lock. Slow work (a load, an unload, a poll) is a background task that ends by
telling an event. A request holds a `Seat`, so in-flight counts are right however it leaves.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from helexa.base.clock import Clock
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.plan.hot import Affinity, Ledger
from helexa.gateway.plan.instructions import Forgo, Instruction, Load, Order, Recycle, Refuse
from helexa.gateway.plan.instructions import Seat as Granted
from helexa.gateway.plan.step import step

log = logging.getLogger(__name__)

Hands = Callable[[Order], None]
Watcher = Callable[[ev.Event, list[Instruction]], None]


def _nobody() -> None:
    """The affinity of a request without a session."""


class RefusedSeat(Exception):
    """The planner refused; `refusal` says why, with the figures."""

    def __init__(self, refusal: Refuse) -> None:
        self.refusal = refusal
        super().__init__(refusal.message)


class Dispatcher:
    """Owns the fleet. `hands` carries out loads and unloads; `watchers` see every event with what came of it.

    A request on a warm model takes its seat and leaves it without an event (`plan.hot`).
    """

    def __init__(self, clock: Clock, *, fleet: Fleet | None = None) -> None:
        self.clock = clock
        self.charted = fleet or Fleet()
        """The fleet without the seats that were taken and left on warm models since; `fleet` has them."""
        self._ledger = Ledger()
        self.hands: Hands = _no_hands
        self.watchers: list[Watcher] = []
        self._seats: dict[int, Claim] = {}
        self._numbers = itertools.count(1)
        self._queue: deque[ev.Event] = deque()
        self._telling = False

    @property
    def fleet(self) -> Fleet:
        """The fleet as it is now."""
        if self._ledger:
            self.charted = self._ledger.settle(self.charted)
        return self.charted

    def tell(self, event: ev.Event) -> None:
        """Take in what happened. An event told from within (by a watcher or the hands) is taken in right after."""
        if self._telling:
            self._queue.append(event)
            return
        self._telling = True
        try:
            self._take_in(event)
            while self._queue:
                self._take_in(self._queue.popleft())
        finally:
            self._telling = False

    def _take_in(self, event: ev.Event) -> None:
        self.charted, out = step(self.fleet, event, self.clock.now())
        for instruction in out:
            self._hand_out(instruction)
        for watcher in self.watchers:
            watcher(event, out)

    def _hand_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, (Granted, Refuse)):
            seat = self._seats.pop(instruction.ask, None)
            if seat is not None:
                seat.settle(instruction)
        elif isinstance(instruction, Forgo):
            log.warning("%s is not loaded: %s", instruction.model, instruction.message)
        elif isinstance(instruction, Order):
            log.info("%s", _line(instruction))
            self.hands(instruction)

    def take(self, model: str, affinity: Affinity, now: float) -> str | None:
        """A seat on the spot, at a model that is ready and that nobody waits for: its node, or None. Who takes it has
        to `give_back`, or to let a `Seat` do so."""
        return None if self._telling else self._ledger.take(self.charted, model, affinity, now)

    def give_back(self, model: str, node: str, now: float, *, transport_error: bool = False) -> None:
        """A seat was left."""
        if transport_error or self._telling or not self._ledger.give_back(self.charted, model, node, now):
            self.tell(ev.Finished(model=model, node=node, transport_error=transport_error))

    def seat(
        self,
        model: str,
        *,
        affinity: Affinity = _nobody,
        avoid: frozenset[str] = frozenset(),
        trouble: str = "",
        decision: str = "",
    ) -> Claim:
        """A seat at `model`, to be asked for; use it as `async with`, or `ask()`, `wait()` and `leave()` by hand.
        `avoid` are the nodes that failed the request already, `trouble` is how the last of them did."""
        return Claim(self, model, affinity, avoid, trouble, decision)

    def enrol(self, seat: Claim) -> int:
        number = next(self._numbers)
        self._seats[number] = seat
        return number

    def withdraw(self, seat: Claim, *, in_vain: bool = False) -> None:
        self._seats.pop(seat.number, None)
        self.tell(ev.Left(ask=seat.number, model=seat.model, in_vain=in_vain))

    def tick(self, speeds: dict[tuple[str, str], tuple[int, float]] | None = None) -> None:
        self.tell(ev.Ticked(speeds=speeds or {}))


def _no_hands(instruction: Order) -> None:
    log.warning("nobody is there to carry out %s", instruction)


def _line(instruction: Order) -> str:
    if isinstance(instruction, Load):
        return f"load {instruction.model} on {instruction.node}, devices {list(instruction.devices)}"
    if isinstance(instruction, Recycle):
        return f"recycle the worker of device {instruction.device} on {instruction.node}"
    made_for = f" for {instruction.made_for}" if instruction.made_for else ""
    return f"unload {instruction.model} on {instruction.node}: {instruction.reason}{made_for}"


class Seat:
    """One request's place at a model, on `node`: held, and always left."""

    __slots__ = ("_held", "_house", "model", "node")

    def __init__(self, house: Dispatcher, model: str, node: str) -> None:
        self._house = house
        self._held = True
        self.model = model
        self.node = node

    def leave(self, *, transport_error: bool = False) -> None:
        """Give the seat back. Safe to call again."""
        if self._held:
            self._held = False
            house = self._house
            house.give_back(self.model, self.node, house.clock.now(), transport_error=transport_error)


class Claim(Seat):
    """A seat that is asked for, and perhaps waited for."""

    __slots__ = ("_affinity", "_avoid", "_decision", "_future", "_refusal", "_trouble", "number")

    def __init__(
        self, house: Dispatcher, model: str, affinity: Affinity, avoid: frozenset[str], trouble: str, decision: str
    ) -> None:
        super().__init__(house, model, "")
        self._held = False
        self.number = 0
        self._affinity = affinity
        self._avoid = avoid
        self._trouble = trouble
        self._decision = decision
        self._future: asyncio.Future[None] | None = None
        self._refusal: Refuse | None = None

    def ask(self) -> bool:
        """Ask for the seat; True when it was granted on the spot. Raises RefusedSeat."""
        if not self._avoid:
            node = self._house.take(self.model, self._affinity, self._house.clock.now())
            if node is not None:
                self.node, self._held = node, True
                return True
        self.number = self._house.enrol(self)
        self._house.tell(
            ev.Arrived(
                ask=self.number,
                model=self.model,
                affinity=self._affinity(),
                avoid=self._avoid,
                trouble=self._trouble,
                decision=self._decision,
            )
        )
        return self._settled()

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait for the answer at most so long; False when it is still open. Raises RefusedSeat."""
        if self._settled():
            return True
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._future,), timeout=timeout_s)
        return self._settled()

    def give_up(self) -> None:
        """Stop waiting although the client would go on."""
        self._house.withdraw(self, in_vain=True)

    def settle(self, answer: Granted | Refuse) -> None:
        """The planner's answer; called by the dispatcher."""
        if isinstance(answer, Granted):
            self.node, self._held = answer.node, True
        else:
            self._refusal = answer
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _settled(self) -> bool:
        if self._refusal is not None:
            raise RefusedSeat(self._refusal)
        return self._held

    def leave(self, *, transport_error: bool = False) -> None:
        """Give the seat back, or stop waiting for it. Safe to call again."""
        if not self._held and self._refusal is None and not self.node:
            self._house.withdraw(self)
        super().leave(transport_error=transport_error)

    async def __aenter__(self) -> Self:
        try:
            if not self.ask():
                await self.wait(None)
        except BaseException:
            self.leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
