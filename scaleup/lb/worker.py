"""One worker of a load balancer: accept, choose, dial, relay.

Started by the node, which hands it everything with the first message: the settings, the counters, and its
own listening sockets, one for each endpoint. Sockets on a virtual address are bound and do not listen
until the vrrp process says so to the kernel; the node then says `active`.

When the virtual address leaves, sessions that came through it cannot live on: from now on their packets go
to the other node. They are reset on both sides, so that both peers know at once.

Messages from the node: `init`, `state` (whether it is `active`, and of each server whether it is `up`; before
the first one nothing is accepted), `drain`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from scaleup.lb.accept import Acceptor, affordable
from scaleup.lb.counters import Counters, Frontend, ServerColumn
from scaleup.lb.dial import Dial, Dialler, Reached
from scaleup.lb.engine import ERROR, Engine
from scaleup.lb.pipes import Pipes
from scaleup.lb.relay import Outcome, Relay, Timeouts
from scaleup.lb.settings import LbSettings
from scaleup.lb.waiting import WaitingRoom
from scaleup.net.sockets import close_with_reset
from scaleup.processes import Message, Process, run_child
from scaleup.processes.logs import LimitedLog
from scaleup.upstream.balance import algorithm, client_key
from scaleup.upstream.pool import Pool, Server

log = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 5.0
GARBAGE_THRESHOLD = 50_000
"""New objects until the collector looks; Python's 700 are 30 connections, and cost 4 % of the CPU time of each."""
PIPES = 48
"""Of 1 MiB each: below the 64 MiB that the kernel grants an unprivileged user."""


@dataclass(slots=True, eq=False)
class Session:
    """A client's connection, from accept to the end."""

    client: socket.socket
    address: str
    elected: bool
    """It came through a virtual address."""
    events: int = 0
    """What the engine told of the client's socket while a server was dialled."""
    dial: Dial | None = None
    """Until a server was reached."""
    relay: Relay | None = None
    """From then on."""


class Worker:
    def __init__(self, init: Message, process: Process) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        settings = self._settings = LbSettings.model_validate(init.fields["settings"])
        row, rows = init.fields["row"], init.fields["rows"]
        memory, wakers, sockets = _split(init.descriptors, rows)
        self._row = row
        self._counters = Counters(memory, rows, len(settings.server))
        self._pool = self._make_pool()
        self._waiting = WaitingRoom(self._counters, row, wakers, settings.queue, settings.timeout_queue)
        self._engine = Engine(self._loop, Pipes(PIPES))
        self._dialler = Dialler(settings, self._pool, self._counters, row, self._waiting, self._engine)
        self._timeouts = Timeouts(
            client=settings.timeout_client,
            server=settings.timeout_server,
            client_fin=settings.timeout_client_fin,
            server_fin=settings.timeout_server_fin,
        )
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)
        self._sessions: set[Session] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._maxconn = affordable(settings.maxconn, len(init.descriptors) + 2 * PIPES)
        self._acceptor = Acceptor(
            [socket.socket(fileno=descriptor) for descriptor in sockets],
            len(settings.elected),
            lambda: len(self._sessions) < self._maxconn,
            self._accepted,
        )

    # ----- what the node says ---------------------------------------------------------------------

    def obey(self, message: Message) -> None:
        match message.kind:
            case "state":
                self._learn(message.fields["active"], message.fields["up"])
            case "drain":
                self._process.stopping.set()

    def _learn(self, active: bool, up: Sequence[bool]) -> None:
        for server, is_up in zip(self._pool.servers, up, strict=True):
            server.up = is_up
        self._waiting.wake()
        if not active:
            self.leave_address()
        if not self._process.stopping.is_set():
            self._acceptor.start(elected=False)
            if active:
                self._acceptor.start(elected=True)

    def leave_address(self) -> None:
        self._acceptor.stop(elected=True)
        self._kill([session for session in self._sessions if session.elected], "the address has left")

    async def drain(self, seconds: float) -> None:
        """Take what is in the kernel's queues, refuse the rest, let sessions end for `seconds`; then clean up."""
        self._acceptor.finish()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self._kill(list(self._sessions), "the drain time is over")
        await self._idle.wait()
        await self._dialler.close()
        self._acceptor.close()
        self._engine.close()
        self._waiting.close()
        self._counters.close()

    # ----- one session ----------------------------------------------------------------------------

    def _accepted(self, client: socket.socket, address: str, elected: bool) -> None:
        session = Session(client, address, elected)
        self._sessions.add(session)
        self._idle.clear()
        self._counters.add(self._row, Frontend.CURRENT)
        self._counters.add(self._row, Frontend.TOTAL)
        try:
            self._engine.watch(client.fileno(), partial(self._told_early, session))
            key = client_key(address) if self._settings.balance == "source" else None
            dial = self._dialler.dial(key, partial(self._reached, session), partial(self._refused, session))
        except Exception:
            log.exception("an error of ours: the connection of %s is reset", address)
            self._reset(session)
        else:
            session.dial = None if dial.over else dial

    def _told_early(self, session: Session, events: int) -> None:
        """Something has happened to a client that still waits for its server: its request, as a rule."""
        session.events |= events
        if events & ERROR:  # it was reset: nobody is left to be served
            self._counters.add(self._row, Frontend.ABANDONED)
            self._reset(session)

    def _refused(self, session: Session, reason: str) -> None:
        self._limited.warning("no server", f"connection of {session.address} refused: {reason}")
        self._counters.add(self._row, Frontend.REFUSED)
        self._reset(session)

    def _reached(self, session: Session, reached: Reached) -> None:
        """Start the relay, which goes on by itself and ends in `_relayed`."""
        self._dialler.count(reached.server, ServerColumn.TOTAL)
        session.dial = None
        session.relay = Relay(
            self._engine,
            session.client,
            reached.socket,
            self._timeouts,
            partial(self._relayed, session, reached.server),
        )
        session.relay.start(session.events, reached.events)

    def _relayed(self, session: Session, server: Server, outcome: Outcome) -> None:
        self._dialler.count(server, ServerColumn.BYTES_IN, outcome.bytes_in)
        self._dialler.count(server, ServerColumn.BYTES_OUT, outcome.bytes_out)
        self._counters.add(self._row, Frontend.BYTES_IN, outcome.bytes_in)
        self._counters.add(self._row, Frontend.BYTES_OUT, outcome.bytes_out)
        if outcome.pauses:
            self._counters.add(self._row, Frontend.PAUSES, outcome.pauses)
        self._dialler.release(server)
        self._ended(session)

    def _reset(self, session: Session) -> None:
        """Close the client's socket so that it hears RST: it was never served."""
        if session.dial is not None:
            session.dial.cancel()
        self._engine.forget(session.client.fileno())
        close_with_reset(session.client)
        self._ended(session)

    def _ended(self, session: Session) -> None:
        session.dial = session.relay = (
            None  # they know the session, too: without this only the collector ends it
        )
        self._sessions.discard(session)
        self._counters.add(self._row, Frontend.CURRENT, -1)
        if not self._sessions:
            self._idle.set()
        self._acceptor.resume()

    def _kill(self, sessions: Sequence[Session], reason: str) -> None:
        if sessions:
            log.info("resetting %d connections: %s", len(sessions), reason)
        self._counters.add(self._row, Frontend.KILLED, len(sessions))
        for session in sessions:
            if session.relay is not None:
                session.relay.abort()
            elif session in self._sessions:
                self._reset(session)

    def _make_pool(self) -> Pool:
        servers = [settings.server() for settings in self._settings.server]
        index = {id(server): number for number, server in enumerate(servers)}

        def sessions(server: Server) -> int:
            return self._counters.total_server(index[id(server)], ServerColumn.CURRENT)

        return Pool(servers, algorithm(self._settings.balance, random.randrange), sessions)


def _split(descriptors: Sequence[int], rows: int) -> tuple[int, Sequence[int], Sequence[int]]:
    """The counters' memory, an eventfd for each worker, the listening sockets."""
    return descriptors[0], descriptors[1 : 1 + rows], descriptors[1 + rows :]


def collect_rarely() -> None:
    """A session is freed by counting references, so the garbage collector finds nothing: let it look rarely."""
    gc.collect()
    gc.freeze()  # what is there now stays
    gc.set_threshold(GARBAGE_THRESHOLD)


async def serve(init: Message, process: Process) -> None:
    # The node decides. A service manager may signal all of a node's processes at once, and a worker that stops
    # by itself takes the listening sockets away from its successor, too.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, log.info, "%s: left to the node", number.name)
    worker = Worker(init, process)
    collect_rarely()
    process.on_message = worker.obey
    process.ready()
    await process.stopping.wait()
    if process.orphaned:
        worker.leave_address()
    await worker.drain(init.fields["settings"]["drain"])


if __name__ == "__main__":
    run_child(serve)
