"""No acknowledged link is lost, none is there twice, no rejected one appears, whatever befalls the database.

Four writers and four readers work on two applications while the database is killed, stopped, restarted, made
read-only and filled with connections, and the applications are killed, in an order that a seed decides. Half of
the writers send an Idempotency-Key, and one of these repeats a request until it knows; the others ask once, so
that what they are told is all there is. Each reads what it wrote, with its cookies; one deletes some of it. See
history.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from pathlib import Path

import aiohttp
import pymysql
import pytest
from database_servers import PASSWORD, DatabaseServer, start_database
from history import History
from needs import requires
from yarl import URL

from bench.ports import free_port
from scaleup.app.session import COOKIE, HEADER

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "history.json"
SOAK_SEED, SOAK_ROUNDS = 20261123, 20
THINK_SECONDS = 0.01
TIMEOUT = aiohttp.ClientTimeout(total=5.0)
BACK_SECONDS = 30.0
"""From the end of a fault until a write is stored again."""


class Cluster:
    """One MariaDB with its data kept, two applications. `has_replicas`: reads need not see what others wrote."""

    has_replicas = False

    def __init__(self, data: Path) -> None:
        self._arguments = ["--data", str(data)]
        self._port, self.ports = free_port(), [free_port(), free_port()]
        self._log = data / "applications.log"
        self._apps: list[subprocess.Popen[bytes]] = []

    async def start(self) -> None:
        self.database = await asyncio.to_thread(self._start_database)
        self._apps = [self._start_app(port) for port in self.ports]

    async def stop(self) -> None:
        for app in self._apps:
            app.terminate()
        for app in self._apps:
            await asyncio.to_thread(app.wait, 30)
        await asyncio.to_thread(self.database.stop)
        assert "Traceback" not in self._log.read_text()

    def _start_database(self) -> DatabaseServer:
        return start_database("mariadb", port=self._port, arguments=self._arguments)

    def _start_app(self, port: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "scaleup.app", "--listen", f"127.0.0.1:{port}"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*command, "--database", self._url(port), *self._more(port)],
                env={**os.environ, "SCALEUP_APP_DATABASE_PASSWORD": PASSWORD},
                stderr=log,
            )

    def _url(self, port: int) -> str:
        """Of the database, for the application on that port."""
        return f"mysql://scaleup@127.0.0.1:{self._port}/scaleup"

    def _more(self, port: int) -> list[str]:
        """Arguments of the application on that port."""
        return []

    async def was_used(self) -> None:
        """Until each part of it was: what the clients saw says nothing of one that was not."""

    def urls(self) -> list[str]:
        """Of the links that are there."""
        return [str(row[0]) for row in self.database.execute("SELECT url FROM links")]

    async def database_killed(self, _seconds: float) -> None:
        os.kill(self.database.server_pid(), signal.SIGKILL)
        await asyncio.to_thread(self.database.process.wait, 30)
        self.database.log.close()
        self.database = await asyncio.to_thread(self._start_database)

    async def database_restarted(self, _seconds: float) -> None:
        await asyncio.to_thread(self.database.stop)
        self.database = await asyncio.to_thread(self._start_database)

    async def database_stopped(self, seconds: float) -> None:
        with self.database.paused():
            await asyncio.sleep(seconds)

    async def database_read_only(self, seconds: float) -> None:
        await asyncio.to_thread(self.database.as_owner, "SET GLOBAL read_only = 1")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.database.as_owner, "SET GLOBAL read_only = 0")

    async def database_full(self, seconds: float) -> None:
        """Strangers take all connections: those of the applications are ended, and find no room any more."""
        # On one connection: while more are open than may be, nobody gets another, not even the owner.
        shrink = "SET GLOBAL max_connections = 10; KILL USER scaleup"
        with contextlib.ExitStack() as strangers:
            await asyncio.to_thread(self.database.as_owner, shrink)
            with contextlib.suppress(pymysql.err.OperationalError):
                for _ in range(10):
                    strangers.enter_context(self.database.connection())
            await asyncio.sleep(seconds)
        await asyncio.to_thread(self.database.as_owner, "SET GLOBAL max_connections = 200")

    async def application_killed(self, seconds: float) -> None:
        killed = self._apps.pop(0)
        killed.kill()
        await asyncio.to_thread(killed.wait, 30)
        self._apps.append(self._start_app(self.ports[0]))
        self.ports.reverse()  # next time the other one

    def faults(self) -> dict[str, Callable[[float], Awaitable[None]]]:
        return {
            "database killed": self.database_killed,
            "database restarted": self.database_restarted,
            "database stopped": self.database_stopped,
            "database read-only": self.database_read_only,
            "database full": self.database_full,
            "application killed": self.application_killed,
        }


class Clients:
    """They go on until `stop` is set. A client that gets no answer turns to the other application."""

    def __init__(self, cluster: Cluster, history: History) -> None:
        self._cluster, self._history = cluster, history
        self._stored: list[tuple[str, str, str]] = []
        """URL, code, and the position of that write."""
        self.stop = asyncio.Event()

    async def write(
        self, name: str, *, with_key: bool = False, repeats: bool = False, deletes: bool = False
    ) -> None:
        """`deletes`: every other one that was stored, of which the readers are not told."""
        async with _a_session() as session:
            number = 0
            mine: tuple[str, str] | None = None
            while not self.stop.is_set():
                number += 1
                url = f"https://{name}.example/{number}"
                headers = {"Idempotency-Key": f"{name}-{number}"} if with_key else {}
                outcome, stored = await self._post(session, url, headers, number)
                possible = {outcome}
                for turn in range(40 if repeats else 0):  # past the longest fault
                    if stored:
                        break
                    await asyncio.sleep(0.1)
                    outcome, stored = await self._post(session, url, headers, number + turn)
                    possible.add(outcome)
                if not stored and "unknown" in possible:
                    outcome = "unknown"  # by one of the tries
                self._history.ended(url, outcome, time.monotonic())
                if stored:
                    mine = stored[:2]
                    if deletes and number % 2:
                        self._history.deleted(url, await self._delete(session, *mine, number))
                    else:
                        self._stored.append(stored)
                if mine:  # after what failed or is unknown, too: then it needs the newest
                    self._history.read(mine[0], await self._get(session, *mine, number + 1), name)
                await asyncio.sleep(THINK_SECONDS)

    async def _post(
        self, session: aiohttp.ClientSession, url: str, headers: dict[str, str], turn: int
    ) -> tuple[str, tuple[str, str, str] | None]:
        """How it ended; and if it is stored, its URL, code and position."""
        try:
            async with session.post(self._at(turn), json={"url": url}, headers=headers) as response:
                body = await response.json()
        except aiohttp.ClientConnectorError:
            return "failed", None  # nothing was sent
        except (aiohttp.ClientError, TimeoutError):
            return "unknown", None
        if response.status == 201:
            assert body["url"] == url
            return "stored", (url, body["code"], response.headers.get(HEADER, ""))
        assert response.status == 503, body
        return str(body["outcome"]), None

    async def _delete(self, session: aiohttp.ClientSession, url: str, code: str, turn: int) -> str:
        try:
            async with session.delete(f"{self._at(turn)}/{code}") as response:
                if response.status == 204:
                    return "deleted"
                assert response.status == 503, f"{url}: {response.status}"  # 404: it was lost
                return str((await response.json())["outcome"])
        except aiohttp.ClientConnectorError:
            return "failed"
        except (aiohttp.ClientError, TimeoutError):
            return "unknown"

    async def _get(
        self, session: aiohttp.ClientSession, url: str, code: str, turn: int, position: str = ""
    ) -> bool | None:
        """Whether it was found; None: nobody said."""
        headers = {HEADER: position} if position else {}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{self._at(turn)}/{code}", headers=headers) as response:
                if response.status == 200:
                    assert (await response.json())["url"] == url  # and not what another had asked for
                    return True
                return False if response.status == 404 else None
        return None

    async def read(self, name: str, chance: random.Random) -> None:
        """In a session of its own, which turns to both applications."""
        async with _a_session() as session:
            # It wants a cookie, though it does not write.
            session.cookie_jar.update_cookies({COOKIE: ""}, URL("http://127.0.0.1"))
            turn = 0
            while not self.stop.is_set():
                turn += 1
                await asyncio.sleep(THINK_SECONDS)
                if not self._stored:
                    continue
                # Every other time the newest: it is the one that could be missing.
                url, code, position = self._stored[-1] if turn % 2 else chance.choice(self._stored)
                told = not self._cluster.has_replicas or chance.random() < 0.5
                found = await self._get(session, url, code, turn, position if told else "")
                self._history.read(url, found, name, told=told)

    def _at(self, turn: int) -> str:
        return f"http://127.0.0.1:{self._cluster.ports[turn % 2]}/api/links"


def _a_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=TIMEOUT,
        cookie_jar=aiohttp.CookieJar(unsafe=True),  # also from an address
    )


@contextlib.asynccontextmanager
async def working(cluster: Cluster, history: History, seed: int) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        clients = Clients(cluster, history)
        tasks.create_task(clients.write("w0", with_key=True, repeats=True))
        tasks.create_task(clients.write("w1"))
        tasks.create_task(clients.write("w2", with_key=True))
        tasks.create_task(clients.write("w3", deletes=True))
        for number in range(4):
            tasks.create_task(clients.read(f"r{number}", random.Random(seed + number)))
        await stored(history, 20)
        yield
        clients.stop.set()


async def stored(history: History, more: int) -> None:
    """Until so many more writes are stored."""
    wanted = len(history.stored_at) + more
    async with asyncio.timeout(BACK_SECONDS):
        while len(history.stored_at) < wanted:  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(0.01)


async def check(cluster: Cluster, seed: int, names: list[str], seconds: float) -> dict[str, object]:
    """Do those faults, one after the other. Raises AssertionError with the violations, and the seed."""
    history = History()
    await cluster.start()
    try:
        async with working(cluster, history, seed):
            for name in names:
                await cluster.faults()[name](seconds)
                await stored(history, 20)
            await cluster.was_used()
        there = await asyncio.to_thread(cluster.urls)
    finally:
        await cluster.stop()
    violations = history.violations(there)
    assert not violations, f"seed {seed}: {violations[:10]}"
    figures = history.figures()
    print(f"seed {seed}, {len(names)} faults: {figures}")
    return {"seed": seed, "faults": names, **figures}


@pytest.mark.slow
@pytest.mark.timeout(180)
@requires("mariadbd", "mariadb")
async def test_a_short_history(data_directory: Path) -> None:
    chance = random.Random(7)
    cluster = Cluster(data_directory)
    names = sorted(cluster.faults())
    chance.shuffle(names)
    await check(cluster, 7, names, seconds=1.0)


@pytest.mark.soak
@pytest.mark.timeout(600)
@requires("mariadbd", "mariadb")
async def test_a_long_history(data_directory: Path) -> None:
    """Each fault as often as the others, SOAK_ROUNDS of them in all."""
    await long_history(Cluster(data_directory), "one MariaDB", random.Random(SOAK_SEED))


async def long_history(cluster: Cluster, name: str, chance: random.Random) -> None:
    """Its figures go to RESULTS, under the name of the database."""
    kinds = sorted(cluster.faults())
    names = [kinds[turn % len(kinds)] for turn in range(SOAK_ROUNDS)]
    chance.shuffle(names)
    figures = await check(cluster, SOAK_SEED, names, seconds=3.0)
    asked = ["git", "rev-parse", "HEAD"]
    commit = (
        await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, check=True)
    ).stdout
    records = json.loads(RESULTS.read_text())
    records[name] = {"commit": commit.strip(), "date": date.today().isoformat(), **figures}
    RESULTS.write_text(json.dumps(records, indent=1) + "\n")


def test_every_kind_of_violation_is_found() -> None:
    history = History()
    for url, outcome in (
        ("a", "stored"),
        ("b", "stored"),
        ("c", "failed"),
        ("d", "unknown"),
        ("e", "unknown"),
        ("f", "stored"),
    ):
        history.ended(url, outcome, 0.0)
    history.deleted("f", "failed")
    assert history.violations(["a", "b"]) == ["lost: f"]
    history.read("d", False)
    history.deleted("f", "deleted")
    assert history.violations(["a", "b", "d"]) == []
    assert history.violations(["a", "b", "f"]) == ["resurrected: f"]
    history.read("f", False)
    assert history.violations(["b"]) == ["lost: a"]
    assert history.violations(["a", "b", "b"]) == ["doubled: b (stored) is there 2 times"]
    assert history.violations(["a", "b", "c"]) == ["phantom: c"]
    assert history.violations(["a", "b", "e", "e"]) == ["doubled: e (unknown) is there 2 times"]
    assert history.violations(["a", "b", "x"]) == ["invented: x"]
    history.read("a", True)
    history.read("a", None)
    assert history.violations(["a", "b"]) == []
    history.read("b", False)
    assert history.violations(["a", "b"]) == ["stale: b"]
    assert history.figures()["read_availability"] == 0.8
    for reader, found in (("x", False), ("x", True), ("y", False), ("x", True)):
        history.read("a", found, reader, told=False)
    assert history.violations(["a", "b"]) == ["stale: b"]
    history.read("a", False, "x", told=False)
    assert history.violations(["a", "b"]) == ["stale: b", "stale: a"]
    history.read("f", True)
    assert history.violations(["a", "b"]) == ["stale: b", "stale: a", "resurrected: f"]
