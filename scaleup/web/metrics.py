"""What the web server counts, for Prometheus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class Metrics:
    """`kind` is `static`, `forward`, `local` (healthz and readyz) or `refused`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answered = _Answered()
        registry.register(self._answered)
        self.in_progress = Gauge(
            "scaleup_web_requests_in_progress", "Requests being answered", registry=registry
        )
        self.connections = Gauge("scaleup_web_connections", "Open connections of clients", registry=registry)
        self.limit = Gauge(
            "scaleup_web_connections_limit",
            "So many may be open, by --maxconn and the limit on descriptors",
            registry=registry,
        )
        self._refused = Counter(
            "scaleup_web_connections_refused",
            "Connections of clients that ended before HTTP was spoken: no TLS handshake, no PROXY header where one "
            "has to be, or more of one source than --source-maxconn",
            ["reason"],
            registry=registry,
        )
        self.upstream_failures = Counter(
            "scaleup_web_upstream_failures",
            "Exchanges with an application server that gave no response, or not all of it",
            ["server", "reason"],
            registry=registry,
        )
        self.upstream_up = Gauge(
            "scaleup_web_upstream_up",
            "Whether health checks find the application server up",
            ["server"],
            registry=registry,
        )

        self.refused("source_maxconn", 0)

    def refused(self, reason: str, count: int = 1) -> None:
        self._refused.labels(reason).inc(count)

    def answered(self, kind: str, status: int) -> None:
        self._answered.counts[kind, status if status == 499 else status // 100] += 1


class _Answered(Collector):
    """A number that is added to, where a Counter's lock costs as much as to read a request's fields."""

    def __init__(self) -> None:
        self.counts = defaultdict[tuple[str, int], int](int)

    def collect(self) -> Iterator[Metric]:
        text = "Requests answered, by who answered and the class of the status (499: the client left)"
        family = CounterMetricFamily("scaleup_web_requests", text, labels=["kind", "code"])
        for (kind, code), count in self.counts.items():
            family.add_metric([kind, "499" if code == 499 else f"{code}xx"], count)
        yield family
