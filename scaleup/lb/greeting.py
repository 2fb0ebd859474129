"""The PROXY header with which a connection from another proxy begins: read before anything else is done.

It is looked at with MSG_PEEK and then taken off, so that what comes behind it stays in the socket for the relay.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from socket import SocketType

from scaleup.lb.engine import LAST, READABLE, Engine
from scaleup.net.proxy_protocol import MAX_BYTES, Cause, Header, Refused, parse

GREETING_SECONDS = 3.0
"""A proxy sends its header with the first packet."""


class Greeting:
    """Watches a connection of whose header nothing was read yet, until one of the two is called, once.

    `on_header(header, events)`: it is whole; the events are what the engine has told meanwhile, for the next one
    who watches. `on_refused(cause, detail)`: there is none, or a broken one.
    """

    __slots__ = ("_engine", "_events", "_on_header", "_on_refused", "_sock", "slot")

    def __init__(
        self,
        engine: Engine,
        sock: SocketType,
        on_header: Callable[[Header, int], None],
        on_refused: Callable[[Cause, str], None],
    ) -> None:
        self._engine, self._sock = engine, sock
        self._on_header, self._on_refused = on_header, on_refused
        self._events = 0
        self.slot: int | None = None  # of the engine's wheel
        engine.expect(self, engine.loop.time() + GREETING_SECONDS)
        engine.watch(sock.fileno(), self._told)

    def cancel(self) -> None:
        """Nobody is called any more; the socket stays watched."""
        self._engine.expect(self, math.inf)

    def time_up(self) -> None:
        self._on_refused(Cause.TRUNCATED, f"not whole within {GREETING_SECONDS:g} s")

    def _told(self, events: int) -> None:
        self._events |= events
        if not events & (READABLE | LAST):
            return
        try:
            received = self._sock.recv(MAX_BYTES, socket.MSG_PEEK)
            parsed = parse(received)
            if parsed is not None:
                self._sock.recv(parsed.length)
        except BlockingIOError:
            return
        except OSError as error:  # a reset
            self._refuse(Cause.TRUNCATED, str(error.strerror))
        except Refused as refused:
            self._refuse(refused.cause, str(refused))
        else:
            if parsed is not None:
                self.cancel()
                self._on_header(parsed.header, self._events)
            elif self._events & LAST:
                self._refuse(Cause.TRUNCATED, "the connection ended before it was whole")

    def _refuse(self, cause: Cause, detail: str) -> None:
        self.cancel()
        self._on_refused(cause, detail)
