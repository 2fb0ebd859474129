"""A Galera cluster on this machine: what several hosts would run, to try it out.

Nodes agree on a transaction at its COMMIT, before it is acknowledged: each has it then, or will have applied it
when it says that it is ready. So any of them takes writes, and one may die without anything being lost. Those that
can see more than half of the last group go on; the others refuse everything until they see each other again.

    DIR/mariadb/     the first node; a single server's data become the cluster's
    DIR/node2/       and so on

A node joins by getting from another what it lacks (a state transfer by rsync, if it has nothing). After all have
ended, one of them has to begin: the one that ended last, which grastate.dat says (`safe_to_bootstrap: 1`); or,
after a crash of all, the one that has got furthest, which each has to be asked for (`--wsrep-recover`).

A node that dies is started again, but not before the others have noticed: they take a member that comes back under
its old name for the one that they still believe to be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from pymysql.err import Error

from scaleup.db.directory import DataDirectory
from scaleup.db.engines import Choice
from scaleup.db.mariadb import Part, ServerEngine, find, reachable, socket_beside
from scaleup.db.settings import DbSettings
from scaleup.errors import ConfigurationError, StartupError
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import endpoint_of, listening

log = logging.getLogger(__name__)

PROVIDERS = ("/usr/lib/galera/libgalera_smm.so", "/usr/lib64/galera-4/libgalera_smm.so")
TIMES = (
    "evs.suspect_timeout=PT3S;evs.inactive_timeout=PT8S;evs.keepalive_period=PT0.5S;"
    "evs.inactive_check_period=PT0.5S;evs.install_timeout=PT8S"
)
"""A node that has died is given up after 3 s, where 5 s are the default. Less, and a busy machine is a dead one."""
LOOK_SECONDS = 0.2
NOTICE_SECONDS = 30.0
"""How long a node that has died may wait for the others to agree that it has: one of them may be stopped."""
PAUSE_SECONDS = 1.0
"""Before a node that did not start is started again."""
_FOLDER = "node{}"


def folders(directory: DataDirectory) -> list[Path]:
    """Data of further nodes that are there."""
    return sorted(directory.path.glob(_FOLDER.format("[2-9]")))


class GaleraEngine:
    """As many nodes as the settings say. The methods are explained in __main__.Engine."""

    def __init__(self, choice: Choice, settings: DbSettings, directory: DataDirectory) -> None:
        if choice.engine != "mariadb":
            raise ConfigurationError(
                f"--galera: this needs MariaDB, and here is {choice.engine} ({choice.why})"
            )
        provider = next((path for path in PROVIDERS if Path(path).exists()), None)
        if provider is None or find("rsync") is None:
            missing = "the Galera library" if provider is None else "rsync"
            raise StartupError(f"--galera: {missing} is not installed; on Debian: apt install galera-4 rsync")
        self._provider, self._settings = provider, settings
        self._nodes = [
            ServerEngine(
                choice, settings, directory, directory.path / _FOLDER.format(number) if number > 1 else None
            )
            for number in range(1, settings.galera + 1)
        ]

    async def start(self, sock: socket.socket) -> str:
        first, *others = self._nodes
        await first.install()
        for node in others:
            if not node.data.exists():
                await node.copy_from(first)
            await node.install()
        option = f"--galera {len(self._nodes)}"
        sockets = [
            sock,
            *(socket_beside(self._settings.listen, number, option) for number in range(1, len(self._nodes))),
        ]
        count = len(self._nodes)
        free = self._free_endpoints(3 * count)
        groups, transfers = free[:count], list(zip(free[count : 2 * count], free[2 * count :], strict=True))
        for node, its_socket, group, transfer in zip(self._nodes, sockets, groups, transfers, strict=True):
            node.take(its_socket)
            node.part = self._part(node, group, groups, *transfer)
        beginner = await self._who_begins()
        version = await beginner.launch(Part((*beginner.part.arguments, "--wsrep-new-cluster")))
        for node in self._nodes:
            if node is not beginner:
                await node.launch()
        for node in others:
            log.info("a node on %s, data in %s", node.endpoint, node.data)
        return version

    async def check(self) -> str | None:
        """One that can be used is enough: whoever uses them looks for it."""
        for node in self._nodes:
            if (await _status(node)).get("wsrep_ready") == "ON":
                return None
        return "no node of the cluster is ready"

    async def wait(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for node in self._nodes:
                tasks.create_task(self._keep_up(node))

    async def stop(self, grace: float) -> None:
        """The first node last: it begins the next time."""
        first, *others = self._nodes
        await asyncio.gather(*(node.stop(grace / 2) for node in others))
        await first.stop(grace / 2)

    def _free_endpoints(self, count: int) -> list[Endpoint]:
        """For what nodes say to each other. Held until there are all, so that none is there twice."""
        anywhere = Endpoint(reachable(self._settings.listen.host), 0)
        with contextlib.ExitStack() as held:
            return [endpoint_of(held.enter_context(listening(anywhere, "--galera"))) for _ in range(count)]

    def _part(
        self,
        node: ServerEngine,
        group: Endpoint,
        groups: Sequence[Endpoint],
        increments: Endpoint,
        whole: Endpoint,
    ) -> Part:
        """`increments`, `whole`: where it gets what it lacks from another."""
        options = (
            f"gmcast.listen_addr=tcp://{group};base_port={group.port};ist.recv_addr={increments};"
            f"gcache.size=16M;{TIMES}"
        )
        return Part(
            (
                "--skip-log-bin",
                "--binlog-format=ROW",
                "--innodb-autoinc-lock-mode=2",
                "--wsrep-on=ON",
                f"--wsrep-provider={self._provider}",
                "--wsrep-cluster-name=scaleup",
                f"--wsrep-node-name={node.data.name}",
                f"--wsrep-node-address={group}",
                f"--wsrep-cluster-address=gcomm://{','.join(map(str, groups))}",
                "--wsrep-sst-method=rsync",
                f"--wsrep-sst-receive-address={whole}",
                f"--wsrep-provider-options={options}",
            ),
            makes_user=False,
        )

    async def _who_begins(self) -> ServerEngine:
        states = {node: _State(node.data) for node in self._nodes}
        for node, state in states.items():
            state.forget_the_group()
            if state.may_begin:
                return node
        if not any(state.is_there for state in states.values()):
            return self._nodes[0]
        reached = {node: state.number for node, state in states.items()}
        for node, number in reached.items():
            if number < 0:  # it did not end well
                reached[node] = await node.recovered()
        furthest = max(self._nodes, key=lambda node: reached[node])
        log.warning("all nodes had crashed: %s has got furthest (%d)", furthest.data, reached[furthest])
        states[furthest].let_it_begin()
        return furthest

    async def _keep_up(self, node: ServerEngine) -> None:
        """Start it again whenever it has ended. Raises StartupError when no other is left."""
        while True:
            try:
                await node.wait()
            except StartupError as error:
                log.warning("the node on %s is started again: %s", node.endpoint, error)
            with contextlib.suppress(TimeoutError):  # then it is tried all the same
                async with asyncio.timeout(NOTICE_SECONDS):
                    await self._until_noticed()
            try:
                await node.launch()
            except (StartupError, OSError) as error:  # of the system: a full disk
                log.error("the node on %s: %s", node.endpoint, error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _until_noticed(self) -> None:
        while running := [node for node in self._nodes if node.is_running]:
            for node in running:
                if (await _status(node)).get("wsrep_cluster_size") == str(len(running)):
                    return
            await asyncio.sleep(LOOK_SECONDS)
        raise StartupError("no node of the cluster is left")


class _State:
    """What a node's directory says of its last end: grastate.dat."""

    def __init__(self, data: Path) -> None:
        self._data, self._path = data, data / "grastate.dat"
        self._text = self._path.read_text() if self._path.exists() else ""

    @property
    def is_there(self) -> bool:
        return bool(self._text)

    @property
    def may_begin(self) -> bool:
        return "safe_to_bootstrap: 1" in self._text

    @property
    def number(self) -> int:
        """Of the last transaction; -1 when it did not end well."""
        found = re.search(r"^seqno:\s*(-?\d+)", self._text, re.MULTILINE)
        return int(found[1]) if found else -1

    def let_it_begin(self) -> None:
        self._path.write_text(self._text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))

    def forget_the_group(self) -> None:
        """Its members' addresses will be others."""
        (self._data / "gvwstate.dat").unlink(missing_ok=True)


async def _status(node: ServerEngine) -> dict[str, str]:
    """Of wsrep; empty when it cannot be asked."""
    try:
        rows = await node.ask("SHOW GLOBAL STATUS LIKE 'wsrep%'")
    except (Error, TimeoutError):
        return {}
    return {str(row[0]): str(row[1]) for row in rows}
