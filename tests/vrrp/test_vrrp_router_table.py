"""The router against the table of RFC 9568 §6.4, written down a second time: a row for each event in each state.

The oracle is dumb on purpose. It has no shared code with the router, one function per state, and names what must be
sent and which timer must run; hypothesis plays both the same events and compares all that can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scaleup.vrrp.router import (
    AnnounceAddresses,
    Output,
    Router,
    SendAdvertisement,
    Transition,
    WithdrawAddresses,
)

OURS = IPv4Address("10.0.0.2")
INTERVALS = st.integers(1, 4095).map(lambda centiseconds: centiseconds / 100)


@dataclass
class Oracle:
    """§6.2's variables, and the one timer; `said` is what the last event made it send or do, in order."""

    priority: int
    interval: float
    preempt: bool
    state: str = "Initialize"
    learned: float = 0.0
    timer: float | None = None

    def skew(self) -> float:
        return ((256 - self.priority) * self.learned) / 256

    def down(self) -> float:
        return 3 * self.learned + self.skew()

    def startup(self, now: float) -> list[object]:
        if self.state != "Initialize":
            return []
        if self.priority == 255:
            self.state, self.timer = "Active", now + self.interval
            return [255, "announce"]
        self.learned = self.interval
        self.state, self.timer = "Backup", now + self.down()
        return []

    def shutdown(self) -> list[object]:
        was, self.state, self.timer = self.state, "Initialize", None
        return ["withdraw", 0] if was == "Active" else []

    def timer_fires(self, now: float) -> list[object]:
        if self.state == "Backup":
            self.state, self.timer = "Active", now + self.interval
            return [self.priority, "announce"]
        assert self.timer is not None
        next_on_the_grid = self.timer + self.interval
        self.timer = next_on_the_grid if next_on_the_grid > now else now + self.interval
        return [self.priority]

    def backup_hears(self, priority: int, interval: float, now: float) -> list[object]:
        if priority == 0:
            self.timer = now + self.skew()
        elif not (self.preempt or self.priority == 255) or priority >= self.priority:
            self.learned = interval
            self.timer = now + self.down()
        return []

    def active_hears(self, priority: int, interval: float, greater: bool, now: float) -> list[object]:
        if priority == 0:
            self.timer = now + self.interval
            return [self.priority]
        if priority > self.priority or (priority == self.priority and greater):
            self.learned = interval
            self.state, self.timer = "Backup", now + self.down()
            return ["withdraw"]
        return [self.priority]

    def hears(self, priority: int, interval: float, greater: bool, now: float) -> list[object]:
        if self.state == "Backup":
            return self.backup_hears(priority, interval, now)
        if self.state == "Active":
            return self.active_hears(priority, interval, greater, now)
        return []


@dataclass(frozen=True)
class Heard:
    priority: int
    interval: float


def plain(outputs: tuple[Output, ...]) -> list[object]:
    said: list[object] = []
    for output in outputs:
        match output:
            case SendAdvertisement(priority):
                said.append(priority)
            case AnnounceAddresses():
                said.append("announce")
            case WithdrawAddresses():
                said.append("withdraw")
            case Transition():
                pass
    return said


class Table(RuleBasedStateMachine):
    @initialize(priority=st.integers(1, 255), interval=INTERVALS, preempt=st.booleans())
    def begin(self, priority: int, interval: float, preempt: bool) -> None:
        self.now = 1000.0
        self.router = Router(vrid=51, priority=priority, interval=interval, address=OURS, preempt=preempt)
        self.oracle = Oracle(priority, interval, preempt)

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        deadline = self.oracle.timer
        self.now = (
            self.now + seconds if deadline is None else max(self.now, min(self.now + seconds, deadline))
        )

    @rule()
    def startup(self) -> None:
        assert plain(self.router.startup(self.now)) == self.oracle.startup(self.now)

    @rule()
    def shutdown(self) -> None:
        assert plain(self.router.shutdown(self.now)) == self.oracle.shutdown()

    @precondition(lambda self: self.oracle.timer is not None)
    @rule(late=st.just(0.0) | st.floats(0, 100))
    def the_timer_fires(self, late: float) -> None:
        assert self.oracle.timer is not None
        self.now = max(self.now, self.oracle.timer + late)
        assert plain(self.router.timer_expired(self.now)) == self.oracle.timer_fires(self.now)

    @rule(
        priority=st.integers(0, 255) | st.just(0),
        interval=INTERVALS,
        greater=st.booleans(),
        equal=st.booleans(),
    )
    def an_advertisement_comes(self, priority: int, interval: float, greater: bool, equal: bool) -> None:
        priority = self.oracle.priority if equal else priority
        sender = OURS + 1 if greater else OURS - 1
        said = self.router.advertisement_received(Heard(priority, interval), sender, self.now)
        assert plain(said) == self.oracle.hears(priority, interval, greater, self.now)

    @rule(priority=st.integers(1, 255))
    def the_priority_changes(self, priority: int) -> None:
        assume(priority != self.oracle.priority)
        assert self.router.priority_changed(priority, self.now) == ()
        self.oracle.priority = priority

    @invariant()
    def state_and_timer_are_the_same(self) -> None:
        if not hasattr(self, "oracle"):
            return
        assert self.router.state.value == self.oracle.state.lower()
        assert self.router.deadline == self.oracle.timer


TestTable = Table.TestCase
