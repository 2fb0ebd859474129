"""The routers of a node under their policy, whatever happens in whatever order, beside an oracle that keeps
every result and every advertisement and works everything out anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scaleup.vrrp.arrangement import Arrangement, Check, RouterPolicy, SyncGroup
from scaleup.vrrp.decisions import Condition, Notify, SetPriority
from scaleup.vrrp.policy import Policy
from scaleup.vrrp.router import (
    OWNER,
    AnnounceAddresses,
    Router,
    SendAdvertisement,
    State,
    Transition,
    WithdrawAddresses,
)
from scaleup.vrrp.routers import Action, Routers

OURS, LOWER, HIGHER = (IPv4Address(f"10.0.0.{last}") for last in (2, 1, 3))
RISE, FALL = 2, 3
CHECKS = {"uplink": 0, "app": -60, "spare": 30}
TRACKS = {"web4": CHECKS, "web6": {"uplink": 0}, "db": {"app": -60}, "own": {"app": -60, "uplink": 0}}
PRIORITIES = {"web4": 150, "web6": 150, "db": 100, "own": OWNER}
IN_GROUP = ("web4", "web6")
DELAY = 5.0
PREEMPT_DELAY = {"web4": DELAY, "web6": DELAY, "db": DELAY, "own": 0.0}
NAMES = sorted(TRACKS)


@dataclass(frozen=True)
class Heard:
    priority: int
    interval: float = 1.0


class Node(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.priorities = dict(PRIORITIES)
        self.results: dict[str, list[bool]] = {name: [] for name in CHECKS}
        self.faults: dict[str, set[str]] = {name: set() for name in NAMES}
        self.heard: dict[str, list[tuple[float, int]]] = {
            name: [] for name in NAMES
        }  # as the Backup it is now
        self.announced: set[str] = set()
        self.told: dict[str, Condition] = {}
        self.runs_at: float | None = None
        self.stopped = False
        specs = tuple(
            RouterPolicy(name, PRIORITIES[name], True, PREEMPT_DELAY[name], TRACKS[name]) for name in NAMES
        )
        checks = tuple(Check(name, RISE, FALL) for name in CHECKS)
        self.arrangement = Arrangement(specs, checks, (SyncGroup("G", IN_GROUP),), 2.0)
        self.policy = Policy(self.arrangement)
        self.each = {
            name: Router(vrid=number, priority=PRIORITIES[name], interval=1.0, address=OURS)
            for number, name in enumerate(NAMES, start=1)
        }
        self.routers = Routers(self.each, self.policy)

    def took(self, actions: list[Action]) -> None:
        for name, what in actions:
            match what:
                case AnnounceAddresses():
                    assert name not in self.announced
                    self.announced.add(name)
                case WithdrawAddresses():
                    self.announced.remove(name)
                case SendAdvertisement(priority):
                    assert (priority == 0) == (self.each[name].state is not State.ACTIVE)
                case Transition(origin, to, why, section):
                    assert origin is not to or why.startswith("woke ")
                    assert why
                    assert section
                    self.heard[name].clear()
                case Notify(_, _, condition, priority, why):
                    assert why
                    assert self.told.get(name) is not condition, "told twice"
                    self.told[name] = condition
                    assert priority == (0 if name == "G" else self.each[name].priority)
                case SetPriority(_, priority, why):
                    assert why.split(" ")[0].rstrip(",") == str(self.priorities[name])

    # ----- what happens -----------------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        self.runs_at = self.now + 2.0
        self.took(self.routers.started(self.now))

    @rule(name=st.sampled_from(sorted(CHECKS)), results=st.lists(st.booleans(), min_size=1, max_size=4))
    def check(self, name: str, results: list[bool]) -> None:
        for passed in results:
            self.results[name].append(passed)
            tell = self.routers.check_passed if passed else self.routers.check_failed
            self.took(tell(name, "", self.now))

    @rule(router=st.sampled_from([None, *NAMES]), cause=st.sampled_from("ab"))
    def fault(self, router: str | None, cause: str) -> None:
        for name in NAMES if router is None else [router]:
            self.faults[name].add(cause)
        self.took(self.routers.fault_found(router, cause, f"it is {cause}", self.now))

    @rule(router=st.sampled_from([None, *NAMES]), cause=st.sampled_from("ab"))
    def fault_ends(self, router: str | None, cause: str) -> None:
        for name in NAMES if router is None else [router]:
            self.faults[name].discard(cause)
        self.took(self.routers.fault_gone(router, cause, self.now))

    @rule(name=st.sampled_from(NAMES), priority=st.integers(0, 255), sender=st.sampled_from([LOWER, HIGHER]))
    def hear(self, name: str, priority: int, sender: IPv4Address) -> None:
        if self.each[name].state is State.BACKUP:
            self.heard[name].append((self.now, 0 < priority < self.each[name].priority))
        self.took(self.routers.advertisement_received(name, Heard(priority), sender, self.now))

    @rule(name=st.sampled_from(NAMES), seconds=st.integers(1, 8))
    def a_lower_active_lives(self, name: str, seconds: int) -> None:
        for _ in range(seconds):
            self.pass_time(1.0)
            self.hear(name, 1, LOWER)

    @rule(name=st.sampled_from([name for name in NAMES if name != "own"]), priority=st.integers(1, 254))
    def configure(self, name: str, priority: int) -> None:
        """As a reload does; no router is touched by it, but for its priority."""
        for each in IN_GROUP if name in IN_GROUP else [name]:
            self.priorities[each] = priority
        specs = (replace(spec, priority=self.priorities[spec.name]) for spec in self.arrangement.routers)
        arrangement = replace(self.arrangement, routers=tuple(specs))
        self.took(self.routers.rearranged(self.each, arrangement, {}, self.now))

    @rule(seconds=st.floats(0, 4))
    def pass_time(self, seconds: float) -> None:
        """As a shell does: whatever is due on the way happens in time."""
        end = self.now + seconds
        while (deadline := self.routers.deadline) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.took(self.routers.timer_expired(self.now))
        self.now = end

    @rule(seconds=st.floats(0, 20))
    def oversleep(self, seconds: float) -> None:
        """Nothing happens in time; on waking it is made up for as a shell does."""
        self.now += seconds
        self.took(self.routers.woken(self.now))
        self.pass_time(0.0)

    @precondition(lambda self: not self.stopped)
    @rule()
    def stop(self) -> None:
        self.stopped = True
        self.took(self.routers.stopped("SIGTERM", self.now))

    @precondition(lambda self: self.stopped)
    @rule()
    def start_again(self) -> None:
        self.stopped = False
        self.start()

    # ----- what must hold ---------------------------------------------------------------------------------

    def up(self, check: str) -> bool | None:
        """The oracle: the first result, and then whatever so many in a row say."""
        state: bool | None = None
        results = self.results[check]
        for end, passed in enumerate(results, start=1):
            needed = RISE if passed else FALL
            if state is None or (
                state is not passed and set(results[max(0, end - needed) : end]) == {passed}
            ):
                state = passed if state is None or end >= needed else state
        return state

    def together(self, name: str) -> tuple[str, ...]:
        return IN_GROUP if name in IN_GROUP else (name,)

    @invariant()
    def who_takes_part(self) -> None:
        started = not self.stopped and self.runs_at is not None and self.now >= self.runs_at
        for name in NAMES:
            tracked = {check for each in self.together(name) for check in TRACKS[each] if CHECKS[check] == 0}
            fit = all(self.up(check) for check in tracked)
            fit = fit and not any(self.faults[each] for each in self.together(name))
            takes_part = self.each[name].state is not State.INITIALIZE
            assert takes_part == (started and fit), name

    @invariant()
    def effective_priorities(self) -> None:
        for name in NAMES:
            if name == "own":
                assert self.each[name].priority == OWNER
                continue
            tracked = {check for each in self.together(name) for check in TRACKS[each]}
            counted = sum(CHECKS[check] for check in tracked if self.up(check) is (CHECKS[check] > 0))
            assert self.each[name].priority == max(1, min(254, self.priorities[name] + counted))
            assert self.policy.priority(name) == self.each[name].priority

    @invariant()
    def the_group_is_one(self) -> None:
        assert len({self.each[name].state for name in IN_GROUP}) == 1
        assert len({self.policy.condition(name) for name in IN_GROUP}) == 1

    @invariant()
    def addresses_and_conditions_follow_the_states(self) -> None:
        assert self.announced == {name for name in NAMES if self.each[name].state is State.ACTIVE}
        for name in NAMES:
            state, condition = self.each[name].state, self.policy.condition(name)
            if state is State.INITIALIZE:
                assert condition not in (Condition.ACTIVE, Condition.BACKUP)
            else:
                assert condition.value == state.value
            assert self.told.get(name, Condition.WAITING) is condition

    @invariant()
    def preemption_waits_for_its_delay_and_for_nothing_else(self) -> None:
        for name in NAMES:
            if self.runs_at is None or not PREEMPT_DELAY[name] or not self.each[name].preempt:
                continue
            began = self.now
            for when, was_lower in reversed(self.heard[name]):
                if not was_lower:
                    break
                began = when
            assert self.each[name].state is State.BACKUP
            assert self.now - began >= DELAY, f"{name} would preempt after {self.now - began} s"

    @invariant()
    def no_fail_over_is_delayed(self) -> None:
        for router in self.each.values():
            assert (router.deadline is None) == (router.state is State.INITIALIZE)
            if router.state is State.BACKUP:
                assert router.deadline is not None
                assert router.deadline - self.now <= 4 * router.active_interval

    @invariant()
    def nothing_that_is_due_is_left(self) -> None:
        deadline = self.policy.deadline
        assert deadline is None or deadline >= self.now


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
