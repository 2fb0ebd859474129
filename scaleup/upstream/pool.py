"""The servers behind one listener or prefix, and which of them may be chosen now.

A server may be chosen when it is up, has a weight, is below its maxconn and was not tried for this
connection already (`exclude`). `balance` chooses among those. What makes a server `up` is decided
elsewhere (`health`); who counts its sessions too, when several processes share the servers: the load
balancer passes a reader of its shared memory. Because the reader can be a moment late, maxconn can be
overshot by at most one session per other process (see lb).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from scaleup.net.addresses import Endpoint
from scaleup.upstream.balance import Algorithm


@dataclass(slots=True, eq=False)
class Server:
    """One server and what is known of it now. Two servers are equal only when they are the same object.

    `name`: as people and other nodes call it; `source` hashes it. `weight`: 0–256, its share; 0: no new
    sessions. `maxconn`: sessions at a time, 0: no limit. `up`: written by whoever runs the checks, or is
    told of them. `sessions`: in progress, as counted by `Pool.acquire` and `Pool.release` in this
    process.
    """

    name: str
    endpoint: Endpoint
    weight: int = 1
    maxconn: int = 0
    up: bool = True
    sessions: int = 0


class Pool:
    """Chooses servers and counts their sessions.

    `sessions`: reads a server's sessions where they are counted for all processes; default: the server's
    own count. Raises ValueError when two servers have one name.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        algorithm: Algorithm,
        sessions: Callable[[Server], int] | None = None,
    ) -> None:
        self.servers = tuple(servers)
        self._algorithm = algorithm
        self._sessions = sessions or _own_sessions
        names = [server.name for server in self.servers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two servers have the name {min(twice)!r}: names tell servers apart")

    def choose(self, key: bytes | None = None, exclude: Container[str] = ()) -> Server | None:
        """The server for a new session; None when there is none (see `any_up` for why).

        `key`: the client, for `source` (`balance.client_key`). `exclude`: names not to choose, those that
        were already tried. Choosing counts nothing: call `acquire` before the first await that follows.
        """
        free = [
            server
            for server in self.servers
            if server.up
            and server.weight
            and (not server.maxconn or self._sessions(server) < server.maxconn)
            and server.name not in exclude
        ]
        return self._algorithm.pick(free, self._sessions, key) if free else None

    def any_up(self) -> bool:
        """Whether any server could take sessions, now or when one ends: tells "all down" from "all full"."""
        return any(server.up and server.weight for server in self.servers)

    def acquire(self, server: Server) -> None:
        """A session with `server` begins (with the dialling). Each needs its `release`."""
        server.sessions += 1

    def release(self, server: Server) -> None:
        """A session with `server` has ended."""
        assert server.sessions > 0, f"{server.name}: released more often than acquired"
        server.sessions -= 1


def _own_sessions(server: Server) -> int:
    return server.sessions
