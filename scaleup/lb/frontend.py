"""A frontend, as one worker has it: each of its clients, from accept to the end.

    accepted ──▶ (greeted) ──▶ dialling ──▶ relayed ──▶ ended         counted at each arrow
                     │            │            │
                     └────────────┴────────────┴──▶ reset: no header, no server, the client or the address left, …

It is greeted where the clients are proxies, which say by a PROXY header who their client is (`greeting`).

When the virtual address leaves, sessions that came through it cannot live on: from now on their packets go
to the other node. They are reset on both sides, so that both peers know at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, ip_address
from socket import SocketType

from scaleup.lb.counters import BackendColumn, FrontendColumn, ServerColumn, Tally
from scaleup.lb.dial import Dial, Dialler, Reached
from scaleup.lb.engine import ERROR, Engine
from scaleup.lb.greeting import Greeting
from scaleup.lb.relay import Outcome, Relay, Timeouts
from scaleup.lb.settings import FrontendTable
from scaleup.lb.tcplog import Cause as EndCause
from scaleup.lb.tcplog import Finished, Phase, Timers, termination
from scaleup.net.addresses import Endpoint
from scaleup.net.proxy_protocol import Cause, Header
from scaleup.net.sockets import close_with_reset
from scaleup.processes.accept import Acceptor, Listener
from scaleup.processes.logs import Gathered, LimitedLog
from scaleup.upstream.balance import client_key
from scaleup.upstream.pool import Server
from scaleup.upstream.sources import Sources, source_of

log = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 5.0

_ABORTS: Mapping[str, ServerColumn] = {
    EndCause.CLIENT: ServerColumn.CLIENT_ABORTS,
    EndCause.CLIENT_TIMEOUT: ServerColumn.CLIENT_ABORTS,
    EndCause.SERVER: ServerColumn.SERVER_ABORTS,
    EndCause.SERVER_TIMEOUT: ServerColumn.SERVER_ABORTS,
}
"""What ended a session before its time, by the first letter of its termination state."""


@dataclass(slots=True, eq=False)
class Session:
    """A client's connection."""

    frontend: Frontend
    client: SocketType
    address: str
    port: int
    elected: bool
    """It came through a virtual address."""
    accepted: float
    """By the clock of the loop."""
    destination: Endpoint | None = None
    """Where the client connected to, if a proxy has said so."""
    source: bytes | None = None
    """It counts as a connection of that source; None: sources are not counted."""
    greeting: Greeting | None = None
    """Until a PROXY header was read, where one must come."""
    events: int = 0
    """What the engine told of the client's socket while a server was dialled."""
    dial: Dial | None = None
    """Until a server was reached."""
    relay: Relay | None = None
    """From then on."""
    route: Dial | None = None
    """How the server was found, for the log."""
    connected: float | None = None


class Sessions:
    """All of a worker's, at most `limit`. `on_room()` is called when one has ended."""

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        self.limit, self._on_room = limit, on_room
        self._sessions: set[Session] = set()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def has_room(self) -> bool:
        return len(self._sessions) < self.limit

    def __iter__(self) -> Iterator[Session]:
        """Of a copy: they may end meanwhile."""
        return iter(tuple(self._sessions))

    def __contains__(self, session: Session) -> bool:
        return session in self._sessions

    def add(self, session: Session) -> None:
        self._sessions.add(session)
        self._none.clear()

    def remove(self, session: Session) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._none.set()
        self._on_room()

    def __len__(self) -> int:
        return len(self._sessions)

    async def none(self) -> None:
        """Wait until there is none."""
        await self._none.wait()


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a frontend's connections go: `tally` is the backend's own, beside those of its servers."""

    dialler: Dialler
    name: str
    tally: Tally
    sessions: Mapping[str, memoryview]
    """The current ones of each server, in each row; with `waiting`, who waits, for the log."""
    waiting: memoryview
    server_timeout: float
    server_fin_timeout: float
    header: Callable[[Endpoint, Endpoint], bytes] | None = None
    """Writes the PROXY header for a client's address and the one that it connected to; None: servers get none."""


class Frontend:
    """Accepts from `listeners`, which it owns.

    `tally`: its own, in this worker's row; `everywhere`: its current sessions in each row. `lines`: where
    connections that have ended are written, as those of the node `node`; None: nowhere.
    """

    def __init__(
        self,
        settings: FrontendTable,
        listeners: Sequence[Listener],
        backend: Backend,
        engine: Engine,
        sessions: Sessions,
        tally: Tally,
        everywhere: memoryview,
        lines: Gathered[Finished] | None,
        node: str,
    ) -> None:
        self._lines, self._node = lines, node
        self.name = settings.name
        self._backend, self._engine, self._sessions, self._tally = backend, engine, sessions, tally
        self._dialler = backend.dialler
        self._timeouts = Timeouts(
            client=settings.timeout_client,
            server=backend.server_timeout,
            client_fin=settings.timeout_client_fin,
            server_fin=backend.server_fin_timeout,
        )
        self._maxconn, self._everywhere = settings.maxconn, everywhere
        self._proxies = settings.accept_proxy
        limited = settings.source_maxconn or settings.source_rate
        self._sources = (
            Sources(settings.source_maxconn, settings.source_rate, settings.source_period)
            if limited
            else None
        )
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, engine.loop.time)
        self.acceptor = Acceptor(listeners, self._has_room, self._accepted)

    def reset(self, session: Session, state: str = "") -> None:
        """Before it was relayed: close the client's socket so that it hears RST, as it was never served.

        `state`: for the log; "": none of it, as HAProxy does not log whom it denies.
        """
        if session.greeting is not None:
            session.greeting.cancel()
        if session.dial is not None:
            session.dial.cancel()
        if state and self._lines is not None:
            self._log_end(session, state, 0, 0)
        self._engine.forget(session.client.fileno())
        close_with_reset(session.client)
        self._ended(session)

    def set_maxconn(self, maxconn: int) -> None:
        self._maxconn = maxconn

    def facts(self, session: Session) -> tuple[str, str, str, str | None, float]:
        """Of one in progress: client, frontend, backend, server, age in seconds."""
        client = str(Endpoint(session.address, session.port))
        route = session.route or session.dial
        server = None if route is None else route.last
        return client, self.name, self._backend.name, server, self._engine.loop.time() - session.accepted

    def kill(self, session: Session) -> None:
        self._tally[FrontendColumn.KILLED] += 1
        if session.relay is not None:
            session.relay.abort()
        else:
            self.reset(session, self._cut_off(session, EndCause.KILLED))

    def _cut_off(self, session: Session, cause: EndCause) -> str:
        return termination(cause, Phase.CONNECT if session.dial is None else session.dial.phase)

    def _has_room(self) -> bool:
        return self._sessions.has_room and sum(self._everywhere) < self._maxconn

    def _accepted(self, client: SocketType, address: str, port: int, elected: bool) -> None:
        session = Session(self, client, address, port, elected, self._engine.loop.time())
        self._sessions.add(session)
        tally = self._tally
        tally[FrontendColumn.CURRENT] += 1
        tally[FrontendColumn.TOTAL] += 1
        if self._proxies:
            self._greet(session)
        else:
            self._admit(session)

    def _greet(self, session: Session) -> None:
        """Only proxies that we know may say who somebody is, and they must."""
        address = ip_address(session.address)
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if any(address in network for network in self._proxies):
            greeted, ungreeted = partial(self._greeted, session), partial(self._ungreeted, session)
            session.greeting = Greeting(self._engine, session.client, greeted, ungreeted)
            return
        self._deny(session, "not in --accept-proxy")

    def _deny(self, session: Session, reason: str) -> None:
        self._tally[FrontendColumn.DENIED] += 1
        self._limited.warning("denied", f"connection of {session.address} refused: {reason}")
        self.reset(session)

    def _admit(self, session: Session) -> None:
        """Now that it is known who the client is: unless its source has enough."""
        if self._sources is not None:
            source = source_of(session.address)
            if refusal := self._sources.enter(source, self._engine.loop.time()):
                self._deny(session, refusal)
                return
            session.source = source
        self._dial(session)

    def _greeted(self, session: Session, header: Header, events: int) -> None:
        session.greeting = None
        session.events = events
        if header.source is not None:
            session.address, session.port = header.source.host, header.source.port
            session.destination = header.destination
        self._admit(session)

    def _ungreeted(self, session: Session, cause: Cause, detail: str) -> None:
        self._tally[FrontendColumn.UNGREETED] += 1
        self._limited.warning(cause, f"PROXY header of {session.address} refused ({cause}): {detail}")
        self.reset(session, self._cut_off(session, EndCause.CLIENT))

    def _dial(self, session: Session) -> None:
        try:
            self._engine.watch(session.client.fileno(), partial(self._told_early, session))
            key = client_key(session.address) if self._dialler.pool.needs_key else None
            dial = self._dialler.dial(key, partial(self._reached, session), partial(self._refused, session))
        except Exception:
            log.exception("an error of ours: the connection of %s is reset", session.address)
            self.reset(session, termination(EndCause.INTERNAL, Phase.CONNECT))
        else:
            session.dial = None if dial.over else dial

    def _told_early(self, session: Session, events: int) -> None:
        """Something has happened to a client that still waits for its server: its request, as a rule."""
        session.events |= events
        if events & ERROR:  # it was reset: nobody is left to be served
            self._tally[FrontendColumn.ABANDONED] += 1
            self._backend.tally[BackendColumn.ABANDONED] += 1
            self.reset(session, self._cut_off(session, EndCause.CLIENT))

    def _refused(self, session: Session, dial: Dial, reason: str, state: str) -> None:
        session.route = dial
        self._limited.warning("no server", f"connection of {session.address} refused: {reason}")
        self._backend.tally[BackendColumn.REFUSED] += 1
        self.reset(session, state)

    def _reached(self, session: Session, reached: Reached) -> None:
        """Start the relay, which goes on by itself and ends in `_relayed`."""
        self._dialler.tally(reached.server)[ServerColumn.TOTAL] += 1
        session.dial = None
        session.route = reached.dial
        session.connected = self._engine.loop.time()
        if self._backend.header is not None:
            self._introduce(session, reached.socket)
        session.relay = Relay(
            self._engine,
            session.client,
            reached.socket,
            self._timeouts,
            partial(self._relayed, session, reached.server),
        )
        session.relay.start(session.events, reached.events)

    def _introduce(self, session: Session, server: SocketType) -> None:
        """Tell the server who its client is, before a byte of it. A new socket has room for so little."""
        assert self._backend.header is not None
        source = Endpoint(session.address, session.port)
        destination = session.destination
        if destination is None:
            host, port, *_ = session.client.getsockname()
            destination = Endpoint(host, port)
        with contextlib.suppress(OSError):  # it was reset just now: the relay will find that
            server.send(self._backend.header(source, destination))

    def _relayed(self, session: Session, server: Server, outcome: Outcome) -> None:
        theirs, ours = self._dialler.tally(server), self._tally
        theirs[ServerColumn.BYTES_IN] += outcome.bytes_in
        theirs[ServerColumn.BYTES_OUT] += outcome.bytes_out
        ours[FrontendColumn.BYTES_IN] += outcome.bytes_in
        ours[FrontendColumn.BYTES_OUT] += outcome.bytes_out
        if aborts := _ABORTS.get(outcome.state[0]):
            theirs[aborts] += 1
        if outcome.pauses:
            ours[FrontendColumn.PAUSES] += outcome.pauses
        self._dialler.release(server)
        if self._lines is not None:
            self._log_end(session, outcome.state, outcome.bytes_in, outcome.bytes_out)
        self._ended(session)

    def _log_end(self, session: Session, state: str, bytes_in: int, bytes_out: int) -> None:
        """While it still counts: the first one's line says 1."""
        assert self._lines is not None
        now = self._engine.loop.time()
        route, backend = session.route or session.dial, self._backend
        server = None if route is None else route.last
        waiting = sum(backend.waiting)
        self._lines.write(
            Finished(
                session.address,
                session.port,
                time.time() - (now - session.accepted),
                self.name,
                backend.name,
                server,
                Timers.of(
                    session.accepted, None if route is None else route.dequeued, session.connected, now
                ),
                bytes_in,
                bytes_out,
                state,
                len(self._sessions),
                sum(self._everywhere),
                sum(map(sum, backend.sessions.values())) + waiting,
                0 if server is None else sum(backend.sessions[server]),
                0 if route is None else route.retries,
                route is not None and route.redispatched,
                0,
                waiting,
                self._node,
            )
        )

    def _ended(self, session: Session) -> None:
        # They know the session, too: without this only the collector ends it.
        session.greeting = session.dial = session.relay = session.route = None
        if session.source is not None:
            assert self._sources is not None
            self._sources.leave(session.source)
        self._tally[FrontendColumn.CURRENT] -= 1
        self._sessions.remove(session)
