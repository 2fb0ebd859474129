"""Who asks in the same few turns of the loop shares a query; nobody gets another's row, or one of the past."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from app_harness import until

from scaleup.app.lookup import MOST_KEYS, Lookup
from scaleup.app.outcomes import DatabaseAwayError

Answer = dict[str, str]


class Database:
    """Answers when it is told to; knows every key but `none`."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.version = 1
        self.error: Exception | None = None

    async def query(self, keys: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(keys))
        version = self.version
        await self.go.wait()
        if self.error:
            raise self.error
        return {key: f"{key}{version}" for key in keys if key != "none"}


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def lookup(database: Database) -> Lookup[Answer]:
    return Lookup(database.query)


async def get(lookup: Lookup[Answer], key: str) -> str | None:
    return (await lookup.ask(key)).get(key)


async def test_one_alone(lookup: Lookup[Answer], database: Database) -> None:
    assert await get(lookup, "a") == "a1"
    assert await get(lookup, "none") is None
    assert database.asked == [["a"], ["none"]]


async def test_each_gets_their_own_by_one_query(lookup: Lookup[Answer], database: Database) -> None:
    keys = ["a", "b", "none", "a", "c"]
    assert await asyncio.gather(*(get(lookup, key) for key in keys)) == ["a1", "b1", None, "a1", "c1"]
    assert database.asked == [["a", "b", "none", "c"]]


async def test_who_asks_a_little_later_still_joins(lookup: Lookup[Answer], database: Database) -> None:
    async with asyncio.TaskGroup() as group:
        for key in "abc":
            group.create_task(get(lookup, key))
            await asyncio.sleep(0)
    assert database.asked == [["a", "b", "c"]]


async def test_nobody_joins_a_query_that_has_begun(lookup: Lookup[Answer], database: Database) -> None:
    """It may not see what was stored since."""
    database.go.clear()
    async with asyncio.TaskGroup() as group:
        early = group.create_task(get(lookup, "a"))
        await until(lambda: len(database.asked) == 1)
        database.version = 2
        late = group.create_task(get(lookup, "a"))
        await until(lambda: len(database.asked) == 2)
        database.go.set()
    assert (early.result(), late.result()) == ("a1", "a2")


async def test_a_query_has_so_many_keys_at_most(lookup: Lookup[Answer], database: Database) -> None:
    keys = [f"k{number}" for number in range(2 * MOST_KEYS + 1)]
    assert await asyncio.gather(*(get(lookup, key) for key in keys)) == [f"{key}1" for key in keys]
    assert [len(asked) for asked in database.asked] == [MOST_KEYS, MOST_KEYS, 1]


async def test_an_error_is_everybodys(lookup: Lookup[Answer], database: Database) -> None:
    database.error = DatabaseAwayError("gone")
    results = await asyncio.gather(*(get(lookup, key) for key in "abb"), return_exceptions=True)
    assert results == [database.error] * 3
    database.error = None
    assert await get(lookup, "a") == "a1"


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("begun", [False, True])
async def test_who_is_cancelled_is_so_alone(
    lookup: Lookup[Answer], database: Database, who: int, begun: bool
) -> None:
    """Who asked first, too."""
    database.go.clear()
    tasks = [asyncio.ensure_future(get(lookup, key)) for key in "abb"]  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    if begun:
        await until(lambda: bool(database.asked))
    tasks[who].cancel()
    database.go.set()
    async with asyncio.timeout(20):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(who), asyncio.CancelledError)
    assert results == (["b1", "b1"] if who == 0 else ["a1", "b1"])
    assert await get(lookup, "c") == "c1"
