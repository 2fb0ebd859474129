"""The policy by itself: what happened in, decisions with their rules out."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from scaleup.vrrp.arrangement import Arrangement, Check, RouterPolicy, SyncGroup
from scaleup.vrrp.decisions import (
    Condition,
    Decision,
    Notify,
    SetPreempt,
    SetPriority,
    Shutdown,
    Startup,
    StepDown,
    TakeOver,
)
from scaleup.vrrp.policy import Policy
from scaleup.vrrp.router import State

NOW = 1000.0
CHK = Check("chk")


def policy(*routers: RouterPolicy, checks: Iterable[Check] = (), **more: object) -> Policy:
    """One router VI_1 of priority 100, unless others are given."""
    return Policy(Arrangement(routers or (RouterPolicy("VI_1", 100),), tuple(checks), **more))  # type: ignore[arg-type]


def tracking(weight: int, *, priority: int = 100, rise: int = 1, fall: int = 1) -> Policy:
    """VI_1 tracks chk."""
    return policy(
        RouterPolicy("VI_1", priority, tracks={"chk": weight}), checks=[Check("chk", rise=rise, fall=fall)]
    )


def obeyed(policy: Policy, decisions: list[Decision], now: float = NOW) -> list[Decision]:
    """The decisions, after the routers have done what they are told (as Backups) and the policy has heard of it."""
    done = list(decisions)
    for decision in done:  # grows
        match decision:
            case Startup(name, rule):
                done += policy.transitioned(name, State.BACKUP, rule, now)
            case Shutdown(name, rule):
                done += policy.transitioned(name, State.INITIALIZE, rule, now)
    return done


def without(kind: type[Decision], decisions: list[Decision]) -> list[Decision]:
    return [decision for decision in decisions if not isinstance(decision, kind)]


def priorities(decisions: list[Decision]) -> list[int]:
    return [decision.priority for decision in decisions if isinstance(decision, SetPriority)]


class TestStart:
    def test_a_router_without_obstacles_starts_at_once(self) -> None:
        it = policy()
        assert obeyed(it, it.started(NOW)) == [
            Startup("VI_1", "startup with priority 100"),
            Notify("INSTANCE", "VI_1", Condition.BACKUP, 100, "startup with priority 100"),
        ]
        assert it.condition("VI_1") is Condition.BACKUP
        assert it.deadline is None

    def test_before_the_startup_delay_has_passed_nothing_starts(self) -> None:
        it = policy(startup_delay=5.0)
        assert it.started(NOW) == []
        assert it.deadline == NOW + 5
        assert it.timer_expired(NOW + 4.999) == []
        assert it.timer_expired(it.deadline) == [
            Startup("VI_1", "startup with priority 100, the startup_delay of 5 s has passed")
        ]
        assert it.deadline is None

    def test_an_owner_waits_as_well(self) -> None:
        it = policy(RouterPolicy("VI_1", 255), startup_delay=5.0)
        assert it.started(NOW) == []
        (startup,) = it.timer_expired(NOW + 5)
        assert isinstance(startup, Startup)
        assert startup.rule.startswith(
            "startup as the owner of the addresses (priority 255), the startup_delay"
        )

    def test_it_waits_for_the_first_result_of_a_check_that_can_mean_fault(self) -> None:
        it = tracking(0)
        assert it.started(NOW) == []
        assert it.condition("VI_1") is Condition.WAITING
        assert it.check_passed("chk", "", NOW + 1) == [
            Startup("VI_1", "startup with priority 100, check chk passed")
        ]

    def test_a_first_result_that_failed_is_a_fault_and_told(self) -> None:
        it = tracking(0, fall=3)
        it.started(NOW)
        assert it.check_failed("chk", "exit code 1", NOW) == [
            Notify("INSTANCE", "VI_1", Condition.FAULT, 100, "check chk failed: exit code 1")
        ]

    def test_it_does_not_wait_for_a_check_that_has_a_weight(self) -> None:
        assert [type(it) for it in tracking(-10).started(NOW)] == [Startup]

    def test_stopping_during_the_delay_ends_it(self) -> None:
        it = policy(startup_delay=5.0)
        it.started(NOW)
        assert it.stopped("SIGTERM", NOW + 1) == [
            Notify("INSTANCE", "VI_1", Condition.STOPPED, 100, "SIGTERM")
        ]
        assert it.deadline is None
        assert it.timer_expired(NOW + 5) == []

    def test_stopping_shuts_down_and_tells(self) -> None:
        it = policy()
        obeyed(it, it.started(NOW))
        assert obeyed(it, it.stopped("SIGTERM", NOW)) == [
            Shutdown("VI_1", "SIGTERM"),
            Notify("INSTANCE", "VI_1", Condition.STOPPED, 100, "SIGTERM"),
        ]


class TestWeights:
    """keepalived's: a positive weight is added while up, a negative one while down."""

    @pytest.mark.parametrize(
        ("weight", "passed", "priority"),
        [(20, True, 120), (20, False, 100), (-20, True, 100), (-20, False, 80)],
    )
    def test_effective_priority(self, weight: int, passed: bool, priority: int) -> None:
        it = tracking(weight)
        it.started(NOW)
        (it.check_passed if passed else it.check_failed)("chk", "", NOW)
        assert it.priority("VI_1") == priority

    def test_before_the_first_result_neither_counts(self) -> None:
        for weight in (20, -20):
            it = tracking(weight)
            it.started(NOW)
            assert it.priority("VI_1") == 100

    def test_the_rule_is_the_sum(self) -> None:
        it = policy(RouterPolicy("VI_1", 100, tracks={"chk": -20, "web": 5}), checks=[CHK, Check("web")])
        it.started(NOW)
        assert it.check_passed("web", "", NOW) == [SetPriority("VI_1", 105, "100 +5 (web) = 105")]
        assert it.check_failed("chk", "", NOW) == [SetPriority("VI_1", 85, "100 -20 (chk) +5 (web) = 85")]
        assert it.check_passed("chk", "", NOW) == [SetPriority("VI_1", 105, "100 +5 (web) = 105")]
        assert it.check_failed("web", "", NOW) == [SetPriority("VI_1", 100, "100, as configured")]

    @pytest.mark.parametrize(
        ("priority", "weight", "passed", "held"),
        [(200, 253, True, 254), (50, -50, False, 1), (50, -253, False, 1)],
    )
    def test_it_is_held_between_1_and_254(self, priority: int, weight: int, passed: bool, held: int) -> None:
        it = tracking(weight, priority=priority)
        it.started(NOW)
        (change,) = (it.check_passed if passed else it.check_failed)("chk", "", NOW)
        assert isinstance(change, SetPriority)
        assert (change.priority, change.rule.endswith(f", held at {held}")) == (held, True)

    @pytest.mark.parametrize("weight", [20, -20])
    def test_255_is_never_changed(self, weight: int) -> None:
        it = tracking(weight, priority=255)
        obeyed(it, it.started(NOW))
        assert it.check_passed("chk", "", NOW) == it.check_failed("chk", "", NOW) == []
        assert it.priority("VI_1") == 255

    def test_a_configured_priority_is_where_weights_count_from(self) -> None:
        it = tracking(-20)
        obeyed(it, it.started(NOW))
        it.check_failed("chk", "", NOW)
        for priority, effective, rule in [
            (200, 180, "200 -20 (chk) = 180"),
            (255, 255, "255, as configured"),
            (30, 10, "30 -20 (chk) = 10"),
        ]:
            spec = RouterPolicy("VI_1", priority, tracks={"chk": -20})
            assert it.rearranged(Arrangement((spec,), (CHK,)), {}, NOW) == [
                SetPriority("VI_1", effective, rule)
            ]


class TestRiseAndFall:
    def test_the_first_result_decides_alone(self) -> None:
        for passed, priority in ((True, 100), (False, 80)):
            it = tracking(-20, rise=5, fall=5)
            it.started(NOW)
            (it.check_passed if passed else it.check_failed)("chk", "", NOW)
            assert it.priority("VI_1") == priority

    def test_then_so_many_in_a_row(self) -> None:
        it = tracking(-20, rise=2, fall=3)
        it.started(NOW)
        seen = []
        for passed in [True, False, False, True, False, False, False, True, False, True, True]:
            (it.check_passed if passed else it.check_failed)("chk", "", NOW)
            seen.append(it.priority("VI_1"))
        assert seen == [100, 100, 100, 100, 100, 100, 80, 80, 80, 80, 100]


class TestFault:
    def test_weight_0_down_is_a_fault_and_up_again_ends_it(self) -> None:
        it = tracking(0)
        it.started(NOW)
        obeyed(it, it.check_passed("chk", "", NOW))
        assert obeyed(it, it.check_failed("chk", "exit code 3", NOW)) == [
            Shutdown("VI_1", "check chk failed: exit code 3"),
            Notify("INSTANCE", "VI_1", Condition.FAULT, 100, "check chk failed: exit code 3"),
        ]
        rule = "startup with priority 100, check chk passed: exit code 0"
        assert obeyed(it, it.check_passed("chk", "exit code 0", NOW)) == [
            Startup("VI_1", rule),
            Notify("INSTANCE", "VI_1", Condition.BACKUP, 100, rule),
        ]

    def test_a_router_returns_when_no_fault_is_left(self) -> None:
        it = tracking(0)
        it.started(NOW)
        obeyed(it, it.check_passed("chk", "", NOW))
        obeyed(it, it.fault_found("VI_1", "link", "eth0 is down", NOW))
        assert obeyed(it, it.check_failed("chk", "", NOW)) == []
        assert obeyed(it, it.fault_gone("VI_1", "link", NOW)) == []
        assert [type(each) for each in it.check_passed("chk", "", NOW)] == [Startup]

    def test_causes_are_apart_and_the_same_one_counts_once(self) -> None:
        it = policy()
        obeyed(it, it.started(NOW))
        obeyed(it, it.fault_found("VI_1", "link", "eth0 is down", NOW))
        assert it.fault_found("VI_1", "link", "eth0 is still down", NOW) == []
        assert it.fault_found("VI_1", "node", "no worker accepts", NOW) == []
        assert it.fault_gone("VI_1", "link", NOW) == []
        assert it.fault_gone("VI_1", "node", NOW) == [
            Startup("VI_1", "startup with priority 100, the fault is gone: no worker accepts")
        ]

    def test_the_end_of_a_fault_that_there_was_not_is_nothing(self) -> None:
        it = policy()
        obeyed(it, it.started(NOW))
        assert it.fault_gone("VI_1", "link", NOW) == it.fault_gone(None, "node", NOW) == []

    def test_none_means_all_of_them(self) -> None:
        it = policy(RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 50))
        obeyed(it, it.started(NOW))
        assert without(Notify, obeyed(it, it.fault_found(None, "node", "no worker accepts", NOW))) == [
            Shutdown("VI_1", "no worker accepts"),
            Shutdown("VI_2", "no worker accepts"),
        ]

    def test_a_fault_during_the_startup_delay_shows_when_it_is_over(self) -> None:
        it = policy(startup_delay=5.0)
        it.started(NOW)
        assert it.fault_found(None, "node", "no worker accepts", NOW) == []
        assert it.timer_expired(NOW + 5) == [
            Notify("INSTANCE", "VI_1", Condition.FAULT, 100, "no worker accepts")
        ]


def pair(**more: object) -> Policy:
    """VI_1 and VI_2 in the sync group G, both Backups."""
    first, second = RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 100)
    it = policy(first, second, groups=(SyncGroup("G", ("VI_1", "VI_2")),), **more)  # type: ignore[arg-type]
    obeyed(it, it.started(NOW))
    return it


class TestSyncGroup:
    def test_a_fault_of_one_is_a_fault_of_all(self) -> None:
        it = pair()
        reason = "sync group G: VI_2: eth1 is down"
        assert obeyed(it, it.fault_found("VI_2", "link", "eth1 is down", NOW)) == [
            Shutdown("VI_1", reason),
            Shutdown("VI_2", reason),
            Notify("INSTANCE", "VI_1", Condition.FAULT, 100, reason),
            Notify("INSTANCE", "VI_2", Condition.FAULT, 100, reason),
            Notify("GROUP", "G", Condition.FAULT, 0, reason),
        ]
        assert len(without(Notify, it.fault_gone("VI_2", "link", NOW))) == 2

    def test_one_that_becomes_active_takes_the_others_with_it(self) -> None:
        it = pair()
        rule = "sync group G moves with VI_1: Active_Down_Timer fired"
        assert it.transitioned("VI_1", State.ACTIVE, "Active_Down_Timer fired", NOW) == [
            TakeOver("VI_2", rule),
            Notify("INSTANCE", "VI_1", Condition.ACTIVE, 100, "Active_Down_Timer fired"),
        ]
        assert it.transitioned("VI_2", State.ACTIVE, rule, NOW) == [
            Notify("INSTANCE", "VI_2", Condition.ACTIVE, 100, rule),
            Notify("GROUP", "G", Condition.ACTIVE, 0, rule),
        ]

    def test_one_that_gives_way_takes_the_others_with_it(self) -> None:
        it = pair()
        it.transitioned("VI_1", State.ACTIVE, "", NOW)
        it.transitioned("VI_2", State.ACTIVE, "", NOW)
        rule = "sync group G moves with VI_2: higher priority heard"
        assert without(Notify, it.transitioned("VI_2", State.BACKUP, "higher priority heard", NOW)) == [
            StepDown("VI_1", rule)
        ]
        assert without(Notify, it.transitioned("VI_1", State.BACKUP, rule, NOW)) == []

    def test_an_owner_of_addresses_does_not_give_way_with_its_group(self) -> None:
        it = policy(
            RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 255), groups=(SyncGroup("G", ("VI_1", "VI_2")),)
        )
        obeyed(it, it.started(NOW))
        it.transitioned("VI_2", State.ACTIVE, "", NOW)
        it.transitioned("VI_1", State.ACTIVE, "", NOW)
        assert without(Notify, it.transitioned("VI_1", State.BACKUP, "", NOW)) == []

    def test_routers_without_a_group_move_alone(self) -> None:
        it = policy(RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 100))
        obeyed(it, it.started(NOW))
        assert without(Notify, it.transitioned("VI_1", State.ACTIVE, "", NOW)) == []
        assert without(Notify, obeyed(it, it.fault_found("VI_1", "link", "down", NOW))) == [
            Shutdown("VI_1", "down")
        ]

    def test_what_one_tracks_counts_for_all_and_once(self) -> None:
        it = policy(
            RouterPolicy("VI_1", 100, tracks={"chk": -20}),
            RouterPolicy("VI_2", 100, tracks={"chk": -20}),
            RouterPolicy("VI_3", 100),
            checks=[CHK],
            groups=(SyncGroup("G", ("VI_1", "VI_2", "VI_3")),),
        )
        it.started(NOW)
        assert priorities(it.check_failed("chk", "", NOW)) == [80, 80, 80]


class TestPreemptDelay:
    def waiting(self) -> Policy:
        it = policy(RouterPolicy("VI_1", 150, preempt_delay=30.0))
        assert [type(each) for each in it.started(NOW)] == [SetPreempt, Startup]
        it.transitioned("VI_1", State.BACKUP, "", NOW)
        return it

    def test_it_holds_preemption_from_the_start(self) -> None:
        it = policy(RouterPolicy("VI_1", 150, preempt_delay=30.0))
        assert it.started(NOW)[0] == SetPreempt(
            "VI_1", False, "a lower-priority Active may stay for the preempt_delay of 30 s"
        )

    def test_until_a_lower_priority_has_been_heard_for_so_long(self) -> None:
        it = self.waiting()
        assert it.deadline is None
        for second in range(30):
            assert it.advertisement_heard("VI_1", 100, NOW + 1 + second) == []
            assert it.deadline == NOW + 31
        assert it.timer_expired(NOW + 31) == [
            SetPreempt("VI_1", True, "priority 100 < 150 has been heard for the preempt_delay of 30 s")
        ]
        assert it.deadline is None
        assert it.advertisement_heard("VI_1", 100, NOW + 32) == []

    @pytest.mark.parametrize("other", [0, 150, 200])
    def test_it_begins_anew_when_that_active_stops_or_another_one_is_no_lower(self, other: int) -> None:
        it = self.waiting()
        it.advertisement_heard("VI_1", 100, NOW + 1)
        it.advertisement_heard("VI_1", other, NOW + 10)
        assert it.deadline is None
        it.advertisement_heard("VI_1", 100, NOW + 20)
        assert it.deadline == NOW + 50

    @pytest.mark.parametrize("other", [0, 150, 200])
    def test_even_after_it_has_passed(self, other: int) -> None:
        it = self.waiting()
        it.advertisement_heard("VI_1", 100, NOW)
        it.timer_expired(NOW + 30)
        (held,) = it.advertisement_heard("VI_1", other, NOW + 31)
        assert isinstance(held, SetPreempt)
        assert not held.preempt

    def test_and_after_this_router_was_active_itself(self) -> None:
        it = self.waiting()
        it.advertisement_heard("VI_1", 100, NOW)
        it.timer_expired(NOW + 30)
        assert [type(each) for each in it.transitioned("VI_1", State.ACTIVE, "", NOW + 33)] == [
            SetPreempt,
            Notify,
        ]
        it.transitioned("VI_1", State.BACKUP, "", NOW + 40)
        it.advertisement_heard("VI_1", 100, NOW + 41)
        assert it.deadline == NOW + 71

    def test_an_active_that_hears_a_lower_priority_counts_nothing(self) -> None:
        it = self.waiting()
        it.transitioned("VI_1", State.ACTIVE, "", NOW)
        it.advertisement_heard("VI_1", 100, NOW + 1)
        assert it.deadline is None

    def test_lower_is_measured_by_the_effective_priority(self) -> None:
        it = policy(RouterPolicy("VI_1", 150, preempt_delay=30.0, tracks={"chk": -60}), checks=[CHK])
        obeyed(it, it.started(NOW))
        it.check_failed("chk", "", NOW)
        it.advertisement_heard("VI_1", 100, NOW + 1)
        assert it.deadline is None
        it.check_passed("chk", "", NOW + 2)
        it.advertisement_heard("VI_1", 100, NOW + 3)
        assert it.deadline == NOW + 33

    def test_who_never_preempts_has_nothing_to_delay(self) -> None:
        it = policy(RouterPolicy("VI_1", 150, preempt=False, preempt_delay=30.0))
        assert [type(each) for each in obeyed(it, it.started(NOW))] == [Startup, Notify]
        assert it.advertisement_heard("VI_1", 100, NOW) == []
        assert it.deadline is None

    def test_without_a_delay_the_router_decides_alone(self) -> None:
        it = policy(RouterPolicy("VI_1", 150))
        assert [type(each) for each in obeyed(it, it.started(NOW))] == [Startup, Notify]
        assert it.advertisement_heard("VI_1", 100, NOW) == []
        assert it.deadline is None


class TestArrangement:
    ONE = RouterPolicy("VI_1", 100)

    @pytest.mark.parametrize(
        ("routers", "more", "said"),
        [
            ((RouterPolicy("VI_1", 0),), {}, "priority 0 is not from 1 to 255"),
            ((RouterPolicy("VI_1", 256),), {}, "priority 256 is not"),
            ((ONE, ONE), {}, "two of them are called router VI_1"),
            ((RouterPolicy("VI_1", 100, tracks={"x": 0}),), {}, "VI_1 tracks x, and there is no such check"),
            ((RouterPolicy("VI_1", 100, tracks={"chk": 254}),), {"checks": (CHK,)}, "weight 254 of chk"),
            ((ONE,), {"checks": (Check("chk", rise=0),)}, "rise and fall are 1 or more"),
            ((ONE,), {"groups": (SyncGroup("G", ("VI_1", "VI_2")),)}, "sync group G: VI_2 is no router"),
            ((ONE,), {"groups": (SyncGroup("G", ("VI_1", "VI_1")),)}, "sync group G: VI_1 is in two groups"),
            (
                (RouterPolicy("VI_1", 100, tracks={"chk": 1}), RouterPolicy("VI_2", 100, tracks={"chk": 2})),
                {"checks": (CHK,), "groups": (SyncGroup("G", ("VI_1", "VI_2")),)},
                "check chk has the weights 1 and 2 in one sync group",
            ),
        ],
    )
    def test_what_cannot_be_meant(
        self, routers: tuple[RouterPolicy, ...], more: dict[str, object], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            Arrangement(routers, **more)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("router", "said"),
        [
            (RouterPolicy("VI_1", 100, preempt=False, preempt_delay=5), "preempt_delay with preempt = false"),
            (RouterPolicy("VI_1", 255, preempt=False), "preempt = false with priority 255"),
            (RouterPolicy("VI_1", 255, preempt_delay=5), "preempt_delay with priority 255"),
            (RouterPolicy("VI_1", 255, tracks={"chk": 1}), "priority 255 is never changed"),
            (RouterPolicy("VI_1", 250, tracks={"chk": 10}), "add up to 260: it is held at 254"),
            (RouterPolicy("VI_1", 10, tracks={"chk": -10}), "come down to 0: it is held at 1"),
            (RouterPolicy("VI_1", 100, preempt=False, tracks={"chk": -10}), "takes nothing over"),
            (RouterPolicy("VI_1", 100), "check chk: nobody tracks it"),
        ],
    )
    def test_what_is_hardly_meant_is_told(self, router: RouterPolicy, said: str) -> None:
        (warning,) = (
            Arrangement((router,), (CHK,)).warnings()
            if router.tracks or "nobody" in said
            else (Arrangement((router,)).warnings())
        )
        assert said in warning

    def test_of_a_group(self) -> None:
        routers = (RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 255, preempt=False, preempt_delay=1))
        told = "\n".join(Arrangement(routers, groups=(SyncGroup("G", ("VI_1", "VI_2")),)).warnings())
        for setting in (
            "priority (VI_1 100, VI_2 255)",
            "preempt (VI_1 True, VI_2 False)",
            "preempt_delay (",
        ):
            assert f"sync group G: its members differ in {setting}" in told
        assert "an owner of addresses does not give way with its group" in told
        assert "no two members" in "\n".join(
            Arrangement(routers[:1], groups=(SyncGroup("G", ("VI_1",)),)).warnings()
        )

    def test_what_is_sound_is_not_remarked_upon(self) -> None:
        routers = (
            RouterPolicy("VI_1", 150, preempt_delay=5, tracks={"chk": -60}),
            RouterPolicy("VI_2", 150, preempt_delay=5),
            RouterPolicy("VI_3", 255),
            RouterPolicy("VI_4", 100, preempt=False, tracks={"chk": 0}),
        )
        assert Arrangement(routers, (CHK,), (SyncGroup("G", ("VI_1", "VI_2")),), 10.0).warnings() == []


class TestReload:
    """Another arrangement: what stays is not touched, what differs is told."""

    ONE, TWO = RouterPolicy("VI_1", 100), RouterPolicy("VI_2", 100)

    def running(self, *routers: RouterPolicy, **more: object) -> Policy:
        it = policy(*routers, **more)  # type: ignore[arg-type]
        obeyed(it, it.started(NOW))
        return it

    def test_the_same_again_is_nothing(self) -> None:
        specs, groups = (self.ONE, self.TWO), (SyncGroup("G", ("VI_1", "VI_2")),)
        it = self.running(*specs, groups=groups)
        it.transitioned("VI_1", State.ACTIVE, "", NOW)
        it.transitioned("VI_2", State.ACTIVE, "", NOW)
        assert it.rearranged(Arrangement(specs, groups=groups), {}, NOW) == []
        assert it.condition("VI_1") is Condition.ACTIVE

    @pytest.mark.parametrize("preempt", [True, False])
    def test_preempt_mode(self, preempt: bool) -> None:
        it = self.running(RouterPolicy("VI_1", 100, preempt=not preempt))
        now = Arrangement((RouterPolicy("VI_1", 100, preempt=preempt),))
        assert it.rearranged(now, {}, NOW) == [SetPreempt("VI_1", preempt, "as configured")]
        assert it.rearranged(now, {}, NOW) == []

    def test_a_preempt_delay_that_is_new_holds_and_one_that_is_gone_lets_go(self) -> None:
        it = self.running(self.ONE)
        (held,) = it.rearranged(Arrangement((RouterPolicy("VI_1", 100, preempt_delay=9.0),)), {}, NOW)
        assert isinstance(held, SetPreempt)
        assert not held.preempt
        assert it.advertisement_heard("VI_1", 50, NOW) == []
        assert it.deadline == NOW + 9
        assert it.rearranged(Arrangement((self.ONE,)), {}, NOW) == [SetPreempt("VI_1", True, "as configured")]
        assert it.deadline is None

    def test_a_new_router_starts_up_unless_it_has_found_a_fault_already(self) -> None:
        it = self.running(self.ONE)
        now = Arrangement((self.ONE, self.TWO, RouterPolicy("VI_3", 100)))
        rule = "startup with priority 100, the configuration was changed"
        assert obeyed(it, it.rearranged(now, {"VI_3": {"link": "eth0 is down"}}, NOW)) == [
            Startup("VI_2", rule),
            Notify("INSTANCE", "VI_3", Condition.FAULT, 100, "eth0 is down"),
            Notify("INSTANCE", "VI_2", Condition.BACKUP, 100, rule),
        ]
        assert [type(one) for one in it.fault_gone("VI_3", "link", NOW)] == [Startup]

    def test_one_that_is_removed_is_told_to_have_stopped_and_its_group_goes_on(self) -> None:
        it = self.running(self.ONE, self.TWO, groups=(SyncGroup("G", ("VI_1", "VI_2")),))
        assert it.removed("VI_2", "gone", NOW) == [Notify("INSTANCE", "VI_2", Condition.STOPPED, 100, "gone")]
        assert it.rearranged(Arrangement((self.ONE,)), {}, NOW) == []
        assert it.condition("VI_1") is Condition.BACKUP

    def test_a_group_ends_with_the_last_of_its_routers(self) -> None:
        it = self.running(self.ONE, self.TWO, groups=(SyncGroup("G", ("VI_1", "VI_2")),))
        it.removed("VI_1", "gone", NOW)
        assert it.removed("VI_2", "gone", NOW) == [
            Notify("INSTANCE", "VI_2", Condition.STOPPED, 100, "gone"),
            Notify("GROUP", "G", Condition.STOPPED, 0, "gone"),
        ]

    def test_a_check_that_stays_keeps_its_verdict_and_a_new_one_hinders_nobody_who_runs(self) -> None:
        it = tracking(0)
        obeyed(it, it.started(NOW))
        obeyed(it, it.check_passed("chk", "", NOW))
        both = RouterPolicy("VI_1", 100, tracks={"chk": 0, "more": 0})
        new = RouterPolicy("VI_2", 100, tracks={"more": 0})
        now = Arrangement((both, new), (CHK, Check("more")))
        assert obeyed(it, it.rearranged(now, {}, NOW)) == []
        assert it.checks() == {"chk": True, "more": None}
        assert it.condition("VI_2") is Condition.WAITING, "at its start it waits for it"
        obeyed(it, it.check_failed("more", "", NOW))
        assert it.condition("VI_1") is it.condition("VI_2") is Condition.FAULT

    def test_the_first_result_of_what_is_checked_now_decides_alone(self) -> None:
        checks = [Check("chk", rise=3, fall=3, what=what) for what in ("port 80", "port 8080")]
        spec = RouterPolicy("VI_1", 100, tracks={"chk": 0})
        it = policy(spec, checks=(checks[0],))
        obeyed(it, it.started(NOW))
        obeyed(it, it.check_passed("chk", "", NOW))
        assert it.rearranged(Arrangement((spec,), (checks[1],)), {}, NOW) == []
        obeyed(it, it.check_failed("chk", "", NOW))
        assert it.condition("VI_1") is Condition.FAULT
        for _ in range(2):
            obeyed(it, it.check_passed("chk", "", NOW))
            assert it.condition("VI_1") is Condition.FAULT

    def test_a_preempt_delay_of_another_length_is_waited_for_anew(self) -> None:
        def delayed(seconds: float) -> RouterPolicy:
            return RouterPolicy("VI_1", 100, preempt_delay=seconds)

        it = self.running(delayed(60.0))
        it.advertisement_heard("VI_1", 50, NOW)
        assert it.deadline == NOW + 60
        it.rearranged(Arrangement((delayed(0.0),)), {}, NOW + 10)
        it.rearranged(Arrangement((delayed(60.0),)), {}, NOW + 100)
        assert it.deadline is None

    def test_a_router_that_is_at_fault_stays_so(self) -> None:
        it = self.running(self.ONE)
        obeyed(it, it.fault_found("VI_1", "link", "eth0 is down", NOW))
        assert it.rearranged(Arrangement((self.ONE, self.TWO)), {}, NOW) == [
            Startup("VI_2", "startup with priority 100, the configuration was changed")
        ]
        assert it.condition("VI_1") is Condition.FAULT
