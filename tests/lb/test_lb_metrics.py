"""What a scrape says, read by Prometheus's own parser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scaleup.lb.counters import BackendColumn, Column, Counters, FrontendColumn, ServerColumn, Sizes
from scaleup.lb.metrics import LbCollector
from scaleup.lb.settings import LbSettings
from scaleup.lb.totals import Totals

WEB1 = {"proxy": "lb", "server": "web1"}


@pytest.fixture
def counters() -> Iterator[Counters]:
    with contextlib.closing(Counters.create(2, Sizes(1, 1, 2))) as counters:
        yield counters


def scrape(counters: Counters) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    settings = LbSettings.model_validate(
        {"listen": [":80"], "server": ["web1=10.0.0.21:80", "web2=10.0.0.22:80"]}
    )
    servers = {server.name: server.server() for server in settings.server}
    servers["web2"].up = False
    totals = Totals()
    totals.begin(settings, counters)
    registry = CollectorRegistry()
    registry.register(LbCollector(lambda: settings, lambda: {"lb": servers}, totals))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return samples[f"scaleup_lb_{name}", frozenset(labels.items())]


def test_the_counters_of_all_workers_under_haproxys_names(counters: Counters) -> None:
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
        (ServerColumn.CURRENT, "current_sessions"),
        (ServerColumn.TOTAL, "sessions_total"),
        (ServerColumn.BYTES_IN, "bytes_in_total"),
        (ServerColumn.BYTES_OUT, "bytes_out_total"),
        (ServerColumn.CONNECT_ERRORS, "connection_errors_total"),
        (ServerColumn.RETRIES, "retry_warnings_total"),
        (ServerColumn.REDISPATCHES, "redispatch_warnings_total"),
    ]
    assert len(names) == len(FrontendColumn) + len(BackendColumn) + len(ServerColumn)
    kinds: dict[type[Column], str] = {
        FrontendColumn: "frontend",
        BackendColumn: "backend",
        ServerColumn: "server",
    }
    for column, _ in names:
        counters.tally(0, type(column), 0)[column] = column
        counters.tally(1, type(column), 0)[column] = 100
    samples = scrape(counters)
    for column, name in names:
        kind = kinds[type(column)]
        labels = WEB1 if kind == "server" else {"proxy": "lb"}
        assert value(samples, f"{kind}_{name}", **labels) == column + 100
        if kind == "server":
            assert value(samples, f"server_{name}", proxy="lb", server="web2") == 0


def test_a_servers_state_is_one_hot(counters: Counters) -> None:
    samples = scrape(counters)
    for server, state, is_it in (
        ("web1", "UP", 1),
        ("web1", "DOWN", 0),
        ("web2", "UP", 0),
        ("web2", "DOWN", 1),
    ):
        assert value(samples, "server_status", proxy="lb", server=server, state=state) == is_it
    assert value(samples, "backend_active_servers", proxy="lb") == 1
