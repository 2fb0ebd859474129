"""The load balancer's metrics, with HAProxy's names (its Prometheus exporter's, without the prefix)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scaleup.lb.counters import Counters, Frontend, ServerColumn
from scaleup.upstream.pool import Server

_FRONTEND_GAUGES = {
    Frontend.CURRENT: ("current_sessions", "Connections of clients now"),
    Frontend.WAITING: ("current_queue", "Connections that wait for a slot"),
}
_FRONTEND_COUNTERS = {
    Frontend.TOTAL: ("sessions", "Connections accepted"),
    Frontend.BYTES_IN: ("bytes_in", "Bytes from clients"),
    Frontend.BYTES_OUT: ("bytes_out", "Bytes to clients"),
    Frontend.REFUSED: ("failed_connections", "Connections reset because no server could be reached"),
    Frontend.ABANDONED: (
        "abandoned_connections",
        "Connections reset by the client before a server was reached",
    ),
    Frontend.KILLED: ("killed_sessions", "Connections reset by a fail-over or at the end of a drain"),
    Frontend.PAUSES: ("back_pressure_pauses", "Times that reading waited for the other side to read"),
}
_SERVER_GAUGES = {ServerColumn.CURRENT: ("current_sessions", "Sessions now")}
_SERVER_COUNTERS = {
    ServerColumn.TOTAL: ("sessions", "Sessions established"),
    ServerColumn.BYTES_IN: ("bytes_in", "Bytes to the server"),
    ServerColumn.BYTES_OUT: ("bytes_out", "Bytes from the server"),
    ServerColumn.CONNECT_ERRORS: ("connection_errors", "Attempts to connect that failed"),
    ServerColumn.RETRIES: ("retry_warnings", "Retries to the same server"),
    ServerColumn.REDISPATCHES: ("redispatch_warnings", "Retries that went to another server"),
}


class LbCollector(Collector):
    """Reads the counters of all workers at each scrape."""

    def __init__(self, proxy: str, servers: Sequence[Server], counters: Counters) -> None:
        self._proxy, self._servers, self._counters = proxy, servers, counters

    def collect(self) -> Iterator[Metric]:
        for column, (name, text) in _FRONTEND_GAUGES.items():
            yield self._frontend(
                GaugeMetricFamily(f"scaleup_lb_frontend_{name}", text, labels=["proxy"]), column
            )
        for column, (name, text) in _FRONTEND_COUNTERS.items():
            yield self._frontend(
                CounterMetricFamily(f"scaleup_lb_frontend_{name}", text, labels=["proxy"]), column
            )
        labels = ["proxy", "server"]
        for server_column, (name, text) in _SERVER_GAUGES.items():
            yield self._server(
                GaugeMetricFamily(f"scaleup_lb_server_{name}", text, labels=labels), server_column
            )
        for server_column, (name, text) in _SERVER_COUNTERS.items():
            yield self._server(
                CounterMetricFamily(f"scaleup_lb_server_{name}", text, labels=labels), server_column
            )
        status = GaugeMetricFamily(
            "scaleup_lb_server_status", "1 for the server's state", labels=[*labels, "state"]
        )
        for server in self._servers:
            for state, is_it in (("UP", server.up), ("DOWN", not server.up)):
                status.add_metric([self._proxy, server.name, state], float(is_it))
        yield status
        active = GaugeMetricFamily(
            "scaleup_lb_backend_active_servers", "Servers that are up", labels=["proxy"]
        )
        active.add_metric([self._proxy], sum(server.up for server in self._servers))
        yield active

    def _frontend(self, metric: GaugeMetricFamily | CounterMetricFamily, column: Frontend) -> Metric:
        metric.add_metric([self._proxy], self._counters.total(column))
        return metric

    def _server(self, metric: GaugeMetricFamily | CounterMetricFamily, column: ServerColumn) -> Metric:
        for index, server in enumerate(self._servers):
            metric.add_metric([self._proxy, server.name], self._counters.total_server(index, column))
        return metric
