"""Figures for Prometheus: what was asked, how long it took, what is under way. No label is a request's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgereason.core.types import Response, Stop

if TYPE_CHECKING:
    from edgereason.reasoning.worker import Load

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """All figures of one server.

    Args:
        load: what is under way now; None while there is no model.
    """

    def __init__(self, load: Callable[[], Load | None]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._responses = self._counter("responses", "Answers by class of status.", "status")
        self._routes = self._counter("routes", "Answered requests by route.", "route")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._prompt_s = self._counter(
            "prompt_seconds", "Seconds from the start of a request to its first token."
        )
        self._cached = self._counter("cached_tokens", "Tokens of prompts that were not encoded again.")
        self._predicted = self._counter("tokens_predicted", "Tokens of all streams.")
        self._predicted_s = self._counter(
            "tokens_predicted_seconds", "Seconds from the first token to the last."
        )
        self._forced = self._counter(
            "forced_closings", "Streams whose thinking was closed, or answer asked for."
        )
        self._early = self._counter(
            "votes_stopped_early", "Votes that were certain before all streams ended."
        )
        self._cancelled = self._counter("cancelled", "Requests whose client left.")
        self._ttft = self._histogram(
            "ttft_seconds", "Seconds from a request to its first token, queue included."
        )
        self._queue = self._histogram("queue_seconds", "Seconds in the queue.")
        self._registry.register(_Now(load))

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"edgereason_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(f"edgereason_{name}", what, buckets=_SECONDS, registry=self._registry)

    def note_status(self, status: int) -> None:
        """Counts an answer."""
        self._responses.labels(f"{status // 100}xx").inc()

    def note_cancelled(self) -> None:
        """Counts a request whose client left."""
        self._cancelled.inc()

    def note_queue(self, seconds: float) -> None:
        """Takes in how long a request waited."""
        self._queue.observe(seconds)

    def note_response(self, response: Response, queue_s: float) -> None:
        """Takes in what a request came to."""
        usage, timing = response.usage, response.timing
        self._routes.labels(str(response.route)).inc()
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._predicted.inc(usage.all_streams_tokens)
        self._ttft.observe(timing.ttft_s)
        self._prompt_s.inc(max(0.0, timing.ttft_s - queue_s))
        self._predicted_s.inc(max(0.0, timing.total_s - timing.ttft_s))
        traces = [candidate.trace for candidate in response.candidates]
        self._forced.inc(sum(True in trace.forced for trace in traces))
        if response.stop is not Stop.CANCELLED and any(trace.stop is Stop.CANCELLED for trace in traces):
            self._early.inc()

    def text(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is under way, asked for when the figures are read."""

    def __init__(self, load: Callable[[], Load | None]) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        load = self._load()
        if load is None:
            return
        for name, what, value in (
            ("requests_processing", "Requests that are being answered.", load.running_requests),
            ("requests_deferred", "Requests that wait.", load.waiting_requests),
            ("streams_processing", "Streams that are being decoded.", load.running_streams),
            (
                "kv_cache_usage_ratio",
                "Share of the KV cells that are filled.",
                (load.cells_running + load.cells_kept) / load.cells_total if load.cells_total else 0.0,
            ),
        ):
            yield GaugeMetricFamily(f"edgereason_{name}", what, value=value)
        cells = GaugeMetricFamily(
            "edgereason_kv_cells", "KV cells by what they are used for.", labels=["state"]
        )
        free = max(0, load.cells_total - load.cells_running - load.cells_kept)
        for state, number in (("running", load.cells_running), ("kept", load.cells_kept), ("free", free)):
            cells.add_metric([state], number)
        yield cells
