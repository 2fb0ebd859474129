"""What it means to own a virtual address.

An owner takes the address when the router becomes Active and releases it when the router leaves that
state. On real interfaces that is the kernel's business: see `kernel`.

`ListenerOwner` is for loopback, where the kernel answers for every address anyway: there, owning
the address means listening on it. Its sockets are bound from the start, listen() takes and
shutdown(SHUT_RDWR) gives back: one call acts for every process that shares the socket (the workers that
accept from it), and it can be undone. That is why the vrrp process can give the address up for real
when its node has been killed.

A load balancer on real interfaces does both (`Owners`): it listens before clients can come.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from scaleup.net.sockets import BACKLOG, stop_listening

GONE = "interface"
"""Finds a fault (`by`) when an interface was removed: this owner will own nothing more, another must be opened."""


class Owner(Protocol):
    """All calls but `close` may be repeated, in any order."""

    def take(self) -> None:
        """Takes everything, or raises OSError and has nothing."""
        ...

    def announce(self) -> None:
        """It was taken for good: tell the neighbours."""
        ...

    def release(self) -> None: ...

    def remind(self) -> None:
        """Somebody else has claimed what we own: tell the neighbours again."""
        ...

    def watch(self, fault: Callable[[str, str], None], recover: Callable[[str], None]) -> None:
        """From now on say `fault(reason, by)` when it could not be owned, and `recover(by)` when that is over."""
        ...

    def close(self) -> None:
        """The end of it; what was owned is released."""
        ...


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

    def announce(self) -> None:
        """On loopback there is no neighbour."""

    def remind(self) -> None:
        """Nor is there one who could have been told otherwise."""

    def watch(self, fault: Callable[[str, str], None], recover: Callable[[str], None]) -> None:
        """A socket does not lose its address."""

    def close(self) -> None:
        """The sockets are their opener's to close."""
        self.release()


class Owners:
    """Several as one: taken in their order, released in the reverse order."""

    def __init__(self, owners: Sequence[Owner]) -> None:
        self._owners = tuple(owners)

    def take(self) -> None:
        try:
            for owner in self._owners:
                owner.take()
        except OSError:
            self.release()
            raise

    def announce(self) -> None:
        for owner in self._owners:
            owner.announce()

    def release(self) -> None:
        for owner in reversed(self._owners):
            owner.release()

    def remind(self) -> None:
        for owner in self._owners:
            owner.remind()

    def watch(self, fault: Callable[[str, str], None], recover: Callable[[str], None]) -> None:
        for owner in self._owners:
            owner.watch(fault, recover)

    def close(self) -> None:
        for owner in reversed(self._owners):
            owner.close()
