from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from scaleup.db.locks import Locks


def test_waiting_has_an_end() -> None:
    locks, one, two = Locks(), object(), object()
    assert locks.acquire("a", one, 0)
    begun = time.monotonic()
    assert not locks.acquire("a", two, 0.05)
    assert 0.04 < time.monotonic() - begun < 5


def test_an_interrupted_owner_waits_no_more_and_gets_nothing() -> None:
    locks, one, two = Locks(), object(), object()
    locks.acquire("a", one, 0)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(locks.acquire, "a", two, 60)
        locks.interrupt(two)
        assert not waiting.result()
    assert not locks.acquire("b", two, 0)


def test_who_is_forgotten_holds_nothing() -> None:
    locks, one, two = Locks(), object(), object()
    locks.acquire("a", one, 0)
    locks.acquire("a", one, 0)
    locks.interrupt(one)
    locks.forget(one)
    assert locks.release("a", one) is None
    assert locks.acquire("a", two, 0)
    assert locks.release("a", one) is False
