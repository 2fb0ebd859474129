"""The timing wheel, against a list that is searched."""

from __future__ import annotations

import math
import random

import pytest

from scaleup.lb.wheel import TICK_SECONDS, Wheel


class Connection:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.slot: int | None = None

    def time_up(self) -> None:
        raise AssertionError("the wheel only says whose time is up")


def test_nothing_is_due_while_nothing_is_set() -> None:
    wheel = Wheel()
    assert (wheel.next, wheel.pop(1e9)) == (math.inf, [])


def test_a_deadline_is_met_within_a_tick_and_once() -> None:
    wheel, connection = Wheel(), Connection()
    wheel.set(connection, 5.003)
    assert 5.003 <= wheel.next <= 5.003 + TICK_SECONDS
    assert wheel.pop(5.003) == []
    assert wheel.pop(wheel.next) == [connection]
    assert (wheel.next, wheel.pop(1e9), connection.slot) == (math.inf, [], None)


@pytest.mark.parametrize("later", [3.0, 7.0])
def test_only_the_last_deadline_counts(later: float) -> None:
    wheel, connection = Wheel(), Connection()
    wheel.set(connection, 5.0)
    wheel.set(connection, later)
    assert wheel.pop(later - TICK_SECONDS) == []
    assert wheel.pop(wheel.next) == [connection]


def test_what_is_removed_is_never_due() -> None:
    wheel, one, other = Wheel(), Connection(), Connection()
    wheel.set(one, 5.0)
    wheel.set(other, 5.0)
    wheel.remove(one)
    wheel.remove(one)
    wheel.set(one, math.inf)
    assert wheel.pop(6.0) == [other]


def test_a_deadline_in_the_past_is_due_at_once() -> None:
    wheel, connection = Wheel(), Connection()
    wheel.pop(100.0)
    wheel.set(connection, 1.0)
    assert wheel.pop(100.0) == [connection]


@pytest.mark.parametrize("seed", range(20))
def test_as_a_list_that_is_searched(seed: int) -> None:
    dice, wheel, now = random.Random(seed), Wheel(), 1000.0
    connections = [Connection(str(number)) for number in range(30)]
    expected: dict[Connection, float] = {}
    for _ in range(2000):
        one = dice.choice(connections)
        match dice.randrange(4):
            case 0 | 1:
                expected[one] = now + dice.choice([0.001, 0.02, 0.5, 60.0]) * dice.random()
                wheel.set(one, expected[one])
            case 2:
                expected.pop(one, None)
                wheel.remove(one)
            case _:
                now += dice.choice([0.0, 0.003, 0.1, 2.0])
                popped = wheel.pop(now)
                assert len(popped) == len(set(popped))
                for due in popped:
                    assert expected.pop(due) <= now
                assert all(when > now - TICK_SECONDS for when in expected.values()), "one was forgotten"
        assert wheel.next <= min(expected.values(), default=math.inf) + TICK_SECONDS * 1.001, (
            "no later than needed"
        )
