"""What it means to own a virtual address.

An owner takes the address when the router becomes Active and releases it when the router leaves that
state. `ListenerOwner` is for loopback, where the kernel answers for every address anyway: there, owning
the address means listening on it. Its sockets are bound from the start, listen() takes and
shutdown(SHUT_RDWR) gives back: one call acts for every process that shares the socket (the workers that
accept from it), and it can be undone. That is why the vrrp process can give the address up for real
when its node has been killed.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Protocol

from scaleup.net.sockets import BACKLOG, stop_listening


class Owner(Protocol):
    """Both calls may be repeated, in any order. `take` takes everything, or raises OSError and has nothing."""

    def take(self) -> None: ...

    def release(self) -> None: ...


class ListenerOwner:
    """Owns by listening. Without sockets it owns nothing, and only the election is run."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = tuple(sockets)

    def take(self) -> None:
        try:
            for sock in self._sockets:
                sock.listen(BACKLOG)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Refuse from now on; connections that nobody had accepted are reset by the kernel."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # another holder of the socket was faster, in its drain
                stop_listening(sock)
