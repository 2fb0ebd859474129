"""`python -m scaleup.db`: a database server."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Protocol

from scaleup.db import galera, replication
from scaleup.db.directory import DataDirectory
from scaleup.db.engines import Choice, choose
from scaleup.db.galera import GaleraEngine
from scaleup.db.mariadb import ServerEngine, installed
from scaleup.db.replication import ReplicatedEngine
from scaleup.db.settings import DbSettings
from scaleup.errors import ConfigurationError
from scaleup.net.sockets import endpoint_of, listening
from scaleup.processes import Process, run

log = logging.getLogger(__name__)


class Engine(Protocol):
    async def start(self, sock: socket.socket) -> str:
        """Accept clients where `sock` listens, and return the version. Raises StartupError."""

    async def check(self) -> str | None:
        """None when it accepts SQL, else why not."""

    async def wait(self) -> None:
        """Until it ends by itself, which raises StartupError."""

    async def stop(self, grace: float) -> None:
        """End within about `grace` seconds."""


async def serve(settings: DbSettings, process: Process) -> None:
    directory = DataDirectory.open(settings.data)
    try:
        choice = choose(settings.engine, installed(), directory.found())
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(_run(settings, process, directory, choice), name="the engine")
            await process.stopping.wait()
            running.cancel()
    finally:
        directory.close()


async def _run(settings: DbSettings, process: Process, directory: DataDirectory, choice: Choice) -> None:
    engine = _make(settings, directory, choice)
    try:
        sock = listening(settings.listen, "--listen")
        endpoint = endpoint_of(sock)
        version = await engine.start(sock)
        log.info("%s %s (%s) on %s, data in %s", choice.engine, version, choice.why, endpoint, directory.path)
        process.event("engine", engine=f"{choice.engine} {version}", why=choice.why, address=str(endpoint))
        process.add_readiness(engine.check)
        process.ready()
        await engine.wait()
    finally:
        await engine.stop(settings.drain)


def _make(settings: DbSettings, directory: DataDirectory, choice: Choice) -> Engine:
    _check_company(settings, directory)
    if settings.replicas:
        return ReplicatedEngine(choice, settings, directory)
    if settings.galera:
        return GaleraEngine(choice, settings, directory)
    if choice.engine != "embedded":
        return ServerEngine(choice, settings, directory)
    from scaleup.db.embedded import EmbeddedEngine  # brings sqlglot, which takes long to import

    return EmbeddedEngine(
        directory.of("embedded"),
        database=settings.database,
        user=settings.user,
        password=settings.user_password(),
        durable=directory.keep,
    )


def _check_company(settings: DbSettings, directory: DataDirectory) -> None:
    """Raises ConfigurationError when servers have shared these data which would now miss what is written."""
    replicas, nodes = replication.folders(directory), galera.folders(directory)
    for wanted, left, say in (
        (
            settings.replicas > 0,
            replicas,
            f"--replicas {len(replicas)}",
        ),  # one that is left out catches up later
        (
            settings.galera > len(nodes),
            nodes,
            f"--galera {len(nodes) + 1}",
        ),  # any may be the furthest
    ):
        if left and not wanted:
            raise ConfigurationError(
                f"--data {directory.path}: {left[0].name} has shared this database and would miss what is written "
                f"now: say {say}, or remove such directories"
            )


if __name__ == "__main__":
    run(DbSettings, serve)
