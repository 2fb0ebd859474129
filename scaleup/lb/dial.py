"""Reaching a server for a client: choose, connect, retry, redispatch.

                       a slot                         connected
      wait for a slot ────────▶ connect to the server ─────────▶ reached
       │      ▲                    │          ▲
       │      │ another server,    │ refused, │ the same server,
       │      │ or the same is     │ late     │ if it is not full
       ▼      │ full or down       ▼          │
     failed   └─────────────────  retry, at once or after a pause ──▶ failed (no retries left)

A failed attempt is followed by at most `retries` more. Every `redispatch`-th of them goes to another
server at once, if there is one that was not tried; the others go to the same server, after a pause (HAProxy's:
one second at most), in case it is only restarting. Nothing has been sent yet, so trying again is always safe.

It is written with callbacks, as the relay is, because each connection passes through here: a task with its
time-outs costs as much as the system calls (docs/benchmarks.md).
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from socket import SocketType

from scaleup.lb.counters import ServerColumn, Tally
from scaleup.lb.engine import ERROR, Engine
from scaleup.lb.settings import BackendTable
from scaleup.lb.tcplog import Cause, Phase, termination
from scaleup.lb.waiting import Ticket, WaitingRoom
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import dialling_lightly
from scaleup.upstream.pool import Pool, Server

log = logging.getLogger(__name__)

THEIR_FAULT = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH}
"""What speaks against a server."""

OUR_FAULT = {errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
"""No port or memory is left to dial with. Another server may still be reached: ports are counted for each."""

LONGEST_SECONDS = 600.0  # the kernel gives an attempt up long before (tcp_syn_retries)
PAUSE_SECONDS = 1.0  # HAProxy's pause before the same server is tried again


@dataclass(slots=True, eq=False)
class Reached:
    """A connected, non-blocking socket; `server` counts the session until `Dialler.release`.

    The engine watches it already, and has told `events` of it: the next one must be told to somebody else.
    """

    server: Server
    socket: SocketType
    events: int
    dial: Dial


OnReached = Callable[[Reached], None]
OnFailed = Callable[["Dial", str, str], None]
"""The dial, why it failed, and the termination state."""


class Dialler:
    """Dials for one backend in one worker; `tallies` are those of its servers there. `source`: to dial from.

    `observe(server, failure)` is told of each attempt's outcome; None: it was reached.
    """

    def __init__(
        self,
        settings: BackendTable,
        pool: Pool,
        tallies: Sequence[Tally],
        waiting: WaitingRoom,
        engine: Engine,
        source: str | None,
        observe: Callable[[Server, str | None], None] = lambda server, failure: None,
    ) -> None:
        self.settings, self.pool, self.waiting, self.engine = settings, pool, waiting, engine
        self._tallies = {id(server): tally for server, tally in zip(pool.servers, tallies, strict=True)}
        self._source = source
        self.observe = observe

    def dial(self, key: bytes | None, on_reached: OnReached, on_failed: OnFailed) -> Dial:
        """Connect to a server for the client `key` (its packed address).

        One of the two is called, once and possibly from within, unless the dial is cancelled before.
        `on_failed` is told why, for the log.
        """
        dial = Dial(self, key, on_reached, on_failed)
        try:
            dial.start()
        except BaseException:
            dial.cancel()
            raise
        return dial

    def close(self) -> None:
        """After the last dial has ended."""
        self.waiting.close()

    def acquire(self, server: Server) -> None:
        self.pool.acquire(server)
        self._tallies[id(server)][ServerColumn.CURRENT] += 1

    def release(self, server: Server) -> None:
        """The session with `server` has ended: its slot is free."""
        self.pool.release(server)
        self._tallies[id(server)][ServerColumn.CURRENT] -= 1
        self.waiting.slot_freed()

    def tally(self, server: Server) -> Tally:
        """To count in, by ServerColumn."""
        return self._tallies[id(server)]

    def open(self, address: Endpoint) -> SocketType:
        return dialling_lightly(address, self._source)


class Dial:
    """One client's way to a server. It waits for a slot (`_ticket`), or for an attempt to succeed within its time
    (`_server`, and soon `_socket`), or for the end of a pause (`_again`).
    """

    __slots__ = (
        "_again", "_dialler", "_failures", "_key", "_on_failed", "_on_reached", "_server", "_socket",
        "_ticket", "_tried", "dequeued", "last", "over", "redispatched", "slot",
    )  # fmt: skip

    def __init__(
        self, dialler: Dialler, key: bytes | None, on_reached: OnReached, on_failed: OnFailed
    ) -> None:
        self._dialler, self._key = dialler, key
        self._on_reached, self._on_failed = on_reached, on_failed
        self._tried: set[str] = set()
        self._failures = 0
        self.over = False
        """It was reached, has failed, or was cancelled."""
        self.redispatched = False
        self.last: str | None = None
        """The server that was tried last."""
        self.dequeued: float | None = None
        """When the first attempt was made, or the wait for a slot ended without one."""
        self._ticket: Ticket | None = None
        self._server: Server | None = None  # an attempt is made: its slot is ours
        self._socket: SocketType | None = None
        self._again: Server | None = None  # to be tried again after the pause
        self.slot: int | None = None  # of the engine's wheel

    def start(self) -> None:
        """Choose a server: at once, if nobody waits and one is free."""
        dialler = self._dialler
        if dialler.waiting.empty and self._take_slot():
            return
        if not dialler.pool.any_up():
            self._fail("no server is up", Cause.SERVER, Phase.CONNECT)
            return
        self._ticket = dialler.waiting.enter(self._take_slot, self._no_slot)
        if self._ticket is None:
            self._fail("every server is full", Cause.SERVER, Phase.QUEUE)

    @property
    def retries(self) -> int:
        return min(self._failures, self._dialler.settings.retries)

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        return Phase.CONNECT if self._ticket is None else Phase.QUEUE

    def cancel(self) -> None:
        """Leave nothing behind; nobody is called."""
        if not self.over:
            self.over = True
            if self._ticket is not None:
                self._left_queue()
                self._dialler.waiting.leave(self._ticket)
            self._end_attempt()

    # ----- a slot ---------------------------------------------------------------------------------

    def _take_slot(self) -> bool:
        server = self._dialler.pool.choose(self._key)
        if server is None:
            return False
        self._ticket = None
        self._attempt(server)
        return True

    def _no_slot(self) -> None:
        self._ticket = None
        self._left_queue()
        self._fail("every server is full", Cause.SERVER_TIMEOUT, Phase.QUEUE)

    def _left_queue(self) -> None:
        if self.dequeued is None:
            self.dequeued = self._dialler.engine.loop.time()

    # ----- an attempt -----------------------------------------------------------------------------

    def _attempt(self, server: Server) -> None:
        self._server = server
        self.last = server.name
        self._left_queue()
        self._dialler.acquire(server)
        self._expect(self._dialler.settings.timeout_connect)
        endpoint = server.endpoint
        assert endpoint is not None, "one without an address is not usable"
        self._connect(endpoint)

    def _connect(self, address: Endpoint) -> None:
        try:
            self._socket = self._dialler.open(address)
        except OSError as error:  # no descriptor left, or --source is not ours: no server's fault
            self._end_attempt()
            self._fail(f"cannot dial: {error.strerror}", Cause.RESOURCE, Phase.CONNECT)
            return
        code = self._socket.connect_ex((address.host, address.port))
        if code in (0, errno.EINPROGRESS):
            self._dialler.engine.watch(self._socket.fileno(), self._told)
        else:
            self._socket.close()
            self._socket = None
            self._attempt_failed(code)

    def _told(self, events: int) -> None:
        """It has connected, or failed to."""
        sock, server = self._socket, self._server
        assert sock is not None
        assert server is not None
        if events & ERROR and (code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._attempt_failed(code)
            return
        self._dialler.engine.expect(self, math.inf)
        self.over = True
        self._dialler.observe(server, None)
        self._on_reached(Reached(server, sock, events, self))

    def _attempt_failed(self, code: int) -> None:
        server = self._server
        assert server is not None
        self._end_attempt()
        if code not in OUR_FAULT:
            self._dialler.tally(server)[ServerColumn.CONNECT_ERRORS] += 1
        self._tried.add(server.name)
        self._failures += 1
        reason = _REASONS.get(code) or os.strerror(code)
        failure = f"{server.name}: {reason}"
        if code in THEIR_FAULT:
            self._dialler.observe(server, reason)
        log.debug("cannot connect to %s", failure)
        if self._failures > self._dialler.settings.retries:
            late = Cause.SERVER_TIMEOUT if code == errno.ETIMEDOUT else Cause.SERVER
            self._fail(failure, Cause.RESOURCE if code in OUR_FAULT else late, Phase.CONNECT)
        else:
            self._retry(server)

    def _end_attempt(self) -> None:
        """Leave the deadline, the socket and the slot, as far as there are any."""
        self._dialler.engine.expect(self, math.inf)
        if self._socket is not None:
            self._dialler.engine.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._server is not None:
            server, self._server = self._server, None
            self._dialler.release(server)

    # ----- after a failed one ---------------------------------------------------------------------

    def _retry(self, server: Server) -> None:
        dialler = self._dialler
        if self._is_redispatched() and (another := dialler.pool.choose(self._key, exclude=self._tried)):
            dialler.tally(server)[ServerColumn.REDISPATCHES] += 1
            self.redispatched = True
            self._attempt(another)
            return
        dialler.tally(server)[ServerColumn.RETRIES] += 1
        self._again = server
        self._expect(min(PAUSE_SECONDS, dialler.settings.timeout_connect))

    def _try_again(self, server: Server) -> None:
        if self._dialler.pool.is_free(server):
            self._attempt(server)
        else:
            self.start()

    def _is_redispatched(self) -> bool:
        every = self._dialler.settings.redispatch
        if every < 0:
            return self._failures == self._dialler.settings.retries
        return every > 0 and self._failures % every == 0

    def _expect(self, seconds: float) -> None:
        engine = self._dialler.engine
        engine.expect(self, engine.loop.time() + min(seconds, LONGEST_SECONDS))

    def time_up(self) -> None:
        """Of an attempt, or of the pause after one."""
        if self._again is not None:
            server, self._again = self._again, None
            self._try_again(server)
        else:
            self._attempt_failed(errno.ETIMEDOUT)

    def _fail(self, reason: str, cause: Cause, phase: Phase) -> None:
        self.over = True
        self._on_failed(self, reason, termination(cause, phase))


_REASONS = {errno.ETIMEDOUT: "timed out"}
