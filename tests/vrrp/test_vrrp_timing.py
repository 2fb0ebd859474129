"""The timer, the histogram of its lateness, the schedule of announcements, and the doubt about a clock."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from itertools import pairwise

import pytest
from elections import until
from hypothesis import given
from hypothesis import strategies as st

from scaleup.vrrp.announce import LINGER_SECONDS, Habits, Schedule
from scaleup.vrrp.clock import FUTURE_PACKETS, ClockWatch
from scaleup.vrrp.lateness import BOUNDS_SECONDS, Lateness
from scaleup.vrrp.timer import Timer

# ----- timer -----------------------------------------------------------------------------------------------


async def test_a_timer_never_fires_early_and_fires_once() -> None:
    loop = asyncio.get_running_loop()
    fired: list[float] = []
    timer = Timer(lambda: fired.append(loop.time()))
    try:
        for number in range(1, 21):
            deadline = loop.time() + 0.0013
            timer.arm(deadline)
            await until(lambda: len(fired) >= number)  # noqa: B023 - it ends before the next number
            assert fired[-1] >= deadline
        await asyncio.sleep(0.01)
        assert len(fired) == 20
    finally:
        timer.close()
        timer.close()


async def test_a_deadline_that_has_passed_is_due_at_once_and_a_disarmed_one_never() -> None:
    fired: list[int] = []
    timer = Timer(lambda: fired.append(1))
    try:
        timer.arm(0.0)
        await until(lambda: fired == [1])
        timer.arm(asyncio.get_running_loop().time() + 0.005)
        timer.arm(None)
        await asyncio.sleep(0.02)
        assert fired == [1]
    finally:
        timer.close()


async def test_one_that_is_armed_anew_when_it_was_due_waits_for_the_new_deadline() -> None:
    loop = asyncio.get_running_loop()
    fired: list[float] = []
    timer = Timer(lambda: fired.append(loop.time()))
    try:
        timer.arm(loop.time())
        later = loop.time() + 0.05
        timer.arm(later)
        await until(lambda: fired)
        assert fired[0] >= later
    finally:
        timer.close()


def test_realtime_is_asked_for_and_not_inherited() -> None:
    """In a process of its own, for it cannot be undone without more privileges."""
    script = (
        "import logging, os, subprocess, sys\n"
        "logging.basicConfig(level='INFO', format='%(message)s', stream=sys.stdout)\n"
        "from scaleup.vrrp.scheduling import be_on_time\n"
        "be_on_time(True)\n"
        "print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR)\n"
        "sys.stdout.flush()\n"
        "subprocess.run([sys.executable, '-c', 'import os; print(os.sched_getscheduler(0) == os.SCHED_OTHER)'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    *said, ours, child = done.stdout.splitlines()
    assert child == "True"
    assert ours == "True" or any("CAP_SYS_NICE" in line for line in said)


def test_what_is_not_allowed_is_said_and_done_without() -> None:
    if os.geteuid() != 0:
        pytest.skip("takes root, to give it up")
    script = (
        "import logging, os, resource, sys\n"
        "logging.basicConfig(level='INFO', format='%(message)s', stream=sys.stdout)\n"
        "from scaleup.vrrp.scheduling import be_on_time\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "be_on_time(True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    scheduling, memory = done.stdout.splitlines()
    assert "no real-time scheduling" in scheduling
    assert "may be swapped out" in memory


# ----- lateness ----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 10)))
def test_lateness_is_counted_up_to_each_bound(observed: list[float]) -> None:
    lateness = Lateness()
    for seconds in observed:
        lateness.observe(seconds)
    for number, bound in enumerate(BOUNDS_SECONDS):
        assert sum(lateness.counts[: number + 1]) == sum(seconds <= bound for seconds in observed)
    assert sum(lateness.counts) == len(observed)
    assert lateness.total == pytest.approx(sum(observed))


# ----- announcements -------------------------------------------------------------------------------------------


def sent(schedule: Schedule, until_time: float) -> list[tuple[float, int]]:
    """What it asks for, jumping from deadline to deadline."""
    found = []
    while (deadline := schedule.deadline) is not None and deadline <= until_time:
        if count := schedule.expired(deadline):
            found.append((deadline, count))
    return found


def test_as_keepalived_with_single_ones_past_the_lifetime() -> None:
    schedule = Schedule(Habits())
    assert schedule.taken(100.0) == 5
    singles = [(100.5, 1), (101.0, 1), (101.5, 1), (102.0, 1), (102.5, 1)]
    assert sent(schedule, 1000.0) == [*singles, (105.0, 5)]
    assert schedule.deadline is None


def test_a_refresh_goes_on_until_they_are_lost() -> None:
    schedule = Schedule(Habits(repeat=1, delay=0, refresh=10, refresh_repeat=2))
    assert schedule.taken(0.0) == 1
    assert sent(schedule, 35.0)[5:] == [(10.0, 2), (20.0, 2), (30.0, 2)]
    schedule.lost()
    assert schedule.deadline is None


def test_a_reminder_is_repeated_after_its_delay_and_limited() -> None:
    schedule = Schedule(Habits(delay=0, lower_prio_repeat=3, lower_prio_delay=2))
    schedule.taken(0.0)
    sent(schedule, 10.0)
    assert [schedule.reminded(10.0 + number / 10) for number in range(12)] == [3, *[0] * 9, 3, 0]
    assert sent(schedule, 20.0) == [(12.0, 3), (13.0, 3)]


def test_what_was_missed_is_sent_once() -> None:
    schedule = Schedule(Habits(refresh=1))
    schedule.taken(0.0)
    assert schedule.expired(100.0) == 5
    assert sent(schedule, 100.0) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["taken", "reminded", "expired", "lost"]), st.floats(0, 3)), max_size=200
    )
)
def test_a_schedule_never_asks_for_more_than_its_habits(events: list[tuple[str, float]]) -> None:
    schedule, now = Schedule(Habits()), 0.0
    for event, seconds in events:
        now += seconds
        if event == "lost":
            schedule.lost()
        else:
            assert 0 <= getattr(schedule, event)(now) <= 5
        assert schedule.deadline is None or schedule.deadline <= now + 5.0


def test_the_single_ones_outlast_the_lifetime() -> None:
    from scaleup.vrrp.kernel import LIFETIME_SECONDS

    assert LINGER_SECONDS > LIFETIME_SECONDS


# ----- clock -----------------------------------------------------------------------------------------------------


def test_one_packet_from_the_future_is_an_accident() -> None:
    watch = ClockWatch()
    for now in range(10):
        watch.from_future(float(now), 4.0)
        assert watch.deadline is None
        watch.believed()


def test_several_in_a_row_are_not() -> None:
    watch = ClockWatch()
    for now in range(FUTURE_PACKETS):
        assert watch.deadline is None
        watch.from_future(float(now), 4.0)
    assert watch.deadline == FUTURE_PACKETS - 1 + 4.0
    watch.from_future(7.0, 4.0)
    assert watch.deadline == 11.0
    watch.believed()
    assert watch.deadline is None
    watch.from_future(8.0, 4.0)
    assert watch.deadline is None


def test_bounds_grow() -> None:
    assert all(lower < upper for lower, upper in pairwise(BOUNDS_SECONDS))
