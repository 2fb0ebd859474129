"""Accepting: the listening sockets of a worker, and when it takes connections from them.

            start                          accept() fails with EINVAL: it does not listen any more
    idle ──────────▶ accepting ──────────────────────────────────────────────────────────────────▶ idle
                       │   ▲       stop: the virtual address has left
                  full │   │ a connection has ended
                       ▼   │
                      paused: no room (maxconn), or no descriptor left; clients wait in the kernel's queue

A socket on a virtual address is bound, and listens only while its node is Active. One that does not listen
reports EPOLLHUP for ever: hence it is on the loop only while it is accepting.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from socket import SocketType

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import BACKLOG, endpoint_of, stop_listening
from scaleup.processes.logs import LimitedLog

log = logging.getLogger(__name__)

ACCEPT_BATCH = 8
"""Connections accepted at once before others get their turn; HAProxy's authors found 4 best for them."""

NO_DESCRIPTORS_SECONDS = 0.1
"""How long accepting rests when the process is out of descriptors."""

FULL_SECONDS = 0.1
"""How often it looks whether another worker has made room, which nobody tells."""

SPARE_DESCRIPTORS = 50
"""What a process has open anyway (loop, log, standard streams), and a few more."""

LOG_EVERY_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Listener:
    socket: socket.socket
    elected: bool
    """On a virtual address."""
    accepting: bool = False
    """It listens, as far as we know."""
    family: int = field(init=False)

    def __post_init__(self) -> None:
        self.family = int(self.socket.family)


class Acceptor:
    """Accepts from `listeners`, which it owns, while `has_room()`.

    `on_client(socket, host, port, elected)` owns the accepted socket of a client there.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        has_room: Callable[[], bool],
        on_client: Callable[[SocketType, str, int, bool], None],
    ) -> None:
        self._listeners = tuple(listeners)
        self._has_room, self._on_client = has_room, on_client
        self._loop = asyncio.get_running_loop()
        self._paused = False
        self._again: asyncio.TimerHandle | None = None
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)

    def start(self, *, elected: bool) -> None:
        """The sockets on a virtual address (or the others) listen: accept from them."""
        for listener in self._listeners:
            if listener.elected == elected:
                listener.accepting = True
                if not self._paused:
                    self._loop.add_reader(listener.socket, self._acceptable, listener)

    def stop(self, *, elected: bool) -> None:
        """They do not listen any more."""
        for listener in self._listeners:
            if listener.elected == elected:
                self._idle(listener)

    def resume(self) -> None:
        """A connection has ended: there is room again, perhaps."""
        if self._paused and self._has_room():
            self._paused = False
            assert self._again is not None
            self._again.cancel()
            for listener in self._listeners:
                if listener.accepting:
                    self._loop.add_reader(listener.socket, self._acceptable, listener)

    def finish(self) -> None:
        """Accept what waits, then refuse, for good: the order that resets the fewest connections."""
        for listener in self._listeners:
            self._finish(listener)

    def leave(self, gone: Container[Endpoint]) -> None:
        """Accept no more. Others do that from now on, but for the addresses that are `gone`: those are finished."""
        for listener in self._listeners:
            if listener.accepting and endpoint_of(listener.socket) in gone:
                self._finish(listener)
            else:
                self._idle(listener)

    def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        for listener in self._listeners:
            self._idle(listener)
            listener.socket.close()

    def _idle(self, listener: Listener) -> None:
        listener.accepting = False
        self._loop.remove_reader(listener.socket)

    def _finish(self, listener: Listener) -> None:
        for _ in range(BACKLOG):  # the queue is no longer, and clients may come as fast as we accept
            if not (listener.accepting and self._has_room() and self._accept(listener)):
                break
        if listener.accepting:
            self._idle(listener)
            stop_listening(listener.socket)

    def _acceptable(self, listener: Listener) -> None:
        for _ in range(ACCEPT_BATCH):
            if not self._has_room():
                self._pause(FULL_SECONDS)
                return
            if not self._accept(listener):
                return

    def _accept(self, listener: Listener) -> bool:
        """Accept one connection; False when there is none to be had now."""
        try:
            # What accept() does, which then asks for family and type each time, and they are slow to look up.
            descriptor, address = listener.socket._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return False
        except OSError as error:
            return self._failed(listener, error)
        client = SocketType(listener.family, socket.SOCK_STREAM, 0, descriptor)
        client.setblocking(False)
        self._on_client(client, address[0], address[1], listener.elected)
        return True

    def _failed(self, listener: Listener, error: OSError) -> bool:
        if error.errno == errno.EINVAL:  # shut down, by the vrrp process or in another one's drain
            self._idle(listener)
            return False
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self._limited.warning(
                "descriptors", f"cannot accept: {error.strerror}; see ulimit -n and --maxconn"
            )
            self._pause(NO_DESCRIPTORS_SECONDS)
            return False
        return True  # that one connection had failed before we came to it (accept(2)): there may be others

    def _pause(self, seconds: float) -> None:
        """Until `resume` finds that there is room, which is asked again every so often."""
        self._paused = True
        for listener in self._listeners:
            self._loop.remove_reader(listener.socket)
        self._again = self._loop.call_later(seconds, self._look_again, seconds)

    def _look_again(self, seconds: float) -> None:
        self.resume()
        if self._paused:
            self._again = self._loop.call_later(seconds, self._look_again, seconds)


def affordable(maxconn: int, others: int) -> int:
    """How many connections, at most `maxconn`, the limit on descriptors allows, raised as far as it may be.

    A connection takes two; `others`: what this process was handed besides. Running out of them is worse than
    letting clients wait: what is accepted could not be dialled for.
    """
    others += SPARE_DESCRIPTORS
    needed = 2 * maxconn + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= needed:
        return maxconn
    fewer = max(1, (soft - others) // 2)
    log.warning(
        "--maxconn %d needs %d descriptors, of which %d are allowed (ulimit -Hn): taking %d connections at a time",
        maxconn,
        needed,
        soft,
        fewer,
    )
    return fewer
