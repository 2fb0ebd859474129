"""RFC 9568 §6.4, a test for each of its sentences, in its order. No test waits: they jump to `deadline`.

Every test compares all that the router returned, so that an output which nobody expected is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scaleup.vrrp.router import (
    Address,
    AnnounceAddresses,
    Output,
    Router,
    SendAdvertisement,
    State,
    Transition,
    WithdrawAddresses,
)

LOWER, OURS, HIGHER = (IPv4Address(f"10.0.0.{host}") for host in (1, 2, 3))
NOW = 1000.0
INTERVAL = 1.0


@dataclass(frozen=True)
class Heard:
    priority: int
    interval: float = INTERVAL


def initialize(priority: int = 100, preempt: bool = True, address: Address = OURS) -> Router:
    return Router(vrid=51, priority=priority, interval=INTERVAL, address=address, preempt=preempt)


def backup(priority: int = 100, preempt: bool = True, address: Address = OURS) -> Router:
    router = initialize(priority, preempt, address)
    router.startup(NOW)
    assert router.state is State.BACKUP
    return router


def active(priority: int = 100, address: Address = OURS) -> Router:
    """Active since NOW."""
    router = initialize(priority, address=address)
    router.startup(NOW - router.active_down_interval)
    if router.state is State.BACKUP:
        router.timer_expired(NOW)
    assert router.state is State.ACTIVE
    return router


def states(outputs: tuple[Output, ...]) -> list[tuple[State, State, str]]:
    return [(it.origin, it.to, it.section) for it in outputs if isinstance(it, Transition)]


def works(outputs: tuple[Output, ...]) -> list[Output]:
    """What there is to do besides the transition, in order."""
    return [output for output in outputs if not isinstance(output, Transition)]


class TestTimers:
    """§6.1"""

    @pytest.mark.parametrize(
        ("priority", "skew"), [(1, 255 / 256), (100, 156 / 256), (254, 2 / 256), (255, 1 / 256)]
    )
    def test_skew_time_is_256_minus_priority_in_256ths_of_active_adver_interval(
        self, priority: int, skew: float
    ) -> None:
        assert initialize(priority).skew_time == skew * INTERVAL

    def test_active_down_interval_is_three_intervals_and_skew_time(self) -> None:
        assert initialize(100).active_down_interval == 3 * INTERVAL + 156 / 256

    def test_fractions_of_centiseconds_are_kept(self) -> None:
        router = Router(vrid=1, priority=200, interval=0.01, address=OURS)
        assert router.active_down_interval == pytest.approx(0.03 + 0.01 * 56 / 256)


class TestInitialize:
    """§6.4.1"""

    def test_the_purpose_of_this_state_is_to_wait_for_a_startup_event(self) -> None:
        router = initialize()
        assert (router.state, router.deadline) == (State.INITIALIZE, None)
        assert router.advertisement_received(Heard(0), HIGHER, NOW) == ()
        assert router.advertisement_received(Heard(255), HIGHER, NOW) == ()
        assert router.timer_expired(NOW) == ()
        assert router.shutdown(NOW) == ()
        assert (router.state, router.deadline) == (State.INITIALIZE, None)

    def test_if_the_priority_is_255_send_an_advertisement_and_announce_the_addresses(self) -> None:
        assert works(initialize(255).startup(NOW)) == [SendAdvertisement(255), AnnounceAddresses()]

    def test_if_the_priority_is_255_set_the_adver_timer_to_advertisement_interval(self) -> None:
        router = initialize(255)
        router.startup(NOW)
        assert router.deadline == NOW + INTERVAL

    def test_if_the_priority_is_255_transition_to_the_active_state(self) -> None:
        router = initialize(255)
        assert states(router.startup(NOW)) == [(State.INITIALIZE, State.ACTIVE, "6.4.1")]
        assert router.state is State.ACTIVE

    def test_else_set_the_active_adver_interval_to_advertisement_interval(self) -> None:
        router = backup()
        router.advertisement_received(Heard(200, interval=9.0), HIGHER, NOW)
        router.shutdown(NOW)
        router.startup(NOW)
        assert router.active_interval == INTERVAL

    def test_else_set_the_active_down_timer_to_active_down_interval(self) -> None:
        router = initialize()
        router.startup(NOW)
        assert router.deadline == NOW + 3 * INTERVAL + 156 / 256

    def test_else_transition_to_the_backup_state_and_do_nothing_else(self) -> None:
        router = initialize()
        outputs = router.startup(NOW)
        assert states(outputs) == [(State.INITIALIZE, State.BACKUP, "6.4.1")]
        assert works(outputs) == []

    def test_a_second_startup_is_not_an_event(self) -> None:
        for router in (backup(), active()):
            deadline = router.deadline
            assert router.startup(NOW + 0.5) == ()
            assert router.deadline == deadline


class TestBackup:
    """§6.4.2"""

    def test_if_a_shutdown_event_is_received_cancel_the_active_down_timer(self) -> None:
        router = backup()
        router.shutdown(NOW)
        assert router.deadline is None

    def test_if_a_shutdown_event_is_received_transition_to_the_initialize_state(self) -> None:
        outputs = backup().shutdown(NOW)
        assert states(outputs) == [(State.BACKUP, State.INITIALIZE, "6.4.2")]
        assert works(outputs) == []  # a Backup has nothing to take leave of

    def test_if_the_active_down_timer_fires_send_an_advertisement_then_announce_the_addresses(self) -> None:
        assert works(backup().timer_expired(NOW)) == [SendAdvertisement(100), AnnounceAddresses()]

    def test_if_the_active_down_timer_fires_set_the_adver_timer_to_advertisement_interval(self) -> None:
        router = backup()
        router.advertisement_received(Heard(200, interval=5.0), HIGHER, NOW)
        router.timer_expired(NOW + 20)
        assert router.deadline == NOW + 20 + INTERVAL  # its own, not the one that it had learned

    def test_if_the_active_down_timer_fires_transition_to_the_active_state(self) -> None:
        router = backup()
        assert states(router.timer_expired(NOW)) == [(State.BACKUP, State.ACTIVE, "6.4.2")]

    def test_if_the_priority_in_the_advertisement_is_0_set_the_active_down_timer_to_skew_time(self) -> None:
        router = backup()
        assert router.advertisement_received(Heard(0), HIGHER, NOW + 1) == ()
        assert router.deadline == NOW + 1 + 156 / 256

    def test_that_skew_time_is_of_the_interval_that_was_learned(self) -> None:
        router = backup()
        router.advertisement_received(Heard(200, interval=4.0), HIGHER, NOW)
        router.advertisement_received(Heard(0, interval=2.0), HIGHER, NOW + 1)
        assert router.deadline == NOW + 1 + 4.0 * 156 / 256

    @pytest.mark.parametrize("priority", [100, 101, 255])
    def test_if_the_priority_is_greater_than_or_equal_set_the_active_adver_interval(
        self, priority: int
    ) -> None:
        router = backup()
        assert router.advertisement_received(Heard(priority, interval=2.0), LOWER, NOW) == ()
        assert router.active_interval == 2.0

    def test_recompute_the_skew_time(self) -> None:
        router = backup()
        router.advertisement_received(Heard(200, interval=2.0), HIGHER, NOW)
        assert router.skew_time == 2.0 * 156 / 256

    def test_recompute_the_active_down_interval(self) -> None:
        router = backup()
        router.advertisement_received(Heard(200, interval=2.0), HIGHER, NOW)
        assert router.active_down_interval == 6.0 + 2.0 * 156 / 256

    @pytest.mark.parametrize("priority", [100, 101, 255])
    def test_set_the_active_down_timer_to_active_down_interval(self, priority: int) -> None:
        router = backup()
        router.advertisement_received(Heard(priority, interval=2.0), LOWER, NOW + 1)
        assert router.deadline == NOW + 1 + router.active_down_interval

    def test_if_preempt_mode_is_false_a_lower_priority_does_the_same(self) -> None:
        router = backup(preempt=False)
        assert router.advertisement_received(Heard(1, interval=2.0), LOWER, NOW + 1) == ()
        assert router.deadline == NOW + 1 + 6.0 + 2.0 * 156 / 256

    def test_else_preempt_was_true_and_priority_was_less_discard_the_advertisement(self) -> None:
        router = backup()
        deadline = router.deadline
        assert router.advertisement_received(Heard(99, interval=2.0), HIGHER, NOW + 1) == ()
        assert (router.state, router.deadline) == (State.BACKUP, deadline)
        assert router.active_interval == INTERVAL

    def test_the_owner_always_preempts_independent_of_the_setting_of_this_flag(self) -> None:
        """§6.1. An owner is a Backup when another one, with a greater address, was Active."""
        router = initialize(255, preempt=False)
        router.startup(NOW)
        router.advertisement_received(Heard(255), HIGHER, NOW)
        deadline = router.deadline
        router.advertisement_received(Heard(254), HIGHER, NOW + 1)
        assert (router.state, router.deadline) == (State.BACKUP, deadline)


class TestActive:
    """§6.4.3"""

    def test_if_a_shutdown_event_is_received_cancel_the_adver_timer(self) -> None:
        router = active()
        router.shutdown(NOW)
        assert router.deadline is None

    def test_if_a_shutdown_event_is_received_send_an_advertisement_with_priority_0(self) -> None:
        """After the addresses were given up: whoever hears it may take them at once."""
        assert works(active().shutdown(NOW)) == [WithdrawAddresses(), SendAdvertisement(0)]

    def test_if_a_shutdown_event_is_received_transition_to_the_initialize_state(self) -> None:
        assert states(active().shutdown(NOW)) == [(State.ACTIVE, State.INITIALIZE, "6.4.3")]

    def test_if_the_adver_timer_fires_send_an_advertisement(self) -> None:
        assert active().timer_expired(NOW + INTERVAL) == (SendAdvertisement(100),)

    def test_if_the_adver_timer_fires_reset_the_adver_timer_to_advertisement_interval(self) -> None:
        router = active()
        router.timer_expired(NOW + INTERVAL)
        assert (router.state, router.deadline) == (State.ACTIVE, NOW + 2 * INTERVAL)

    def test_if_the_priority_in_the_advertisement_is_0_send_an_advertisement(self) -> None:
        assert active().advertisement_received(Heard(0), HIGHER, NOW) == (SendAdvertisement(100),)

    def test_if_the_priority_in_the_advertisement_is_0_reset_the_adver_timer(self) -> None:
        router = active()
        router.advertisement_received(Heard(0), HIGHER, NOW + 0.5)
        assert (router.state, router.deadline) == (State.ACTIVE, NOW + 0.5 + INTERVAL)

    @pytest.mark.parametrize("sender", [LOWER, HIGHER])
    def test_if_the_priority_is_greater_transition_to_the_backup_state(self, sender: Address) -> None:
        router = active()
        outputs = router.advertisement_received(Heard(101), sender, NOW)
        assert states(outputs) == [(State.ACTIVE, State.BACKUP, "6.4.3")]
        assert works(outputs) == [WithdrawAddresses()]

    def test_if_the_priority_is_equal_and_the_sender_s_address_is_greater_the_same(self) -> None:
        router = active()
        outputs = router.advertisement_received(Heard(100), HIGHER, NOW)
        assert states(outputs) == [(State.ACTIVE, State.BACKUP, "6.4.3")]
        assert works(outputs) == [WithdrawAddresses()]

    @pytest.mark.parametrize(
        ("less", "greater"),
        [
            ("127.255.255.255", "128.0.0.0"),
            ("10.0.0.9", "10.0.0.10"),
            ("9.255.255.255", "10.0.0.0"),
            ("fe80::1", "fe80::1:0:0:0"),
            ("7fff::", "fe80::1"),
            ("fe80::ff", "fe80::100"),
        ],
    )
    def test_based_on_an_unsigned_integer_comparison_in_network_byte_order(
        self, less: str, greater: str
    ) -> None:
        loser, winner = ip_address(less), ip_address(greater)
        assert active(address=winner).advertisement_received(Heard(100), loser, NOW) == (
            SendAdvertisement(100),
        )
        router = active(address=loser)
        router.advertisement_received(Heard(100), winner, NOW)
        assert router.state is State.BACKUP

    def test_cancel_adver_timer_and_set_the_active_down_timer_to_active_down_interval(self) -> None:
        router = active()
        router.advertisement_received(Heard(101), HIGHER, NOW + 0.5)
        assert router.deadline == NOW + 0.5 + 3 * INTERVAL + 156 / 256

    def test_set_the_active_adver_interval_to_the_one_in_the_advertisement_and_recompute(self) -> None:
        router = active()
        router.advertisement_received(Heard(101, interval=2.0), HIGHER, NOW)
        assert router.active_interval == 2.0
        assert router.skew_time == 2.0 * 156 / 256
        assert router.active_down_interval == 6.0 + 2.0 * 156 / 256
        assert router.deadline == NOW + router.active_down_interval

    @pytest.mark.parametrize(("priority", "sender"), [(99, HIGHER), (99, LOWER), (1, HIGHER), (100, LOWER)])
    def test_else_discard_the_advertisement_and_send_one_immediately(
        self, priority: int, sender: Address
    ) -> None:
        router = active()
        heard = Heard(priority, interval=2.0)
        assert router.advertisement_received(heard, sender, NOW + 0.5) == (SendAdvertisement(100),)
        assert (router.state, router.active_interval) == (State.ACTIVE, INTERVAL)
        assert router.deadline == NOW + INTERVAL  # the RFC does not mention the timer: it runs on


class TestLateTimer:
    """What the RFC leaves open: from when on does a reset Adver_Timer count?"""

    def test_a_little_late_keeps_to_the_grid(self) -> None:
        router = active()
        for beat in range(1, 100):
            assert router.deadline == NOW + beat * INTERVAL
            router.timer_expired(router.deadline + 0.4)

    def test_an_interval_late_starts_a_new_grid_and_makes_up_for_nothing(self) -> None:
        router = active()
        assert router.timer_expired(NOW + 7.5) == (SendAdvertisement(100),)
        assert router.deadline == NOW + 7.5 + INTERVAL


class TestRules:
    """The log line names the rule that decided."""

    def test_of_becoming_active(self) -> None:
        def rule(router: Router, *heard: Heard) -> str:
            for advertisement in heard:
                router.advertisement_received(advertisement, HIGHER, NOW)
            transition = router.timer_expired(NOW + 10)[-1]
            assert isinstance(transition, Transition)
            return transition.rule

        assert rule(backup()) == "Active_Down_Timer fired, nothing heard"
        assert rule(backup(), Heard(99), Heard(100)) == "Active_Down_Timer fired, nothing heard"
        assert rule(backup(), Heard(0)) == "Active_Down_Timer fired, Skew_Time after priority 0 was heard"
        assert rule(backup(), Heard(99)) == "Active_Down_Timer fired, only lower priority heard (99 < 100)"

    def test_of_giving_way(self) -> None:
        def rule(heard: Heard) -> str:
            transition = active().advertisement_received(heard, HIGHER, NOW)[-1]
            assert isinstance(transition, Transition)
            return transition.rule

        assert rule(Heard(150)) == "higher priority heard (150 > 100)"
        assert rule(Heard(100)) == "equal priority 100 heard from a greater address (10.0.0.3 > 10.0.0.2)"

    def test_states_are_words(self) -> None:
        assert [state.value for state in State] == ["initialize", "backup", "active"]
        assert f"{State.ACTIVE}" == "active"


class TestPriorityChanged:
    """The RFC is silent: it counts from the next event on."""

    def test_active_advertises_it_next(self) -> None:
        router = active()
        assert router.priority_changed(50, NOW) == ()
        assert router.deadline == NOW + INTERVAL
        assert router.timer_expired(NOW + INTERVAL) == (SendAdvertisement(50),)

    def test_active_compares_with_it(self) -> None:
        router = active()
        router.priority_changed(50, NOW)
        router.advertisement_received(Heard(51), LOWER, NOW)
        assert router.state is State.BACKUP

    def test_backup_skews_by_it_from_the_next_advertisement_on(self) -> None:
        router = backup()
        deadline = router.deadline
        router.priority_changed(200, NOW)
        assert router.deadline == deadline
        router.advertisement_received(Heard(220), HIGHER, NOW + 1)
        assert router.deadline == NOW + 1 + 3 * INTERVAL + 56 / 256

    def test_backup_preempts_by_it(self) -> None:
        router = backup()
        router.advertisement_received(Heard(150), HIGHER, NOW)
        router.priority_changed(200, NOW)
        deadline = router.deadline
        router.advertisement_received(Heard(150), HIGHER, NOW + 1)
        assert router.deadline == deadline


class TestSettings:
    @pytest.mark.parametrize("priority", [0, -1, 256])
    def test_priority(self, priority: int) -> None:
        with pytest.raises(ValueError, match="priority"):
            initialize(priority)
        with pytest.raises(ValueError, match="priority"):
            backup().priority_changed(priority, NOW)

    @pytest.mark.parametrize("interval", [0.0, 0.009, 40.96, -1.0, float("nan"), float("inf")])
    def test_interval(self, interval: float) -> None:
        with pytest.raises(ValueError, match="interval"):
            Router(vrid=1, priority=100, interval=interval, address=OURS)

    @pytest.mark.parametrize("vrid", [0, 256])
    def test_vrid(self, vrid: int) -> None:
        with pytest.raises(ValueError, match="VRID"):
            Router(vrid=vrid, priority=100, interval=1.0, address=IPv6Address("fe80::1"))


class AnyOrder(RuleBasedStateMachine):
    """Events in any order: what a shell relies on holds all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.router = initialize()
        self.announced = False

    def took(self, outputs: tuple[Output, ...]) -> None:
        transitions = states(outputs)
        assert len(transitions) <= 1
        assert not transitions or isinstance(outputs[-1], Transition)
        for output in outputs:
            match output:
                case AnnounceAddresses():
                    assert not self.announced
                    self.announced = True
                case WithdrawAddresses():
                    assert self.announced
                    self.announced = False
                case SendAdvertisement(0):
                    assert self.router.state is State.INITIALIZE
                    assert not self.announced
                case SendAdvertisement(priority):
                    assert self.router.state is State.ACTIVE
                    assert priority == self.router.priority

    @rule()
    def startup(self) -> None:
        self.took(self.router.startup(self.now))

    @rule()
    def shutdown(self) -> None:
        self.took(self.router.shutdown(self.now))

    @rule(
        priority=st.integers(0, 255), interval=st.integers(1, 4095), sender=st.sampled_from([LOWER, HIGHER])
    )
    def hear(self, priority: int, interval: int, sender: Address) -> None:
        self.took(self.router.advertisement_received(Heard(priority, interval / 100), sender, self.now))

    @rule(priority=st.integers(1, 255))
    def change_priority(self, priority: int) -> None:
        self.took(self.router.priority_changed(priority, self.now))

    @rule(seconds=st.floats(0, 0.5))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.router.deadline is not None)
    @rule(late=st.floats(0, 10))
    def expire(self, late: float) -> None:
        assert self.router.deadline is not None
        self.now = max(self.now, self.router.deadline + late)
        self.took(self.router.timer_expired(self.now))
        assert self.router.state is State.ACTIVE  # nothing else can come of a timer
        assert self.router.deadline > self.now

    @invariant()
    def one_timer_and_the_addresses_follow_the_state(self) -> None:
        assert (self.router.deadline is None) == (self.router.state is State.INITIALIZE)
        assert self.announced == (self.router.state is State.ACTIVE)


TestAnyOrder = AnyOrder.TestCase
