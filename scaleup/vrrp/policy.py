"""When a router takes part in its election, with which priority, and when it may preempt: all that RFC 9568
leaves to the operator. ●

The router (`router`) is §6.4 and nothing else. The policy knows what the RFC does not: that several routers
run on one node, that some of them belong together, and how the node is. It never sees a packet and holds no
router; it is told what happened and returns decisions, each with its rule in words. `routers` carries them
out, with nothing but the events that a router has: startup, shutdown, a changed priority, an expired timer.

    tracking     A check passes or fails; `rise` or `fall` results in a row decide (of a check that has no
                 verdict yet, the first one). Failed with weight 0: fault. Weight > 0 is added while the check
                 is up, weight < 0 while it is down, as in keepalived. The sum is held between 1 and 254;
                 255, the owner of the addresses, is never changed.
    fault        A router with a fault leaves its election until no fault is left. So does one of whose checks
                 of weight 0 is not known yet, because at boot nothing is known: it starts when all have passed.
    sync group   The members move together: a fault of one is a fault of all, and one that becomes Active or
                 gives way takes the others with it. So what one of them tracks counts for all.
    preemption   `preempt_delay` holds Preempt_Mode False until a lower-priority Active has been heard for so
                 long. Nothing else waits for it: when the Active falls silent, the Active_Down_Timer runs out
                 as ever.
    at the start `startup_delay` after the start nobody has started up, so nothing is asserted.
    reload       Another arrangement takes the place of the old one. What is known of the routers and checks
                 that stay is kept, and only what differs is told.

Inputs change what is known, then `_decide` compares what should be with what was told and returns the
differences: a new kind of fault needs no new path. Only taking over and giving way with the group follow
from a change itself, so they are made where it is heard of (`transitioned`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from scaleup.vrrp.arrangement import MAX_PRIORITY, Arrangement, Check, RouterPolicy
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
from scaleup.vrrp.router import OWNER, STOPPING, State


class _Tracked:
    """A check and its results. `up`: None before the first."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.up: bool | None = None
        self.detail = ""
        self._run = 0  # results in a row that speak against `up`
        self._is_another = False  # `up` is of what was checked before, under the same name

    def judged(self, passed: bool, detail: str) -> None:
        is_another, self._is_another = self._is_another, False
        if passed is self.up:
            self._run = 0
            return
        self._run += 1
        if self.up is None or is_another or self._run >= (self.check.rise if passed else self.check.fall):
            self.up, self.detail, self._run = passed, detail, 0

    def inherit(self, before: _Tracked) -> None:
        self.up, self.detail, self._run = before.up, before.detail, before._run
        self._is_another = before._is_another or self.check.what != before.check.what

    def __str__(self) -> str:
        verdict = {None: "has no result yet", True: "passed", False: "failed"}[self.up]
        return f"check {self.check.name} {verdict}" + (f": {self.detail}" if self.detail else "")


class _Obstacle(NamedTuple):
    reason: str
    condition: Condition


class _Member:
    """A router. What it was told last: `priority`, `preempt`, `takes_part`, `told`."""

    def __init__(self, spec: RouterPolicy) -> None:
        self.spec = spec
        self.state = State.INITIALIZE
        self.faults: dict[str, str] = {}  # cause → reason
        self.lower: int | None = None  # priority of the lower-priority Active that is heard now
        self.lower_since = 0.0
        self.priority = spec.priority
        self.preempt = spec.preempt
        self.takes_part = False
        self.told = Condition.WAITING

    def inherit(self, before: _Member) -> None:
        self.state, self.faults = before.state, before.faults
        if self.spec.preempt_delay == before.spec.preempt_delay:
            self.lower, self.lower_since = before.lower, before.lower_since
        self.priority, self.preempt = before.priority, before.preempt
        self.takes_part, self.told = before.takes_part, before.told

    @property
    def may_step_down(self) -> bool:
        """An owner of the addresses would be Active again at once (§6.4.1), and so on without end."""
        return self.state is State.ACTIVE and self.spec.priority != OWNER

    @property
    def may_preempt_at(self) -> float | None:
        """When the lower-priority Active will have been heard for long enough; None: there is none."""
        return None if self.lower is None else self.lower_since + self.spec.preempt_delay

    def startup_rule(self, cause: str) -> str:
        rule = f"startup with priority {self.priority}"
        if self.spec.priority == OWNER:
            rule = "startup as the owner of the addresses (priority 255)"
        return f"{rule}, {cause}" if cause else rule


class _Group:
    """Routers that move together; one without a group is a group of its own, without a name."""

    def __init__(self, name: str, members: list[_Member], weights: dict[str, int]) -> None:
        self.name, self.members, self.weights = name, members, weights
        self.told = Condition.WAITING

    def others(self, member: _Member) -> list[_Member]:
        return [other for other in self.members if other is not member]


class Policy:
    """Of the routers of one node."""

    def __init__(self, arrangement: Arrangement) -> None:
        self._arrange(arrangement)
        self._runs = False
        self._starts_at: float | None = None  # when the startup_delay ends
        self._stopped = ""  # why; "" while not stopped
        self.deadline: float | None = None
        """When `timer_expired` is to be called; None: nothing waits."""

    def _arrange(self, arrangement: Arrangement) -> None:
        self._members = {spec.name: _Member(spec) for spec in arrangement.routers}
        self._checks = {check.name: _Tracked(check) for check in arrangement.checks}
        self._groups = [
            _Group(name, [self._members[member] for member in members], arrangement.weights(members))
            for name, members in arrangement.moving_together()
        ]
        self._group_of = {member.spec.name: group for group in self._groups for member in group.members}
        self._startup_delay = arrangement.startup_delay

    def condition(self, router: str) -> Condition:
        return self._members[router].told

    def priority(self, router: str) -> int:
        """The effective one."""
        return self._members[router].priority

    def checks(self) -> dict[str, bool | None]:
        """Of each check whether it is up; None before its first result."""
        return {name: tracked.up for name, tracked in self._checks.items()}

    def moving_with(self, router: str) -> set[str]:
        """Those that become Active and give way with it, itself included, and the name of their sync group."""
        group = self._group_of[router]
        return {group.name, *(member.spec.name for member in group.members)}

    # ----- what happens: each returns what to do, in order ---------------------------------------------

    def started(self, now: float) -> list[Decision]:
        """The process runs and can hear the others."""
        self._stopped = ""
        if self._startup_delay:
            self._starts_at = now + self._startup_delay
        else:
            self._runs = True
        return self._decide(now, "")

    def stopped(self, reason: str, now: float) -> list[Decision]:
        """The process is about to end."""
        self._runs, self._starts_at, self._stopped = False, None, reason
        return self._decide(now, reason)

    def check_passed(self, check: str, detail: str, now: float) -> list[Decision]:
        """One result of a check. `detail`: what it showed."""
        return self._judged(check, True, detail, now)

    def check_failed(self, check: str, detail: str, now: float) -> list[Decision]:
        return self._judged(check, False, detail, now)

    def fault_found(self, router: str | None, cause: str, reason: str, now: float) -> list[Decision]:
        """The router cannot serve; None: none can. Faults of different causes come and go by themselves."""
        for member in self._those(router):
            member.faults[cause] = reason
        return self._decide(now, reason)

    def fault_gone(self, router: str | None, cause: str, now: float) -> list[Decision]:
        """That fault is over; others may remain."""
        reasons = [member.faults.pop(cause, "") for member in self._those(router)]
        return self._decide(now, f"the fault is gone: {reasons[0]}") if any(reasons) else []

    def removed(self, router: str, reason: str, now: float) -> list[Decision]:
        """The router is no more; it was shut down. Its group goes on without it, and ends with its last one."""
        member, group = self._members.pop(router), self._group_of.pop(router)
        group.members.remove(member)
        told, silent = list[Decision](), (Condition.WAITING, Condition.STOPPED)
        if member.told not in silent:
            told.append(Notify("INSTANCE", router, Condition.STOPPED, member.priority, reason))
        if not group.members:
            self._groups.remove(group)
            if group.name and group.told not in silent:
                told.append(Notify("GROUP", group.name, Condition.STOPPED, 0, reason))
        return told + self._decide(now, reason)

    def rearranged(
        self, arrangement: Arrangement, faults: Mapping[str, Mapping[str, str]], now: float
    ) -> list[Decision]:
        """From now on this arrangement holds. Routers that it does not name were `removed` before.

        `faults`: router → cause → reason, what those that are new have found already.
        """
        members, checks = self._members, self._checks
        groups = {group.name: group for group in self._groups if group.name}
        self._arrange(arrangement)
        for name, member in self._members.items():
            if name in members:
                member.inherit(members[name])
            else:
                member.faults.update(faults.get(name, {}))
        for name, tracked in self._checks.items():
            if name in checks:
                tracked.inherit(checks[name])
        for group in self._groups:
            if group.name in groups:
                group.told = groups[group.name].told
        return self._decide(now, "the configuration was changed")

    def advertisement_heard(self, router: str, priority: int, now: float) -> list[Decision]:
        """Another node advertises `priority`. To be told before the router is."""
        member = self._members[router]
        spec = member.spec
        if not (spec.preempt and spec.preempt_delay) or member.state is not State.BACKUP:
            return []
        is_lower = STOPPING < priority < member.priority
        if is_lower is (member.lower is not None):
            return []
        member.lower, member.lower_since = (priority, now) if is_lower else (None, now)
        return self._decide(now, f"priority {priority} was heard")

    def transitioned(self, router: str, to: State, rule: str, now: float) -> list[Decision]:
        """The router's state has changed, for the reason `rule`."""
        member, group = self._members[router], self._group_of[router]
        member.state, member.lower = to, None
        decisions = list[Decision]()
        why = f"sync group {group.name} moves with {router}: {rule}"
        for other in group.others(member):
            if to is State.ACTIVE and other.state is not State.ACTIVE:
                decisions.append(TakeOver(other.spec.name, why))
            elif to is State.BACKUP and other.may_step_down:
                decisions.append(StepDown(other.spec.name, why))
        return decisions + self._decide(now, rule)

    def timer_expired(self, now: float) -> list[Decision]:
        """`deadline` has come."""
        if self._starts_at is not None and now >= self._starts_at:
            self._runs, self._starts_at = True, None
            return self._decide(now, f"the startup_delay of {self._startup_delay:g} s has passed")
        return self._decide(now, "")

    # ----- from what is known to what is to be done ------------------------------------------------------

    def _judged(self, name: str, passed: bool, detail: str, now: float) -> list[Decision]:
        tracked = self._checks[name]
        before = tracked.up
        tracked.judged(passed, detail)
        return self._decide(now, str(tracked)) if tracked.up is not before else []

    def _those(self, router: str | None) -> list[_Member]:
        return list(self._members.values()) if router is None else [self._members[router]]

    def _decide(self, now: float, cause: str) -> list[Decision]:
        """`cause`: what has just happened, for the rules."""
        decisions = list[Decision]()
        for group in self._groups:
            obstacle = self._obstacle(group)
            for member in group.members:
                decisions += self._weigh(member, group)
                decisions += self._hold_or_let_preempt(member, now)
                if obstacle is None and not member.takes_part:
                    member.takes_part = True
                    decisions.append(Startup(member.spec.name, member.startup_rule(cause)))
                elif obstacle is not None and member.takes_part:
                    member.takes_part = False
                    decisions.append(Shutdown(member.spec.name, obstacle.reason))
            decisions += self._tell(group, obstacle, cause)
        self.deadline = self._next_deadline()
        return decisions

    def _next_deadline(self) -> float | None:
        times = [
            member.may_preempt_at
            for member in self._members.values()
            if member.spec.preempt and not member.preempt
        ]
        return min((time for time in (self._starts_at, *times) if time is not None), default=None)

    def _obstacle(self, group: _Group) -> _Obstacle | None:
        """Why the group does not take part in its elections."""
        if self._stopped:
            return _Obstacle(self._stopped, Condition.STOPPED)
        if not self._runs:
            return _Obstacle("not started", Condition.WAITING)
        tracked = [self._checks[name] for name, weight in group.weights.items() if weight == 0]
        reasons = [
            reason if len(group.members) == 1 else f"sync group {group.name}: {member.spec.name}: {reason}"
            for member in group.members
            for reason in member.faults.values()
        ]
        reasons += [str(it) for it in tracked if it.up is False]
        if reasons:
            return _Obstacle(reasons[0], Condition.FAULT)
        if any(member.takes_part for member in group.members):
            return None  # a check that a reload has added hinders nobody before its first result
        unknown = [str(it) for it in tracked if it.up is None]
        return _Obstacle(unknown[0], Condition.WAITING) if unknown else None

    def _weigh(self, member: _Member, group: _Group) -> list[Decision]:
        base = member.spec.priority
        counted = {
            name: weight
            for name, weight in group.weights.items()
            if weight and base != OWNER and self._checks[name].up is (weight > 0)
        }
        wanted = base + sum(counted.values())
        priority = base if base == OWNER else max(1, min(MAX_PRIORITY, wanted))
        if priority == member.priority:
            return []
        member.priority = priority
        terms = "".join(f" {weight:+d} ({name})" for name, weight in counted.items())
        rule = f"{base}{terms} = {wanted}" if terms else f"{base}, as configured"
        held = "" if priority == wanted else f", held at {priority}"
        return [SetPriority(member.spec.name, priority, rule + held)]

    def _hold_or_let_preempt(self, member: _Member, now: float) -> list[Decision]:
        spec, may_at = member.spec, member.may_preempt_at
        if not spec.preempt or not spec.preempt_delay:
            preempt, rule = spec.preempt, "as configured"
        elif may_at is not None and now >= may_at:
            preempt = True
            rule = (
                f"priority {member.lower} < {member.priority} has been heard for the preempt_delay of "
                f"{spec.preempt_delay:g} s"
            )
        else:
            preempt = False
            rule = f"a lower-priority Active may stay for the preempt_delay of {spec.preempt_delay:g} s"
        if preempt is member.preempt:
            return []
        member.preempt = preempt
        return [SetPreempt(spec.name, preempt, rule)]

    def _tell(self, group: _Group, obstacle: _Obstacle | None, cause: str) -> list[Decision]:
        """Notify of each condition once."""
        decisions = list[Decision]()
        rule = cause if obstacle is None else obstacle.reason
        for member in group.members:
            condition = self._condition(member, obstacle)
            if condition is not member.told:
                member.told = condition
                decisions.append(Notify("INSTANCE", member.spec.name, condition, member.priority, rule))
        conditions = {member.told for member in group.members}
        if group.name and len(conditions) == 1 and group.told not in conditions:
            group.told = conditions.pop()
            decisions.append(Notify("GROUP", group.name, group.told, 0, rule))
        return decisions

    @staticmethod
    def _condition(member: _Member, obstacle: _Obstacle | None) -> Condition:
        """Of one that was told to start up or shut down and has not done it yet: what it was."""
        if member.state is not State.INITIALIZE:
            return Condition(member.state.value)
        if member.takes_part or obstacle is None:
            return member.told
        return obstacle.condition
