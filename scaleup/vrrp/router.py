"""The state machine of RFC 9568 §6.4, whole, and nothing else.

                    startup, priority 255
        ┌────────────────────────────────────────────┐
        │                                            ▼
    Initialize ──startup──▶ Backup ──Active_Down_Timer──▶ Active
        ▲                    │  ▲                        │  │
        │                    │  └──higher priority heard──┘  │
        └──────shutdown──────┴────────────shutdown───────────┘

A Router is told what happened and returns what to do, in the order in which it must be done. It reads no
clock: `now` is passed in, in seconds of a monotonic clock. It arms one timer, `deadline`: the Adver_Timer
while Active, the Active_Down_Timer while Backup, none in Initialize. A shell looks like this:

    act(router.startup(now))
    wait for a packet or for router.deadline, whichever comes first
        a packet:      act(router.advertisement_received(advertisement, sender, now))
        the deadline:  act(router.timer_expired(now)), but first the packets that have arrived
    act(router.shutdown(now))

Invariants: `state` is written by `_become` alone, which sets the timer and returns the Transition with the
rule that decided; addresses are announced once on becoming Active and withdrawn once on leaving it.

Three things the RFC leaves open, decided here. The fractions of the timers are kept: at an interval of
10 ms a Skew_Time in whole centiseconds would be 0 for everybody. The Adver_Timer keeps to its grid (see
`_next_advertisement`). A change of priority takes effect from the next event on: see `priority_changed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from scaleup.vrrp.packet import Address

OWNER = 255  # priority of the router whose own addresses are the virtual ones, §5.2.4
STOPPING = 0  # priority with which an Active Router says that it stops, §5.2.4


class State(StrEnum):
    INITIALIZE = "initialize"
    BACKUP = "backup"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class SendAdvertisement:
    """Send an advertisement with this priority (0: we stop) and our own interval."""

    priority: int


@dataclass(frozen=True, slots=True)
class AnnounceAddresses:
    """Take the virtual addresses and tell the neighbours: by gratuitous ARP, or, after joining the Solicited-Node
    groups, by unsolicited Neighbor Advertisements with R = 1, S = 0, O = 1.
    """


@dataclass(frozen=True, slots=True)
class WithdrawAddresses:
    """Give the virtual addresses up: answer no ARP or Neighbor Solicitation for them, accept no packet."""


@dataclass(frozen=True, slots=True)
class Transition:
    """The state has changed. `rule`: the reason in words; `section`: of RFC 9568."""

    origin: State
    to: State
    rule: str
    section: str


Output = SendAdvertisement | AnnounceAddresses | WithdrawAddresses | Transition


class Heard(Protocol):
    """What the router wants to know of an advertisement; `packet.Advertisement` is one."""

    @property
    def priority(self) -> int: ...

    @property
    def interval(self) -> float: ...


class Router:
    """One virtual router on one node.

    `vrid`: 1–255. `priority`: 1–255; 255 is the owner of the addresses. `interval`: Advertisement_Interval,
    seconds, 0.01–40.95 (§5.2.7). `address`: this node's primary address, the source of its advertisements,
    which decides between equal priorities. `preempt`: Preempt_Mode. Raises ValueError outside of these.
    """

    def __init__(
        self, *, vrid: int, priority: int, interval: float, address: Address, preempt: bool = True
    ) -> None:
        if not 1 <= vrid <= 255:
            raise ValueError(f"VRID {vrid} is not from 1 to 255")
        if not 0.01 <= interval <= 40.95:
            raise ValueError(f"an interval of {interval} s is not from 0.01 to 40.95 s")
        self.vrid = vrid
        self.interval = interval
        self.address = address
        self.preempt = preempt
        self.priority = _valid_priority(priority)
        self.active_interval = interval
        """Active_Adver_Interval: the Active Router's interval, as it was last learned."""
        self._state = State.INITIALIZE
        self._deadline: float | None = None
        self._silence = "nothing heard"  # why the Active_Down_Timer was left to run out, for the rule

    @property
    def state(self) -> State:
        return self._state

    @property
    def deadline(self) -> float | None:
        """When the one armed timer fires: the Adver_Timer (Active) or the Active_Down_Timer (Backup)."""
        return self._deadline

    @property
    def skew_time(self) -> float:
        """§6.1: "((256 - Priority) * Active_Adver_Interval) / 256", in seconds."""
        return (256 - self.priority) * self.active_interval / 256

    @property
    def active_down_interval(self) -> float:
        """§6.1: "(3 * Active_Adver_Interval) + Skew_Time", in seconds."""
        return 3 * self.active_interval + self.skew_time

    @property
    def preempts(self) -> bool:
        """§6.1: the owner of the addresses "always preempts, independent of the setting of this flag"."""
        return self.preempt or self.priority == OWNER

    # What happens: each returns what to do, in order.

    def startup(self, now: float) -> tuple[Output, ...]:
        """§6.4.1. "If a Startup event is received, then:" """
        if self._state is not State.INITIALIZE:
            return ()
        # "If the Priority = 255, i.e., the router owns the IPvX address associated with the Virtual Router"
        if self.priority == OWNER:
            return self._take_over(now, "startup as the owner of the addresses (priority 255)", "6.4.1")
        # "Set the Active_Adver_Interval to Advertisement_Interval"
        self.active_interval = self.interval
        return (self._become_backup(now, f"startup with priority {self.priority}", "6.4.1"),)

    def shutdown(self, now: float) -> tuple[Output, ...]:
        """§6.4.2 and §6.4.3. "If a Shutdown event is received, then:" """
        match self._state:
            case State.INITIALIZE:
                return ()
            case State.BACKUP:
                # "Cancel the Active_Down_Timer", "Transition to the {Initialize} state"
                return (self._become_initialize("shutdown", "6.4.2"),)
            case State.ACTIVE:
                # "Cancel the Adver_Timer", "Send an ADVERTISEMENT with Priority = 0", "Transition to …"
                # The addresses go first: whoever hears the 0 may take them at once.
                withdraw, transition = WithdrawAddresses(), self._become_initialize("shutdown", "6.4.3")
                return (withdraw, SendAdvertisement(STOPPING), transition)

    def timer_expired(self, now: float) -> tuple[Output, ...]:
        """`deadline` has come. That is for the shell to judge, once it has read what had arrived before."""
        match self._state:
            case State.INITIALIZE:
                return ()
            case State.BACKUP:
                # §6.4.2: "If the Active_Down_Timer fires, then:"
                return self._take_over(now, f"Active_Down_Timer fired, {self._silence}", "6.4.2")
            case State.ACTIVE:
                # §6.4.3: "If the Adver_Timer fires, then: Send an ADVERTISEMENT. Reset the Adver_Timer to
                # Advertisement_Interval"
                self._deadline = self._next_advertisement(now)
                return (SendAdvertisement(self.priority),)

    def advertisement_received(self, adv: Heard, sender: Address, now: float) -> tuple[Output, ...]:
        """An advertisement for this virtual router passed the checks of §7.1. `sender`: its source address.

        Not for what this router has sent itself: two that answer each other under one address never stop.
        """
        match self._state:
            case State.INITIALIZE:
                return ()  # §6.4.1 waits for a Startup event only
            case State.BACKUP:
                self._backup_hears(adv, now)
                return ()
            case State.ACTIVE:
                return self._active_hears(adv, sender, now)

    def priority_changed(self, new: int, now: float) -> tuple[Output, ...]:
        """Tracking has changed what this node is worth (1–255). The RFC knows no such event.

        The next advertisement sent carries it, the next one heard is compared with it, and the next time the
        Active_Down_Timer is set its skew is the new one. A running timer is left alone: the cluster follows
        within an Active_Down_Interval anyway. Raises ValueError outside of 1–255: 0 is a farewell, see `shutdown`.
        """
        self.priority = _valid_priority(new)
        return ()

    # §6.4.2 and §6.4.3: "If an ADVERTISEMENT is received, then:"

    def _backup_hears(self, adv: Heard, now: float) -> None:
        if adv.priority == STOPPING:
            # "If the Priority in the ADVERTISEMENT is 0, then: Set the Active_Down_Timer to Skew_Time"
            self._deadline = now + self.skew_time
            self._silence = "Skew_Time after priority 0 was heard"
        elif not self.preempts or adv.priority >= self.priority:
            # "If Preempt_Mode is False, or if the Priority in the ADVERTISEMENT is greater than or equal to
            # the local Priority, then:" learn, recompute, "Set the Active_Down_Timer to Active_Down_Interval"
            self.active_interval = adv.interval
            self._deadline = now + self.active_down_interval
            self._silence = "nothing heard"
        else:
            # "Discard the ADVERTISEMENT": the timer runs on, and at its end we preempt.
            self._silence = f"only lower priority heard ({adv.priority} < {self.priority})"

    def _active_hears(self, adv: Heard, sender: Address, now: float) -> tuple[Output, ...]:
        if adv.priority == STOPPING:
            # "If the Priority in the ADVERTISEMENT is 0, then: Send an ADVERTISEMENT. Reset the Adver_Timer
            # to Advertisement_Interval"
            self._deadline = now + self.interval
            return (SendAdvertisement(self.priority),)
        # "If the Priority in the ADVERTISEMENT is greater than the local Priority or …"
        if adv.priority > self.priority:
            rule = f"higher priority heard ({adv.priority} > {self.priority})"
            return self._give_way(adv, now, rule)
        # "… the Priority in the ADVERTISEMENT is equal to the local Priority and the primary IPvX address of
        # the sender is greater than the local primary IPvX address (based on an unsigned integer comparison
        # of the IPvX addresses in network byte order), then:"
        if adv.priority == self.priority and int(sender) > int(self.address):
            rule = f"equal priority {adv.priority} heard from a greater address ({sender} > {self.address})"
            return self._give_way(adv, now, rule)
        # "Discard the ADVERTISEMENT. Send an ADVERTISEMENT immediately to assert the {Active} state to the
        # sending VRRP Router and to update any learning bridges". The timer is not mentioned: it runs on.
        return (SendAdvertisement(self.priority),)

    def _take_over(self, now: float, rule: str, section: str) -> tuple[Output, ...]:
        # "Send an ADVERTISEMENT", then the gratuitous ARP or the Neighbor Advertisements
        transition = self._become_active(now, rule, section)
        return (SendAdvertisement(self.priority), AnnounceAddresses(), transition)

    def _give_way(self, adv: Heard, now: float, rule: str) -> tuple[Output, ...]:
        # "Set the Active_Adver_Interval to the Max Advertise Interval contained in the ADVERTISEMENT"
        self.active_interval = adv.interval
        return (WithdrawAddresses(), self._become_backup(now, rule, "6.4.3"))

    def _next_advertisement(self, now: float) -> float:
        """One interval after the last was due, not after it was sent: a timer that is always a little late
        (1.1 ms in 10 with asyncio's) would otherwise advertise more slowly than it promises, and use up what
        the Backups allow for lost packets. Later than an interval: the grid starts anew at `now`, because
        Backups need one sign of life and not all that were missed at once.
        """
        assert self._deadline is not None  # set in every state but Initialize
        on_grid = self._deadline + self.interval
        return on_grid if on_grid > now else now + self.interval

    # All changes of state.

    def _become_initialize(self, rule: str, section: str) -> Transition:
        return self._become(State.INITIALIZE, None, rule, section)

    def _become_backup(self, now: float, rule: str, section: str) -> Transition:
        # "Set the Active_Down_Timer to Active_Down_Interval", "Transition to the {Backup} state"
        self._silence = "nothing heard"
        return self._become(State.BACKUP, now + self.active_down_interval, rule, section)

    def _become_active(self, now: float, rule: str, section: str) -> Transition:
        # "Set the Adver_Timer to Advertisement_Interval", "Transition to the {Active} state"
        return self._become(State.ACTIVE, now + self.interval, rule, section)

    def _become(self, to: State, deadline: float | None, rule: str, section: str) -> Transition:
        origin, self._state, self._deadline = self._state, to, deadline
        return Transition(origin, to, rule, section)


def _valid_priority(priority: int) -> int:
    if not 1 <= priority <= 255:
        raise ValueError(f"priority {priority} is not from 1 to 255")
    return priority
