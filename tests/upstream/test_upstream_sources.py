"""Limits for each source, against an oracle that remembers every connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.upstream import sources
from scaleup.upstream.sources import Sources, source_of

PERIOD = 8.0
NOBODY = b"nobody"


class Dumb:
    """Remembers who came when, and who is there."""

    def __init__(self, maxconn: int, rate: int) -> None:
        self.maxconn, self.rate = maxconn, rate
        self.came: list[tuple[bytes, float]] = []
        self.there: list[bytes] = []

    def enter(self, source: bytes, now: float) -> bool:
        self.came.append((source, now))
        begin = now // PERIOD * PERIOD
        mine = [when for who, when in self.came if who == source]
        present = sum(when >= begin for when in mine)
        before = sum(begin - PERIOD <= when < begin for when in mine)
        if self.rate and present + before * (1 - (now - begin) / PERIOD) > self.rate:
            return False
        if self.maxconn and self.there.count(source) >= self.maxconn:
            return False
        self.there.append(source)
        return True


# Quarters, so that the oracle's arithmetic is exact, too.
steps = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 40).map(lambda it: it / 4), st.booleans())
)


@given(st.integers(0, 3), st.integers(0, 5), steps)
def test_as_the_oracle(maxconn: int, rate: int, steps: list[tuple[bytes, float, bool]]) -> None:
    ours, dumb, now = Sources(maxconn, rate, PERIOD), Dumb(maxconn, rate), 0.0
    for source, wait, leaves in steps:
        if leaves and source in dumb.there:
            dumb.there.remove(source)
            ours.leave(source)
        now += wait
        assert (ours.enter(source, now) == "") is dumb.enter(source, now)
    assert sorted(ours._current.elements()) == sorted(dumb.there)


def test_what_is_remembered_is_bounded_and_nobody_is_washed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_SOURCES", 10)
    ours = Sources(0, 2, PERIOD)
    refused = [bool(ours.enter(b"bad", 0.0)) for _ in range(3)]
    assert refused == [False, False, True]
    for number in range(1000):
        assert not ours.enter(number.to_bytes(4), 1.0)
    assert ours.enter(b"bad", 2.0)
    assert len(ours._now) == 10
    assert ours.enter(b"bad", PERIOD + 0.5), "and goes on into the next period"
    assert not ours.enter(b"bad", 3 * PERIOD)
    assert not ours._before


def test_who_is_one_source() -> None:
    assert source_of("192.0.2.7") == source_of("::ffff:192.0.2.7") != source_of("192.0.2.8")
    assert source_of("2001:db8:1:2::1") == source_of("2001:db8:1:2:ffff::9") != source_of("2001:db8:1:3::1")


# ----- with sockets ---------------------------------------------------------------------------------------
