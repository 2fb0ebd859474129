"""A database of each kind for the whole session; every test finds it empty."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import database_servers
import pytest
from database_servers import ENGINES, DatabaseServer


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


@pytest.fixture
def data() -> Iterator[Path]:
    """Not in pytest's own directories: started by root, mariadbd runs as somebody who may not enter those."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path) / "data"
