"""Databases of each kind, a pool and a store on one, and an application process in this loop."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from app_harness import App, database_servers, make_pool, run_app
from database_servers import ENGINES, DatabaseServer

from scaleup.app.migrate import migrate
from scaleup.app.pool import Pool
from scaleup.app.store import Store
from scaleup.app.transactions import Transactions


@pytest.fixture(scope="session", params=ENGINES)
def running(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    with database_servers.database(request.param) as server:
        yield server


@pytest.fixture
def database(running: DatabaseServer) -> DatabaseServer:
    running.empty()
    return running


@pytest.fixture(scope="session")
def running_mariadb() -> Iterator[DatabaseServer]:
    """Tests that use it carry `requires("mariadbd")`."""
    with database_servers.database("mariadb") as server:
        yield server


@pytest.fixture
def mariadb(running_mariadb: DatabaseServer) -> DatabaseServer:
    running_mariadb.empty()
    return running_mariadb


@pytest.fixture(scope="module")
def server() -> Iterator[DatabaseServer]:
    """For applications that are processes."""
    with database_servers.database("embedded") as server:
        yield server


@pytest.fixture
def data_directory() -> Iterator[Path]:
    """Where mariadbd can come in when root starts it, as it cannot in pytest's own directories."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
async def pool(database: DatabaseServer) -> AsyncIterator[Pool]:
    async with make_pool(database) as pool:
        yield pool


@pytest.fixture
async def store(pool: Pool) -> Store:
    await migrate(pool)
    return Store(Transactions(pool, chance=lambda: 0.5))


@pytest.fixture
async def app(database: DatabaseServer) -> AsyncIterator[App]:
    async with run_app(database) as app:
        await app.until_ready()
        yield app
