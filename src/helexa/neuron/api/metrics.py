"""The neuron's own series for Prometheus: few, and gauges read the keeper when they are scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from helexa.neuron.keeper import Keeper
from helexa.wire.control import Health

DURATION_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)


class Metrics:
    """What is counted as it happens; everything else is looked up at the scrape."""

    def __init__(self, keeper: Keeper, health: Callable[[], Health]) -> None:
        self._registry = CollectorRegistry()
        self._requests = CounterMetric(
            "neuron_requests", "Requests relayed to engines.", ("model", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "neuron_request_duration_seconds",
            "From the request to the end of its answer.",
            ("model",),
            buckets=DURATION_S,
            registry=self._registry,
        )
        self._registry.register(_Gauges(keeper, health))

    def request(self, model: str, status: int, seconds: float) -> None:
        """One request ended. A model that nobody knows is counted under one name, or clients could name series."""
        name = model if status != 404 else "unknown"
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def render(self) -> tuple[str, bytes]:
        """Content type and text of a scrape."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, keeper: Keeper, health: Callable[[], Health]) -> None:
        self._keeper, self._health = keeper, health

    def collect(self) -> Iterable[Metric]:
        """Models by status, load by model, memory by device."""
        states = GaugeMetricFamily("neuron_models", "Models by status.", labels=("status",))
        for status, count in Counter(row.status for row in self._keeper.models()).items():
            states.add_metric((status,), count)
        in_flight = GaugeMetricFamily("neuron_model_in_flight", "Requests in flight.", labels=("model",))
        queued = GaugeMetricFamily("neuron_model_queue_depth", "Requests that wait.", labels=("model",))
        for load in self._keeper.loads():
            in_flight.add_metric((load.id,), load.in_flight)
            queued.add_metric((load.id,), load.queue_depth)
        used = GaugeMetricFamily("neuron_device_vram_used_mb", "Memory in use (MiB).", labels=("device",))
        free = GaugeMetricFamily("neuron_device_vram_free_mb", "Memory free for models (MiB).", labels=("device",))
        for device in self._health().devices:
            used.add_metric((str(device.index),), device.vram_used_mb)
            free.add_metric((str(device.index),), device.vram_free_mb)
        return (states, in_flight, queued, used, free)
