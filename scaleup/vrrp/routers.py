"""The routers of a node under their policy: what happens to a node goes in, what it must do comes out. ●

Here decisions (`policy`) become events of the routers (`router`), and what the routers do is heard by the
policy, until nothing more follows. A shell, be it the daemon or the simulation, looks like this:

    act(routers.started(now))
    wait for a packet, a check's result, or routers.deadline, whichever comes first
        always:        act(routers.woken(now)), before what has arrived is read
        a packet:      act(routers.advertisement_received(name, advertisement, sender, now))
        a result:      act(routers.check_passed(check, detail, now))
        the deadline:  act(routers.timer_expired(now)), but first the packets that have arrived
    act(routers.stopped("SIGTERM", now))

and `act` carries the actions out in their order, each for the router that it names. The outputs of a router
are to be done; a decision has been carried out here already and is for the log, but for Notify, which is
the shell's. The rule of a Transition that the policy caused is the policy's.

**Late waking.** Others count three of our intervals before they take over. Whoever wakes later than that may
have been replaced meanwhile, and the silence that a Backup finds may be its own. So it does not assert: it
starts over, and listens for an Active_Down_Interval. (The RFC knows no pauses; to the router it is a shutdown
and a startup.) Less late, an Active goes on: to advertise at once keeps the role.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from scaleup.vrrp.arrangement import Arrangement
from scaleup.vrrp.decisions import (
    Decision,
    SetPreempt,
    SetPriority,
    Shutdown,
    Startup,
    StepDown,
    TakeOver,
)
from scaleup.vrrp.packet import Address
from scaleup.vrrp.policy import Policy
from scaleup.vrrp.router import OWNER, Heard, Output, Router, State, Transition

LATE_INTERVALS = 3  # what a Backup waits for, its skew aside


class Action(NamedTuple):
    """`router`: its name (a Notify may name a group)."""

    router: str
    what: Output | Decision


class Routers:
    """`routers`: by the names that the policy knows, each with the priority and preempt of its RouterPolicy."""

    def __init__(self, routers: Mapping[str, Router], policy: Policy) -> None:
        self._routers, self._policy = dict(routers), policy

    def __getitem__(self, name: str) -> Router:
        return self._routers[name]

    @property
    def deadline(self) -> float | None:
        """When the earliest timer of any router, or of the policy, fires."""
        return self.wake(ahead=0.0)

    def wake(self, ahead: float) -> float | None:
        """The same, but so many seconds ahead of each take-over."""
        return self._earliest(self._routers.values(), ahead)

    def wakes_before(self, time: float | None, name: str, ahead: float) -> bool:
        """Whether that router or the policy, which have just heard something, are to be woken earlier (than never,
        for None).
        """
        earliest = self._earliest((self._routers[name],), ahead)
        return earliest is not None and (time is None or earliest < time)

    def _earliest(self, routers: Iterable[Router], ahead: float) -> float | None:
        earliest = self._policy.deadline
        for router in routers:
            if router.deadline is not None:
                time = router.deadline - ahead * (router.state is State.BACKUP)
                if earliest is None or time < earliest:
                    earliest = time
        return earliest

    def checks(self) -> dict[str, bool | None]:
        """Of each check whether it is up; None before its first result."""
        return self._policy.checks()

    def moving_with(self, name: str) -> set[str]:
        """See `Policy.moving_with`."""
        return self._policy.moving_with(name)

    def started(self, now: float) -> list[Action]:
        return self._follow(self._policy.started(now), now)

    def stopped(self, reason: str, now: float) -> list[Action]:
        return self._follow(self._policy.stopped(reason, now), now)

    def check_passed(self, check: str, detail: str, now: float) -> list[Action]:
        return self._follow(self._policy.check_passed(check, detail, now), now)

    def check_failed(self, check: str, detail: str, now: float) -> list[Action]:
        return self._follow(self._policy.check_failed(check, detail, now), now)

    def fault_found(self, router: str | None, cause: str, reason: str, now: float) -> list[Action]:
        return self._follow(self._policy.fault_found(router, cause, reason, now), now)

    def fault_gone(self, router: str | None, cause: str, now: float) -> list[Action]:
        return self._follow(self._policy.fault_gone(router, cause, now), now)

    def removed(self, name: str, reason: str, now: float) -> list[Action]:
        """The router leaves its election, with a farewell if it was Active, and is no more."""
        outputs = _because(reason, self._routers.pop(name).shutdown(now))
        actions = [Action(name, output) for output in outputs]
        return actions + self._follow(self._policy.removed(name, reason, now), now)

    def rearranged(
        self,
        routers: Mapping[str, Router],
        arrangement: Arrangement,
        faults: Mapping[str, Mapping[str, str]],
        now: float,
    ) -> list[Action]:
        """From now on these, under that arrangement; see `Policy.rearranged`."""
        self._routers = dict(routers)
        return self._follow(self._policy.rearranged(arrangement, faults, now), now)

    def advertisement_received(self, name: str, adv: Heard, sender: Address, now: float) -> list[Action]:
        """An advertisement for this router passed the checks of §7.1; see `Router.advertisement_received`.

        `now`: when it arrived, which may be some milliseconds before what was told last.
        """
        actions = self._follow(self._policy.advertisement_heard(name, adv.priority, now), now)
        outputs = self._routers[name].advertisement_received(adv, sender, now)
        return actions + self._follow_outputs(name, outputs, now) if outputs else actions

    def woken(self, now: float) -> list[Action]:
        """Before what has arrived is read: an Active that is very late would answer each of it."""
        actions = list[Action]()
        for name, router in self._routers.items():
            if router.state is State.ACTIVE and (late := _too_late(router, router.interval, now)):
                actions += self._follow_outputs(name, _start_over(router, late, now), now)
        return actions

    def timer_expired(self, now: float) -> list[Action]:
        """`deadline` has come, perhaps for several at once."""
        actions = list[Action]()
        if self._policy.deadline is not None and now >= self._policy.deadline:
            actions += self._follow(self._policy.timer_expired(now), now)
        for name, router in self._routers.items():
            if router.deadline is not None and now >= router.deadline:
                late = _too_late(router, router.active_interval, now)
                outputs = _start_over(router, late, now) if late else router.timer_expired(now)
                actions += self._follow_outputs(name, outputs, now)
        return actions

    # ----- decisions become events, and transitions become decisions -------------------------------------

    def _follow_outputs(self, name: str, outputs: Iterable[Output], now: float) -> list[Action]:
        actions, decisions = self._heard(name, outputs, now)
        return actions + self._follow(decisions, now)

    def _follow(self, decisions: Sequence[Decision], now: float) -> list[Action]:
        """First come, first served: a router's outputs stay together. It ends, because each transition that
        a decision causes brings a group closer to one state.
        """
        if not decisions:  # so it is with nearly every advertisement
            return []
        actions, waiting = list[Action](), deque(decisions)
        while waiting:
            decision = waiting.popleft()
            actions.append(Action(decision.router, decision))
            done, caused = self._heard(decision.router, self._carry_out(decision, now), now)
            actions += done
            waiting += caused
        return actions

    def _heard(self, name: str, outputs: Iterable[Output], now: float) -> tuple[list[Action], list[Decision]]:
        actions, decisions = list[Action](), list[Decision]()
        for output in outputs:
            actions.append(Action(name, output))
            if isinstance(output, Transition):
                decisions += self._policy.transitioned(name, output.to, output.rule, now)
        return actions, decisions

    def _carry_out(self, decision: Decision, now: float) -> Iterable[Output]:
        match decision:
            case SetPriority(name, priority):
                return self._routers[name].priority_changed(priority, now)
            case SetPreempt(name, preempt):
                self._routers[name].preempt = preempt
            case Startup(name, rule):
                return _because(rule, self._routers[name].startup(now))
            case Shutdown(name, rule):
                return _because(rule, self._routers[name].shutdown(now))
            case TakeOver(name, rule) if self._routers[name].state is State.BACKUP:
                # "If the Active_Down_Timer fires" (§6.4.2): the group does not wait for it.
                return _because(rule, self._routers[name].timer_expired(now))
            case StepDown(name, rule) if self._routers[name].state is State.ACTIVE:
                return _start_over(self._routers[name], rule, now)
        return ()


def _start_over(router: Router, rule: str, now: float) -> list[Output]:
    """The way back to Backup without a higher priority in sight: shutdown, then startup. Told as one transition."""
    origin = router.state
    outputs = [*router.shutdown(now), *router.startup(now)]
    return [
        replace(it, origin=origin, rule=rule) if isinstance(it, Transition) else it
        for it in outputs
        if not isinstance(it, Transition) or it.to is not State.INITIALIZE
    ]


def _too_late(router: Router, interval: float, now: float) -> str:
    """The rule, when its timer is so late that it must not be acted upon; else "". The owner of the addresses
    has nobody to listen for: starting over, it would be Active at once (§6.4.1).
    """
    late = 0.0 if router.deadline is None else now - router.deadline
    if late <= LATE_INTERVALS * interval or router.priority == OWNER:
        return ""
    return f"woke {late:.3f} s late, when another may be Active: listens for an Active_Down_Interval first"


def _because(rule: str, outputs: Iterable[Output]) -> list[Output]:
    return [replace(it, rule=rule) if isinstance(it, Transition) else it for it in outputs]
