"""The load balancer's metrics, with HAProxy's names (its Prometheus exporter's, without the prefix)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scaleup.lb.counters import BackendColumn, Column, FrontendColumn, ServerColumn
from scaleup.lb.settings import LbSettings
from scaleup.lb.totals import Totals, names_of
from scaleup.upstream.pool import Server

# Lists: as numbers, columns of different kinds are equal.
_GAUGES: list[tuple[Column, str, str]] = [
    (FrontendColumn.CURRENT, "current_sessions", "Connections of clients now"),
    (BackendColumn.WAITING, "current_queue", "Connections that wait for a slot"),
    (ServerColumn.CURRENT, "current_sessions", "Sessions now"),
]
_COUNTERS: list[tuple[Column, str, str]] = [
    (FrontendColumn.TOTAL, "sessions", "Connections accepted"),
    (FrontendColumn.BYTES_IN, "bytes_in", "Bytes from clients"),
    (FrontendColumn.BYTES_OUT, "bytes_out", "Bytes to clients"),
    (
        FrontendColumn.ABANDONED,
        "abandoned_connections",
        "Connections reset by the client before a server was reached",
    ),
    (FrontendColumn.KILLED, "killed_sessions", "Connections reset by a fail-over or at the end of a drain"),
    (FrontendColumn.PAUSES, "back_pressure_pauses", "Times that reading waited for the other side to read"),
    (FrontendColumn.DENIED, "connections_denied", "Connections refused because of their address"),
    (FrontendColumn.UNGREETED, "proxy_header_errors", "Connections refused for want of a PROXY header"),
    (BackendColumn.REFUSED, "failed_connections", "Connections reset because no server could be reached"),
    (ServerColumn.TOTAL, "sessions", "Sessions established"),
    (ServerColumn.BYTES_IN, "bytes_in", "Bytes to the server"),
    (ServerColumn.BYTES_OUT, "bytes_out", "Bytes from the server"),
    (ServerColumn.CONNECT_ERRORS, "connection_errors", "Attempts to connect that failed"),
    (ServerColumn.RETRIES, "retry_warnings", "Retries to the same server"),
    (ServerColumn.REDISPATCHES, "redispatch_warnings", "Retries that went to another server"),
]
_KINDS: dict[type[Column], str] = {
    FrontendColumn: "frontend",
    BackendColumn: "backend",
    ServerColumn: "server",
}


class LbCollector(Collector):
    """Reads the counters of all workers at each scrape.

    `settings()`: the newest. `servers()`: of each backend, by their names.
    """

    def __init__(
        self,
        settings: Callable[[], LbSettings],
        servers: Callable[[], Mapping[str, Mapping[str, Server]]],
        totals: Totals,
    ) -> None:
        self._settings, self._servers, self._totals = settings, servers, totals

    def collect(self) -> Iterator[Metric]:
        settings = self._settings()
        for columns, family in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            for column, name, text in columns:
                kind = _KINDS[type(column)]
                labels = ["proxy", "server"] if kind == "server" else ["proxy"]
                metric = family(f"scaleup_lb_{kind}_{name}", text, labels=labels)
                for names in names_of(settings, type(column)):
                    metric.add_metric(names, self._totals.total(column, names))
                yield metric
        status = GaugeMetricFamily(
            "scaleup_lb_server_status", "1 for the server's state", labels=["proxy", "server", "state"]
        )
        active = GaugeMetricFamily(
            "scaleup_lb_backend_active_servers", "Servers that are up", labels=["proxy"]
        )
        for name, servers in self._servers().items():
            for server in servers.values():
                for state, is_it in (("UP", server.up), ("DOWN", not server.up)):
                    status.add_metric([name, server.name, state], float(is_it))
            active.add_metric([name], sum(server.usable for server in servers.values()))
        yield status
        yield active
