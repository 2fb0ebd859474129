"""One worker of a load balancer: accept, choose, dial, relay.

Started by the node, which hands it everything with the first message: the settings, the counters, and its
own listening sockets, one for each endpoint of each frontend. Sockets on a virtual address are bound and do not
listen until the vrrp process says so to the kernel; the node then says `active`.

Messages from the node: `init`, `state` (whether it is `active`, of each server whether it is `up`, `live` where
that is not as configured, and for how long it is `rising`, and each frontend's `maxconn`; before the first one
nothing is accepted), what an operator wants (`sessions`, `shut_down`, `shut_down_all`; the first two are answered),
and the last ones, each with the `seconds` that sessions may go on: `drain` (refuse new connections) and `retire`
(leave them to other workers; but addresses that are `gone` nobody takes over). The node is told `observed` (see
`observe`), and when the last session has ended, `free`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from scaleup.lb.counters import BackendColumn, Counters, FrontendColumn, ServerColumn, Sizes
from scaleup.lb.dial import Dialler
from scaleup.lb.engine import Engine
from scaleup.lb.frontend import Backend, Frontend, Session, Sessions
from scaleup.lb.observe import Observer
from scaleup.lb.pipes import Pipes
from scaleup.lb.settings import BackendTable, LbSettings
from scaleup.lb.tcplog import json_object, line
from scaleup.lb.waiting import WaitingRoom, Wakers
from scaleup.net import proxy_protocol
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import endpoint_of
from scaleup.processes import Message, Process, privileges, run_child
from scaleup.processes.accept import Listener, affordable
from scaleup.processes.logs import gathered
from scaleup.processes.worker import collect_rarely, leave_signals
from scaleup.upstream.balance import algorithm
from scaleup.upstream.pool import Pool, Server
from scaleup.upstream.server import Live

log = logging.getLogger(__name__)

MOST_AT_A_TIME = 100
"""Sessions in one message: at most 1 KiB each, below the 128 KiB of a message."""
MOST_TOLD = 50_000
"""Sessions of a worker that `show sess` tells: 500 messages, half of those that may wait for a node that is busy.
With too many of them the channel is given up, and the worker ends."""
PIPES = 48
"""Of all workers, 1 MiB each: below the 64 MiB that the kernel grants an unprivileged user."""


class Worker:
    def __init__(self, init: Message, process: Process) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        settings = self._settings = LbSettings.model_validate(init.fields["settings"])
        self._row, rows = init.fields["row"], init.fields["rows"]
        memory, wakers, sockets = _split(init.descriptors, rows)
        self._counters = Counters(memory, rows, sizes_of(settings))
        self._wakers = Wakers(wakers, self._row, self._wake)
        pipes = max(1, PIPES // rows)
        self._engine = Engine(self._loop, Pipes(pipes))
        self._wanted = sum(frontend.maxconn for frontend in settings.frontends)
        self._descriptors = len(init.descriptors) + 2 * pipes
        self._sessions = Sessions(affordable(self._wanted, self._descriptors), self._resume)
        self._deadline: float | None = None  # of all sessions, once no more are accepted
        self._last_wait: asyncio.Timeout | None = None
        self._observer = Observer(self._tell_of_servers)
        self._servers: list[Server] = []  # of all backends, in their order
        self._pools: list[Pool] = []  # of each of them
        backends = {
            backend.name: self._make_backend(index, backend)
            for index, backend in enumerate(settings.backends)
        }
        self._backends = list(backends.values())
        listeners = iter([self._listener(descriptor) for descriptor in sockets])
        self._frontends: list[Frontend] = []
        for index, frontend in enumerate(settings.frontends):
            self._frontends.append(
                Frontend(
                    frontend,
                    list(islice(listeners, init.fields["sockets"][index])),
                    backends[frontend.backend],
                    self._engine,
                    self._sessions,
                    self._counters.tally(self._row, FrontendColumn, index),
                    self._counters.rows_of(FrontendColumn.CURRENT, index),
                    gathered("scaleup.lb.connections", line, json_object)
                    if settings.log_connections
                    else None,
                    settings.name,
                )
            )

    def drop_privileges(self) -> None:
        """For good: all is open that takes any. Raises StartupError."""
        log_file = None if self._settings.log_file is None else str(self._settings.log_file)
        privileges.drop(self._settings.user, self._settings.group, log_file=log_file)

    # ----- what the node says ---------------------------------------------------------------------

    def obey(self, message: Message) -> None:
        match message.kind:
            case "state":
                self._learn(**message.fields)
            case "sessions":
                told = islice(self._sessions, MOST_TOLD)
                self._answer(message.fields["number"], [self._facts(session) for session in told])
            case "heard":
                self._answer(message.fields["number"], [])
            case "shut_down":
                self._answer(message.fields["number"], self._shut_down(message.fields["session"]))
            case "shut_down_all":
                self._shut_down_all(message.fields["backend"], message.fields["server"])
            case "drain":
                self.finish(message.fields["seconds"])
            case "retire":
                self.retire(message.fields["seconds"], set(map(Endpoint.parse, message.fields["gone"])))

    def _learn(
        self,
        active: bool,
        up: Sequence[bool | None],
        live: Sequence[tuple[int, list[Any]]],
        rising: Sequence[tuple[int, float]],
        maxconn: Sequence[int],
    ) -> None:
        now, risen = self._loop.time(), dict(rising)
        changed = {number: Live.from_list(fields) for number, fields in live}
        for number, (server, is_up) in enumerate(zip(self._servers, up, strict=True)):
            if is_up is not None:
                server.up = is_up
                server.live = changed.get(number, server.configured)
                if server.slowstart:
                    since = now - risen[number] if number in risen else None
                    self._pools[number].rises(server, since)
        self._wake()
        self._limit(maxconn)
        if not active:
            self.leave_address()
        if self._deadline is None:
            for frontend in self._frontends:
                frontend.acceptor.start(elected=False)
                if active:
                    frontend.acceptor.start(elected=True)

    def _limit(self, maxconn: Sequence[int]) -> None:
        for frontend, limit in zip(self._frontends, maxconn, strict=True):
            frontend.set_maxconn(limit)
        if sum(maxconn) != self._wanted:
            self._wanted = sum(maxconn)
            self._sessions.limit = affordable(self._wanted, self._descriptors)
        self._resume()

    def leave_address(self) -> None:
        for frontend in self._frontends:
            frontend.acceptor.stop(elected=True)
        self._kill((session for session in self._sessions if session.elected), "the address has left")

    def finish(self, seconds: float) -> None:
        """Take what is in the kernel's queues, refuse the rest; sessions may go on for `seconds`."""
        for frontend in self._frontends:
            frontend.acceptor.finish()
        self._end_in(seconds)

    def retire(self, seconds: float, gone: Container[Endpoint]) -> None:
        for frontend in self._frontends:
            frontend.acceptor.leave(gone)
        self._end_in(seconds)

    def _end_in(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if self._last_wait is not None:
            self._last_wait.reschedule(self._deadline)
        self._process.stopping.set()

    async def end(self) -> None:
        """When the last session has ended, or its time is up; then clean up."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._last_wait:
                await self._sessions.none()
        except TimeoutError:
            self._kill(self._sessions, "their time is over (--drain, --hard-stop-after)")
        self._last_wait = None
        await self._sessions.none()
        # Its own end takes 15 ms more, in which nobody would serve.
        self._process.tell_parent("free")
        for backend in self._backends:
            backend.dialler.close()
        for frontend in self._frontends:
            frontend.acceptor.close()
        self._observer.close()
        self._engine.close()
        self._wakers.close()
        self._counters.close()

    def _kill(self, sessions: Iterable[Session], reason: str) -> None:
        doomed = list(sessions)
        if doomed:
            log.info("resetting %d connections: %s", len(doomed), reason)
        for session in doomed:
            if session in self._sessions:  # not ended by the end of another one
                session.frontend.kill(session)

    # ----- what an operator wants -----------------------------------------------------------------

    def _facts(self, session: Session) -> tuple[str, *tuple[Any, ...]]:
        return f"0x{os.getpid():x}{id(session):012x}", *session.frontend.facts(session)

    def _shut_down(self, identity: str) -> list[bool]:
        session = next((it for it in self._sessions if self._facts(it)[0] == identity), None)
        if session is None:
            return []
        self._kill([session], "an operator says so")
        return [True]

    def _shut_down_all(self, backend: str, server: str) -> None:
        facts = ((session, session.frontend.facts(session)) for session in self._sessions)
        doomed = [session for session, it in facts if it[2:4] == (backend, server)]
        self._kill(doomed, "an operator says so")

    def _answer(self, number: int, answer: Sequence[Any]) -> None:
        for start in range(0, max(1, len(answer)), MOST_AT_A_TIME):
            end = start + MOST_AT_A_TIME
            self._process.tell_parent("answer", number=number, part=answer[start:end], more=end < len(answer))

    def _listener(self, descriptor: int) -> Listener:
        sock = socket.socket(fileno=descriptor)
        return Listener(sock, self._settings.is_virtual(endpoint_of(sock)))

    # ----- the backends ---------------------------------------------------------------------------

    def _make_backend(self, index: int, settings: BackendTable) -> Backend:
        counters = self._counters
        servers = [server.server() for server in settings.servers]
        for server in servers:
            if server.is_named:
                server.change(endpoint=None)  # the node looks it up
        numbers = range(len(self._servers), len(self._servers) + len(servers))
        self._servers += servers
        sessions = {
            server: counters.rows_of(ServerColumn.CURRENT, number)
            for server, number in zip(servers, numbers, strict=True)
        }
        balance = algorithm(settings.balance, random.randrange)
        pool = Pool(
            servers,
            balance,
            lambda server: sum(sessions[server]),
            now=self._loop.time,
            allbackups=settings.allbackups,
        )
        self._pools += [pool] * len(servers)
        everywhere = counters.rows_of(BackendColumn.WAITING, index)
        waiting = WaitingRoom(everywhere, self._wakers, settings.queue, settings.timeout_queue)
        tallies = [counters.tally(self._row, ServerColumn, number) for number in numbers]
        source = str(self._settings.source) if self._settings.source else None
        observe = self._observer_of(dict(zip(servers, numbers, strict=True)), settings)
        return Backend(
            Dialler(settings, pool, tallies, waiting, self._engine, source, observe),
            settings.name,
            counters.tally(self._row, BackendColumn, index),
            {server.name: sessions[server] for server in servers},
            everywhere,
            settings.timeout_server,
            settings.timeout_server_fin,
            {"off": None, "v1": proxy_protocol.v1, "v2": proxy_protocol.v2}[settings.send_proxy],
        )

    def _observer_of(
        self, numbers: Mapping[Server, int], settings: BackendTable
    ) -> Callable[[Server, str | None], None]:
        def observe(server: Server, failure: str | None) -> None:
            if failure is None:
                self._observer.made(numbers[server])
            else:
                self._observer.failed(numbers[server], failure)

        return observe if settings.observe == "layer4" else lambda server, failure: None

    def _tell_of_servers(self, failed: dict[int, tuple[int, str]], made: list[int]) -> None:
        self._process.tell_parent("observed", failed=list(failed.items()), made=made)

    def _wake(self) -> None:
        """There may be a slot, in any backend."""
        for backend in self._backends:
            backend.dialler.waiting.wake()

    def _resume(self) -> None:
        """There may be room, in any frontend."""
        for frontend in self._frontends:
            frontend.acceptor.resume()


def sizes_of(settings: LbSettings) -> Sizes:
    """Of the counters."""
    servers = sum(len(backend.servers) for backend in settings.backends)
    return Sizes(len(settings.frontends), len(settings.backends), servers)


def _split(descriptors: Sequence[int], rows: int) -> tuple[int, Sequence[int], Sequence[int]]:
    """The counters' memory, an eventfd for each worker, the listening sockets."""
    return descriptors[0], descriptors[1 : 1 + rows], descriptors[1 + rows :]


async def serve(init: Message, process: Process) -> None:
    leave_signals(process)
    worker = Worker(init, process)
    worker.drop_privileges()
    collect_rarely()
    process.on_message = worker.obey
    process.ready()
    await process.stopping.wait()
    if process.orphaned:
        worker.leave_address()
        worker.finish(init.fields["settings"]["drain"])
    await worker.end()


if __name__ == "__main__":
    run_child(serve)
