"""The waiting room: order, limits, wake-ups within a worker and from another one, and what cancelling leaves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scaleup.lb import waiting
from scaleup.lb.counters import Counters, Frontend
from scaleup.lb.waiting import WaitingRoom

PATIENCE_SECONDS = 5.0


class Hall:
    """Slots that several workers share, and a waiting room for each worker."""

    def __init__(self, rows: int = 1, limit: int = 10, timeout: float = PATIENCE_SECONDS) -> None:
        self.slots = 0
        self.asked: list[str] = []
        self.counters = Counters.create(rows, 1)
        wakers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(rows)]
        self.rooms = [
            WaitingRoom(self.counters, row, [os.dup(waker) for waker in wakers], limit, timeout)
            for row in range(rows)
        ]
        for waker in wakers:
            os.close(waker)
        self.served: list[str] = []

    async def enter(self, name: str, row: int = 0) -> str | None:
        """Wait for a slot and keep it."""

        def ask() -> str | None:
            self.asked.append(name)
            if not self.slots:
                return None
            self.slots -= 1
            return name

        answer = await self.rooms[row].slot(ask)
        if answer is not None:
            self.served.append(answer)
        return answer

    def leave(self, row: int = 0) -> None:
        """A session of that worker ends."""
        self.slots += 1
        self.rooms[row].slot_freed()

    def waiting(self, row: int = 0) -> int:
        return self.counters.get(row, Frontend.WAITING)

    def close(self) -> None:
        for room in self.rooms:
            room.close()
        self.counters.close()


@pytest.fixture
async def halls() -> AsyncIterator[Any]:
    made: list[Hall] = []

    def make(*args: Any, **kwargs: Any) -> Hall:
        made.append(Hall(*args, **kwargs))
        return made[-1]

    yield make
    for hall in made:
        hall.close()


async def queued(hall: Hall, count: int, row: int = 0) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while hall.waiting(row) < count:  # noqa: ASYNC110 - in another task, in the next round
            await asyncio.sleep(0)


async def until_served(hall: Hall, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(hall.served) < count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_free_slot_is_had_at_once(halls: Any) -> None:
    hall = halls()
    hall.slots = 1
    assert await hall.enter("a") == "a"
    assert hall.waiting() == 0


async def test_first_come_first_served(halls: Any) -> None:
    hall = halls()
    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate("abc"):
            tasks.create_task(hall.enter(name))
            await queued(hall, number + 1)
        for left in (2, 1, 0):
            hall.leave()
            while hall.waiting() > left:  # noqa: ASYNC110
                await asyncio.sleep(0)
    assert hall.served == ["a", "b", "c"]


async def test_who_comes_later_does_not_overtake(halls: Any) -> None:
    hall = halls()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hall.enter("first"))
        await queued(hall, 1)
        hall.leave()  # the first is called, and has not moved yet
        tasks.create_task(hall.enter("second"))
        await until_served(hall, 1)
        assert hall.served == ["first"]
        hall.leave()
    assert hall.served == ["first", "second"]


async def test_one_wake_up_is_enough_for_many_slots(halls: Any) -> None:
    """As when a server comes up: nobody has left, and there is room for all."""
    hall = halls()
    async with asyncio.TaskGroup() as tasks:
        for name in "abcde":
            tasks.create_task(hall.enter(name))
        await queued(hall, 5)
        hall.slots = 4
        hall.rooms[0].wake()
        await until_served(hall, 4)
        hall.leave()
    assert hall.served == list("abcde")


async def test_a_full_queue_turns_away_at_once(halls: Any) -> None:
    hall = halls(limit=2)
    async with asyncio.TaskGroup() as tasks:
        for name in "ab":
            tasks.create_task(hall.enter(name))
        await queued(hall, 2)
        assert await hall.enter("c") is None
        assert hall.waiting() == 2
        hall.slots = 2
        hall.rooms[0].wake()
    assert hall.served == ["a", "b"]


async def test_without_a_queue_nobody_waits(halls: Any) -> None:
    hall = halls(limit=0)
    assert await hall.enter("a") is None
    hall.slots = 1
    assert await hall.enter("b") == "b"


async def test_who_waited_long_enough_leaves_and_the_next_is_asked(halls: Any) -> None:
    hall = halls(timeout=0.02)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(hall.enter("a"))
        await queued(hall, 1)
        hall.rooms[0]._timeout = PATIENCE_SECONDS
        second = tasks.create_task(hall.enter("b"))
        assert await first is None
        hall.leave()
    assert second.result() == "b"
    assert hall.waiting() == 0


async def test_who_is_cancelled_while_being_called_leaves_the_slot_to_the_next(halls: Any) -> None:
    hall = halls()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(hall.enter("a"))
        await queued(hall, 1)
        tasks.create_task(hall.enter("b"))
        await queued(hall, 2)
        hall.slots = 1
        hall.rooms[0].wake()
        first.cancel()
    assert first.cancelled()
    assert hall.served == ["b"]
    assert hall.waiting() == 0


async def test_a_slot_that_another_worker_frees_wakes_this_one(
    halls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "RECHECK_SECONDS", 3600.0)
    hall = halls(rows=2)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hall.enter("a", row=1))
        await queued(hall, 1, row=1)
        hall.leave(row=0)
    assert hall.served == ["a"]


async def test_workers_that_wait_are_woken_in_turn(halls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker whose own sessions end never would let the others' clients have a slot."""
    monkeypatch.setattr(waiting, "RECHECK_SECONDS", 3600.0)
    hall = halls(rows=3)
    async with asyncio.TaskGroup() as tasks:
        for number in range(2):
            for row in range(3):
                tasks.create_task(hall.enter(f"{row}", row=row))
                await queued(hall, number + 1, row)
        for count in range(1, 7):
            hall.leave(row=0)
            await until_served(hall, count)
            await settled()  # the next of that queue has asked, in vain
    assert hall.served[:3] == ["1", "2", "0"]
    assert sorted(hall.served[3:]) == ["0", "1", "2"]


async def test_nobody_is_woken_where_nobody_waits(halls: Any) -> None:
    hall = halls(rows=2)
    hall.leave(row=0)
    for room, row in zip(hall.rooms, range(2), strict=True):
        with pytest.raises(BlockingIOError):
            os.eventfd_read(room._wakers[row])


async def test_a_slot_freed_between_the_question_and_the_sleep_is_not_missed(
    halls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counters say that somebody waits before he asks: who frees a slot then, sees him."""
    monkeypatch.setattr(waiting, "RECHECK_SECONDS", 3600.0)
    hall = halls(rows=2)
    answers = iter([None, None, "slot"])

    def ask() -> str | None:
        answer = next(answers)
        if answer is None and hall.waiting(1):
            hall.rooms[0].slot_freed()  # in the other worker, at the worst moment
        return answer

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await hall.rooms[1].slot(ask) == "slot"


async def test_a_wake_up_that_was_lost_is_made_up_for(halls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RECHECK_SECONDS", 0.01)
    hall = halls()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hall.enter("a"))
        await queued(hall, 1)
        hall.slots = 1  # and nobody says so
    assert hall.served == ["a"]


async def test_only_the_first_asks(halls: Any) -> None:
    hall = halls()
    async with asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(hall.enter(name))
        await queued(hall, 3)
        hall.asked.clear()
        hall.rooms[0].wake()
        while not hall.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert hall.asked == ["a"]
        hall.slots = 3
        hall.rooms[0].wake()
    assert hall.served == list("abc")
