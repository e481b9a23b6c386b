"""Seats are counted right however a request ends."""

from __future__ import annotations

import asyncio
import random

import pytest

from helexa.base.errors import Unavailable
from helexa.neuron.core.admission import Gate
from helexa.neuron.harness import Facts
from helexa.neuron.keeper.seats import Saturated, Seats

FACTS = Facts(context_length=1000, max_output_tokens=1000, capabilities=("text",), used_mb=None)


def seats(*, taken_at_once: int = 1, queue: int = 8, max_wait_s: float = 5.0, kv_tokens: int | None = None) -> Seats:
    gate = Gate(seats=taken_at_once, queue=queue, max_wait_s=max_wait_s, context=1000, kv_tokens=kv_tokens)
    return Seats("m", "/s", gate, FACTS)


def wanting(tokens: int) -> bytes:
    """A request whose answer may have so many tokens; its own bytes count for seven."""
    return b'{"max_tokens":%6d}' % (tokens - 7)


class Holder:
    """A request that holds its seat until it is told to leave."""

    def __init__(self, room: Seats, *, queued: bool = True, body: bytes = b"") -> None:
        self.leave = asyncio.Event()
        self.seated = asyncio.Event()
        self.task = asyncio.create_task(self._hold(room, queued, body))

    async def _hold(self, room: Seats, queued: bool, body: bytes) -> None:
        async with room.take(queued=queued, body=body):
            self.seated.set()
            await self.leave.wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waited_longest_is_seated_next() -> None:
    room = seats()
    first, second, third = (Holder(room) for _ in range(3))
    await settled()
    assert (room.in_flight, room.waiting) == (1, 2)

    first.leave.set()
    await first.task
    await settled()
    assert second.seated.is_set()
    assert not third.seated.is_set()
    for holder in (second, third):
        holder.leave.set()
    await asyncio.gather(second.task, third.task)
    assert (room.in_flight, room.waiting) == (0, 0)


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    room = seats()
    holder, waiter = Holder(room), Holder(room)
    await settled()
    waiter.task.cancel()
    await settled()
    assert room.waiting == 0
    holder.leave.set()
    await holder.task


async def test_a_waiter_cancelled_in_the_moment_of_its_turn_hands_the_seat_on() -> None:
    room = seats()
    holder, unlucky, next_one = Holder(room), Holder(room), Holder(room)
    await settled()
    holder.leave.set()
    await holder.task  # the seat is the unlucky one's now, but it has not run yet
    unlucky.task.cancel()
    await settled()
    assert next_one.seated.is_set()
    next_one.leave.set()
    await next_one.task
    assert room.in_flight == 0


async def test_a_full_queue_turns_away_with_a_retry_after() -> None:
    room = seats(queue=1)
    holder, waiter = Holder(room), Holder(room)
    await settled()
    with pytest.raises(Unavailable, match="queue is full") as refused:
        async with room.take(queued=True):
            pass
    assert refused.value.retry_after is not None
    for each in (holder, waiter):
        each.leave.set()
    await asyncio.gather(holder.task, waiter.task)


async def test_a_wait_ends_at_its_deadline() -> None:
    room = seats(max_wait_s=0.02)
    holder = Holder(room)
    await settled()
    with pytest.raises(Unavailable, match=r"0\.02 s"):
        async with room.take(queued=True):
            pass
    assert room.waiting == 0
    holder.leave.set()
    await holder.task


async def test_calls_that_do_not_decode_pass_the_gate_but_count_as_in_flight() -> None:
    room = seats()
    holder, passing = Holder(room), Holder(room, queued=False)
    await settled()
    assert passing.seated.is_set()
    assert room.in_flight == 2
    for each in (holder, passing):
        each.leave.set()
    await asyncio.gather(holder.task, passing.task)
    async with asyncio.timeout(1):
        await room.empty()


async def test_a_closed_room_wakes_who_waits_and_refuses_who_comes() -> None:
    room = seats()
    holder, waiter = Holder(room), Holder(room)
    await settled()
    room.close(Unavailable(model="m", reason="it goes"))
    with pytest.raises(Unavailable, match="it goes"):
        await waiter.task
    with pytest.raises(Unavailable, match="it goes"):
        async with room.take(queued=False):
            pass
    holder.leave.set()
    await holder.task
    room.reopen()
    async with room.take(queued=True):
        assert room.in_flight == 1


async def test_kv_cache_is_promised_before_anything_is_awaited() -> None:
    room = seats(taken_at_once=4, kv_tokens=1000)
    stay = room.take(queued=True, body=wanting(600))
    with pytest.raises(StopIteration):  # a coroutine that ends without once giving way
        stay.__aenter__().send(None)  # pyright: ignore[reportAttributeAccessIssue]
    assert room.kv_reserved == 600
    await stay.__aexit__(None, None, None)
    assert room.kv_reserved == 0


async def test_a_request_waits_for_kv_cache_though_seats_are_free_and_is_not_overtaken() -> None:
    room = seats(taken_at_once=4, kv_tokens=1000)
    big, bigger, small = (Holder(room, body=wanting(tokens)) for tokens in (600, 700, 100))
    await settled()
    assert (room.in_flight, room.waiting, room.kv_reserved) == (1, 2, 600)
    assert not small.seated.is_set()
    big.leave.set()
    await big.task
    await settled()
    assert (room.in_flight, room.waiting, room.kv_reserved) == (2, 0, 800)
    for holder in (bigger, small):
        holder.leave.set()
    await asyncio.gather(bigger.task, small.task)
    assert room.kv_reserved == 0


async def test_who_waited_behind_one_that_gave_up_is_seated() -> None:
    room = seats(taken_at_once=4, kv_tokens=1000)
    big, bigger, small = (Holder(room, body=wanting(tokens)) for tokens in (600, 700, 100))
    await settled()
    bigger.task.cancel()
    await settled()
    assert small.seated.is_set()
    for holder in (big, small):
        holder.leave.set()
    await asyncio.gather(big.task, small.task)


async def test_every_refusal_is_counted() -> None:
    room = seats(queue=0)
    holder = Holder(room)
    await settled()
    with pytest.raises(Unavailable):
        async with room.take(queued=True):
            pass
    assert room.turned_away == {"full": 1, "late": 0}
    holder.leave.set()
    await holder.task


@pytest.mark.parametrize("seed", range(20))
async def test_no_seat_is_lost_or_doubled_when_requests_come_and_go_at_random(seed: int) -> None:
    rng = random.Random(seed)
    room = seats(taken_at_once=3, queue=10, kv_tokens=1000 if seed % 2 else None)
    everybody: list[Holder] = []
    holders: list[Holder] = []
    for _ in range(200):
        act = rng.random()
        if act < 0.5:
            holders.append(Holder(room, queued=rng.random() < 0.9, body=wanting(rng.randrange(8, 900))))
            everybody.append(holders[-1])
        elif holders:
            holder = holders.pop(rng.randrange(len(holders)))
            if act < 0.75:
                holder.leave.set()
            else:
                holder.task.cancel()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
        decoding = room._decoding  # pyright: ignore[reportPrivateUsage]
        assert len(decoding) <= 3
        assert room.waiting <= 10
        assert room.kv_reserved <= 1000
    for holder in holders:
        holder.leave.set()
    outcomes = await asyncio.gather(*(holder.task for holder in everybody), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError, Saturated}
    async with asyncio.timeout(2):
        await room.empty()
    assert (room.in_flight, room.waiting, room.kv_reserved) == (0, 0, 0)
