"""One server and what is known of it now ●.

Four things decide whether it gets new sessions, each written by somebody else:

    up       its checks (`health`), or whoever is told of them
    admin    an operator: ready, drain (no new sessions, still checked), maint (not checked either)
    weight   the configuration, or an operator: its share; 0 as drain
    sessions how many it has: at `maxconn` it is full (see `pool`)

Whoever chooses must not look at a thousand servers for each connection. So a server that changes tells its
pool, which then looks at all of them once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from scaleup.net.addresses import Endpoint

Admin = Literal["ready", "drain", "maint"]

FULL_THROTTLE = 100


class Server:
    """Two servers are equal only when they are the same object.

    `name`: as people and other nodes call it; `source` hashes it. `weight`: 0–256. `maxconn`: sessions at a
    time, 0: no limit. `backup`: chosen only when no other server can be. `slowstart`: seconds in which its
    weight grows to the whole after it came up, 0: at once. `sessions`: in progress, as counted by
    `Pool.acquire` and `Pool.release` in this process.
    """

    __slots__ = (
        *("_admin", "_told", "_up", "_weight"),
        *("backup", "endpoint", "maxconn", "name", "sessions", "slowstart", "throttle"),
    )

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        weight: int = 1,
        maxconn: int = 0,
        up: bool = True,
        sessions: int = 0,
        *,
        backup: bool = False,
        slowstart: float = 0.0,
        admin: Admin = "ready",
    ) -> None:
        self.name, self.endpoint, self.maxconn, self.sessions = name, endpoint, maxconn, sessions
        self.backup, self.slowstart = backup, slowstart
        self.throttle = FULL_THROTTLE
        """Per cent of its weight that counts now; written by the pool during a slow start."""
        self._weight, self._up, self._admin = weight, up, admin
        self._told: Callable[[Server, bool], None] = _nobody

    def __repr__(self) -> str:
        state = "up" if self._up else "down"
        return f"Server({self.name!r}, {self.endpoint}, weight={self._weight}, {state}, {self._admin})"

    @property
    def up(self) -> bool:
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        if up != self._up:
            ran, self._up = self.running, up
            self._told(self, ran)

    @property
    def admin(self) -> Admin:
        return self._admin

    @admin.setter
    def admin(self, admin: Admin) -> None:
        if admin != self._admin:
            ran, self._admin = self.running, admin
            self._told(self, ran)

    @property
    def weight(self) -> int:
        return self._weight

    @weight.setter
    def weight(self, weight: int) -> None:
        if weight != self._weight:
            self._weight = weight
            self._told(self, self.running)

    @property
    def running(self) -> bool:
        """It serves those that it has."""
        return self._up and self._admin != "maint"

    @property
    def usable(self) -> bool:
        """It may get new sessions, as far as it is not full."""
        return self._up and self._admin == "ready" and self._weight > 0

    @property
    def share(self) -> int:
        """Its weight as it counts now, in hundredths."""
        return self._weight * self.throttle

    def tell(self, changed: Callable[[Server, bool], None]) -> None:
        """From now on call `changed(server, was_running)` after each change. Only one can be told.

        Raises ValueError when there is one already.
        """
        if self._told is not _nobody:
            raise ValueError(f"server {self.name!r} is in another pool already")
        self._told = changed


def _nobody(server: Server, was_running: bool) -> None:
    pass
