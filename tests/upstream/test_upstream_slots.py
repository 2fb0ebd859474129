"""Slots as stories, and against what anybody would ask of them."""

import math

from hypothesis import given
from hypothesis import strategies as st

from scaleup.net.addresses import Endpoint
from scaleup.upstream.slots import Slots

A, B, C, D = (Endpoint(f"10.0.0.{number}", 80) for number in (1, 2, 3, 4))


def slots(count: int, hold_obsolete: float = 0, hold_nx: float = 30) -> Slots:
    return Slots([None] * count, hold_obsolete, hold_nx)


def test_addresses_take_free_slots_in_ascending_order() -> None:
    """Two nodes that hear the same in another order agree; 10.0.0.9 is less than 10.0.0.10."""
    nine, ten, six = Endpoint("10.0.0.9", 80), Endpoint("10.0.0.10", 80), Endpoint("fd00::1", 80)
    one, other = slots(4), slots(4)
    one.found(0, [ten, six, nine])
    other.found(0, [six, nine, ten])
    assert one.addresses == other.addresses == [nine, ten, six, None]


def test_an_address_keeps_its_slot() -> None:
    it = slots(3)
    it.found(0, [A, B, C])
    it.found(1, [C, A])
    assert it.addresses == [A, None, C]
    it.found(2, [D, C, A])
    assert it.addresses == [A, D, C]
    it.found(3, [A, B, C])
    assert it.addresses == [A, B, C]


def test_ports_tell_addresses_apart() -> None:
    """As SRV records have them."""
    it = slots(2)
    it.found(0, [A, Endpoint(A.host, 81)])
    assert it.addresses == [A, Endpoint(A.host, 81)]


def test_more_addresses_than_slots_wait() -> None:
    it = slots(2)
    it.found(0, [A, B, C, D])
    assert (it.addresses, it.waiting) == ([A, B], 2)
    it.found(1, [B, C, D])
    assert (it.addresses, it.waiting) == ([C, B], 1)


def test_an_obsolete_address_is_held_and_a_new_one_waits_for_its_slot() -> None:
    """A name server that says only some of many at a time must not make servers come and go."""
    it = slots(2, hold_obsolete=10)
    it.found(0, [A, B])
    assert it.deadline == math.inf
    it.found(1, [A, C])
    assert (it.addresses, it.waiting, it.deadline) == ([A, B], 1, 11)
    it.found(5, [A, C])
    assert it.deadline == 11, "no more time"
    it.expire(10.9)
    assert it.addresses == [A, B]
    it.expire(it.deadline)
    assert (it.addresses, it.waiting, it.deadline) == ([A, C], 0, math.inf)


def test_an_address_that_is_found_again_stays() -> None:
    it = slots(1, hold_obsolete=10)
    it.found(0, [A])
    it.found(1, [B])
    it.found(10, [A])
    assert it.deadline == math.inf
    it.expire(11)
    assert it.addresses == [A]


def test_a_name_that_is_gone_keeps_its_addresses_for_a_while() -> None:
    it = slots(2, hold_nx=30)
    it.found(0, [A, B])
    it.denied(10)
    it.denied(20)
    assert (it.addresses, it.deadline) == ([A, B], 40)
    it.expire(39.9)
    assert it.addresses == [A, B]
    it.expire(40)
    assert (it.addresses, it.deadline) == ([None, None], math.inf)
    it.denied(50)
    it.found(60, [B])
    assert it.addresses == [B, None]


def test_a_name_that_comes_back_in_time_has_lost_nothing() -> None:
    it = slots(2)
    it.found(0, [A, B])
    it.denied(10)
    it.found(39, [B, A])
    it.expire(1000)
    assert it.addresses == [A, B]


def test_who_leaves_already_gets_no_more_time_when_the_name_goes() -> None:
    it = slots(2, hold_obsolete=5, hold_nx=30)
    it.found(0, [A, B])
    it.found(1, [A])
    it.denied(2)
    it.expire(6)
    assert (it.addresses, it.deadline) == ([A, None], 32)


def test_what_was_there_before_keeps_its_slot() -> None:
    """After a reload."""
    it = Slots([None, B, D], 0, 30)
    it.found(0, [A, B, C])
    assert it.addresses == [A, B, C]


answers = st.sets(st.integers(1, 8), max_size=8)


@given(st.integers(1, 6), st.lists(answers, max_size=12), st.sampled_from([0.0, 1.5]))
def test_what_always_holds(count: int, heard: list[set[int]], hold: float) -> None:
    """An answer a second; without addresses it is a denial, and held for as long."""
    it = slots(count, hold, hold)
    last_heard: dict[Endpoint, int] = {}
    for second, numbers in enumerate(heard):
        endpoints = {Endpoint(f"10.0.0.{number}", 80) for number in numbers}
        it.expire(second)
        before = list(it.addresses)
        if endpoints:
            it.found(second, endpoints)
        else:
            it.denied(second)
        last_heard |= dict.fromkeys(endpoints, second)
        taken = [address for address in it.addresses if address is not None]
        assert len(set(taken)) == len(taken), "no address twice"
        for was, now in zip(before, it.addresses, strict=True):
            assert now == was or was is None or was not in endpoints, "who is found keeps its slot"
        held = hold + 1 if hold else 0  # from the first answer without it
        assert all(second - last_heard[address] <= held for address in taken)
        assert None not in it.addresses or not it.waiting, "nobody waits beside a free slot"
        if not hold:
            assert len(taken) == min(count, len(endpoints))
