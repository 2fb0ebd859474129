"""Rates and maxima, sampled at times that the test says; a slow and certain way to count is the oracle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scaleup.lb.trend import RATE_SECONDS, Trend


def test_a_rate_is_of_the_last_second() -> None:
    trend = Trend()
    for step in range(21):  # 10 a second, for 2 s
        trend.see(step / 10, step, 0)
    assert trend.rate == 10
    trend.see(3.0, 20, 0)
    assert (trend.rate, trend.max_rate) == (0, 10)


def test_a_burst_before_a_second_is_over_is_no_higher_rate() -> None:
    trend = Trend()
    trend.see(0.0, 0, 0)
    trend.see(0.2, 50, 0)
    assert trend.rate == 50, "50 within a second, not 250 in one"


def test_the_most_at_a_time() -> None:
    trend = Trend()
    for current, waiting in ((3, 0), (7, 2), (1, 9), (0, 0)):
        trend.see(0.0, 0, current, waiting)
    assert (trend.max_sessions, trend.max_queue) == (7, 9)
    trend.clear()
    assert (trend.max_sessions, trend.max_queue, trend.max_rate) == (0, 0, 0)


def test_when_the_newest_session_began() -> None:
    trend = Trend()
    trend.see(1.0, 5, 0)
    assert trend.began is None, "they may be old"
    trend.see(2.0, 6, 0)
    trend.see(9.0, 6, 0)
    assert trend.began == 2.0


def test_cleared_counters_make_no_negative_rate() -> None:
    trend = Trend()
    trend.see(0.0, 100, 0)
    trend.see(0.5, 3, 0)
    assert trend.rate == 0
    trend.see(1.5, 5, 0)
    assert trend.rate == 2


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.integers(0, 50)), max_size=40))
def test_against_looking_at_all_samples(steps: list[tuple[float, int]]) -> None:
    trend, samples, now, total = Trend(), [(0.0, 0)], 0.0, 0
    trend.see(now, total, 0)
    for after, more in steps:
        now, total = now + after, total + more
        samples.append((now, total))
        trend.see(now, total, 0)
        since, before = next(
            it for it in reversed(samples) if it[0] <= now - RATE_SECONDS or it is samples[0]
        )
        assert trend.rate == round((total - before) / max(now - since, RATE_SECONDS))
    assert len(trend._samples) <= len([it for it in samples if it[0] > now - RATE_SECONDS]) + 1, "it forgets"
