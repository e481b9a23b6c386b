"""Prometheus metrics with declared buckets, labels {model,node}.

The hot path adds to plain numbers (0.3 us an observation); prometheus-client turns them into text when it is scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from helexa.gateway.fleet.model import Fleet, Status

DURATION_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
SPEED_BUCKETS = (1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0, 200.0)

Key = tuple[str, str]


class Tally:
    """A histogram's numbers."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        seen, rows = 0, list[tuple[str, float]]()
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            rows.append((bound, float(seen)))
        return rows


class Cell:
    """Everything counted for one model on one node."""

    __slots__ = (
        "cached_tokens",
        "cold_starts",
        "completion_tokens",
        "duration",
        "errors",
        "prompt_tokens",
        "requests",
        "speed",
        "ttft",
        "wait",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.errors: dict[str, int] = {}
        self.cold_starts = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.duration = Tally(DURATION_BUCKETS)
        self.ttft = Tally(TTFT_BUCKETS)
        self.wait = Tally(TTFT_BUCKETS)
        self.speed = Tally(SPEED_BUCKETS)


class Metrics(Collector):
    """All cells, and the gauges that are read off the fleet when scraped."""

    def __init__(self, fleet: Callable[[], Fleet]) -> None:
        self._fleet = fleet
        self._cells: dict[Key, Cell] = {}
        self._speeds_told: dict[Key, tuple[float, int]] = {}
        self.evictions: dict[tuple[str, str, str], int] = {}
        self.recycles: dict[tuple[str, str], int] = {}
        self.orphaned_seconds = 0.0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def cell(self, model: str, node: str) -> Cell:
        found = self._cells.get((model, node))
        if found is None:
            found = self._cells[model, node] = Cell()
        return found

    def new_speeds(self) -> dict[Key, tuple[int, float]]:
        """Of the streams that ended since the last call, by model and node: their number and mean tokens a second."""
        news: dict[Key, tuple[int, float]] = {}
        for key, cell in self._cells.items():
            total = cell.speed.total
            before, counted = self._speeds_told.get(key, (0.0, 0))
            if total != before:
                count = sum(cell.speed.counts)
                self._speeds_told[key] = total, count
                news[key] = count - counted, (total - before) / (count - counted)
        return news

    def evicted(self, model: str, node: str, reason: str) -> None:
        key = (model, node, reason)
        self.evictions[key] = self.evictions.get(key, 0) + 1

    def recycled(self, node: str, device: int) -> None:
        key = (node, str(device))
        self.recycles[key] = self.recycles.get(key, 0) + 1

    def scrape(self, accept: str) -> tuple[str, bytes]:
        """(content type, text): OpenMetrics for who accepts it, else Prometheus's own format."""
        encode, kind = choose_encoder(accept)
        return kind, encode(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        rows: list[tuple[str, str, Callable[[Cell], int]]] = [
            ("cortex_requests", "Requests that were given a seat", lambda cell: cell.requests),
            ("cortex_cold_starts", "Requests that waited for their model to load", lambda cell: cell.cold_starts),
            ("cortex_prompt_tokens", "Prompt tokens", lambda cell: cell.prompt_tokens),
            ("cortex_completion_tokens", "Generated tokens", lambda cell: cell.completion_tokens),
            ("cortex_cached_prompt_tokens", "Prompt tokens that came from a cache", lambda cell: cell.cached_tokens),
        ]
        for name, text, read in rows:
            family = CounterMetricFamily(name, text, labels=["model", "node"])
            for (model, node), cell in self._cells.items():
                family.add_metric([model, node], read(cell))
            yield family
        errors = CounterMetricFamily(
            "cortex_request_errors", "Requests that failed", labels=["model", "node", "reason"]
        )
        for (model, node), cell in self._cells.items():
            for reason, count in cell.errors.items():
                errors.add_metric([model, node, reason], count)
        yield errors
        evictions = CounterMetricFamily("cortex_evictions", "Models unloaded", labels=["model", "node", "reason"])
        for labels, count in self.evictions.items():
            evictions.add_metric(list(labels), count)
        yield evictions
        recycles = CounterMetricFamily(
            "cortex_device_recycles", "Workers replaced to make a device's memory whole", labels=["node", "device"]
        )
        for labels, count in self.recycles.items():
            recycles.add_metric(list(labels), count)
        yield recycles
        orphaned = CounterMetricFamily(
            "cortex_orphaned_generation_seconds", "Time engines spent on clients that had left", labels=[]
        )
        orphaned.add_metric([], self.orphaned_seconds)
        yield orphaned

    def _histograms(self) -> Iterator[Metric]:
        rows: list[tuple[str, str, Callable[[Cell], Tally]]] = [
            (
                "cortex_request_duration_seconds",
                "Whole request, from its head to the answer's end",
                lambda c: c.duration,
            ),
            ("cortex_time_to_first_token_seconds", "From the request's head to the first token", lambda c: c.ttft),
            ("cortex_seat_wait_seconds", "The part of it spent waiting for a seat or a load", lambda c: c.wait),
            ("cortex_tokens_per_second", "Generated tokens over the time of generation", lambda c: c.speed),
        ]
        for name, text, read in rows:
            family = HistogramMetricFamily(name, text, labels=["model", "node"])
            for (model, node), cell in self._cells.items():
                tally = read(cell)
                family.add_metric([model, node], tally.cumulative(), tally.total)
            yield family

    def _gauges(self) -> Iterator[Metric]:
        fleet = self._fleet()
        total = GaugeMetricFamily(
            "cortex_device_memory_mb", "What models may use of a device", labels=["node", "device"]
        )
        free = GaugeMetricFamily("cortex_device_free_mb", "What is free of it", labels=["node", "device"])
        healthy = GaugeMetricFamily("cortex_node_healthy", "1 while the node answers its polls", labels=["node"])
        for node in fleet.nodes.values():
            healthy.add_metric([node.name], int(node.healthy))
            for device in node.devices:
                total.add_metric([node.name, str(device.index)], device.total_mb)
                free.add_metric([node.name, str(device.index)], fleet.free.get(node.name, {}).get(device.index, 0))
        flying = GaugeMetricFamily("cortex_model_in_flight", "Requests under way", labels=["model", "node"])
        loaded = GaugeMetricFamily("cortex_model_loaded", "1 while the model is loaded", labels=["model", "node"])
        for model, there in fleet.places.items():
            for node, place in there.items():
                flying.add_metric([model, node], place.in_flight)
                loaded.add_metric([model, node], int(place.status is Status.LOADED))
        waiting = GaugeMetricFamily("cortex_waiting_requests", "Requests that wait for their model", labels=["model"])
        for model, asks in fleet.asks.items():
            waiting.add_metric([model], len(asks))
        yield from (total, free, healthy, flying, loaded, waiting)
