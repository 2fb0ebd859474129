"""No clock here: every check happens at the deadline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.upstream.health import JITTER, Change, Health


def health(*, inter: float = 2.0, rise: int = 2, fall: int = 3, random: float = 0.5) -> Health:
    """0.5: the middle of the first interval, and no jitter."""
    return Health(inter=inter, rise=rise, fall=fall, now=100.0, random=lambda: random)


def passes(subject: Health) -> Change | None:
    return subject.check_passed(subject.deadline, "L7OK")


def fails(subject: Health) -> Change | None:
    return subject.check_failed(subject.deadline, "L4CON")


def test_a_server_starts_up() -> None:
    assert health().up


def test_the_first_failed_check_brings_it_down() -> None:
    subject = health()
    assert fails(subject) == Change(False, "first check failed: L4CON")
    assert not subject.up


def test_the_first_passed_check_is_enough_to_bring_it_up() -> None:
    subject = health()
    fails(subject)
    assert fails(subject) is None
    assert passes(subject) == Change(True, "first check passed: L7OK")
    assert subject.up


def test_the_first_passed_check_of_a_server_that_is_up_changes_nothing() -> None:
    assert passes(health()) is None


def test_fall_failures_bring_a_proven_server_down() -> None:
    subject = health()
    passes(subject)
    assert [fails(subject), fails(subject)] == [None, None]
    assert subject.up
    assert fails(subject) == Change(False, "3 checks failed: L4CON")
    assert not subject.up


def test_rise_passes_bring_a_proven_server_up() -> None:
    subject = health()
    passes(subject)
    for _ in range(3):
        fails(subject)
    assert passes(subject) is None
    assert not subject.up
    assert passes(subject) == Change(True, "2 checks passed: L7OK")
    assert subject.up


def test_one_pass_forgets_the_failures_before_it() -> None:
    subject = health()
    passes(subject)
    for _ in range(10):
        assert [fails(subject), fails(subject), passes(subject)] == [None, None, None]


def test_one_failure_forgets_the_passes_before_it() -> None:
    subject = health(fall=1)
    passes(subject)
    assert fails(subject) == Change(False, "1 check failed: L4CON")
    for _ in range(10):
        assert [passes(subject), fails(subject)] == [None, None]


def test_a_check_that_was_not_made_counts_neither_way() -> None:
    subject = health(fall=2)
    passes(subject)
    fails(subject)
    due = subject.deadline
    subject.check_not_made(due)
    assert subject.up
    assert subject.deadline == due + 2.0
    assert fails(subject) is not None


def test_a_check_that_was_not_made_is_no_first_check() -> None:
    subject = health()
    subject.check_not_made(subject.deadline)
    assert fails(subject) == Change(False, "first check failed: L4CON")


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_transitions_agree_with_looking_at_the_whole_history(
    results: list[bool], rise: int, fall: int
) -> None:
    subject = health(rise=rise, fall=fall)
    up = True
    for n, passed in enumerate(results):
        before, so_far = up, results[: n + 1]
        if not any(results[:n]):  # nothing has passed yet: this one decides
            up = passed
        elif so_far[-rise:] == [True] * rise:
            up = True
        elif so_far[-fall:] == [False] * fall:
            up = False
        change = passes(subject) if passed else fails(subject)
        assert subject.up == up
        assert (change is not None and change.up == up) if up != before else change is None


@pytest.mark.parametrize(("random", "offset"), [(0.0, 0.0), (0.5, 1.0), (0.999, 1.998)])
def test_the_first_check_is_due_within_the_first_interval(random: float, offset: float) -> None:
    assert health(random=random).deadline == pytest.approx(100.0 + offset)


@given(st.floats(0, 1, exclude_max=True))
def test_each_interval_differs_by_at_most_the_jitter(random: float) -> None:
    subject = health(random=random)
    due = subject.deadline
    passes(subject)
    assert abs(subject.deadline - due - 2.0) <= 2.0 * JITTER + 1e-9


@pytest.mark.parametrize(("random", "interval"), [(0.0, 1.8), (0.5, 2.0), (0.75, 2.1)])
def test_the_jitter_goes_both_ways(random: float, interval: float) -> None:
    subject = health(random=random)
    due = subject.deadline
    fails(subject)
    assert subject.deadline - due == pytest.approx(interval)


def test_an_interval_counts_from_when_the_check_was_due() -> None:
    subject = health()
    due = subject.deadline
    subject.check_passed(due + 1.5, "L7OK")
    assert subject.deadline == due + 2.0


def test_missed_intervals_are_not_made_up_for() -> None:
    """The process was paused for a minute: one check now, the next an interval later."""
    subject = health()
    late = subject.deadline + 60.0
    subject.check_passed(late, "L7OK")
    assert subject.deadline == late
    subject.check_passed(late, "L7OK")
    assert subject.deadline == late + 2.0
