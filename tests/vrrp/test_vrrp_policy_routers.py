"""Decisions carried out: events of the routers, in their order, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from scaleup.vrrp.arrangement import Arrangement, Check, RouterPolicy, SyncGroup
from scaleup.vrrp.decisions import Decision, Notify
from scaleup.vrrp.policy import Policy
from scaleup.vrrp.router import (
    AnnounceAddresses,
    Output,
    Router,
    SendAdvertisement,
    State,
    Transition,
    WithdrawAddresses,
)
from scaleup.vrrp.routers import Action, Routers

NOW = 1000.0
OURS, HIGHER = IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3")


@dataclass(frozen=True)
class Heard:
    priority: int
    interval: float = 1.0


def node(*specs: RouterPolicy, checks: tuple[Check, ...] = (), synced: bool = False) -> Routers:
    """Started; every router has an interval of 1 s."""
    groups = (SyncGroup("G", tuple(spec.name for spec in specs)),) if synced else ()
    routers = {
        spec.name: Router(
            vrid=51 + number, priority=spec.priority, interval=1.0, address=OURS, preempt=spec.preempt
        )
        for number, spec in enumerate(specs)
    }
    it = Routers(routers, Policy(Arrangement(specs, checks, groups)))
    it.started(NOW)
    return it


def pair() -> Routers:
    return node(RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 100), synced=True)


def works(actions: list[Action]) -> list[tuple[str, Output]]:
    """What is to be done, without decisions, which were."""
    return [(name, what) for name, what in actions if isinstance(what, Output)]


def decisions(actions: list[Action]) -> list[Decision]:
    return [what for _, what in actions if isinstance(what, Decision)]


def rules(actions: list[Action]) -> dict[str, str]:
    return {name: what.rule for name, what in actions if isinstance(what, Transition)}


def test_the_deadline_is_the_earliest_of_all() -> None:
    it = node(
        RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 200), RouterPolicy("VI_3", 250, preempt_delay=1.0)
    )
    assert it.deadline == it["VI_3"].deadline
    it.advertisement_received("VI_3", Heard(1), HIGHER, NOW)
    assert it.deadline == NOW + 1


def test_it_wakes_ahead_of_a_take_over_and_of_nothing_else() -> None:
    it = node(RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 200))
    take_over = it["VI_2"].deadline
    assert take_over is not None
    assert it.wake(0.25) == take_over - 0.25
    it.timer_expired(take_over)
    assert it.deadline == it["VI_1"].deadline
    it.timer_expired(it.deadline or 0)
    assert it.wake(0.25) == it.deadline == it["VI_2"].deadline, "an Active's next advertisement"


def test_only_what_brings_a_timer_forward_wants_to_be_woken_earlier() -> None:
    it = node(RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 250, preempt_delay=1.0))
    armed = it.wake(0.25)
    it.advertisement_received("VI_1", Heard(200), HIGHER, NOW + 1)
    assert not it.wakes_before(armed, "VI_1", 0.25), "it was put off"
    it.advertisement_received("VI_1", Heard(0), HIGHER, NOW + 1)
    assert it.wakes_before(armed, "VI_1", 0.25), "a farewell"
    it.advertisement_received("VI_2", Heard(1), HIGHER, NOW + 1)
    assert it.wakes_before(NOW + 2.1, "VI_2", 0.25), "the policy's preempt_delay"
    assert not it.wakes_before(NOW + 1.5, "VI_2", 0.25)
    assert it.wakes_before(None, "VI_1", 0.25), "nothing was armed"


def test_a_router_alone_does_what_it_does_without_a_policy() -> None:
    it, alone = node(RouterPolicy("VI_1", 100)), Router(vrid=51, priority=100, interval=1.0, address=OURS)
    alone.startup(NOW)
    assert it.deadline == alone.deadline
    at = NOW + 5
    assert [what for _, what in works(it.timer_expired(at))] == list(alone.timer_expired(at))
    assert [what for _, what in works(it.timer_expired(at + 1))] == list(alone.timer_expired(at + 1))
    heard = (Heard(200), HIGHER, at + 1)
    assert [what for _, what in works(it.advertisement_received("VI_1", *heard))] == list(
        alone.advertisement_received(*heard)
    )


def test_a_group_takes_over_at_once_each_router_whole() -> None:
    it = pair()
    actions = it.timer_expired(it["VI_1"].deadline or 0)
    taken = [SendAdvertisement(100), AnnounceAddresses()]
    assert [(name, what) for name, what in works(actions) if not isinstance(what, Transition)] == [
        *(("VI_1", what) for what in taken),
        *(("VI_2", what) for what in taken),
    ]
    assert rules(actions) == {
        "VI_1": "Active_Down_Timer fired, nothing heard",
        "VI_2": "sync group G moves with VI_1: Active_Down_Timer fired, nothing heard",
    }
    assert [it.router for it in decisions(actions) if isinstance(it, Notify)] == ["VI_1", "VI_2", "G"]


def test_a_group_gives_way_at_once_and_the_others_are_told() -> None:
    it = pair()
    it.timer_expired(NOW + 4)
    actions = it.advertisement_received("VI_2", Heard(200), HIGHER, NOW + 4.5)
    assert [(name, what) for name, what in works(actions) if not isinstance(what, Transition)] == [
        ("VI_2", WithdrawAddresses()),
        ("VI_1", WithdrawAddresses()),
        ("VI_1", SendAdvertisement(0)),
    ]
    assert [what for name, what in works(actions) if name == "VI_1"][-1] == Transition(
        State.ACTIVE,
        State.BACKUP,
        "sync group G moves with VI_2: higher priority heard (200 > 100)",
        "6.4.1",
    )
    assert it["VI_1"].deadline == NOW + 4.5 + it["VI_1"].active_down_interval


def test_the_rule_of_a_fault_is_the_policy_s() -> None:
    it = node(RouterPolicy("VI_1", 100))
    assert rules(it.fault_found(None, "node", "no worker accepts", NOW)) == {"VI_1": "no worker accepts"}
    assert rules(it.fault_gone(None, "node", NOW)) == {
        "VI_1": "startup with priority 100, the fault is gone: no worker accepts"
    }


def test_a_weight_is_advertised_next() -> None:
    it = node(RouterPolicy("VI_1", 100, tracks={"chk": -40}), checks=(Check("chk"),))
    it.timer_expired(NOW + 4)
    assert works(it.check_failed("chk", "", NOW + 4.5)) == []
    assert works(it.timer_expired(NOW + 5)) == [("VI_1", SendAdvertisement(60))]


def test_preempt_delay_lets_the_router_re_arm_its_timer_until_it_has_passed() -> None:
    it = node(RouterPolicy("VI_1", 150, preempt_delay=10.0))
    for second in range(1, 10):
        assert works(it.advertisement_received("VI_1", Heard(100), HIGHER, NOW + second)) == []
        assert it["VI_1"].deadline == NOW + second + it["VI_1"].active_down_interval
    assert it.deadline == NOW + 11
    it.timer_expired(NOW + 11)
    before = it["VI_1"].deadline
    it.advertisement_received("VI_1", Heard(100), HIGHER, NOW + 12)
    assert it["VI_1"].deadline == before


def test_preempt_delay_is_no_reason_to_wait_when_the_active_falls_silent() -> None:
    it = node(RouterPolicy("VI_1", 150, preempt_delay=1000.0))
    it.advertisement_received("VI_1", Heard(100), HIGHER, NOW + 1)
    assert it.deadline == it["VI_1"].deadline == NOW + 1 + it["VI_1"].active_down_interval
    it.timer_expired(it.deadline)
    assert it["VI_1"].state is State.ACTIVE


class TestLateWaking:
    def active(self, priority: int = 100) -> Routers:
        it = node(RouterPolicy("VI_1", priority))
        it.timer_expired(NOW + 4)
        assert it["VI_1"].state is State.ACTIVE
        return it

    def test_up_to_three_intervals_late_an_active_goes_on(self) -> None:
        it = self.active()
        late = (it.deadline or 0) + 3.0
        assert it.woken(late) == []
        assert works(it.timer_expired(late)) == [("VI_1", SendAdvertisement(100))]

    def test_later_it_gives_up_before_it_answers_anybody_and_listens(self) -> None:
        it = self.active()
        late = (it.deadline or 0) + 3.1
        *done, (_, transition) = works(it.woken(late))
        assert done == [("VI_1", WithdrawAddresses()), ("VI_1", SendAdvertisement(0))]
        assert isinstance(transition, Transition)
        assert (transition.origin, transition.to) == (State.ACTIVE, State.BACKUP)
        assert transition.rule.startswith("woke 3.100 s late")
        assert works(it.advertisement_received("VI_1", Heard(50), HIGHER, late)) == []
        assert it.deadline == late + it["VI_1"].active_down_interval

    def test_a_backup_listens_as_long_again_for_the_silence_may_be_its_own(self) -> None:
        it = node(RouterPolicy("VI_1", 100))
        late = (it.deadline or 0) + 3.1
        assert it.woken(late) == []
        ((_, transition),) = works(it.timer_expired(late))
        assert isinstance(transition, Transition)
        assert transition.origin is transition.to is State.BACKUP
        assert it.deadline == late + it["VI_1"].active_down_interval

    def test_a_backup_s_interval_is_the_one_it_learned(self) -> None:
        it = node(RouterPolicy("VI_1", 100))
        it.advertisement_received("VI_1", Heard(200, interval=10.0), HIGHER, NOW)
        late = (it.deadline or 0) + 29.0
        it.timer_expired(late)
        assert it["VI_1"].state is State.ACTIVE

    def test_the_owner_of_the_addresses_has_nobody_to_listen_for(self) -> None:
        it = self.active(255)
        late = (it.deadline or 0) + 100.0
        assert it.woken(late) == []
        assert works(it.timer_expired(late)) == [("VI_1", SendAdvertisement(255))]

    def test_a_group_gives_up_together(self) -> None:
        it = pair()
        it.timer_expired(NOW + 4)
        it.woken(NOW + 20)
        assert [it[name].state for name in ("VI_1", "VI_2")] == [State.BACKUP, State.BACKUP]
