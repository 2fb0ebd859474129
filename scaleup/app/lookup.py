"""Rows by their key, for many who ask at once: those of a few turns of the loop share a query.

Most of what a look into the database costs does not depend on how many rows it finds: a connection is taken and
given back, a packet is sent, the answer's head is read. So who asks first lets the loop turn TURNS times, then asks
for everybody who came meanwhile, and each gets the answer. The busier the process is, the more requests come in
these turns, and the less each costs; for one that is alone they are a few microseconds.

Nothing is kept: a query begins after all who share it have asked, so each sees what was stored by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from scaleup.app.outcomes import DatabaseAwayError

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

    async def ask(self, key: str) -> A:
        """The answer about this key, and perhaps others. Raises what `query` does."""
        if self._joining is None:
            return await self._lead(key)
        mine: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._joining.setdefault(key, []).append(mine)
        if len(self._joining) == MOST_KEYS:
            self._joining = None  # who comes next begins anew
        return await mine

    async def _lead(self, key: str) -> A:
        joined = self._joining = {key: []}
        try:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if self._joining is joined:
                self._joining = None
            answer = await self._query(list(joined))
        except BaseException as error:
            if self._joining is joined:
                self._joining = None
            # Who is cancelled is so alone: for the others it is the database that did not answer.
            reason = error if isinstance(error, Exception) else DatabaseAwayError("the query was given up")
            for one in _still_waiting(joined.values()):
                one.set_exception(reason)
            raise
        for one in _still_waiting(joined.values()):
            one.set_result(answer)
        return answer


def _still_waiting(askers: Iterable[Iterable[asyncio.Future[A]]]) -> Iterator[asyncio.Future[A]]:
    """Those whose requests were not cancelled."""
    return (one for waiting in askers for one in waiting if not one.done())
