"""The servers behind one listener or prefix, and which of them may be chosen now ●.

A server may be chosen when it is usable (see `server`), is below its maxconn and was not tried for this
connection already (`exclude`). Backup servers may be only while no other server is usable: the first of
them, or all of them with `allbackups`; that the others are full is no reason. An algorithm chooses among
those (`balance`).

Slow start: after a server came up, its weight grows to the whole within `slowstart` seconds, in STEPS
steps. Its caches are cold, and a server that has no sessions yet would get all new ones from leastconn. It
does not apply to servers that were up from the beginning. Where another process knows since when they are up, a
worker that has just begun does not: it is told (`rises`).

Who counts a server's sessions, when several processes share the servers, is decided elsewhere: the load
balancer passes a reader of its shared memory. Because the reader can be a moment late, maxconn can be
overshot by at most one session per other process (see lb).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence

from scaleup.upstream.algorithm import Algorithm, Load, is_free
from scaleup.upstream.server import FULL_THROTTLE, Server

__all__ = ["Pool", "Server"]

STEPS = 20
"""In which a weight grows: as in HAProxy, by 5 %."""


class Pool:
    """Chooses servers and counts their sessions.

    `sessions`: reads a server's sessions where they are counted for all processes; default: the server's
    own count. `now()`: seconds on a clock that never jumps, for slow starts; without it there are none.
    Raises ValueError when two servers have one name, or one is in another pool.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        algorithm: Algorithm,
        sessions: Load | None = None,
        *,
        now: Callable[[], float] | None = None,
        allbackups: bool = False,
    ) -> None:
        self.servers = tuple(servers)
        self._algorithm = algorithm
        self._sessions = sessions or _own_sessions
        self._now = now or _no_clock
        self._allbackups = allbackups
        names = [server.name for server in self.servers]
        if len(set(names)) < len(names):
            twice = {name for name in names if names.count(name) > 1}
            raise ValueError(f"two servers have the name {min(twice)!r}: names tell servers apart")
        for server in self.servers:
            server.tell(self._changed)
        self._rising: dict[Server, float] = {}  # since when its weight grows
        self._next_step = math.inf
        self._usable: Sequence[Server] = ()
        self._is_current = False
        algorithm.prepare(self.servers)

    @property
    def needs_key(self) -> bool:
        """Whether `choose` looks at `key`."""
        return self._algorithm.needs_key

    def choose(self, key: bytes | None = None, exclude: Container[str] = ()) -> Server | None:
        """The server for a new session; None when there is none (see `any_up` for why).

        `key`: the client, for `source` (`balance.client_key`). `exclude`: names not to choose, those that
        were already tried. Choosing counts nothing: call `acquire` before the first await that follows.
        """
        if not self._is_current or (self._rising and self._now() >= self._next_step):
            self._look()
        return self._algorithm.pick(self._sessions, key, exclude)

    def is_free(self, server: Server) -> bool:
        """Whether `server` could be chosen: it is among those that may be, and below its maxconn."""
        if not self._is_current:
            self._look()
        return server in self._usable and is_free(server, self._sessions)

    def any_up(self) -> bool:
        """Whether any server could take sessions, now or when one ends: tells "all down" from "all full"."""
        if not self._is_current:
            self._look()
        return bool(self._usable)

    def acquire(self, server: Server) -> None:
        """A session with `server` begins (with the dialling). Each needs its `release`."""
        server.sessions += 1
        self._algorithm.load_changed(server)

    def release(self, server: Server) -> None:
        """A session with `server` has ended."""
        assert server.sessions > 0, f"{server.name}: released more often than acquired"
        server.sessions -= 1
        self._algorithm.load_changed(server)

    def rises(self, server: Server, since: float | None) -> None:
        """A running server came up at `since`, whatever this pool has seen of it; None: too long ago to matter."""
        if since is None:
            if self._rising.pop(server, None) is not None:
                server.throttle, self._is_current = FULL_THROTTLE, False
        elif self._rising.get(server) != since:
            self._rising[server], self._is_current = since, False

    def _changed(self, server: Server, was_running: bool) -> None:
        self._is_current = False
        if server.slowstart and self._now is not _no_clock and server.running and not was_running:
            self._rising[server] = self._now()
        elif not server.running:
            self._rising.pop(server, None)
            server.throttle = FULL_THROTTLE

    def _look(self) -> None:
        """At every server, which is rare: when one has changed, or takes a step of its slow start."""
        if self._rising:
            self._let_weights_grow(self._now())
        usable = [server for server in self.servers if server.usable]
        active = [server for server in usable if not server.backup]
        self._usable = active or (usable if self._allbackups else usable[:1])
        self._algorithm.servers_changed(self._usable)
        self._is_current = True

    def _let_weights_grow(self, now: float) -> None:
        self._next_step = math.inf
        for server, since in list(self._rising.items()):
            server.throttle = throttle(now - since, server.slowstart)
            if server.throttle == FULL_THROTTLE:
                del self._rising[server]
            else:
                step = STEPS * server.throttle // FULL_THROTTLE
                self._next_step = min(self._next_step, since + step * server.slowstart / STEPS)


def throttle(seconds: float, slowstart: float) -> int:
    """Per cent of its weight that a server has so long after it came up."""
    if seconds >= slowstart:
        return FULL_THROTTLE
    return FULL_THROTTLE * (int(STEPS * seconds / slowstart) + 1) // STEPS


def _own_sessions(server: Server) -> int:
    return server.sessions


def _no_clock() -> float:
    raise AssertionError("a pool without a clock has no slow starts")
