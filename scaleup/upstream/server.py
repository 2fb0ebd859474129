"""One server and what is known of it now ●.

Three things decide whether it gets new sessions, each written by somebody else:

    up        its checks (`health`), or whoever is told of them
    live      an operator, or a resolver of names: its administrative state, address, weight and maxconn
    sessions  how many it has: at `maxconn` it is full (see `pool`)

`live` begins as the configuration says, and can be changed while sessions go on: they stay where they are. It is
one value that is never changed, only exchanged, so whoever keeps servers for others hands them the whole of it.

Whoever chooses must not look at a thousand servers for each connection. So a server that changes tells its
pool, which then looks at all of them once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

from scaleup.net.addresses import Endpoint

Admin = Literal["ready", "drain", "maint"]

FULL_THROTTLE = 100


class Live(NamedTuple):
    """What may change of a server while it serves.

    `endpoint`: where new sessions go; None: its address is not known yet, which is as `maint`. `weight`: 0–256,
    its share; 0 is as drain. `maxconn`: sessions at a time, 0: no limit. `admin`: ready; drain: no new sessions,
    still checked; maint: not checked either. `checked`: False: it stays up or down, as it is.
    """

    endpoint: Endpoint | None
    weight: int = 1
    maxconn: int = 0
    admin: Admin = "ready"
    checked: bool = True

    @property
    def serves(self) -> bool:
        """It would serve the sessions that it has, if it is up."""
        return self.admin != "maint" and self.endpoint is not None

    def as_list(self) -> list[Any]:
        """For JSON."""
        return [None if self.endpoint is None else str(self.endpoint), *self[1:]]

    @classmethod
    def from_list(cls, fields: list[Any]) -> Self:
        endpoint, *others = fields
        return cls(None if endpoint is None else Endpoint.parse(endpoint), *others)


class Server:
    """Two servers are equal only when they are the same object.

    `name`: as people and other nodes call it; `source` hashes it. `backup`: chosen only when no other server can
    be. `slowstart`: seconds in which its weight grows to the whole after it came up, 0: at once. `sessions`: in
    progress, as counted by `Pool.acquire` and `Pool.release` in this process. The rest: as in `Live`.
    """

    __slots__ = (
        *("_live", "_told", "_up"),
        *("backup", "configured", "is_named", "maxconn", "name", "sessions", "slowstart", "throttle"),
    )

    def __init__(
        self,
        name: str,
        endpoint: Endpoint | None,
        weight: int = 1,
        maxconn: int = 0,
        up: bool = True,
        sessions: int = 0,
        *,
        backup: bool = False,
        slowstart: float = 0.0,
        admin: Admin = "ready",
    ) -> None:
        self.name, self.sessions, self.backup, self.slowstart = name, sessions, backup, slowstart
        self.throttle = FULL_THROTTLE
        """Per cent of its weight that counts now; written by the pool during a slow start."""
        self.configured = Live(endpoint, weight, maxconn, admin)
        """What it began with."""
        self._up = up
        self._told: Callable[[Server, bool], None] = _nobody
        self._take(self.configured)

    def __repr__(self) -> str:
        state = "up" if self._up else "down"
        return f"Server({self.name!r}, {self.endpoint}, weight={self.weight}, {state}, {self.admin})"

    @property
    def up(self) -> bool:
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        if up != self._up:
            ran, self._up = self.running, up
            self._told(self, ran)

    @property
    def live(self) -> Live:
        return self._live

    @live.setter
    def live(self, live: Live) -> None:
        if live != self._live:
            ran = self.running
            self._take(live)
            self._told(self, ran)

    def change(self, **fields: Any) -> None:
        """Some of `live`."""
        self.live = self._live._replace(**fields)

    def _take(self, live: Live) -> None:
        self._live = live
        self.maxconn = live.maxconn  # read with each choice, so it is at hand
        self.is_named = live.endpoint is not None and live.endpoint.address is None

    @property
    def endpoint(self) -> Endpoint | None:
        return self._live.endpoint

    @property
    def weight(self) -> int:
        return self._live.weight

    @property
    def admin(self) -> Admin:
        return self._live.admin

    @property
    def running(self) -> bool:
        """It serves those that it has."""
        return self._up and self._live.serves

    @property
    def usable(self) -> bool:
        """It may get new sessions, as far as it is not full."""
        return self.running and self._live.admin == "ready" and self._live.weight > 0

    @property
    def share(self) -> int:
        """Its weight as it counts now, in hundredths."""
        return self._live.weight * self.throttle

    def inherit(self, before: Server) -> None:
        """Take over what changed of `before`, which had this name in an older configuration.

        Each field of `live` by itself: one of which the configurations say different things is as the new one says.
        """
        fields = zip(self.configured, before.configured, before.live, strict=True)
        self.live = Live._make(changed if now == then else now for now, then, changed in fields)

    def tell(self, changed: Callable[[Server, bool], None]) -> None:
        """From now on call `changed(server, was_running)` after each change. Only one can be told.

        Raises ValueError when there is one already.
        """
        if self._told is not _nobody:
            raise ValueError(f"server {self.name!r} is in another pool already")
        self._told = changed


def _nobody(server: Server, was_running: bool) -> None:
    pass
