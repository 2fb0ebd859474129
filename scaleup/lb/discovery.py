"""Servers by name: the addresses that a resolver finds become servers' addresses, again and again.

The node alone looks names up (`upstream.names`): workers are told addresses, so that no client ever waits for a
name server. All servers of a backend that have one name and port, whether they were said one by one or by a
template, are slots for its addresses (`upstream.slots`). A server whose slot is free has no address, which is as
maint.

A name is looked up before its servers are known for the first time, for at most FIRST_SECONDS: clients of a node
that has just been started should not be refused for want of an answer that is on its way. A name that cannot be
looked up keeps nobody from starting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from scaleup.lb.settings import LbSettings
from scaleup.net.addresses import Endpoint
from scaleup.processes import Tasks
from scaleup.upstream.server import Server
from scaleup.upstream.slots import Slots

if TYPE_CHECKING:
    from scaleup.upstream.names import Answer, Resolver

log = logging.getLogger(__name__)

FIRST_SECONDS = 3.0
RETRY_SECONDS = 1.0
"""Until a name that nobody could look up is asked for again."""
LOOK_UPS = 32
"""At a time."""

Moves = Sequence[tuple[str, Server, Endpoint | None]]
"""The backend's name, a server of it, and its address from now on; None: it has none."""


class Discovery:
    """`move(moves)`: see Moves. `now()`: seconds on a clock that never jumps."""

    def __init__(self, move: Callable[[Moves], None], now: Callable[[], float]) -> None:
        self._move, self._now = move, now
        self._names: dict[Endpoint, _Name] = {}
        self._gate = asyncio.Semaphore(LOOK_UPS)
        self._tasks = Tasks()

    async def find(self, settings: LbSettings) -> None:
        """Look up what these settings name and nobody has looked up yet."""
        wanted = names_of(settings)
        new = [self._names.setdefault(name, _Name(name)) for name in wanted if name not in self._names]
        if not new:
            return
        resolver = _make_resolver(settings)
        asking = [
            self._tasks.spawn(self._look_up(name, resolver), name=f"look up {name.name}") for name in new
        ]
        await asyncio.wait(asking, timeout=FIRST_SECONDS)

    def know(self, settings: LbSettings, backends: Mapping[str, Mapping[str, Server]]) -> None:
        """From now on these are the servers. Those of which the address is known get it at once; nobody is told."""
        wanted = names_of(settings)
        self._names = {name: self._names.get(name) or _Name(name) for name in wanted}
        for name in self._names.values():
            name.groups = []
        for backend, servers in backends.items():
            by_name: dict[Endpoint, list[Server]] = {}
            for server in servers.values():
                if server.is_named:
                    server.change(endpoint=None)
                endpoint = server.configured.endpoint
                if endpoint is not None and endpoint in self._names:
                    by_name.setdefault(endpoint, []).append(server)
            for of, group in by_name.items():
                slots = Slots([server.endpoint for server in group], settings.hold_obsolete, settings.hold_nx)
                self._names[of].groups.append(_Group(backend, group, slots))
        for name in self._names.values():
            if name.answer is not None:
                for _, server, address in self._learn(name, name.answer):
                    server.change(endpoint=address)

    def watch(self, settings: LbSettings) -> None:
        """Look all names up again and again, until `rest`."""
        if self._names:
            resolver = _make_resolver(settings)
            for name in self._names.values():
                self._tasks.spawn(self._follow(name, resolver), name=f"look up {name.name}")

    async def rest(self) -> None:
        """Whoever watches next looks all of them up at once: perhaps by other name servers."""
        await self._tasks.cancel()
        for name in self._names.values():
            name.due = 0.0

    async def _follow(self, name: _Name, resolver: Resolver) -> None:
        while True:
            held_until = min(group.slots.deadline for group in name.groups)
            await asyncio.sleep(min(name.due, held_until) - self._now())
            if self._now() >= name.due:
                await self._look_up(name, resolver)
            for group in name.groups:
                self._move(group.after(lambda slots: slots.expire(self._now())))

    async def _look_up(self, name: _Name, resolver: Resolver) -> None:
        from scaleup.upstream.names import Unanswered

        try:
            async with self._gate:
                answer = await resolver.look_up(name.name)
        except Unanswered as error:
            name.due = self._now() + RETRY_SECONDS
            if not name.fails:
                log.warning("cannot look up %s: %s; its servers stay as they are", name, error)
            name.fails = True
            return
        if name.fails:
            log.info("%s can be looked up again", name)
        name.fails = False
        name.due = self._now() + answer.ttl
        if not answer.endpoints and (name.answer is None or name.answer.endpoints):
            log.warning("%s has no addresses; servers that have one keep it for --hold-nx", name)
        name.answer = answer
        self._move(self._learn(name, answer))

    def _learn(self, name: _Name, answer: Answer) -> Moves:
        moves: list[tuple[str, Server, Endpoint | None]] = []
        now = self._now()
        for group in name.groups:
            if answer.endpoints:
                moves += group.after(lambda slots: slots.found(now, answer.endpoints))
            else:
                moves += group.after(lambda slots: slots.denied(now))
            if group.slots.waiting != group.too_many:
                group.too_many = group.slots.waiting
                if group.too_many:
                    log.warning(
                        "%s: %d addresses more than servers of %s", name, group.too_many, group.backend
                    )
        return moves


class _Name:
    """`due`: when it is to be looked up. `fails`: it could not be, the last time. `answer`: the last good one."""

    def __init__(self, name: Endpoint) -> None:
        self.name = name
        self.groups: list[_Group] = []
        self.answer: Answer | None = None
        self.due = 0.0
        self.fails = False

    def __str__(self) -> str:
        return self.name.host


class _Group:
    """The servers of a backend that have one name. `too_many`: addresses for which there is none."""

    def __init__(self, backend: str, servers: Sequence[Server], slots: Slots) -> None:
        self.backend, self.servers, self.slots = backend, servers, slots
        self.too_many = 0

    def after(self, event: Callable[[Slots], None]) -> Moves:
        """Whom it moves."""
        before = list(self.slots.addresses)
        event(self.slots)
        return [
            (self.backend, server, address)
            for server, address, was in zip(self.servers, self.slots.addresses, before, strict=True)
            if address != was
        ]


def names_of(settings: LbSettings) -> list[Endpoint]:
    """Each once, in the order of the configuration."""
    servers = (server for backend in settings.backends for server in backend.servers)
    return list(dict.fromkeys(server.address for server in servers if server.address.address is None))


def _make_resolver(settings: LbSettings) -> Resolver:
    from scaleup.upstream.names import Resolver  # a tenth of a second, for those who have names

    if settings.source is None:
        return Resolver(settings.resolver, settings.resolve_prefer)
    return Resolver(settings.resolver, "ipv4" if settings.source.version == 4 else "ipv6", only=True)
