"""No clock here: every check happens at the deadline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.upstream.health import JITTER, Change, Health, OnError


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


class TestHowOften:
    """inter 2, fastinter 0.5, downinter 10, no jitter."""

    def intervals(self, results: str) -> list[float]:
        """Of each result (p: passed, f: failed) how long the next check waits."""
        subject = Health(
            inter=2.0, fastinter=0.5, downinter=10.0, rise=2, fall=3, now=100.0, random=lambda: 0.5
        )
        waits = []
        for result in results:
            due = subject.deadline
            passes(subject) if result == "p" else fails(subject)
            waits.append(subject.deadline - due)
        return waits

    def test_inter_while_it_is_up_for_sure(self) -> None:
        assert self.intervals("ppp") == [2.0, 2.0, 2.0]

    def test_fastinter_while_failures_are_counted(self) -> None:
        assert self.intervals("pffp") == [2.0, 0.5, 0.5, 2.0]

    def test_downinter_while_it_is_down_for_sure(self) -> None:
        assert self.intervals("pffff") == [2.0, 0.5, 0.5, 10.0, 10.0]

    def test_fastinter_while_passes_are_counted(self) -> None:
        assert self.intervals("pfffpp") == [2.0, 0.5, 0.5, 10.0, 0.5, 2.0]

    def test_the_first_result_is_sure(self) -> None:
        assert self.intervals("ff") == [10.0, 10.0]


class TestObservation:
    """Three failed connections in a row; the next check would be due in 2 s."""

    def observed(self, on_error: OnError, *, fall: int = 3, error_limit: int = 3) -> Health:
        subject = Health(
            inter=2.0,
            fastinter=0.5,
            rise=2,
            fall=fall,
            now=100.0,
            random=lambda: 0.5,
            error_limit=error_limit,
            on_error=on_error,
        )
        passes(subject)
        assert subject.deadline == 103.0
        return subject

    def connections_fail(self, subject: Health, count: int = 3) -> Change | None:
        *before, last = [subject.connection_failed(101.5, "L4CON") for _ in range(count)]
        assert before == [None] * (count - 1)
        return last

    def test_fastinter_brings_the_next_check_forward(self) -> None:
        subject = self.observed("fastinter", fall=1)
        assert self.connections_fail(subject) is None
        assert subject.deadline == 102.0
        assert subject.up

    def test_a_check_that_is_due_sooner_stays(self) -> None:
        subject = self.observed("fastinter")
        for _ in range(3):
            subject.connection_failed(102.9, "L4CON")
        assert subject.deadline == 103.0

    def test_fail_check_counts_as_one_failed_check(self) -> None:
        subject = self.observed("fail-check")
        assert self.connections_fail(subject) is None
        assert subject.deadline == 102.0
        assert fails(subject) is None
        assert fails(subject) == Change(False, "3 checks failed: L4CON")

    def test_fail_check_can_be_the_last_one_that_was_missing(self) -> None:
        subject = self.observed("fail-check", fall=1)
        assert self.connections_fail(subject) == Change(False, "1 check failed: 3 connections failed: L4CON")

    def test_sudden_death_leaves_one_check(self) -> None:
        subject = self.observed("sudden-death")
        assert self.connections_fail(subject) is None
        assert subject.up
        assert fails(subject) == Change(False, "3 checks failed: L4CON")

    def test_sudden_death_is_undone_by_a_passed_check(self) -> None:
        subject = self.observed("sudden-death")
        self.connections_fail(subject)
        passes(subject)
        assert [fails(subject), fails(subject)] == [None, None]

    def test_mark_down_brings_it_down(self) -> None:
        subject = self.observed("mark-down")
        assert self.connections_fail(subject) == Change(False, "3 connections failed: L4CON")
        assert subject.deadline == 102.0
        assert [passes(subject), passes(subject)] == [None, Change(True, "2 checks passed: L7OK")]

    def test_one_connection_that_succeeds_forgets_the_failures_before_it(self) -> None:
        subject = self.observed("mark-down")
        for _ in range(10):
            self.connections_fail(subject, 2)
            subject.connection_made()
        assert subject.up

    def test_they_begin_to_count_again_after_a_consequence(self) -> None:
        subject = self.observed("fail-check", fall=2)
        self.connections_fail(subject)
        assert self.connections_fail(subject) is not None

    def test_of_a_server_that_is_down_nothing_is_observed(self) -> None:
        subject = self.observed("fail-check", fall=1)
        self.connections_fail(subject)
        passes(subject)
        due = subject.deadline
        assert self.connections_fail(subject, 10) is None
        assert subject.deadline == due
        assert passes(subject) == Change(True, "2 checks passed: L7OK")

    def test_with_no_limit_nothing_is_observed(self) -> None:
        subject = self.observed("mark-down", error_limit=0)
        assert self.connections_fail(subject, 100) is None
        assert (subject.up, subject.deadline) == (True, 103.0)


def test_the_level_is_counted_as_haproxy_does() -> None:
    """From 0 to rise + fall - 1, up from rise on: UP 1/3 at first, UP 3/3 once it has passed, …"""
    subject = health(rise=2, fall=3)
    assert subject.level == 2
    passes(subject)
    levels = [subject.level]
    for _ in range(3):
        fails(subject)
        levels.append(subject.level)
    passes(subject)
    levels.append(subject.level)
    passes(subject)
    assert [*levels, subject.level] == [4, 3, 2, 0, 1, 4]


def test_the_next_failed_check_of_one_that_just_started_brings_it_down_so_its_level_is_low() -> None:
    subject = health(rise=1, fall=5)
    assert subject.level == 1
    fails(subject)
    assert (subject.up, subject.level) == (False, 0)
