"""What a scrape says, read by Prometheus's own parser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from desk import Desk
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scaleup.lb.counters import BackendColumn, Column, FrontendColumn, ServerColumn
from scaleup.lb.metrics import LbCollector

WEB1 = {"proxy": "lb", "server": "web1"}


SETTINGS = {"listen": [":80"], "server": ["web1=10.0.0.21:80", "web2=10.0.0.22:80"]}


@pytest.fixture
def desk() -> Iterator[Desk]:
    with contextlib.closing(Desk(rows=2, **SETTINGS)) as desk:
        desk.server("lb/web2").up = False
        yield desk


def scrape(desk: Desk) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry()
    registry.register(
        LbCollector(lambda: desk.settings, desk.totals, desk.operations.rows, desk.operations.info)
    )
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return samples[f"scaleup_lb_{name}", frozenset(labels.items())]


def test_the_counters_of_all_workers_under_haproxys_names(desk: Desk) -> None:
    names: list[tuple[Column, str]] = [
        (FrontendColumn.CURRENT, "current_sessions"),
        (FrontendColumn.TOTAL, "sessions_total"),
        (FrontendColumn.BYTES_IN, "bytes_in_total"),
        (FrontendColumn.BYTES_OUT, "bytes_out_total"),
        (FrontendColumn.KILLED, "killed_sessions_total"),
        (FrontendColumn.PAUSES, "back_pressure_pauses_total"),
        (FrontendColumn.ABANDONED, "abandoned_connections_total"),
        (FrontendColumn.DENIED, "connections_denied_total"),
        (FrontendColumn.UNGREETED, "proxy_header_errors_total"),
        (BackendColumn.WAITING, "current_queue"),
        (BackendColumn.REFUSED, "failed_connections_total"),
        (BackendColumn.ABANDONED, "abandoned_connections_total"),
        (ServerColumn.CURRENT, "current_sessions"),
        (ServerColumn.TOTAL, "sessions_total"),
        (ServerColumn.BYTES_IN, "bytes_in_total"),
        (ServerColumn.BYTES_OUT, "bytes_out_total"),
        (ServerColumn.CONNECT_ERRORS, "connection_errors_total"),
        (ServerColumn.RETRIES, "retry_warnings_total"),
        (ServerColumn.REDISPATCHES, "redispatch_warnings_total"),
        (ServerColumn.CLIENT_ABORTS, "client_aborts_total"),
        (ServerColumn.SERVER_ABORTS, "server_aborts_total"),
    ]
    assert len(names) == len(FrontendColumn) + len(BackendColumn) + len(ServerColumn)
    kinds: dict[type[Column], str] = {
        FrontendColumn: "frontend",
        BackendColumn: "backend",
        ServerColumn: "server",
    }
    for column, _ in names:
        desk.counters.tally(0, type(column), 0)[column] = column
        desk.counters.tally(1, type(column), 0)[column] = 100
    samples = scrape(desk)
    for column, name in names:
        kind = kinds[type(column)]
        labels = WEB1 if kind == "server" else {"proxy": "lb"}
        assert value(samples, f"{kind}_{name}", **labels) == column + 100
        if kind == "server":
            assert value(samples, f"server_{name}", proxy="lb", server="web2") == 0


@pytest.mark.parametrize(
    ("live", "state"),
    [
        ({}, "UP"),
        ({"admin": "drain"}, "DRAIN"),
        ({"admin": "maint"}, "MAINT"),
        ({"endpoint": None}, "MAINT"),
        ({"weight": 0}, "UP"),
    ],
)
def test_a_servers_state_is_one_hot(desk: Desk, live: dict[str, Any], state: str) -> None:
    desk.server("lb/web1").change(**live)
    samples = scrape(desk)
    for one in ("UP", "DOWN", "MAINT", "DRAIN", "NOLB"):
        assert value(samples, "server_status", **WEB1, state=one) == (one == state)
        assert value(samples, "server_status", proxy="lb", server="web2", state=one) == (one == "DOWN")
    assert value(samples, "backend_active_servers", proxy="lb") == (live == {})


def test_what_counters_do_not_tell(desk: Desk) -> None:
    desk.server("lb/web1").change(weight=7, maxconn=30)
    samples = scrape(desk)
    assert value(samples, "server_weight", **WEB1) == 7
    assert value(samples, "server_limit_sessions", **WEB1) == 30
    assert value(samples, "server_current_queue", **WEB1) == 0
    assert value(samples, "server_downtime_seconds_total", **WEB1) == 0
    assert value(samples, "frontend_limit_sessions", proxy="lb") == 4000
    assert value(samples, "process_dropped_logs_total") == 7
    assert value(samples, "process_max_connections") == 4000
    assert not any(name.endswith("check_duration_seconds") for name, _ in samples), "none was made yet"
