"""What the web server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """`kind` is `static`, `forward`, `local` (healthz and readyz) or `refused`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "scaleup_web_requests",
            "Requests answered, by who answered and the class of the status (499: the client left)",
            ["kind", "code"],
            registry=registry,
        )
        self.in_progress = Gauge(
            "scaleup_web_requests_in_progress", "Requests being answered", registry=registry
        )
        self.connections = Gauge("scaleup_web_connections", "Open connections of clients", registry=registry)
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

        self._answered: dict[tuple[str, int], Counter] = {}  # to look labels up costs more than to count

    def answered(self, kind: str, status: int) -> None:
        code = status if status == 499 else status // 100
        counter = self._answered.get((kind, code))
        if counter is None:
            label = "499" if status == 499 else f"{code}xx"
            counter = self._answered[kind, code] = self.requests.labels(kind, label)
        counter.inc()
