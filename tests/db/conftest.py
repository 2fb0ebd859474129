"""A database of each kind for the whole session; every test finds it empty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import database_servers
import pytest
import uvloop
from database_servers import DatabaseServer
from needs import requires


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}  # as in production


ENGINES = [pytest.param("mariadb", marks=requires("mariadbd")), "embedded"]


@pytest.fixture(scope="session", params=ENGINES)
def running(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    with database_servers.database(request.param) as server:
        yield server


@pytest.fixture(scope="session")
def running_embedded() -> Iterator[DatabaseServer]:
    with database_servers.database("embedded") as server:
        yield server


@pytest.fixture
def embedded(running_embedded: DatabaseServer) -> DatabaseServer:
    running_embedded.empty()
    return running_embedded


@pytest.fixture
def database(running: DatabaseServer) -> DatabaseServer:
    running.empty()
    return running
