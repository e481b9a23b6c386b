"""What is counted, and what the planner learns from it."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

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


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"]
)
def test_whoever_scrapes_reads_families_with_their_kinds_in_a_format_they_accept(accept: str) -> None:
    metrics = Metrics(Fleet)
    metrics.cell("a", "n1").requests += 1
    kind, text = metrics.scrape(accept)
    modern = kind.startswith("application/openmetrics-text")
    assert modern == ("openmetrics" in accept)
    parse = openmetrics_families if modern else text_families
    kinds = {family.name: family.type for family in parse(text.decode())}
    assert kinds["cortex_requests"] == "counter"
    assert "unknown" not in kinds.values()
