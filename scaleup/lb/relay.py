"""One relayed connection: bytes, ends and resets pass between two sockets as if nobody stood between.

Theory of operation. A relay owns two connected, non-blocking sockets, the *client* and the *server*, and
passes bytes both ways. The two directions live side by side; each is named after the side that it comes from:

               target is full                    FLOWING  read when readable, sent on at once
      FLOWING ───────────────▶ PAUSED            PAUSED   bytes wait for the target; the source is not
       │   ▲                    │  │                      read, so that it feels the back-pressure
       │   └─── all is taken ───┘  │             ENDED    the source said FIN, and so did we to the target
       │                           │                      (or the source was reset)
       ├── FIN or RST read ──▶ ENDED             VOID     the target is lost: nobody takes these bytes
       └── target lost (from any state) ──▶ VOID

How the bytes travel, copied or spliced, is the `carrier`'s business; nothing here depends on it.

Only a FLOWING source is read, and then no byte of it waits. So a FIN is read when all before it has been
taken, and is passed on at once: shutdown(SHUT_WR). The other direction goes on. That is all of half-close.
The connection is over when both directions are:

      client→server  server→client
      ENDED          ENDED             both said FIN: close both sockets
      ENDED          VOID              the client is lost: reset the server (or the other way round)
      VOID           VOID              both are lost: close

Events come once (see `engine`). A FLOWING source is therefore read until it is empty: until a read comes short,
or, once an end was announced, until the end itself was read. A source that begins to flow again is read at once,
for nothing that happened meanwhile is told again.

Resets. FIN says "that is all", RST says "something is missing"; neither is ever passed on as the other.
- A reset keeps its place in the stream. What was sent before it is still delivered, and acknowledged
  (SIOCOUTQ is 0), before the other side is reset; the fin time-out bounds that. So an early error reply
  survives the RST behind it. HAProxy delivers it, too, but ends it with FIN for the client (2.6, tried).
- A FIN, then a RST: "that is all, and I take no more". The FIN is passed on, and the RST once the FIN was
  acknowledged. recv tells the two cases apart; when send is told first, its errno does: EPIPE if a FIN came
  before the RST, else ECONNRESET (Linux, tcp_reset).
- A reset of a side that is not being read is an event all the same.

Time-outs are HAProxy's. Something is *expected* of a side while we read it (to send) and while we hold bytes
for it (to take them). Reading from it and writing to it are both its activity. Once it was sent a FIN its
fin time-out counts instead: the client's FIN starts `server_fin`, the server's FIN `client_fin`. Activity
only stamps the time; the connection's one deadline, when it finds that it came early, is set anew. A side for
which we hold bytes is then reset, lest it take a part for the whole; else both are closed in the ordinary
way, because the kernel may still be delivering a complete answer to a slow reader.

Memory. A connection holds at most one buffer's, or one pipe's, worth for each direction, while it is PAUSED.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from socket import SocketType

from scaleup.lb.carrier import Carrier, TargetLost
from scaleup.lb.engine import ERROR, LAST, READABLE, URGENT, WRITABLE, Engine
from scaleup.net.sockets import close_with_reset, outstanding

LINGER_SECONDS = 0.01  # first wait for an acknowledgement; then as long again as it was waited for
LOOK_SECONDS = 60.0  # deadlines further off are looked at again: the wheel grows with how far they are
READS_AT_ONCE = 4  # of one source, before others get their turn

Flow = Enum("Flow", "FLOWING PAUSED ENDED VOID")
FLOWING, PAUSED, ENDED, VOID = Flow  # looking a member up in its class costs 3.11 as much as a call


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
    sock: SocketType
    fd: int
    timeout: float
    fin_timeout: float
    carrier: Carrier
    flow: Flow = FLOWING
    active: float = 0.0  # when we last read from it, wrote to it, or began to wait for it
    again: bool = False  # it will be read in the loop's next round
    last: bool = False  # an end was announced: read until it is found
    alarmed: bool = False  # it was reset; its bytes before that may still be under way
    error: int = 0  # the errno that it was lost with: it takes no more

    @property
    def over(self) -> bool:
        return self.flow is ENDED or self.flow is VOID

    def pending_error(self) -> int:
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class Relay:
    """Relays between two connected non-blocking sockets; owns them from now on and closes them.

    `on_end` is called once, after both were closed; possibly from within start() or abort().
    """

    def __init__(
        self,
        engine: Engine,
        client: SocketType,
        server: SocketType,
        timeouts: Timeouts,
        on_end: Callable[[Outcome], None],
    ) -> None:
        self._engine, self._loop, self._on_end = engine, engine.loop, on_end
        self._client = _Side(
            "C", client, client.fileno(), timeouts.client, timeouts.client_fin, Carrier(engine)
        )
        self._server = _Side(
            "S", server, server.fileno(), timeouts.server, timeouts.server_fin, Carrier(engine)
        )
        self._ways = (self._client, self._server), (self._server, self._client)
        self._cause = ""  # the first one; what follows from it is not a cause
        self._pauses = 0
        self._open = True
        self._started = self._loop.time()
        self.slot: int | None = None  # of the engine's wheel

    def start(self, client_events: int = 0, server_events: int = 0) -> None:
        """Begin. The events are those that the engine has told of the sockets already, if it watched them."""
        client, server = self._client, self._server
        self._started = client.active = server.active = self._loop.time()
        self._expect(self._started + min(client.timeout, server.timeout))
        for (side, other), events in zip(self._ways, (client_events, server_events), strict=True):
            if not self._open:
                return
            self._engine.watch(side.fd, partial(self._told, side, other))
            if events:
                self._told(side, other, events)

    def abort(self, cause: str = "K") -> None:
        """Reset both sides at once. `cause`: HAProxy's letter (K killed, D server down, U backup, …)."""
        if self._open:
            self._cause = self._cause or cause
            self._close(self._client, self._server)

    # ----- bytes ----------------------------------------------------------------------------------

    def _told(self, side: _Side, other: _Side, events: int) -> None:
        """Something has changed at `side`."""
        if events & LAST:
            side.last = True
            if events & URGENT:
                side.carrier.copy()
            if events & ERROR:
                self._alarmed(side, other)
        if events & WRITABLE and other.flow is PAUSED:
            self._writable(other, side)
        if events & (READABLE | LAST) and side.flow is FLOWING and not side.again:
            self._read(side, other)

    def _read(self, source: _Side, target: _Side) -> None:
        carrier = source.carrier
        for _ in range(READS_AT_ONCE):
            try:
                size = carrier.carry(source.sock, target.sock)
            except BlockingIOError:
                return
            except TargetLost as lost:
                self._lost(target, source, lost.errno)
                return
            except OSError as error:
                source.flow = ENDED
                self._lost(source, target, error.errno)
                return
            if not size:
                self._source_ended(source, target)
                return
            source.active = target.active = self._loop.time()
            if carrier.held:
                self._pause(source)
                return
            if not (carrier.more or source.last):
                return
        self._read_soon(source, target)

    def _read_soon(self, source: _Side, target: _Side) -> None:
        if not source.again:
            source.again = True
            self._loop.call_soon(self._read_on, source, target)

    def _read_on(self, source: _Side, target: _Side) -> None:
        source.again = False
        if source.flow is FLOWING:
            self._read(source, target)

    def _writable(self, source: _Side, target: _Side) -> None:
        try:
            sent = source.carrier.flush(target.sock)
        except TargetLost as lost:
            self._lost(target, source, lost.errno)
            return
        if sent:
            target.active = self._loop.time()
        if not source.carrier.held:
            source.flow = FLOWING
            source.active = target.active
            self._arm()
            self._read(source, target)

    def _pause(self, source: _Side) -> None:
        source.flow = PAUSED
        self._pauses += 1
        self._arm()

    # ----- ends -----------------------------------------------------------------------------------

    def _source_ended(self, source: _Side, target: _Side) -> None:
        """recv returned 0: a FIN, or the place of a reset that send was told of."""
        source.flow = ENDED
        if target.flow is ENDED and not (source.error or target.error):
            self._close()  # which says FIN to the target, too
            return
        if source.error in (0, errno.EPIPE) and not target.error:
            target.active = self._loop.time()
            try:
                target.sock.shutdown(socket.SHUT_WR)
            except OSError:  # it was reset just now
                self._lost(target, source, target.pending_error())
                return
        self._settle()

    def _alarmed(self, side: _Side, other: _Side) -> None:
        """`side` was reset. If it is FLOWING, recv will find the place of the reset."""
        side.alarmed = True
        self._cause = self._cause or side.letter
        if side.flow is PAUSED:
            other.active = self._loop.time()  # it has its fin time-out to take the rest; then recv will
            self._arm()
        elif side.over and (code := side.pending_error()):
            self._lost(side, other, code)

    def _lost(self, side: _Side, other: _Side, code: int | None) -> None:
        """`side` was reset and takes no more. What it sent before is still read: its own direction goes on."""
        side.last = side.alarmed = True
        side.error = code or errno.ECONNRESET
        self._cause = self._cause or side.letter
        other.flow = VOID
        other.carrier.drop()
        other.active = self._loop.time()
        if side.flow is FLOWING:
            self._read_soon(side, other)
        self._settle()

    def _settle(self) -> None:
        """Close, if both directions are over and nothing is on its way to a side that must be reset."""
        client, server = self._client, self._server
        if not (client.over and server.over):
            self._arm()
        elif bool(client.error) == bool(server.error):
            self._close()
        elif outstanding((survivor := server if client.error else client).fd):  # bytes, or a FIN
            now = self._loop.time()
            self._arm(now + max(LINGER_SECONDS, now - survivor.active))
        else:
            self._close(survivor)

    def _close(self, *reset: _Side) -> None:
        """Close both, with a RST those named."""
        self._open = False
        self._engine.expect(self, math.inf)
        for side, _ in self._ways:
            side.carrier.drop()
            self._engine.forget(side.fd)
            if side in reset:
                close_with_reset(side.sock)
            else:
                side.sock.close()
        self._client.flow = self._server.flow = ENDED
        state = self._cause + "D" if self._cause else "--"
        duration = self._loop.time() - self._started
        self._on_end(
            Outcome(state, self._client.carrier.passed, self._server.carrier.passed, duration, self._pauses)
        )

    def _deadline(self, side: _Side, other: _Side) -> float:
        """When `side` will have been inactive for too long; infinite while nothing is expected of it."""
        lingers = side.flow is VOID and other.flow is ENDED  # it has yet to acknowledge
        if side.flow is FLOWING or other.flow is PAUSED or lingers:
            return side.active + (side.fin_timeout if other.over or other.alarmed else side.timeout)
        return math.inf

    def _arm(self, latest: float = math.inf) -> None:
        """Wake at the next deadline. Activity does not call this: what wakes too early will see."""
        (client, server), _ = self._ways
        deadline = min(latest, self._deadline(client, server), self._deadline(server, client))
        self._expect(deadline)

    def _expect(self, deadline: float) -> None:
        self._engine.expect(self, min(deadline, self._loop.time() + LOOK_SECONDS))

    def time_up(self) -> None:
        if not self._open:
            return
        late, peer = min(self._ways, key=lambda way: self._deadline(*way))
        if self._deadline(late, peer) <= self._loop.time():
            self._cause = self._cause or late.letter.lower()
            self._close(*(side for side, other in self._ways if other.carrier.held or side.flow is VOID))
        else:
            self._settle()
