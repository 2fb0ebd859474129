"""What a scrape says, read by Prometheus's own parser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scaleup.lb.counters import Counters, Frontend, ServerColumn
from scaleup.lb.metrics import LbCollector
from scaleup.net.addresses import Endpoint
from scaleup.upstream.pool import Server

WEB1 = {"proxy": "lb", "server": "web1"}


@pytest.fixture
def counters() -> Iterator[Counters]:
    with contextlib.closing(Counters.create(2, 2)) as counters:
        yield counters


def scrape(counters: Counters) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    servers = [
        Server("web1", Endpoint("10.0.0.21", 80)),
        Server("web2", Endpoint("10.0.0.22", 80), up=False),
    ]
    registry = CollectorRegistry()
    registry.register(LbCollector("lb", servers, counters))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return samples[f"scaleup_lb_{name}", frozenset(labels.items())]


def test_the_counters_of_all_workers_under_haproxys_names(counters: Counters) -> None:
    for number, column in enumerate(Frontend):
        counters.add(0, column, number)
        counters.add(1, column, 100)
    for number, server_column in enumerate(ServerColumn):
        counters.add_server(0, 0, server_column, number)
        counters.add_server(1, 0, server_column, 100)
    samples = scrape(counters)
    frontend = {
        "current_sessions": Frontend.CURRENT,
        "sessions_total": Frontend.TOTAL,
        "bytes_in_total": Frontend.BYTES_IN,
        "bytes_out_total": Frontend.BYTES_OUT,
        "current_queue": Frontend.WAITING,
        "failed_connections_total": Frontend.REFUSED,
        "killed_sessions_total": Frontend.KILLED,
        "back_pressure_pauses_total": Frontend.PAUSES,
        "abandoned_connections_total": Frontend.ABANDONED,
    }
    assert set(frontend.values()) == set(Frontend)
    for name, column in frontend.items():
        assert value(samples, f"frontend_{name}", proxy="lb") == column + 100
    server = {
        "current_sessions": ServerColumn.CURRENT,
        "sessions_total": ServerColumn.TOTAL,
        "bytes_in_total": ServerColumn.BYTES_IN,
        "bytes_out_total": ServerColumn.BYTES_OUT,
        "connection_errors_total": ServerColumn.CONNECT_ERRORS,
        "retry_warnings_total": ServerColumn.RETRIES,
        "redispatch_warnings_total": ServerColumn.REDISPATCHES,
    }
    assert set(server.values()) == set(ServerColumn)
    for name, server_column in server.items():
        assert value(samples, f"server_{name}", **WEB1) == server_column + 100
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
