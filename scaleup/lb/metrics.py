"""The load balancer's metrics, with HAProxy's names (its Prometheus exporter's, without the prefix)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scaleup.lb.counters import BackendColumn, Column, FrontendColumn, ServerColumn
from scaleup.lb.settings import LbSettings
from scaleup.lb.stats import STATES, UNRESOLVED, BackendRow, FrontendRow, Row, ServerRow
from scaleup.lb.totals import Totals, names_of

Family = GaugeMetricFamily | CounterMetricFamily
_PREFIX = "scaleup_lb"

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
    (
        BackendColumn.ABANDONED,
        "abandoned_connections",
        "Connections reset by the client before a server was reached",
    ),
    (ServerColumn.TOTAL, "sessions", "Sessions established"),
    (ServerColumn.BYTES_IN, "bytes_in", "Bytes to the server"),
    (ServerColumn.BYTES_OUT, "bytes_out", "Bytes from the server"),
    (ServerColumn.CONNECT_ERRORS, "connection_errors", "Attempts to connect that failed"),
    (ServerColumn.RETRIES, "retry_warnings", "Retries to the same server"),
    (ServerColumn.REDISPATCHES, "redispatch_warnings", "Retries that went to another server"),
    (ServerColumn.CLIENT_ABORTS, "client_aborts", "Sessions that the client reset or let time out"),
    (ServerColumn.SERVER_ABORTS, "server_aborts", "Sessions that the server reset or let time out"),
]
_KINDS: dict[type[Column], str] = {
    FrontendColumn: "frontend",
    BackendColumn: "backend",
    ServerColumn: "server",
}


_Values = Callable[[Any], float | None]
# Of rows: a name, what it says, the value; None: this one has none.
_OF_FRONTENDS: list[tuple[type[Family], str, str, _Values]] = [
    (GaugeMetricFamily, "limit_sessions", "The frontend's maxconn", lambda row: row.slim),
    (GaugeMetricFamily, "max_sessions", "The most connections at a time", lambda row: row.smax),
    (GaugeMetricFamily, "current_session_rate", "Connections in the last second", lambda row: row.rate),
    (GaugeMetricFamily, "max_session_rate", "The most connections in a second", lambda row: row.rate_max),
]
_OF_BACKENDS: list[tuple[type[Family], str, str, _Values]] = [
    (
        GaugeMetricFamily,
        "active_servers",
        "Servers that may get sessions, without backups",
        lambda row: row.act,
    ),
    (GaugeMetricFamily, "backup_servers", "Backup servers that may get sessions", lambda row: row.bck),
    (GaugeMetricFamily, "max_queue", "The most connections that waited at a time", lambda row: row.qmax),
    (CounterMetricFamily, "downtime_seconds", "Seconds without any server", lambda row: row.downtime),
    (CounterMetricFamily, "client_aborts", "Clients that reset or went silent", lambda row: row.cli_abrt),
]
_OF_SERVERS: list[tuple[type[Family], str, str, _Values]] = [
    (
        GaugeMetricFamily,
        "unresolved",
        "1: its name has no address for it; its state is MAINT then",
        lambda row: float(row.status == UNRESOLVED),
    ),
    (GaugeMetricFamily, "current_queue", "0: connections wait for any server", lambda row: row.qcur),
    (GaugeMetricFamily, "weight", "The server's weight now", lambda row: row.weight),
    (GaugeMetricFamily, "limit_sessions", "The server's maxconn, 0: none", lambda row: row.slim or 0),
    (GaugeMetricFamily, "max_sessions", "The most sessions at a time", lambda row: row.smax),
    (GaugeMetricFamily, "current_session_rate", "Sessions in the last second", lambda row: row.rate),
    (GaugeMetricFamily, "max_session_rate", "The most sessions in a second", lambda row: row.rate_max),
    (
        GaugeMetricFamily,
        "check_duration_seconds",
        "What the last check took",
        lambda row: None if row.check_duration is None else row.check_duration / 1000,
    ),
    (GaugeMetricFamily, "check_last_change_seconds", "Since it went up or down", lambda row: row.lastchg),
    (CounterMetricFamily, "check_failures", "Checks that failed while it was up", lambda row: row.chkfail),
    (CounterMetricFamily, "check_up_down", "Times that its checks brought it down", lambda row: row.chkdown),
    (CounterMetricFamily, "downtime_seconds", "Seconds in which it was down", lambda row: row.downtime),
]
_OF_THE_PROCESS: list[tuple[type[Family], str, str, str]] = [
    (GaugeMetricFamily, "nbproc", "Workers", "Nbproc"),
    (GaugeMetricFamily, "uptime_seconds", "Since the node was started", "Uptime_sec"),
    (GaugeMetricFamily, "start_time_seconds", "When that was", "Start_time_sec"),
    (GaugeMetricFamily, "max_connections", "The maxconn of all frontends together", "Maxconn"),
    (GaugeMetricFamily, "current_connections", "Connections of clients now", "CurrConns"),
    (CounterMetricFamily, "connections", "Connections accepted", "CumConns"),
    (GaugeMetricFamily, "current_connection_rate", "Connections in the last second", "ConnRate"),
    (GaugeMetricFamily, "max_connection_rate", "The most connections in a second", "MaxConnRate"),
    (GaugeMetricFamily, "listeners", "Addresses that are listened on", "Listeners"),
    (GaugeMetricFamily, "stopping", "1: it drains", "Stopping"),
    (CounterMetricFamily, "dropped_logs", "Lines of the log that were lost", "DroppedLogs"),
]


class LbCollector(Collector):
    """Reads the counters of all workers at each scrape.

    `settings()`: the newest. `rows()`, `info()`: the statistics, as an operator sees them.
    """

    def __init__(
        self,
        settings: Callable[[], LbSettings],
        totals: Totals,
        rows: Callable[[], Sequence[Row]],
        info: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._settings, self._totals, self._rows, self._info = settings, totals, rows, info

    def collect(self) -> Iterator[Metric]:
        settings = self._settings()
        for columns, family in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            for column, name, text in columns:
                kind = _KINDS[type(column)]
                metric = family(f"{_PREFIX}_{kind}_{name}", text, labels=_labels(kind))
                for names in names_of(settings, type(column)):
                    metric.add_metric(names, self._totals.total(column, names))
                yield metric
        rows = self._rows()
        servers = [row for row in rows if isinstance(row, ServerRow)]
        yield from _of_rows("frontend", _OF_FRONTENDS, [row for row in rows if isinstance(row, FrontendRow)])
        yield from _of_rows("backend", _OF_BACKENDS, [row for row in rows if isinstance(row, BackendRow)])
        yield from _of_rows("server", _OF_SERVERS, servers)
        yield _status(servers)
        info = self._info()
        for family, name, text, key in _OF_THE_PROCESS:
            yield family(f"{_PREFIX}_process_{name}", text, info[key])


def _labels(kind: str) -> list[str]:
    return ["proxy", "server"] if kind == "server" else ["proxy"]


def _of_rows(
    kind: str, table: Iterable[tuple[type[Family], str, str, _Values]], rows: Sequence[Row]
) -> Iterator[Metric]:
    for family, name, text, value_of in table:
        metric = family(f"{_PREFIX}_{kind}_{name}", text, labels=_labels(kind))
        for row in rows:
            if (value := value_of(row)) is not None:
                metric.add_metric([row.pxname, row.svname][: len(_labels(kind))], value)
        yield metric


def _status(rows: Sequence[ServerRow]) -> Metric:
    status = GaugeMetricFamily(
        f"{_PREFIX}_server_status", "1 for the server's state", labels=["proxy", "server", "state"]
    )
    for row in rows:
        for state in STATES:
            status.add_metric([row.pxname, row.svname, state], float(state == row.state))
    return status
