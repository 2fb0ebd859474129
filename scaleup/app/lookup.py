"""Rows by their key, for many who ask at once: those of a few turns of the loop share a query.

Most of what a look into the database costs does not depend on how many rows it finds: a connection is taken and
given back, a packet is sent, the answer's head is read. So whoever finds nobody asking begins a query that lets the
loop turn TURNS times, then asks for everybody who came meanwhile, and each gets the answer. The busier the process
is, the more requests come in these turns, and the less each costs; for one alone they are a few microseconds.

Nothing is kept: a query begins after all who share it have asked, so each sees what was stored by then. Nor is it
anybody's own: who is cancelled, because its time is over, does not take the answer from the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from scaleup.processes.tasks import Tasks

A = TypeVar("A")

TURNS = 3
"""A request takes two from its socket to here: its bytes are read in one, and wake its handler in the next. So with
one more this includes all whose bytes had come when the first one asked. More turns find nobody else."""
MOST_KEYS = 64
"""Of a query: it bounds its length, and what it takes to read the answer."""


class Lookup(Generic[A]):
    """`query`: the answer about at most MOST_KEYS different keys."""

    def __init__(self, query: Callable[[Sequence[str]], Awaitable[A]]) -> None:
        self._query = query
        self._joining: dict[str, list[asyncio.Future[A]]] | None = None
        self._queries = Tasks()

    async def ask(self, key: str) -> A:
        """The answer about this key, and perhaps others. Raises what `query` does."""
        mine: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        if self._joining is None:
            self._joining = {}
            self._queries.spawn(self._answer(self._joining), name="look up")
        self._joining.setdefault(key, []).append(mine)
        if len(self._joining) == MOST_KEYS:
            self._joining = None  # who comes next begins anew
        return await mine

    async def _answer(self, joined: dict[str, list[asyncio.Future[A]]]) -> None:
        for _ in range(TURNS - 1):  # it took one to begin
            await asyncio.sleep(0)
        if self._joining is joined:
            self._joining = None
        try:
            answer = await self._query(list(joined))
        except Exception as error:  # noqa: BLE001 - it is that of everybody who asks
            for one in _waiting(joined):
                one.set_exception(error)
        else:
            for one in _waiting(joined):
                one.set_result(answer)


def _waiting(joined: Mapping[str, Sequence[asyncio.Future[A]]]) -> Iterator[asyncio.Future[A]]:
    """Who was not cancelled."""
    return (one for asking in joined.values() for one in asking if not one.done())
