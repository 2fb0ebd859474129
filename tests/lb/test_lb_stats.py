"""The rows and how they are written; whether they are as HAProxy's is asked of HAProxy itself in test_lb_tools."""

from __future__ import annotations

import contextlib
import csv
import io
from typing import Any

import pytest
from desk import Desk

from scaleup.lb.counters import BackendColumn, FrontendColumn, ServerColumn
from scaleup.lb.stats import COLUMNS, ServerRow, columns, state, status
from scaleup.lb.stats import csv as written
from scaleup.net.addresses import Endpoint
from scaleup.upstream.server import Server

ADDRESS = Endpoint("10.0.0.21", 80)


def rows(desk: Desk) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row.pxname, row.svname): columns(row) for row in desk.operations.rows()}


@pytest.mark.parametrize(
    ("live", "up", "level", "said"),
    [
        ({}, True, 4, "UP"),
        ({}, True, 3, "UP 2/3"),
        ({}, True, 2, "UP 1/3"),
        ({}, False, 0, "DOWN"),
        ({}, False, 1, "DOWN 1/2"),
        ({}, True, None, "no check"),
        ({}, False, None, "DOWN"),
        ({"admin": "drain"}, True, 4, "DRAIN"),
        ({"admin": "drain"}, True, 2, "DRAIN 1/3"),
        ({"admin": "drain"}, False, 1, "DOWN 1/2"),
        ({"admin": "maint"}, True, 4, "MAINT"),
        ({"admin": "maint"}, False, 0, "MAINT"),
        ({"endpoint": None}, True, 4, "MAINT (resolution)"),
    ],
)
def test_the_status_in_haproxys_words(live: dict[str, Any], up: bool, level: int | None, said: str) -> None:
    server = Server("web1", ADDRESS, up=up)
    server.change(**live)
    assert status(server, level, rise=2, fall=3) == said
    assert state(server) == said.split()[0].replace("no", "UP")


def test_a_line_of_names_then_one_for_each_row_proxy_by_proxy(desk: Desk) -> None:
    text = written(desk.operations.rows())
    head, *lines = text.splitlines()
    assert head == "# " + ",".join(COLUMNS) + ","
    assert all(line.endswith(",") and line.count(",") == len(COLUMNS) for line in lines)
    assert [line.split(",")[:2] for line in lines] == [
        ["www", "FRONTEND"],
        ["sql", "FRONTEND"],
        *(["web", name] for name in ("web1", "web2", "spare", "BACKEND")),
        *(["db", name] for name in ("db1", "BACKEND")),
    ]


def test_a_frontend_and_a_backend_of_one_name_are_one_proxy() -> None:
    with contextlib.closing(Desk(listen=[":80"], server=["web1=10.0.0.21:80"])) as desk:
        found = [(row.svname, row.iid) for row in desk.operations.rows()]
    assert found == [("FRONTEND", 1), ("web1", 1), ("BACKEND", 1)]


def test_text_that_would_break_the_csv_is_quoted(desk: Desk) -> None:
    text = written(desk.operations.rows()).replace("www", '"w,\nw"')
    assert next(csv.DictReader(io.StringIO(text.removeprefix("# "))))["pxname"] == "w,\nw"


def test_what_the_workers_have_counted(desk: Desk) -> None:
    frontend = desk.counters.tally(0, FrontendColumn, 0)
    for column, count in (
        (FrontendColumn.CURRENT, 3),
        (FrontendColumn.TOTAL, 40),
        (FrontendColumn.BYTES_IN, 7),
    ):
        frontend[column] = count
    frontend[FrontendColumn.BYTES_OUT], frontend[FrontendColumn.DENIED] = 8, 2
    frontend[FrontendColumn.UNGREETED] = 1
    server = desk.counters.tally(0, ServerColumn, 0)
    server[ServerColumn.CURRENT], server[ServerColumn.TOTAL] = 2, 30
    server[ServerColumn.CONNECT_ERRORS], server[ServerColumn.RETRIES] = 9, 4
    server[ServerColumn.REDISPATCHES], server[ServerColumn.CLIENT_ABORTS] = 3, 5
    backend = desk.counters.tally(0, BackendColumn, 0)
    backend[BackendColumn.WAITING], backend[BackendColumn.REFUSED], backend[BackendColumn.ABANDONED] = 6, 2, 1
    found = rows(desk)
    www, web1, web = found["www", "FRONTEND"], found["web", "web1"], found["web", "BACKEND"]
    wanted = {"scur": 3, "smax": 3, "slim": 500, "stot": 40, "bin": 7, "bout": 8, "dcon": 2, "ereq": 1}
    assert wanted.items() <= www.items()
    wanted = {"scur": 2, "stot": 30, "wretr": 4, "wredis": 3, "cli_abrt": 5, "slim": None, "weight": 2}
    assert wanted.items() <= web1.items()
    assert web1["econ"] == 2, "of 9 failed attempts 7 were followed by another one"
    assert web1["lbtot"] == 35, "chosen for 30 that were reached and for 5 others; retries choose nobody"
    wanted = {
        "qcur": 6,
        "qmax": 6,
        "stot": 32,
        "cli_abrt": 6,
        "act": 2,
        "bck": 1,
        "weight": 3,
        "algo": "roundrobin",
    }
    assert wanted.items() <= web.items()


def test_a_backend_is_up_while_any_server_may_get_sessions(desk: Desk) -> None:
    for name, left in (("web/web1", (1, 1)), ("web/web2", (0, 1)), ("web/spare", (0, 0))):
        desk.servers.change("web", desk.server(name), desk.server(name).live._replace(admin="drain"))
        row = rows(desk)["web", "BACKEND"]
        assert (row["act"], row["bck"]) == left
        assert row["status"] == ("UP" if any(left) else "DOWN")
    desk.now += 5
    row = rows(desk)["web", "BACKEND"]
    assert (row["downtime"], row["lastchg"]) == (5, 5)


def test_a_server_s_own_rise_and_fall_are_shown() -> None:
    desk = Desk(listen=[":80"], server=["own=10.0.0.21:80,rise=4,fall=5", "other=10.0.0.22:80"])
    rows = {row.svname: row for row in desk.operations.rows() if isinstance(row, ServerRow)}
    desk.close()
    assert (rows["own"].check_rise, rows["own"].check_fall) == (4, 5)
    assert (rows["other"].check_rise, rows["other"].check_fall) == (2, 3)


def test_how_servers_begin() -> None:
    desk = Desk(listen=[":80"], server=["off=10.0.0.21:80,disabled", "free=10.0.0.22:80,no-check"])
    rows = {row.svname: row.status for row in desk.operations.rows() if isinstance(row, ServerRow)}
    assert desk.servers.state(desk.settings) == {"up": [True, True], "live": [], "rising": []}, (
        "workers know it"
    )
    desk.close()
    assert rows == {"off": "MAINT", "free": "no check"}


def test_in_a_slow_start_the_weight_that_counts_is_shown() -> None:
    with contextlib.closing(Desk(listen=[":80"], server=["web1=10.0.0.21:80,slowstart=20"])) as desk:
        assert rows(desk)["lb", "web1"]["throttle"] is None, "up from the beginning"
        web1 = desk.server("lb/web1")
        for admin in ("maint", "ready"):
            desk.servers.change("lb", web1, web1.live._replace(admin=admin))
        assert rows(desk)["lb", "web1"]["throttle"] == 5
        desk.now += 10
        assert rows(desk)["lb", "web1"]["throttle"] == 55
        desk.now += 10
        assert rows(desk)["lb", "web1"]["throttle"] is None


def test_cleared_counters_count_from_nothing_and_what_is_in_progress_stays(desk: Desk) -> None:
    frontend = desk.counters.tally(0, FrontendColumn, 0)
    frontend[FrontendColumn.TOTAL], frontend[FrontendColumn.CURRENT] = 40, 3
    assert rows(desk)["www", "FRONTEND"]["smax"] == 3
    frontend[FrontendColumn.CURRENT] = 1
    desk.operations.clear(everything=False)
    row = rows(desk)["www", "FRONTEND"]
    assert (row["stot"], row["scur"], row["smax"]) == (40, 1, 1)
    desk.operations.clear(everything=True)
    frontend[FrontendColumn.TOTAL] += 2
    row = rows(desk)["www", "FRONTEND"]
    assert (row["stot"], row["scur"]) == (2, 1)
    desk.totals.end(desk.counters)  # its workers have ended: what they counted since stays
    assert rows(desk)["www", "FRONTEND"]["stot"] == 2
