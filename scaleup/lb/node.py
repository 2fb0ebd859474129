"""The node: the parent of a load balancer's processes.

It opens the listening sockets and hands them down, checks the servers once for all workers, keeps the
vrrp process and the workers running, and exports what they count. User bytes never come here.

The local health of the node, which the election should know of, is whether any worker can accept. When
none can, the vrrp process is told `fault` and another node takes over; servers that are down are no fault
of this node, since the others see the same.

Stopping is a planned hand-over: the workers first refuse new connections while the old ones finish, for
at most the drain time; then the vrrp process advertises priority 0, and the next node takes over within
its Skew_Time. A node that is not Active, or ceases to be while it drains, has nothing to hand over and is at
fault, lest the address comes to workers that do not accept any more.

Workers are told the whole state, not its changes, when they are ready and whenever it changes. So it does
not matter what happened while one was being replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

from scaleup.lb.counters import Counters
from scaleup.lb.metrics import LbCollector
from scaleup.lb.settings import LbSettings
from scaleup.lb.worker import sizes_of
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound, endpoint_of, is_ours, listening, stop_listening
from scaleup.processes import Child, Message, Process, Tasks
from scaleup.processes.keeper import Keeper
from scaleup.upstream.checks import Checker
from scaleup.upstream.health import Change
from scaleup.upstream.pool import Server
from scaleup.vrrp.metrics import ElectionCollector
from scaleup.vrrp.settings import Election

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 1.0
"""Beyond the drain time, until a worker or the vrrp process is killed."""


class Node:
    def __init__(self, settings: LbSettings, process: Process) -> None:
        self._settings, self._process = settings, process
        self._backends = settings.backends
        self._servers = [[server.server() for server in backend.server] for backend in self._backends]
        self._counters = Counters.create(settings.workers, sizes_of(settings))
        self._wakers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(settings.workers)]
        self._sockets: list[
            list[socket.socket]
        ] = []  # for each worker, one for each endpoint of each frontend
        self._workers: list[Keeper] = []
        self._vrrp: Keeper | None = None
        self._election: dict[str, Any] = {}  # the vrrp process's newest statistics
        self.role: str | None = None
        self._tasks = Tasks()
        self._collectors = (
            LbCollector(settings, self._servers, self._counters),
            ElectionCollector(lambda: self._election and {**self._election, "role": self.role}),
        )
        for collector in self._collectors:
            process.registry.register(collector)
        process.add_readiness(self._readiness)

    async def start(self) -> None:
        """Raises StartupError."""
        self._open_sockets()
        for row in range(self._settings.workers):
            name = f"{self._process.name}/worker{row + 1}"
            keeper = Keeper(name, partial(self._spawn_worker, name, row), partial(self._worker_died, row))
            self._workers.append(keeper)
            keeper.start()
        for keeper in self._workers:
            await keeper.first_ready()
        for backend, servers in zip(self._backends, self._servers, strict=True):
            changed = partial(self._server_changed, backend.name)
            checker = Checker(servers, backend, changed, source=self._source)
            self._tasks.spawn(checker.run(), name=f"health checks of {backend.name}")
        if self._settings.vip:
            name = f"{self._process.name}/vrrp"
            self._vrrp = Keeper(name, partial(self._spawn_vrrp, name), self._vrrp_died)
            self._vrrp.start()
            await self._vrrp.first_ready()

    async def stop(self) -> None:
        """Drain, hand over, end. May be called after a `start` that failed."""
        await self._tasks.cancel()
        self._tell_fitness()
        for keeper in self._workers:
            keeper.expect_exit()
            if keeper.child is not None:
                keeper.child.send("drain")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain + STOP_GRACE_SECONDS):
                await asyncio.gather(*(keeper.child.wait() for keeper in self._workers if keeper.child))
        if self._vrrp is not None:
            await self._vrrp.stop(STOP_GRACE_SECONDS)
        for keeper in self._workers:
            await keeper.stop(0)
        for collector in self._collectors:
            self._process.registry.unregister(collector)
        for sock in chain.from_iterable(self._sockets):
            sock.close()
        for waker in self._wakers:
            os.close(waker)
        self._counters.close()

    # ----- the children ---------------------------------------------------------------------------

    def _spawn_worker(self, name: str, row: int, on_exit: Callable[[int], None]) -> Child:
        child = Child(
            name,
            ["scaleup.lb.worker", name],
            on_message=lambda message: self._worker_says(row, message),
            on_exit=on_exit,
        )
        child.send(
            "init",
            [self._counters.descriptor, *self._wakers, *(sock.fileno() for sock in self._sockets[row])],
            name=name,
            log=self._log,
            settings={**self._settings.table(), "auth": "none"},  # no need of a key, whose file may be gone
            row=row,
            rows=self._settings.workers,
        )
        return child

    def _spawn_vrrp(self, name: str, on_exit: Callable[[int], None]) -> Child:
        child = Child(name, ["scaleup.vrrp.attached", name], on_message=self._vrrp_says, on_exit=on_exit)
        election = self._settings.model_dump(mode="json", include=set(Election.model_fields))
        sockets = [sock.fileno() for sock in self._elected_sockets()]
        child.send("init", sockets, name=name, log=self._log, election=election)
        return child

    def _worker_says(self, row: int, message: Message) -> None:
        if message.kind == "ready":
            self._workers[row].was_ready()
            self._tell_workers()
            self._tell_fitness()

    def _worker_died(self, row: int, how: str) -> None:
        self._counters.clear_current(row)
        self._process.event("worker", worker=self._workers[row].name, how=how)
        self._tell_fitness()

    def _fault(self) -> str | None:
        """Why this node cannot serve; None when it can."""
        if self._process.stopping.is_set() and self.role != "active":
            return "draining"
        return None if any(keeper.is_ready for keeper in self._workers) else "no worker accepts"

    async def _readiness(self) -> str | None:
        return self._fault()

    def _tell_fitness(self) -> None:
        """The vrrp process hears whether this node can serve; may be repeated."""
        if self._vrrp is None or not self._vrrp.is_ready or self._vrrp.child is None:
            return  # it is told when it is ready
        if reason := self._fault():
            self._vrrp.child.send("fault", reason=reason)
        else:
            self._vrrp.child.send("recover")

    def _vrrp_says(self, message: Message) -> None:
        match message.kind:
            case "ready":
                assert self._vrrp is not None
                self._vrrp.was_ready()
                self._tell_fitness()
            case "role":
                self._become(message.fields["role"], message.fields["rule"])
            case "statistics":
                self._election = message.fields

    def _vrrp_died(self, how: str) -> None:
        """Nobody advertises for us any more, so another node will take the address: let it go now."""
        for sock in self._elected_sockets():
            stop_listening(sock)
        self._become("fault", f"the vrrp process died ({how})")

    def _become(self, role: str, rule: str) -> None:
        self.role = role
        self._process.event("role", role=role, rule=rule)
        self._tell_workers()
        if role == "backup":  # perhaps it was Active, and drains
            self._tell_fitness()

    # ----- the servers ----------------------------------------------------------------------------

    def _server_changed(self, backend: str, server: Server, change: Change) -> None:
        self._process.event("server", backend=backend, server=server.name, up=change.up, reason=change.reason)
        self._tell_workers()

    def _tell_workers(self) -> None:
        up = [server.up for server in chain.from_iterable(self._servers)]
        for keeper in self._workers:
            if keeper.is_ready and keeper.child is not None:
                keeper.child.send("state", active=self.role == "active", up=up)

    # ----- the sockets ----------------------------------------------------------------------------

    def _open_sockets(self) -> None:
        """For each worker, in the order in which it expects them: see LbSettings.endpoints."""
        settings = self._settings
        if self._source is not None:
            bound(Endpoint(self._source, 0), "--source").close()
        endpoints = [
            endpoint if settings.is_virtual(endpoint) else self._claim(endpoint)
            for endpoint in settings.endpoints
        ]
        for _ in range(settings.workers):
            self._sockets.append([])
            for endpoint in endpoints:
                opened = bound if settings.is_virtual(endpoint) else listening
                self._sockets[-1].append(opened(endpoint, "--listen", reuse_port=True, free=True))
        for endpoint in endpoints:
            if settings.is_virtual(endpoint):
                log.info("to listen on %s while Active", endpoint)
                continue
            log.info("listening on %s", endpoint)
            if not is_ours(endpoint):
                log.warning("no interface of this host has %s yet; will something bring it?", endpoint.host)

    def _claim(self, endpoint: Endpoint) -> Endpoint:
        """See that nobody else listens there, since SO_REUSEPORT would share it in silence with another process
        of the same user. Port 0 becomes the one that all workers listen on.
        """
        with bound(endpoint, "--listen", free=True) as sock:
            return endpoint_of(sock)

    def _elected_sockets(self) -> list[socket.socket]:
        return [
            sock
            for sockets in self._sockets
            for sock, endpoint in zip(sockets, self._settings.endpoints, strict=False)
            if self._settings.is_virtual(endpoint)
        ]

    @property
    def _source(self) -> str | None:
        return str(self._settings.source) if self._settings.source else None

    @property
    def _log(self) -> tuple[str, str, str | None]:
        settings = self._settings
        return settings.log_format, settings.log_level, str(settings.log_file) if settings.log_file else None
