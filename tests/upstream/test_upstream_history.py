"""lastchg, downtime, chkdown: of a server, in seconds that the test says."""

from __future__ import annotations

from scaleup.upstream.history import History


def test_downtime_is_the_sum_of_its_times_and_goes_on_while_it_is_down() -> None:
    history = History(100.0, runs=True)
    assert (history.downtime(110.0), history.unchanged_for(110.0)) == (0.0, 10.0)
    history.became(110.0, False)
    assert history.downtime(115.0) == 5.0
    history.became(112.0, False)  # repeated: nothing new
    history.became(120.0, True)
    assert (history.downtime(200.0), history.unchanged_for(200.0)) == (10.0, 80.0)
    history.became(200.0, False)
    assert history.downtime(201.0) == 11.0


def test_one_that_begins_down_is_down_from_there() -> None:
    assert History(100.0, runs=False).downtime(107.0) == 7.0


def test_only_one_that_was_down_is_up_again() -> None:
    history = History(100.0, runs=True)
    assert history.up_again_for(150.0) is None
    history.became(150.0, False)
    assert history.up_again_for(155.0) is None
    history.became(160.0, True)
    assert history.up_again_for(162.0) == 2.0


def test_what_is_cleared_begins_anew_and_the_state_stays() -> None:
    for runs in (True, False):
        history = History(100.0, runs=not runs)
        history.became(110.0, runs)
        history.went_down, history.failed_checks = 3, 5
        history.clear(120.0)
        assert (history.went_down, history.failed_checks, history.downtime(120.0)) == (0, 0, 0.0)
        assert history.unchanged_for(120.0) == 10.0
        assert history.downtime(125.0) == (0.0 if runs else 5.0)
        history.became(130.0, not runs)
        history.became(140.0, runs)
        assert history.downtime(140.0) == (10.0 if runs else 10.0 + 0.0)
