"""The waiting room: order, limits, wake-ups within a worker and from another one, and what leaving leaves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from scaleup.lb import waiting
from scaleup.lb.counters import BackendColumn, Counters, Sizes
from scaleup.lb.waiting import Ticket, WaitingRoom, Wakers

PATIENCE_SECONDS = 20.0


class Hall:
    """Slots that several workers share, and a waiting room for each worker."""

    def __init__(self, rows: int = 1, limit: int = 10, timeout: float = PATIENCE_SECONDS) -> None:
        self.slots = 0
        self.asked: list[str] = []
        self.served: list[str] = []
        self.gave_up: list[str] = []
        self.counters = Counters.create(rows, Sizes(1, 1, 1))
        wakers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(rows)]
        self.wakers = [
            Wakers([os.dup(waker) for waker in wakers], row, partial(self.woken, row)) for row in range(rows)
        ]
        everywhere = self.counters.rows_of(BackendColumn.WAITING, 0)
        self.rooms = [WaitingRoom(everywhere, self.wakers[row], limit, timeout) for row in range(rows)]
        for waker in wakers:
            os.close(waker)

    def woken(self, row: int) -> None:
        self.rooms[row].wake()

    def enter(self, name: str, row: int = 0) -> Ticket | None:
        """Wait for a slot, and keep it."""

        def take() -> bool:
            self.asked.append(name)
            if not self.slots:
                return False
            self.slots -= 1
            self.served.append(name)
            return True

        return self.rooms[row].enter(take, lambda: self.gave_up.append(name))

    def free(self, row: int = 0) -> None:
        """A session of that worker ends."""
        self.slots += 1
        self.rooms[row].slot_freed()

    def waiting(self, row: int = 0) -> int:
        return self.counters.rows_of(BackendColumn.WAITING, 0)[row]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not done():  # noqa: ASYNC110 - in the loop's next rounds
                await asyncio.sleep(0)

    async def until_served(self, count: int) -> None:
        await self.until(lambda: len(self.served) >= count)

    def close(self) -> None:
        for room in self.rooms:
            room.close()
        for wakers in self.wakers:
            wakers.close()
        assert [self.waiting(row) for row in range(len(self.rooms))] == [0] * len(self.rooms)
        self.counters.close()


@pytest.fixture
async def halls(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Where nobody looks again by himself, unless a test says so."""
    monkeypatch.setattr(waiting, "RECHECK_SECONDS", 3600.0)
    made: list[Hall] = []

    def make(*args: Any, **kwargs: Any) -> Hall:
        made.append(Hall(*args, **kwargs))
        return made[-1]

    yield make
    for hall in made:
        hall.close()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nothing_is_called_from_within(halls: Any) -> None:
    hall = halls()
    hall.slots = 1
    hall.enter("a")
    assert hall.asked == []
    assert not hall.rooms[0].empty
    await hall.until_served(1)
    assert hall.rooms[0].empty


async def test_first_come_first_served(halls: Any) -> None:
    hall = halls()
    for name in "abc":
        hall.enter(name)
    assert hall.waiting() == 3
    for count in (1, 2, 3):
        hall.free()
        await hall.until_served(count)
        assert hall.waiting() == 3 - count
    assert hall.served == ["a", "b", "c"]


async def test_nobody_who_comes_later_takes_a_slot_from_another_worker_s_queue(halls: Any) -> None:
    hall = halls(rows=2)
    hall.enter("waits", row=0)
    await settled()
    assert not hall.rooms[1].empty, "who comes there waits, too"
    hall.slots += 1  # and before the first one hears of it,
    hall.enter("comes later", row=1)
    await settled()
    assert hall.served == []
    hall.rooms[1].slot_freed()
    await hall.until_served(1)
    assert hall.served == ["waits"]


async def test_who_has_nobody_left_to_serve_passes_the_news_on(halls: Any) -> None:
    hall = halls(rows=2)
    hall.enter("a", row=0)
    await settled()
    hall.enter("b", row=1)
    await settled()
    hall.slots += 1
    hall.free(row=1)  # a ring for two
    await hall.until_served(2)
    assert hall.served == ["a", "b"]


async def test_one_wake_up_is_enough_for_many_slots(halls: Any) -> None:
    """As when a server comes up: nobody has left, and there is room for all."""
    hall = halls()
    for name in "abcde":
        hall.enter(name)
    hall.slots = 4
    hall.rooms[0].wake()
    assert hall.served == list("abcd")
    hall.free()
    await hall.until_served(5)


async def test_a_full_queue_turns_away_at_once(halls: Any) -> None:
    hall = halls(limit=2)
    assert hall.enter("a")
    assert hall.enter("b")
    assert hall.enter("c") is None
    assert hall.waiting() == 2
    hall.slots = 2
    hall.rooms[0].wake()
    assert hall.served == ["a", "b"]


async def test_without_a_queue_nobody_waits(halls: Any) -> None:
    assert halls(limit=0).enter("a") is None


async def test_who_waited_long_enough_leaves_and_the_next_is_asked(halls: Any) -> None:
    hall = halls(timeout=0.02)
    hall.enter("a")
    hall.rooms[0]._timeout = PATIENCE_SECONDS
    hall.enter("b")
    await hall.until(lambda: hall.gave_up == ["a"])
    assert hall.asked[-1] == "b"
    assert hall.waiting() == 1
    hall.free()
    await hall.until_served(1)
    assert hall.served == ["b"]


async def test_who_leaves_lets_the_next_have_the_slot_it_was_called_for(halls: Any) -> None:
    hall = halls()
    first = hall.enter("a")
    hall.enter("b")
    await settled()
    hall.free()  # the call is on its way
    hall.rooms[0].leave(first)
    assert hall.served == [], "not from within"
    await hall.until_served(1)
    assert hall.served == ["b"]
    hall.rooms[0].leave(first)
    assert hall.waiting() == 0
    assert hall.gave_up == []


async def test_who_gives_a_slot_back_at_once_does_not_call_himself(halls: Any) -> None:
    """As a dial that fails at once: it frees the slot while it is being asked."""
    hall = halls()
    asked = 0

    def take() -> bool:
        nonlocal asked
        asked += 1
        hall.rooms[0].wake()
        return True

    hall.rooms[0].enter(take, lambda: None)
    hall.enter("b")
    hall.slots = 1
    await hall.until_served(1)
    assert asked == 1


async def test_a_slot_that_another_worker_frees_wakes_this_one(halls: Any) -> None:
    hall = halls(rows=2)
    hall.enter("a", row=1)
    await settled()
    hall.free(row=0)
    await hall.until_served(1)


async def test_workers_that_wait_are_woken_in_turn(halls: Any) -> None:
    """Else a worker whose own sessions end never would let the others' clients have a slot."""
    hall = halls(rows=3)
    for _ in range(2):
        for row in range(3):
            hall.enter(f"{row}", row=row)
    await settled()
    for count in range(1, 7):
        hall.free(row=0)
        await hall.until_served(count)
        await settled()  # the next of that queue has asked, in vain
    assert hall.served[:3] == ["1", "2", "0"]
    assert sorted(hall.served[3:]) == ["0", "1", "2"]


async def test_nobody_is_woken_where_nobody_waits(halls: Any) -> None:
    hall = halls(rows=2)
    hall.free(row=0)
    for row in range(2):
        with pytest.raises(BlockingIOError):
            os.eventfd_read(hall.wakers[row]._descriptors[row])


async def test_a_slot_freed_before_the_first_question_is_not_missed(halls: Any) -> None:
    """The counters say that somebody waits before he asks: who frees a slot then, sees him."""
    hall = halls(rows=2)
    answers = iter([False, False, True])
    served = asyncio.Event()

    def take() -> bool:
        answer = next(answers)
        if answer:
            served.set()
        elif hall.waiting(1):
            hall.rooms[0].slot_freed()  # in the other worker, at the worst moment
        return answer

    hall.rooms[1].enter(take, lambda: None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await served.wait()


async def test_a_wake_up_that_was_lost_is_made_up_for(halls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RECHECK_SECONDS", 0.01)
    hall = halls()
    hall.enter("a")
    hall.enter("b")
    for count in (1, 2):
        await settled()
        hall.slots = 1  # and nobody says so
        await hall.until_served(count)
    assert hall.rooms[0].empty
    await hall.until(lambda: hall.rooms[0]._recheck is None)


async def test_only_the_first_asks(halls: Any) -> None:
    hall = halls()
    for name in "abc":
        hall.enter(name)
    await settled()
    assert set(hall.asked) == {"a"}
    hall.slots = 3
    hall.rooms[0].wake()
    assert hall.served == list("abc")
