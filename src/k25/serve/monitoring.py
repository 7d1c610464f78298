"""What /metrics shows (Prometheus): requests, latencies of tokens, and the engine's own counts."""

import time
from collections.abc import Callable, Iterable
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from k25.engine import Engine, EngineMetrics

_NOW = frozenset({"running", "waiting", "policy_version", "step_seconds", "step_prefill_tokens", "step_decode_tokens"})
_TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_ANSWER_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Clock:
    """Times one choice: its first token from the start, every other from the one before."""

    def __init__(self, first: Histogram, between: Histogram) -> None:
        self._next, self._between = first, between
        self._last = time.perf_counter()

    def tick(self) -> None:
        """A token came."""
        now = time.perf_counter()
        self._next.observe(now - self._last)
        self._next, self._last = self._between, now


class Monitor:
    """One server's metrics, in a registry of their own. `generating` tells the admitted requests now."""

    def __init__(self, engine: Engine, generating: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("k25_requests", "Finished requests.", ["path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "k25_request_seconds",
            "From a request's first line to the end of its answer.",
            ["path"],
            buckets=_ANSWER_SECONDS,
            registry=self._registry,
        )
        self._first = Histogram(
            "k25_time_to_first_token_seconds",
            "From a choice's start to its first token.",
            buckets=_ANSWER_SECONDS,
            registry=self._registry,
        )
        self._between = Histogram(
            "k25_inter_token_seconds",
            "Between two tokens of a choice.",
            buckets=_TOKEN_SECONDS,
            registry=self._registry,
        )
        Gauge("k25_generating_requests", "Admitted requests now.", registry=self._registry).set_function(generating)
        self._registry.register(_EngineCollector(engine))

    def request_done(self, path: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def clock(self) -> Clock:
        """A clock for a choice that starts now."""
        return Clock(self._first, self._between)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics as text, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class _EngineCollector:
    """Reads `EngineMetrics` whenever somebody asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        metrics = self._engine.metrics()
        for entry in fields(EngineMetrics):
            name, value = f"k25_engine_{entry.name}", getattr(metrics, entry.name)
            if entry.name == "finished":
                finished = CounterMetricFamily(name, "Finished engine requests by reason.", labels=["reason"])
                for reason, count in value.items():
                    finished.add_metric([reason], count)
                yield finished
            elif entry.name in _NOW or entry.name.startswith("blocks_"):
                yield GaugeMetricFamily(name, f"The engine's {entry.name} now.", value=value)
            else:
                yield CounterMetricFamily(name, f"The engine's {entry.name} since its start.", value=value)
