"""What the node knows of its servers and tells its workers, with servers that are there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from servers import Backend

from scaleup.lb.servers import Servers
from scaleup.lb.settings import LbSettings
from scaleup.net.addresses import Endpoint


class Node:
    """As far as servers see it: `told` counts; `events` of the people."""

    def __init__(self) -> None:
        self.told = 0
        self.events: list[dict[str, Any]] = []
        self.now = 1000.0
        self.servers = Servers(self.tell, lambda kind, **fields: self.events.append(fields), lambda: self.now)

    def tell(self) -> None:
        self.told += 1


def settings(*lines: str) -> LbSettings:
    return LbSettings.model_validate({"listen": [":80"], "server": list(lines), "inter": 3600})


@pytest.fixture
def backend() -> Iterator[Backend]:
    with contextlib.closing(Backend()) as backend:
        yield backend.listen()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    yield node
    await node.servers.rest()


async def test_workers_are_told_all_that_is_not_as_they_know_it(node: Node) -> None:
    old = settings("web1=10.0.0.21:80", "web2=10.0.0.22:80,weight=2")
    node.servers.know(old)
    assert node.servers.state(old) == {"up": [True, True], "live": [], "rising": []}
    web2 = node.servers.backends["lb"]["web2"]
    node.servers.change("lb", web2, web2.live._replace(weight=7, admin="drain"))
    assert node.told == 1
    assert node.servers.state(old)["live"] == [(1, ["10.0.0.22:80", 7, 0, "drain", True])]
    node.servers.change("lb", web2, web2.live)
    assert node.told == 1, "nothing has changed"
    node.servers.change("lb", web2, web2.configured)
    assert node.servers.state(old)["live"] == []
    assert [event["live"][3] for event in node.events] == ["drain", "ready"]


async def test_workers_under_older_settings_hear_of_it_by_name(node: Node) -> None:
    """They have other numbers; of a server that is gone from the file they hear nothing new."""
    old, new = settings("web1=10.0.0.21:80", "web2=10.0.0.22:80"), settings("web2=10.0.0.22:80")
    node.servers.know(old)
    node.servers.know(new)
    web2 = node.servers.backends["lb"]["web2"]
    web2.up = False
    node.servers.change("lb", web2, web2.live._replace(maxconn=3))
    assert node.servers.state(old) == {
        "up": [None, False],
        "live": [(1, ["10.0.0.22:80", 1, 3, "ready", True])],
        "rising": [],
    }
    assert node.servers.state(new)["live"] == [(0, ["10.0.0.22:80", 1, 3, "ready", True])]


async def test_a_reload_keeps_what_was_changed_where_name_and_address_are_the_same(node: Node) -> None:
    node.servers.know(settings("web1=10.0.0.21:80", "web2=10.0.0.22:80", "web3=10.0.0.23:80"))
    for server in node.servers.backends["lb"].values():
        server.up = False
        node.servers.change("lb", server, server.live._replace(admin="maint", weight=9))
    new = settings("web1=10.0.0.21:80,weight=3", "web2=10.0.0.99:80", "other=10.0.0.23:80")
    node.servers.know(new)
    assert node.servers.state(new) == {
        "up": [False, True, True],
        "live": [(0, ["10.0.0.21:80", 3, 0, "maint", True])],
        "rising": [],
    }


async def test_a_slow_start_outlasts_a_reload(node: Node) -> None:
    some = settings("web1=10.0.0.21:80,slowstart=20", "web2=10.0.0.22:80,slowstart=20", "web3=10.0.0.23:80")
    node.servers.know(some)
    assert node.servers.state(some)["rising"] == [], "up from the beginning"
    for server in list(node.servers.backends["lb"].values())[1:]:
        node.servers.change("lb", server, server.live._replace(admin="maint"))
        node.servers.change("lb", server, server.live._replace(admin="ready"))
    node.now += 5
    node.servers.know(some)
    assert node.servers.state(some)["rising"] == [(1, 5.0)]
    node.now += 15
    assert node.servers.state(some)["rising"] == []


async def test_a_server_that_moves_is_checked_at_its_new_address(node: Node, backend: Backend) -> None:
    listed = settings("web1=127.0.64.9:1")
    node.servers.know(listed)
    node.servers.watch(listed, None)
    await asyncio.sleep(0)  # it begins
    web1 = node.servers.backends["lb"]["web1"]
    web1.up = False
    node.servers.change("lb", web1, web1.live._replace(endpoint=Endpoint.parse(backend.address)))
    assert web1.up, "until the first check says something else"
    assert node.events[-1] == {
        "backend": "lb",
        "server": "web1",
        "up": True,
        "reason": "checks start anew",
    }
    assert node.told == 2


async def test_what_is_said_of_a_server_counts_from_the_very_moment_that_it_is_watched(node: Node) -> None:
    """In a reload, too: no turn of the loop lies between the old watchers and the new ones."""
    some = settings("web1=10.0.0.21:80")
    node.servers.know(some)
    node.servers.watch(some, None)
    web1 = node.servers.backends["lb"]["web1"]
    node.servers.force("lb", web1, up=False)
    assert node.servers.state(some)["up"] == [False]
    await node.servers.rest()
    node.servers.know(some)
    node.servers.watch(some, None)
    (again,) = node.servers.backends["lb"].values()
    assert not again.up
    node.servers.force("lb", again, up=True)
    assert again.up
