"""What an operator can do with this node: the `Control` behind the commands, in terms of the node's parts.

What is asked of sessions goes to the workers, who have them, also to those under older settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from scaleup.lb.control import Refused, SessionFacts
from scaleup.lb.generation import Generation
from scaleup.lb.servers import Servers
from scaleup.lb.settings import FrontendTable, LbSettings
from scaleup.lb.statistics import Statistics
from scaleup.lb.stats import Row
from scaleup.upstream.server import Live, Server


class Limits:
    """Of frontends: `maxconn` as configured, or as an operator has set it since."""

    def __init__(self) -> None:
        self._set: dict[str, tuple[int, int]] = {}  # what the configuration said then, and what counts

    def maxconn(self, frontend: FrontendTable) -> int:
        """A configuration that says something new of it counts again."""
        configured, limit = self._set.get(frontend.name, (0, 0))
        return limit if configured == frontend.maxconn else frontend.maxconn

    def set(self, frontend: FrontendTable, limit: int) -> None:
        self._set[frontend.name] = frontend.maxconn, limit


class Operations:
    """`generations()`: all whose workers have sessions. `tell()`: the workers have to be told.

    `dropped()`: lines of the log that were lost. `stopping()`: whether the node is about to end.
    """

    def __init__(
        self,
        settings: Callable[[], LbSettings],
        servers: Servers,
        statistics: Statistics,
        limits: Limits,
        generations: Callable[[], Iterable[Generation]],
        tell: Callable[[], None],
        dropped: Callable[[], int],
        stopping: Callable[[], bool],
    ) -> None:
        self._settings, self._servers, self._statistics = settings, servers, statistics
        self._limits, self._generations, self._tell = limits, generations, tell
        self._dropped, self._stopping = dropped, stopping
        self._began = datetime.now().timestamp()

    @property
    def servers(self) -> Mapping[str, Mapping[str, Server]]:
        return self._servers.backends

    def rows(self) -> Sequence[Row]:
        return self._statistics.rows()

    def info(self) -> Mapping[str, object]:
        return {
            **self._statistics.info(),
            "Pid": os.getpid(),
            "Stopping": int(self._stopping()),
            "DroppedLogs": self._dropped(),
            "Start_time_sec": int(self._began),
        }

    def date(self) -> str:
        return f"{datetime.now():%d/%b/%Y:%H:%M:%S.%f}"[:-3]

    def change(self, backend: str, server: Server, live: Live) -> None:
        source, address = self._settings().source, live.endpoint.address if live.endpoint else None
        if source and address and address.version != source.version:
            raise Refused(f"{address} cannot be reached from --source {source}.")
        self._servers.change(backend, server, live)

    def force(self, backend: str, server: Server, up: bool) -> None:
        self._servers.force(backend, server, up)

    def set_maxconn(self, frontend: str, maxconn: int) -> None:
        table = next(it for it in self._settings().frontends if it.name == frontend)
        self._limits.set(table, maxconn)
        self._tell()

    async def sessions(self) -> Sequence[SessionFacts]:
        return [SessionFacts(*facts) for facts in await self._ask("sessions")]

    async def shut_down(self, session: str) -> bool:
        return any(await self._ask("shut_down", session=session))

    def shut_down_all(self, backend: str, server: Server) -> None:
        for generation in self._generations():
            generation.tell("shut_down_all", backend=backend, server=server.name)

    def clear(self, everything: bool) -> None:
        self._statistics.clear(everything)

    async def heard(self) -> None:
        await self._ask("heard")  # messages come in order

    async def _ask(self, kind: str, **fields: str) -> list[Any]:
        answers: list[Any] = []
        for generation in list(self._generations()):
            answers += await generation.ask(kind, **fields)
        return answers
