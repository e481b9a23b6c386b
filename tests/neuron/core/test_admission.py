"""The gate in front of a model."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core.admission import Gate

GATE = Gate(seats=2, queue=3, max_wait_s=1.0)
SHARED = Gate(seats=4, queue=3, max_wait_s=1.0, context=1000, kv_tokens=2000)


@pytest.mark.parametrize(
    ("in_flight", "waiting", "verdict"),
    [(0, 0, "take"), (1, 0, "take"), (2, 0, "wait"), (1, 1, "wait"), (2, 2, "wait"), (2, 3, "full"), (0, 3, "full")],
)
def test_seats_then_queue_then_no(in_flight: int, waiting: int, verdict: str) -> None:
    assert GATE.verdict(in_flight, waiting) == verdict


@pytest.mark.parametrize(
    ("reserved", "demand", "verdict"), [(0, 2000, "take"), (1500, 500, "take"), (1500, 501, "wait"), (2000, 1, "wait")]
)
def test_seats_are_no_use_without_kv_cache(reserved: int, demand: int, verdict: str) -> None:
    assert SHARED.verdict(1, 0, reserved=reserved, demand=demand) == verdict


def body(**fields: object) -> bytes:
    return msgspec.json.encode({"model": "m", "prompt": "x" * 300, **fields})


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"max_tokens": 50}, 50),
        ({"max_tokens": 900, "max_completion_tokens": 50}, 50),
        ({"max_tokens": 50, "n": 2}, 100),
        ({}, 250),
        ({"max_tokens": -1}, 250),
    ],
)
def test_a_request_is_promised_its_prompt_and_its_answer(fields: dict[str, object], answer: int) -> None:
    raw = body(**fields)
    assert SHARED.demand(raw) == -(-len(raw) // 3) + answer


def test_nothing_is_promised_where_every_seat_has_its_own() -> None:
    assert GATE.demand(body(max_tokens=50)) == 0


@given(st.binary(max_size=4000), st.integers(-1, 5000))
def test_a_request_alone_always_fits(raw: bytes, limit: int) -> None:
    for ask in (raw, body(max_tokens=limit)):
        assert SHARED.verdict(0, 0, reserved=0, demand=SHARED.demand(ask)) == "take"


def test_retry_after_grows_with_the_queue_and_stays_bounded() -> None:
    waits = [GATE.retry_after_s(waiting, 2.0) for waiting in (0, 10, 1000)]
    assert waits == sorted(waits)
    assert waits[0] >= 1.0
    assert waits[-1] == 120.0


def test_retry_after_is_reckoned_from_what_requests_take() -> None:
    assert GATE.retry_after_s(3, 10.0) == 20.0
