"""Real database servers for tests: `python -m scaleup.db` as a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pymysql
import pytest
from needs import requires

from bench.ports import free_ports
from scaleup.net.addresses import Endpoint

PASSWORD = "pä'ss\\word"  # with what needs quoting in SQL, and what latin1 and UTF-8 write differently
ENGINES = [pytest.param("mariadb", marks=requires("mariadbd")), "embedded"]
STARTED = re.compile(r"\) on (127\.0\.0\.1:\d+), data in (.*)$")


class Sql:
    """A server of SQL that answers at `endpoint`. `data`: its directory (MariaDB)."""

    endpoint: Endpoint
    data: Path

    def server_pid(self) -> int:
        """The process that serves SQL."""
        return int((self.data / "server.pid").read_text())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP: connections stay, the kernel even accepts new ones, but nobody answers."""
        pid = self.server_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until_stopped(pid)
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def connection(self, **options: object) -> Iterator[pymysql.connections.Connection]:
        """A plain PyMySQL connection, to look at the database or to disturb it."""
        connection = pymysql.connect(
            host=self.endpoint.host,
            port=self.endpoint.port,
            user="scaleup",
            database="scaleup",
            password=PASSWORD.encode(),
            autocommit=True,
            ssl_disabled=True,  # making a TLS context takes 27 ms
            **options,
        )
        with contextlib.closing(connection):
            yield connection

    def execute(self, sql: str, *parameters: object) -> tuple[tuple[object, ...], ...]:
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall()

    def as_owner(self, sql: str) -> None:
        """As the user of the system who owns the data, and may do everything (MariaDB only)."""
        sock = self.data / "server.sock"
        owner = sock.owner()
        subprocess.run(
            ["mariadb", "--no-defaults", f"--socket={sock}", f"--user={owner}", "-e", sql],
            user=owner if os.geteuid() == 0 else None,
            check=True,
            timeout=30,
        )


@dataclass
class Other(Sql):
    """A replica, or a further node of Galera."""

    endpoint: Endpoint
    data: Path


@dataclass
class DatabaseServer(Sql):
    """A running scaleup.db. `log`: its stderr; `said`: what it logged until it was ready."""

    engine: str
    endpoint: Endpoint
    directory: str
    process: subprocess.Popen[str]
    log: IO[str]
    said: str

    def __post_init__(self) -> None:
        self.data = Path(self.directory) / "mariadb"
        self.replicas = self._others("replica")
        self.nodes: list[Sql] = [self, *self._others("node")]

    def _others(self, kind: str) -> list[Other]:
        found = re.finditer(rf"a {kind} on (\S+), data in (.*)$", self.said, re.MULTILINE)
        return [Other(Endpoint.parse(each[1]), Path(each[2])) for each in found]

    def server_pid(self) -> int:
        """mariadbd, or for the embedded engine scaleup.db itself."""
        return super().server_pid() if self.data.exists() else self.process.pid

    def empty(self) -> None:
        with self.connection() as connection, connection.cursor() as cursor:
            for table in ("links", "idempotency_keys", "schema_migrations"):
                cursor.execute(f"DROP TABLE IF EXISTS {table}")

    def stop(self) -> int:
        """End it, if it has not ended; its exit code."""
        if self.log.closed:
            return self.process.wait()
        self.process.terminate()
        try:
            code = self.process.wait(30)
            said = self.log.read()
        finally:
            self.process.kill()
            self.log.close()
        assert "Traceback" not in said, said
        return code


def wait_until_stopped(pid: int) -> None:
    """A signal stops the threads of a process one after the other, while the rest goes on answering."""
    deadline = time.monotonic() + 20
    while any(state != "T" for state in thread_states(pid)):
        assert time.monotonic() < deadline, f"process {pid} does not stop"


def thread_states(pid: int) -> list[str]:
    """proc(5): R running, S sleeping, T stopped, …"""
    stats = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            stats.append((task / "stat").read_text())
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


def start_database(engine: str, *, port: int = 0, arguments: Sequence[str] = ()) -> DatabaseServer:
    """Start one and wait until it is ready. Raises AssertionError with its log when it is not.

    Without a `port` it gets one, with free ones behind it for replicas or nodes. Not any of the kernel's:
    scaleup.db gives that back before mariadbd takes it, and in between it could be a client's.
    """
    command = ["--engine", engine, "--listen", f"127.0.0.1:{port or free_ports(4)[0]}", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "scaleup.db", *command],
        stderr=subprocess.PIPE,
        env={**os.environ, "SCALEUP_DB_PASSWORD": PASSWORD},
        text=True,
    )
    assert process.stderr is not None
    said = ""
    while line := process.stderr.readline():
        said += line
        if found := STARTED.search(line):
            return DatabaseServer(engine, Endpoint.parse(found[1]), found[2], process, process.stderr, said)
    process.wait()
    process.stderr.close()
    raise AssertionError(f"scaleup.db did not start:\n{said}")


@contextlib.contextmanager
def database(engine: str, *, port: int = 0, arguments: Sequence[str] = ()) -> Iterator[DatabaseServer]:
    server = start_database(engine, port=port, arguments=arguments)
    try:
        yield server
    finally:
        server.stop()


def available(engine: str) -> bool:
    from scaleup.db.mariadb import installed

    return engine == "embedded" or "mariadbd" in installed()
