"""What a way to choose is ●: the interface between `pool` and the algorithms.

The servers that can be chosen change rarely, their loads with every connection. So the pool tells an
algorithm when the servers change, which may then cost a look at each of them, and of each session that
begins or ends here; a choice should not cost that, for it is on the way of every connection.

    prepare(all)              once, before anything else
    servers_changed(usable)   again after each change: up, weight, slow start, …
    load_changed(server)      a session began or ended in this process; others cannot tell
    pick(…)                   the choice

An algorithm of your own is a subclass with `pick`; the simplest looks at each server, every time:

    class Shortest(Algorithm):
        def pick(self, load, key, exclude):
            free = [server for server in self.servers if is_free(server, load, exclude)]
            return min(free, key=lambda server: len(server.name), default=None)

Say `--balance my.module:Shortest`, where `my.module` can be imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from typing import ClassVar

from scaleup.upstream.server import Server

Load = Callable[[Server], int]
"""How many sessions a server has, in all processes of this node."""


class Algorithm(ABC):
    """A way to choose, for one pool. `randrange(n)`: a random whole number, 0 ≤ it < n."""

    needs_key: ClassVar[bool] = False
    """Whether it asks who the client is: `key` costs time to make."""

    def __init__(self, randrange: Callable[[int], int]) -> None:
        self.randrange = randrange
        self.servers: Sequence[Server] = ()

    def prepare(self, servers: Sequence[Server]) -> None:  # noqa: B027 – most need nothing
        """These are all of the pool's servers, usable or not, now and later."""

    def servers_changed(self, servers: Sequence[Server]) -> None:
        """From now on choose among these, in the order of the configuration; perhaps none.

        Shares may have changed, too.
        """
        self.servers = servers

    def load_changed(self, server: Server) -> None:  # noqa: B027
        """The load of `server` will be read differently from now on, or very soon."""

    @abstractmethod
    def pick(self, load: Load, key: bytes | None, exclude: Container[str]) -> Server | None:
        """One of the servers that is below its maxconn and not named in `exclude`; None: there is none.

        `key`: who asks, see `balance.client_key`; None: unknown. Nothing is counted yet.
        """


def is_free(server: Server, load: Load, exclude: Container[str] = ()) -> bool:
    """Whether it can take one more."""
    return (not server.maxconn or load(server) < server.maxconn) and server.name not in exclude
