"""The applications, each a process of its own, all on one MariaDB."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from contract_harness import NAMES, Application, connect
from db import database_servers
from db.database_servers import DatabaseServer

from bench import applications
from bench.ports import free_port
from bench.running import await_answer, process


@pytest.fixture(scope="session")
def running_database() -> Iterator[DatabaseServer]:
    with database_servers.database("mariadb") as server:
        migrate = ["migrate", "--database", f"mysql://scaleup@{server.endpoint}/scaleup"]
        subprocess.run(
            [sys.executable, "-m", "scaleup.app", *migrate],
            env={**os.environ, "SCALEUP_APP_DATABASE_PASSWORD": database_servers.PASSWORD},
            capture_output=True,
            check=True,
            timeout=60,
        )
        yield server


@pytest.fixture(scope="session")
def start(running_database: DatabaseServer) -> Iterator[Callable[[str], tuple[str, int]]]:
    """Start an application, unless it runs: where it listens."""
    with contextlib.ExitStack() as stack:

        @cache
        def start(name: str) -> tuple[str, int]:
            if (why := applications.missing(name)) is not None:
                assert "CI" not in os.environ, why
                pytest.skip(why)
            address = "127.0.0.1", free_port("127.0.0.1")
            url = f"mysql://scaleup@{running_database.endpoint}/scaleup"
            told = applications.Application(
                f"{address[0]}:{address[1]}", url, database_servers.PASSWORD, name
            )
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(process(applications.COMMANDS[name](told), folder, address))
            await_answer(address, "/readyz")
            return address

        yield start


@pytest.fixture
def database(running_database: DatabaseServer) -> DatabaseServer:
    for table in ("links", "idempotency_keys"):
        running_database.execute(f"DELETE FROM {table}")
    return running_database


@pytest.fixture(params=NAMES)
async def app(
    request: pytest.FixtureRequest, start: Callable[[str], tuple[str, int]], database: DatabaseServer
) -> AsyncIterator[Application]:
    async with connect(request.param, start(request.param)) as application:
        yield application
