"""One relayed connection: bytes, ends and resets pass between two sockets as if nobody stood between.

Theory of operation. A relay owns two connected, non-blocking sockets, the *client* and the *server*, and
copies both ways. The two directions live side by side; each is named after the side that it comes from:

               target is full                    FLOWING  read when readable, sent on at once
      FLOWING ───────────────▶ PAUSED            PAUSED   bytes wait for the target; the source is not
       │   ▲                    │  │                      read, so that it feels the back-pressure
       │   └─── all is taken ───┘  │             ENDED    the source said FIN, and so did we to the target
       │                           │                      (or the source was reset)
       ├── FIN or RST read ──▶ ENDED             VOID     the target is lost: nobody takes these bytes
       └── target lost (from any state) ──▶ VOID

Only a FLOWING source is read, and then no byte of it waits. So a FIN is read when all before it has been
taken, and is passed on at once: shutdown(SHUT_WR). The other direction goes on. That is all of half-close.
The connection is over when both directions are:

      client→server  server→client
      ENDED          ENDED             both said FIN: close both sockets
      ENDED          VOID              the client is lost: reset the server (or the other way round)
      VOID           VOID              both are lost: close

Resets. FIN says "that is all", RST says "something is missing"; neither is ever passed on as the other.
- A reset keeps its place in the stream. What was sent before it is still delivered, and acknowledged
  (SIOCOUTQ is 0), before the other side is reset; the fin time-out bounds that. So an early error reply
  survives the RST behind it. HAProxy delivers it, too, but ends it with FIN for the client (2.6, tried).
- A FIN, then a RST: "that is all, and I take no more". The FIN is passed on, and the RST once the FIN was
  acknowledged. recv tells the two cases apart; when send is told first, its errno does: EPIPE if a FIN came
  before the RST, else ECONNRESET (Linux, tcp_reset).
- A side that is not read has no watcher, and uvloop drops the watcher of a socket with an error in silence
  after one callback (libuv's POLLERR), so a reset right behind some bytes would be lost. Hence the engine's
  alarm: an epoll that reports nothing but errors, at once, whatever a side is waiting for.

Time-outs are HAProxy's. Something is *expected* of a side while we read it (to send) and while we hold bytes
for it (to take them). Reading from it and writing to it are both its activity. Once it was sent a FIN its
fin time-out counts instead: the client's FIN starts `server_fin`, the server's FIN `client_fin`. Activity
only stamps the time; the connection's one timer, when it finds that it fired early, is set anew. A side for
which we hold bytes is then reset, lest it take a part for the whole; else both are closed in the ordinary
way, because the kernel may still be delivering a complete answer to a slow reader.

Memory. A connection holds at most one buffer's worth for each direction, while it is PAUSED. What is read
passes through the engine's one buffer.
"""

from __future__ import annotations

import errno
import fcntl
import math
import socket
import struct
import termios
from asyncio import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

from scaleup.lb.engine import Engine
from scaleup.net.sockets import close_with_reset

LINGER_SECONDS = 0.01  # first wait for an acknowledgement; then as long again as it was waited for
NOTHING = memoryview(b"")

Flow = Enum("Flow", "FLOWING PAUSED ENDED VOID")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of inactivity, each > 0 and finite."""

    client: float
    server: float
    client_fin: float
    server_fin: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a connection went.

    `state`, as HAProxy's: "--" when both sides finished; else its first letter is C or S, that side was reset;
    c or s, its time-out; or what abort() was told; its second D, "data": a relay knows no other phase.
    """

    state: str
    bytes_in: int  # client to server, taken by the server's socket
    bytes_out: int  # server to client
    duration: float  # seconds since start()
    pauses: int  # how often one side had to wait for the other


@dataclass(slots=True, eq=False)
class _Side:
    """One socket, and the direction that comes from it."""

    letter: str
    sock: socket.socket
    fd: int
    timeout: float
    fin_timeout: float
    flow: Flow = Flow.FLOWING
    pending: memoryview = NOTHING  # read from here, not yet taken by the other side
    passed: int = 0  # bytes from here that the other side took
    active: float = 0.0  # when we last read from it, wrote to it, or began to wait for it
    alarmed: bool = False  # it was reset; its bytes before that may still be under way
    error: int = 0  # the errno that it was lost with: it takes no more

    @property
    def over(self) -> bool:
        return self.flow is Flow.ENDED or self.flow is Flow.VOID

    def pending_error(self) -> int:
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def unacknowledged(self) -> bool:
        """Some byte or FIN that was sent has not reached the peer's kernel (SIOCOUTQ, tcp(7))."""
        return bool(struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, bytes(4)))[0])


class Relay:
    """Relays between two connected non-blocking sockets; owns them from now on and closes them.

    `on_end` is called once, after both were closed; possibly from within abort(), never from within start().
    """

    def __init__(
        self,
        engine: Engine,
        client: socket.socket,
        server: socket.socket,
        timeouts: Timeouts,
        on_end: Callable[[Outcome], None],
    ) -> None:
        self._engine, self._loop, self._on_end = engine, engine.loop, on_end
        self._client = _Side("C", client, client.fileno(), timeouts.client, timeouts.client_fin)
        self._server = _Side("S", server, server.fileno(), timeouts.server, timeouts.server_fin)
        self._ways = (self._client, self._server), (self._server, self._client)
        self._cause = ""  # the first one; what follows from it is not a cause
        self._pauses = 0
        self._open = True
        self._started = self._loop.time()
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Begin. What already waits to be read, on either side, is read in the loop's next round."""
        self._started = self._client.active = self._server.active = self._loop.time()
        for source, target in self._ways:
            self._loop.add_reader(source.fd, self._readable, source, target)
            self._engine.watch(source.fd, partial(self._alarmed, source, target))
        self._arm()

    def abort(self, cause: str = "K") -> None:
        """Reset both sides at once. `cause`: HAProxy's letter (K killed, D server down, U backup, …)."""
        if self._open:
            self._cause = self._cause or cause
            self._close(self._client, self._server)

    def _readable(self, source: _Side, target: _Side) -> None:
        try:
            size = source.sock.recv_into(self._engine.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._stop_reading(source, Flow.ENDED)
            self._lost(source, target, error.errno)
            return
        if not size:
            self._source_ended(source, target)
            return
        source.active = self._loop.time()
        source.pending = self._engine.buffer[:size]
        self._flush(source, target)
        if source.pending:
            self._pause(source, target)
        elif source.alarmed and source.flow is Flow.FLOWING:
            self._watch_again(source, target)

    def _writable(self, source: _Side, target: _Side) -> None:
        self._flush(source, target)
        if not source.pending and source.flow is Flow.PAUSED:
            self._loop.remove_writer(target.fd)
            self._loop.add_reader(source.fd, self._readable, source, target)
            source.flow = Flow.FLOWING
            source.active = target.active
            self._arm()

    def _flush(self, source: _Side, target: _Side) -> None:
        try:
            sent = target.sock.send(source.pending)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(target, source, error.errno)
            return
        source.passed += sent
        source.pending = source.pending[sent:]
        target.active = self._loop.time()

    def _pause(self, source: _Side, target: _Side) -> None:
        source.pending = memoryview(bytes(source.pending))  # out of the shared buffer
        self._stop_reading(source, Flow.PAUSED)
        self._loop.add_writer(target.fd, self._writable, source, target)
        target.active = source.active
        self._pauses += 1
        self._arm()

    def _source_ended(self, source: _Side, target: _Side) -> None:
        """recv returned 0: a FIN, or the place of a reset that send was told of."""
        self._stop_reading(source, Flow.ENDED)
        if source.error in (0, errno.EPIPE) and not target.error:
            target.active = self._loop.time()
            try:
                target.sock.shutdown(socket.SHUT_WR)
            except OSError:  # it was reset just now
                self._lost(target, source, target.pending_error())
                return
        self._settle()

    def _alarmed(self, side: _Side, other: _Side) -> None:
        if not self._open:
            return
        side.alarmed = True
        self._cause = self._cause or side.letter
        if side.flow is Flow.FLOWING:
            self._watch_again(side, other)  # recv will find the place of the reset
        elif side.flow is Flow.PAUSED:
            other.active = self._loop.time()  # it has its fin time-out to take the rest; then recv will
            self._arm()
        elif code := side.pending_error():
            self._lost(side, other, code)

    def _lost(self, side: _Side, other: _Side, code: int | None) -> None:
        """`side` was reset and takes no more. What it sent before is still read: its own direction goes on."""
        side.alarmed = True
        side.error = code or errno.ECONNRESET
        self._cause = self._cause or side.letter
        if other.flow is Flow.PAUSED:
            self._loop.remove_writer(side.fd)
        self._stop_reading(other, Flow.VOID)
        other.pending = NOTHING
        other.active = self._loop.time()
        if side.flow is Flow.FLOWING:
            self._watch_again(side, other)
        self._settle()

    def _stop_reading(self, source: _Side, becomes: Flow) -> None:
        if source.flow is Flow.FLOWING:
            self._loop.remove_reader(source.fd)
        source.flow = becomes

    def _watch_again(self, source: _Side, target: _Side) -> None:
        self._loop.remove_reader(source.fd)
        self._loop.add_reader(source.fd, self._readable, source, target)

    def _settle(self) -> None:
        """Close, if both directions are over and nothing is on its way to a side that must be reset."""
        client, server = self._client, self._server
        if not (client.over and server.over):
            self._arm()
        elif bool(client.error) == bool(server.error):
            self._close()
        elif (survivor := server if client.error else client).unacknowledged():
            now = self._loop.time()
            self._arm(now + max(LINGER_SECONDS, now - survivor.active))
        else:
            self._close(survivor)

    def _close(self, *reset: _Side) -> None:
        """Close both, with a RST those named. Watchers go first, for the fds may be reused at once."""
        self._open = False
        if self._timer:
            self._timer.cancel()
        for side, other in self._ways:
            if side.flow is Flow.FLOWING:
                self._loop.remove_reader(side.fd)
            if other.flow is Flow.PAUSED:
                self._loop.remove_writer(side.fd)
            self._engine.forget(side.fd)
            if side in reset:
                close_with_reset(side.sock)
            else:
                side.sock.close()
        self._client.flow = self._server.flow = Flow.ENDED
        state = self._cause + "D" if self._cause else "--"
        duration = self._loop.time() - self._started
        self._on_end(Outcome(state, self._client.passed, self._server.passed, duration, self._pauses))

    def _deadline(self, side: _Side, other: _Side) -> float:
        """When `side` will have been inactive for too long; infinite while nothing is expected of it."""
        lingers = side.flow is Flow.VOID and other.flow is Flow.ENDED  # it has yet to acknowledge
        if side.flow is Flow.FLOWING or other.flow is Flow.PAUSED or lingers:
            return side.active + (side.fin_timeout if other.over or other.alarmed else side.timeout)
        return math.inf

    def _arm(self, latest: float = math.inf) -> None:
        """Have the timer fire by the next deadline. One that fires earlier may stay: it will see."""
        when = min(latest, *(self._deadline(side, other) for side, other in self._ways))
        if self._timer and when < self._timer.when():
            self._timer.cancel()
            self._timer = None
        if not self._timer:
            self._timer = self._loop.call_at(when, self._time_up)

    def _time_up(self) -> None:
        self._timer = None
        late, peer = min(self._ways, key=lambda way: self._deadline(*way))
        if self._deadline(late, peer) <= self._loop.time():
            self._cause = self._cause or late.letter.lower()
            self._close(*(side for side, other in self._ways if other.pending or side.flow is Flow.VOID))
        else:
            self._settle()
