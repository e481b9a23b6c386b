"""What is counted, and what the planner learns from it."""

from __future__ import annotations

from helexa.gateway.fleet.model import Fleet
from helexa.gateway.metrics import Metrics


def test_the_speeds_of_streams_are_told_once() -> None:
    metrics = Metrics(Fleet)
    assert metrics.new_speeds() == {}
    for speed in (10.0, 30.0):
        metrics.cell("a", "n1").speed.add(speed)
    metrics.cell("a", "n2")
    assert metrics.new_speeds() == {("a", "n1"): (2, 20.0)}
    assert metrics.new_speeds() == {}
    metrics.cell("a", "n1").speed.add(50.0)
    assert metrics.new_speeds() == {("a", "n1"): (1, 50.0)}
