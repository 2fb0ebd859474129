"""What /metrics says of an application and its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scaleup.app.pool import Pool
from scaleup.app.replicas import Replicas
from scaleup.app.transactions import Transactions
from scaleup.app.upkeep import Clicks


def measure(
    registry: CollectorRegistry,
    pool: Pool,
    transactions: Transactions,
    clicks: Clicks,
    replicas: Replicas,
    responses: Mapping[int, int],
) -> None:
    """Read at each scrape; nothing is counted twice. `responses`: how many, by status."""

    def collect() -> Iterator[Metric]:
        sent = CounterMetricFamily("scaleup_app_responses", "Responses by status", labels=["status"])
        for status, count in responses.items():
            sent.add_metric([str(status)], count)
        yield sent
        connections = GaugeMetricFamily(
            "scaleup_app_database_connections", "Connections of the pool", labels=["state"]
        )
        connections.add_metric(["in use"], pool.in_use)
        connections.add_metric(["idle"], pool.idle)
        yield connections
        yield GaugeMetricFamily("scaleup_app_database_waiting", "Uses waiting for a connection", pool.waiting)
        yield GaugeMetricFamily("scaleup_app_clicks_waiting", "Clicks that are to be written", clicks.waiting)
        if replicas.all:
            usable = GaugeMetricFamily(
                "scaleup_app_replica_usable", "Processes that read from this replica", labels=["replica"]
            )
            uses = CounterMetricFamily(
                "scaleup_app_replica_uses", "Times that this replica was asked", labels=["replica"]
            )
            for it in replicas.all:
                usable.add_metric([str(it.endpoint)], it.reason is None)
                uses.add_metric([str(it.endpoint)], it.pool.uses)
            yield from (usable, uses)
        for name, text, value in (
            ("database_opened", "Connections made", pool.opened),
            ("database_refused", "Uses that found no connection in time", pool.refused),
            ("database_repeated", "Transactions done again after an error", transactions.repeated),
            ("clicks_lost", "Clicks that are not certainly written", clicks.lost),
        ):
            yield CounterMetricFamily(f"scaleup_app_{name}", text, value)

    registry.register(_Collector(collect))


class _Collector(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()
