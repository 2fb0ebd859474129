"""The node's servers: what is known of each, who watches them, and what the workers are told.

The node alone knows: its checks write `up`; whoever operates it exchanges `live` by `change`, and `discovery` does
where names are looked up. Workers are told the whole of both, not what changed, so it does not matter what a worker
missed that was just started. Of `live` they are told where it is not as in their configuration, which they have.

A reload keeps what is known of a server that has the same name and address in both configurations: whether it is
up, and what was changed of it, field by field, unless the file says something new of that field
(docs/decisions/0008).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from scaleup.lb.discovery import Discovery, Moves
from scaleup.lb.settings import BackendTable, LbSettings
from scaleup.net.proxy_protocol import v2_local
from scaleup.processes import Tasks
from scaleup.upstream.checks import Checker
from scaleup.upstream.health import Change
from scaleup.upstream.history import History
from scaleup.upstream.probe import Result
from scaleup.upstream.server import Live, Server

log = logging.getLogger(__name__)

INTRODUCTIONS = {"off": b"", "v1": b"PROXY UNKNOWN\r\n", "v2": v2_local()}
"""With which health checks begin, by --send-proxy."""

MOST_OBSERVED = 1000
"""Failed connections that one message of a worker may speak of."""


class Servers:
    """`tell()`: the workers have to be told. `event(kind, …)`: a person would want to see this.

    `now()`: seconds on a clock that never jumps.
    """

    def __init__(
        self, tell: Callable[[], None], event: Callable[..., None], now: Callable[[], float]
    ) -> None:
        self._tell, self._event, self._now = tell, event, now
        self._histories: dict[tuple[str, ...], History] = {}  # of backends, and of their servers
        self._backends: dict[str, dict[str, Server]] = {}
        self._checkers: dict[str, Checker] = {}  # of each backend
        self._known: set[Server] = set()  # those whose state was known before a reload
        self._checks = Tasks()
        self._discovery = Discovery(self._move, now)
        self._is_changing = False  # several at once

    @property
    def backends(self) -> Mapping[str, Mapping[str, Server]]:
        """By the names of backends and of their servers, in the order of the configuration."""
        return self._backends

    def checker(self, backend: str) -> Checker | None:
        return self._checkers.get(backend)

    def history(self, *names: str) -> History:
        """Of a backend, or of a server of it."""
        return self._histories[names]

    @property
    def histories(self) -> Iterable[History]:
        return self._histories.values()

    async def find(self, settings: LbSettings) -> None:
        """Before they are known: look their names up, as far as that can be done soon."""
        await self._discovery.find(settings)

    def know(self, settings: LbSettings) -> None:
        """From now on these are the servers; those that we knew keep what is known of them. None may be watched."""
        assert not len(self._checks), (
            "rest, before others are known: what was watched would be taken for them"
        )
        before, self._known = self._backends, set()
        self._backends = {
            backend.name: {server.name: server.server() for server in backend.servers}
            for backend in settings.backends
        }
        kept = [
            (old, server)
            for backend, servers in self._backends.items()
            for name, server in servers.items()
            if (old := before.get(backend, {}).get(name)) is not None
            and old.configured.endpoint == server.configured.endpoint
        ]
        for old, server in kept:
            server.inherit(old)
        self._discovery.know(settings, self._backends)
        for old, server in kept:
            if old.endpoint == server.endpoint:
                server.up = old.up
                self._known.add(server)
        self._remember()

    def watch(self, settings: LbSettings, source: str | None) -> None:
        """Check them, from `source`, and look their names up, until `rest`."""
        slots = asyncio.Semaphore(settings.max_checks)
        self._checkers = {backend.name: self._watch(backend, source, slots) for backend in settings.backends}
        self._discovery.watch(settings)

    async def rest(self) -> None:
        await self._discovery.rest()
        await self._checks.cancel()

    def change(self, backend: str, server: Server, live: Live) -> None:
        """By an operator. Sessions stay where they are."""
        if live != server.live:
            self._change(backend, server, live)
            self._settle()

    def _move(self, moves: Moves) -> None:
        """By a resolver of names; all of them are told at once."""
        self._is_changing = True
        try:
            for backend, server, endpoint in moves:
                self._change(backend, server, server.live._replace(endpoint=endpoint))
        finally:
            self._is_changing = False
        if moves:
            self._settle()

    def _change(self, backend: str, server: Server, live: Live) -> None:
        before = server.live
        server.live = live
        log.info("server %s/%s: %s", backend, server.name, _difference(before, live))
        self._event("server", backend=backend, server=server.name, live=live.as_list())
        if checker := self._checkers.get(backend):
            checker.live_changed(server, before)

    def _settle(self) -> None:
        """Something has changed: remember it, and tell the workers."""
        if not self._is_changing:
            self._remember()
            self._tell()

    def force(self, backend: str, server: Server, up: bool) -> None:
        """An operator says that it is up, or down; its checks go on."""
        if checker := self._checkers.get(backend):
            checker.force(server, up)

    def observed(self, backend: str, name: str, times: int, reason: str) -> None:
        """By a worker: so many connections in a row did not reach it; 0: one has."""
        server, checker = self._backends.get(backend, {}).get(name), self._checkers.get(backend)
        if server is None or checker is None:
            return  # only workers under the old settings know it
        if not times:
            checker.connection_made(server)
        for _ in range(min(times, MOST_OBSERVED)):
            checker.connection_failed(server, reason)

    def state(self, settings: LbSettings) -> dict[str, Any]:
        """What workers under these settings are told of each server, by its number: whether it is `up`, `live`, and
        while it starts slowly for how many seconds it is up: `rising`.

        Of one that we know no more, None: nothing new. Only old workers ask for it.
        """
        up: list[bool | None] = []
        live: list[tuple[int, list[Any]]] = []
        rising: list[tuple[int, float]] = []
        now = self._now()
        for backend in settings.backends:
            known = self._backends.get(backend.name, {})
            for configured in backend.servers:
                server = known.get(configured.name)
                if server is not None and server.live != configured.live:
                    live.append((len(up), server.live.as_list()))
                if server is not None and server.slowstart:
                    seconds = self._histories[backend.name, server.name].up_again_for(now)
                    if seconds is not None and seconds < server.slowstart:
                        rising.append((len(up), seconds))
                up.append(None if server is None else server.up)
        return {"up": up, "live": live, "rising": rising}

    def _watch(self, backend: BackendTable, source: str | None, slots: asyncio.Semaphore) -> Checker:
        checker = Checker(
            list(self._backends[backend.name].values()),
            backend,
            partial(self._went, backend.name),
            source=source,
            known=self._known,
            preamble=INTRODUCTIONS[backend.send_proxy],
            error_limit=backend.error_limit if backend.observe == "layer4" else 0,
            on_error=backend.on_error,
            slots=slots,
            on_result=partial(self._checked, backend.name),
        )
        self._checks.spawn(checker.run(), name=f"health checks of {backend.name}")
        return checker

    def _went(self, backend: str, server: Server, change: Change) -> None:
        """Up or down."""
        if not change.up:
            self._histories[backend, server.name].went_down += 1
            if not any(it.usable for it in self._backends[backend].values()):
                self._histories[backend,].went_down += 1
        self._event("server", backend=backend, server=server.name, up=change.up, reason=change.reason)
        self._settle()

    def _checked(self, backend: str, server: Server, result: Result) -> None:
        if result.passed is False and server.up:
            self._histories[backend, server.name].failed_checks += 1

    def _remember(self) -> None:
        """Who runs now; those that are not there any more are forgotten."""
        now, before, self._histories = self._now(), self._histories, {}
        for backend, servers in self._backends.items():
            running: dict[tuple[str, ...], bool] = {
                (backend, name): server.running for name, server in servers.items()
            }
            running[backend,] = any(server.usable for server in servers.values())
            for names, runs in running.items():
                history = self._histories[names] = before.get(names) or History(now, runs)
                history.became(now, runs)


def _difference(before: Live, now: Live) -> str:
    fields = zip(Live._fields, before, now, strict=True)
    return ", ".join(f"{name} {was} → {is_now}" for name, was, is_now in fields if was != is_now)
