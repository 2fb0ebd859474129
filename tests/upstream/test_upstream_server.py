"""What changes of a server while it serves, and what a new configuration keeps of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scaleup.net.addresses import Endpoint
from scaleup.upstream.server import Live, Server

OLD, NEW, OTHER = Endpoint("10.0.0.21", 80), Endpoint("10.0.0.22", 80), Endpoint("web.example", 80)


def test_who_keeps_servers_is_told_once_of_a_change_and_of_none() -> None:
    told: list[tuple[Server, bool]] = []
    server = Server("web1", OLD)
    server.tell(lambda server, ran: told.append((server, ran)))
    server.live = Live(NEW, 2, 3, "maint")
    assert told == [(server, True)]
    server.live = Live(NEW, 2, 3, "maint")
    assert told == [(server, True)]
    server.change(admin="ready")
    assert told == [(server, True), (server, False)]


@pytest.mark.parametrize(
    ("live", "running", "usable"),
    [
        (Live(OLD), True, True),
        (Live(OLD, admin="drain"), True, False),
        (Live(OLD, weight=0), True, False),
        (Live(OLD, admin="maint"), False, False),
        (Live(None), False, False),
        (Live(OLD, checked=False), True, True),
    ],
)
def test_which_may_get_new_sessions(live: Live, running: bool, usable: bool) -> None:
    server = Server("web1", NEW)
    server.live = live
    assert (server.running, server.usable) == (running, usable)
    server.up = False
    assert (server.running, server.usable) == (False, False)


def test_whether_its_address_has_to_be_asked_for() -> None:
    server = Server("web1", OTHER)
    assert server.is_named
    server.change(endpoint=NEW)
    assert not server.is_named
    server.change(endpoint=None)
    assert not server.is_named


@pytest.mark.parametrize(
    "live", [Live(OLD), Live(None, 0, 7, "drain", False), Live(Endpoint("fd00::1", 80)), Live(OTHER, 256)]
)
def test_it_survives_the_way_to_another_process(live: Live) -> None:
    assert Live.from_list(json.loads(json.dumps(live.as_list()))) == live


@pytest.mark.parametrize(
    ("then", "changed", "now", "result"),
    [
        # the file says what it said: what was changed stays
        ({}, {"weight": 5, "admin": "drain"}, {}, Live(OLD, 5, 0, "drain")),
        # it says something new of the weight: that counts; of the rest nothing, which stays
        ({}, {"weight": 5, "admin": "drain"}, {"weight": 7}, Live(OLD, 7, 0, "drain")),
        ({"maxconn": 10}, {"endpoint": NEW}, {"maxconn": 20}, Live(NEW, 1, 20)),
        # nothing was changed
        ({"weight": 2}, {}, {"weight": 3}, Live(OLD, 3)),
    ],
)
def test_what_a_new_configuration_keeps(
    then: dict[str, Any], changed: dict[str, Any], now: dict[str, Any], result: Live
) -> None:
    before, after = Server("web1", OLD, **then), Server("web1", OLD, **now)
    before.change(**changed)
    after.inherit(before)
    assert after.live == result
    third = Server("web1", OLD, **now)
    third.inherit(after)
    assert third.live == result, "and the next reload as well"
