"""The gate in front of a model."""

from __future__ import annotations

import pytest

from helexa.neuron.core.admission import Gate

GATE = Gate(seats=2, queue=3, max_wait_s=1.0)


@pytest.mark.parametrize(
    ("in_flight", "waiting", "verdict"),
    [(0, 0, "take"), (1, 0, "take"), (2, 0, "wait"), (1, 1, "wait"), (2, 2, "wait"), (2, 3, "full"), (0, 3, "full")],
)
def test_seats_then_queue_then_no(in_flight: int, waiting: int, verdict: str) -> None:
    assert GATE.verdict(in_flight, waiting) == verdict


def test_retry_after_grows_with_the_queue_and_stays_bounded() -> None:
    waits = [GATE.retry_after_s(waiting) for waiting in (0, 10, 1000)]
    assert waits == sorted(waits)
    assert waits[0] >= 1.0
    assert waits[-1] == 120.0
