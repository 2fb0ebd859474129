"""The store, the same on every engine."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from database_servers import DatabaseServer

from scaleup.app.idempotency import KEPT, Key, KeyReusedError
from scaleup.app.links import Link
from scaleup.app.pool import Pool
from scaleup.app.store import CodeTakenError, Store

URL = "https://example.org/?q='%s'\\"[:-1]
NOW = datetime(2026, 1, 31, 12, 0, 0, 123456)


async def test_what_is_added_is_there(store: Store) -> None:
    added = await store.add("abc", URL, NOW)
    assert added == Link("abc", URL, 0, NOW)
    assert await store.get("abc") == added


async def test_a_time_without_microseconds_comes_back(store: Store) -> None:
    whole = NOW.replace(microsecond=0)
    assert await store.add("abc", URL, whole) == await store.get("abc")


async def test_a_code_is_given_once(store: Store) -> None:
    await store.add("abc", URL, NOW)
    with pytest.raises(CodeTakenError):
        await store.add("abc", "https://other.example/", NOW)
    link = await store.get("abc")
    assert link is not None
    assert link.url == URL


async def test_upper_and_lower_case_are_two_codes(store: Store) -> None:
    await store.add("abc", URL, NOW)
    await store.add("ABC", "https://other.example/", NOW)
    assert await store.url("abc") == URL
    assert await store.url("ABC") == "https://other.example/"
    assert await store.get("Abc") is None


async def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    added = [await store.add(f"c{number}", URL, NOW) for number in range(5)]
    pages = await store.page(10)
    assert [link for _, link in pages] == added[::-1]
    assert await store.page(2) == pages[:2]
    assert await store.page(2, after=pages[1][0]) == pages[2:4]
    assert await store.page(2, after=pages[3][0]) == pages[4:]
    assert await store.page(2, after=pages[4][0]) == []


async def test_a_page_does_not_shift_when_links_come_and_go(store: Store) -> None:
    for number in range(4):
        await store.add(f"c{number}", URL, NOW)
    pages = await store.page(10)
    await store.add("new", URL, NOW)
    await store.delete("c2")  # the one that the first page ended with
    assert await store.page(2, after=pages[1][0]) == pages[2:]


async def test_deleting(store: Store) -> None:
    await store.add("abc", URL, NOW)
    assert await store.delete("abc")
    assert not await store.delete("abc")
    assert await store.get("abc") is None
    again = await store.add("abc", URL, NOW)
    assert await store.get("abc") == again


async def test_clicks_are_added_each(store: Store) -> None:
    await store.add("abc", URL, NOW)
    await store.add("other", URL, NOW)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(store.count_clicks({"abc": 2, "gone": 1}))
    link = await store.get("abc")
    assert link is not None
    assert link.clicks == 40
    other = await store.get("other")
    assert other is not None
    assert other.clicks == 0
    assert await store.url("nosuch") is None


KEY = Key("k1", "fingerprint")


async def test_a_key_is_answered_as_the_first_time_and_done_once(store: Store) -> None:
    assert await store.add_once(KEY, "first", "abc", URL, NOW) == "first"
    assert await store.add_once(KEY, "second", "def", URL, NOW) == "first"
    assert [link.code for _, link in await store.page(10)] == ["abc"]
    assert await store.delete("abc")
    assert await store.add_once(KEY, "third", "abc", URL, NOW) == "first"  # what happened since is no matter


async def test_one_key_many_times_at_once_is_done_once(store: Store) -> None:
    answers = await asyncio.gather(
        *(store.add_once(KEY, f"{number}", f"c{number}", URL, NOW) for number in range(8))
    )
    ((_, link),) = await store.page(10)
    assert set(answers) == {link.code.removeprefix("c")}


async def test_a_key_with_another_request_is_a_mistake(store: Store) -> None:
    await store.add_once(KEY, "first", "abc", URL, NOW)
    with pytest.raises(KeyReusedError):
        await store.add_once(Key("k1", "other"), "second", "def", URL, NOW)
    assert await store.get("def") is None


async def test_a_key_whose_link_cannot_be_stored_is_not_kept(store: Store) -> None:
    await store.add("abc", URL, NOW)
    with pytest.raises(CodeTakenError):
        await store.add_once(KEY, "first", "abc", URL, NOW)
    assert await store.add_once(KEY, "second", "def", URL, NOW) == "second"


async def test_old_keys_are_forgotten_by_the_databases_clock(store: Store, database: DatabaseServer) -> None:
    assert await store.forget_keys(KEPT) == 0
    for number in range(3):
        by_our_clock = NOW + number * 2 * KEPT
        await store.add_once(Key(f"k{number}", "f"), "first", f"c{number}", URL, by_our_clock)
    assert await store.forget_keys(KEPT) == 0
    database.execute(f"UPDATE idempotency_keys SET created = '{NOW}' WHERE idempotency_key IN ('k0', 'k1')")
    assert await store.forget_keys(KEPT) == 2
    assert await store.forget_keys(KEPT) == 0
    assert await store.add_once(Key("k2", "f"), "again", "new", URL, NOW) == "first"
    assert await store.add_once(Key("k0", "f"), "again", "new", URL, NOW) == "again"


async def test_who_answers(store: Store, database: DatabaseServer) -> None:
    server = await store.who()
    assert server.engine == database.engine
    assert server.engine in server.version.lower()
    assert server.connection > 0


async def test_concurrent_writers_of_one_code(store: Store) -> None:
    async def add(number: int) -> bool:
        try:
            await store.add("abc", f"https://example.org/{number}", NOW)
        except CodeTakenError:
            return False
        return True

    assert sum(await asyncio.gather(*(add(number) for number in range(10)))) == 1


async def test_the_longest_link(store: Store) -> None:
    url = "https://example.org/".ljust(2048, "x")
    await store.add("x" * 32, url, NOW)
    assert await store.url("x" * 32) == url


async def test_the_pool_has_everything_back(store: Store, pool: Pool) -> None:
    await store.add("abc", URL, NOW)
    assert pool.in_use == 0
