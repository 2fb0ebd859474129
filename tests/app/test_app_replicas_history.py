"""The history check on a primary with two replicas: what was acknowledged, and what sessions have seen of it.

Nobody is promoted. Killing scaleup.db's primary takes the replicas along, so reads while only the primary is
away come with `database stopped`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pymysql
import pytest
from database_servers import Other
from needs import requires
from test_app_history import BACK_SECONDS, SOAK_SEED, Cluster, check, long_history

from bench.ports import free_port, free_ports

pytestmark = [pytest.mark.slow, requires("mariadbd", "mariadb")]

USES = re.compile(r"^scaleup_app_replica_uses_total\{.*\} (\S+)$", re.MULTILINE)


class Replicated(Cluster):
    """Two applications that read from two replicas."""

    has_replicas = True

    def __init__(self, data: Path, chance: random.Random) -> None:
        super().__init__(data)
        self._port, *_ = free_ports(3)
        self._arguments += ["--replicas", "2"]
        self._chance = chance
        self._admin = {port: free_port() for port in self.ports}

    def _more(self, port: int) -> list[str]:
        replicas = self.database.replicas
        assert len(replicas) == 2
        return [
            *(word for it in replicas for word in ("--database-replica", str(it.endpoint))),
            *("--admin", f"127.0.0.1:{self._admin[port]}"),
        ]

    async def was_used(self) -> None:
        """Until each application has read from each replica, also one that was just started."""
        async with aiohttp.ClientSession(raise_for_status=True) as session, asyncio.timeout(BACK_SECONDS):
            for port in self._admin.values():
                used: list[bool] = []
                while used != [True, True]:
                    with contextlib.suppress(aiohttp.ClientConnectionError):  # it does not listen yet
                        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                            used = [float(it) > 0 for it in USES.findall(await response.text())]
                    await asyncio.sleep(0.01)

    def _one(self) -> Other:
        return self._chance.choice(self.database.replicas)

    async def replica_killed(self, _seconds: float) -> None:
        """scaleup.db starts it again; until it has."""
        replica = self._one()
        killed = replica.server_pid()
        os.kill(killed, signal.SIGKILL)
        await asyncio.to_thread(_until_back, replica, killed)

    async def replica_stopped(self, seconds: float) -> None:
        with self._one().paused():
            await asyncio.sleep(seconds)

    async def replica_behind(self, seconds: float) -> None:
        replica = self._one()
        await asyncio.to_thread(replica.as_owner, "STOP SLAVE SQL_THREAD")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(replica.as_owner, "START SLAVE SQL_THREAD")

    def faults(self) -> dict[str, Callable[[float], Awaitable[None]]]:
        return {
            **super().faults(),
            "replica killed": self.replica_killed,
            "replica stopped": self.replica_stopped,
            "replica behind": self.replica_behind,
        }


def _until_back(replica: Other, killed: int) -> None:
    deadline = time.monotonic() + BACK_SECONDS
    while True:
        with contextlib.suppress(OSError, ValueError, pymysql.err.MySQLError):
            if replica.server_pid() != killed and replica.execute("SELECT 1"):
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(240)
async def test_a_short_history(data_directory: Path) -> None:
    chance = random.Random(5)
    cluster = Replicated(data_directory, chance)
    names = sorted(cluster.faults())
    chance.shuffle(names)
    await check(cluster, 5, names, seconds=1.0)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_long_history(data_directory: Path) -> None:
    chance = random.Random(SOAK_SEED)
    await long_history(Replicated(data_directory, chance), "a primary and two replicas", chance)
