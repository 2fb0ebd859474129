"""One primary and the replicas that follow it, on this machine: what several hosts would run, to try it out.

Replication is MariaDB's: asynchronous, by GTID. A commit is acknowledged when the primary has it; replicas have it
a little later, and a primary that is lost for good takes with it what they did not get. So who promotes a replica
decides to lose that, and nobody here does it by himself: docs/cluster.md has the steps.

A replica begins as a copy of the primary's data, taken while neither runs, with the primary's binary log: both
recover to the same GTID, and from there on the replica follows. It writes a binary log of its own
(log_slave_updates), so it could become the primary and the others could follow it.

    DIR/mariadb/     the primary
    DIR/replica1/    and so on

A replica that dies is started again; the primary is not, as a single server is not.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from pathlib import Path

from scaleup.db.directory import DataDirectory
from scaleup.db.engines import Choice
from scaleup.db.mariadb import Part, ServerEngine, reachable, socket_beside
from scaleup.db.settings import DbSettings
from scaleup.errors import ConfigurationError, StartupError

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
"""Before a replica that has died is started again."""
USER = "replication"
_FOLDER = "replica{}"
_BEGIN = "SET GLOBAL gtid_slave_pos = @@GLOBAL.gtid_binlog_pos"
"""Where its primary was when it was copied. Later a replica knows by itself, and better."""
_UNLOGGED = ("SET SESSION sql_log_bin = 0",)
"""Each server makes its users for itself."""


def folders(directory: DataDirectory) -> list[Path]:
    """Data of replicas that are there."""
    return sorted(directory.path.glob(_FOLDER.format("[1-9]")))


class ReplicatedEngine:
    """As many replicas as the settings say. The methods are explained in __main__.Engine."""

    def __init__(self, choice: Choice, settings: DbSettings, directory: DataDirectory) -> None:
        if choice.engine != "mariadb":
            raise ConfigurationError(
                f"--replicas: this needs MariaDB, and here is {choice.engine} ({choice.why})"
            )
        self._settings, self._keep = settings, directory.keep
        self._primary = ServerEngine(choice, settings, directory)
        self.replicas = [
            ServerEngine(choice, settings, directory, directory.path / _FOLDER.format(number))
            for number in range(1, settings.replicas + 1)
        ]
        self._password = secrets.token_hex()  # of the user that replicas log in with; a new one each time

    async def start(self, sock: socket.socket) -> str:
        await self._primary.install()
        for replica in self.replicas:
            if not replica.data.exists():
                await replica.copy_from(self._primary)
            await replica.install()
        self._primary.take(sock)
        self._primary.part = Part(self._arguments(1), _UNLOGGED, self._for_the_primary())
        version = await self._primary.launch()
        async with asyncio.TaskGroup() as tasks:
            for number, replica in enumerate(self.replicas, 1):
                arguments = (*self._arguments(number + 1), "--read-only=ON", "--skip-slave-start")
                option = f"--replicas {len(self.replicas)}"
                replica.take(socket_beside(self._settings.listen, number, option))
                replica.part = Part(arguments, _UNLOGGED, self._for_a_replica())
                begin = Part(arguments, _UNLOGGED, (_BEGIN, *replica.part.statements))
                tasks.create_task(replica.launch(begin if replica.is_copied else None))
        for replica in self.replicas:
            log.info("a replica on %s, data in %s", replica.endpoint, replica.data)
        return version

    async def check(self) -> str | None:
        return await self._primary.check()

    async def wait(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for replica in self.replicas:
                tasks.create_task(_keep_up(replica))
            await self._primary.wait()

    async def stop(self, grace: float) -> None:
        """The replicas last: they get what the primary wrote to its end."""
        await self._primary.stop(grace / 2)
        await asyncio.gather(*(replica.stop(grace / 2) for replica in self.replicas))

    def _arguments(self, number: int) -> tuple[str, ...]:
        durable = ("--sync-binlog=1",) if self._keep else ()
        return (
            f"--server-id={number}",
            "--log-bin=bin",
            "--log-slave-updates",
            "--gtid-strict-mode=1",
            "--binlog-format=ROW",
            *durable,
        )

    def _for_the_primary(self) -> tuple[str, ...]:
        user = f"'{USER}'@'%'"
        return (
            f"CREATE USER IF NOT EXISTS {user}",
            f"ALTER USER {user} IDENTIFIED BY '{self._password}'",
            f"GRANT REPLICATION SLAVE ON *.* TO {user}",
        )

    def _for_a_replica(self) -> tuple[str, ...]:
        where = self._primary.endpoint
        host = reachable(where.host)
        return (
            f"CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={where.port}, MASTER_USER='{USER}', "
            f"MASTER_PASSWORD='{self._password}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1",
            "START SLAVE",
        )


async def _keep_up(replica: ServerEngine) -> None:
    """Start it again whenever it has ended."""
    while True:
        try:
            await replica.wait()
        except StartupError as error:
            log.warning("the replica on %s is started again: %s", replica.endpoint, error)
        await asyncio.sleep(PAUSE_SECONDS)
        try:
            await replica.launch()
        except (StartupError, OSError) as error:  # of the system: a full disk
            log.error("the replica on %s: %s", replica.endpoint, error)
