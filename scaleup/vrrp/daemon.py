"""The shell around the router: one socket, one timer, and the actions carried out.

Everything that happens takes the same three steps: tell the router, do what it returns, arm the one timer
for its next deadline. On waking, a Backup reads what has arrived before it judges the timer: after a pause of
this process the advertisements that keep it a Backup are already in the socket. An Active one whose timer is
due advertises first, so that no flood can make it late.

**Late waking.** Others count three of our intervals before they take over. Whoever wakes later than that may have
been replaced meanwhile, and the silence that a Backup finds may be its own. So it does not assert: it leaves
what it had and listens for an Active_Down_Interval, as one that starts (RFC 9568 knows no pauses; to the router
it is a shutdown and a startup). Less late, an Active goes on: to advertise at once keeps the role.

**Faults.** A node that cannot serve leaves the election, by the word of its parent (`fault`), because a link
is down, because its clock is wrong or because it could not take the address when its turn came. It is back when
each that found a fault has taken it back (`recover`). It goes on listening meanwhile, for the metrics and so
that nothing old is in the socket when it comes back, but the router, in Initialize, takes no notice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from scaleup.processes.logs import LimitedLog
from scaleup.vrrp.auth import AUTH_CAUSES, AuthError
from scaleup.vrrp.clock import ClockWatch
from scaleup.vrrp.lateness import Lateness
from scaleup.vrrp.network import Datagram, Network
from scaleup.vrrp.owner import Owner
from scaleup.vrrp.packet import CAUSES, Address, Advertisement, PacketError
from scaleup.vrrp.router import (
    STOPPING,
    AnnounceAddresses,
    Output,
    Router,
    SendAdvertisement,
    State,
    Transition,
    WithdrawAddresses,
)
from scaleup.vrrp.settings import Election
from scaleup.vrrp.timer import Timer

log = logging.getLogger(__name__)

ROLES = ("active", "backup", "fault")
DROP_CAUSES = ("peer", *CAUSES, *AUTH_CAUSES)
EVENTS = ("startup", "advertisement", "timer", "late", "fault", "stop")
"""What makes a role change, for the metrics."""

LOG_EVERY_SECONDS = 5.0
LATE_INTERVALS = 3  # what a Backup waits for, its skew aside
TAKE_AGAIN_SECONDS = 5.0  # until an address that could not be taken is tried again
MAX_HEARD = 64  # senders remembered: multicast has no list of peers to bound them


class Daemon:
    """One virtual router. `on_role` is told `active`, `backup` or `fault`, and the rule that decided."""

    def __init__(
        self,
        election: Election,
        network: Network,
        owner: Owner,
        on_role: Callable[[str, str], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.election = election
        self._network, self._owner = network, owner
        self._on_role, self._wall_clock = on_role, wall_clock
        self._loop = asyncio.get_running_loop()
        self.router = Router(
            vrid=election.vrid,
            priority=election.priority,
            interval=election.interval,
            address=network.source,
            preempt=election.preempt,
        )
        self._codec = election.codec()
        self._clock = ClockWatch()
        self._timer: Timer | None = None  # while started
        self._next_try: asyncio.TimerHandle | None = None
        self._clock_timer: asyncio.TimerHandle | None = None
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)
        self._event = "startup"
        self._faults: dict[str, str] = {}  # who found it → the reason
        self.role = "fault"
        self.last_transition = wall_clock()
        self.transitions = Counter({(role, event): 0 for role in ROLES for event in EVENTS})
        """Changes of role, by the new role and what made it."""
        self.sent = self.received = 0
        self.farewells_sent = self.farewells_received = 0
        """Of those the ones with priority 0."""
        self.dropped = Counter(dict.fromkeys(DROP_CAUSES, 0))
        self.lateness = Lateness()
        self.last_heard: dict[str, float] = {}
        """Monotonic time of the last accepted advertisement of each peer."""

    def start(self) -> None:
        """Take part in the election, as a Backup at first."""
        self._owner.release()
        self._timer = Timer(self._timer_expired)
        self._loop.add_reader(self._network.fileno(), self._readable)
        self._owner.watch(self.fault, self.recover)
        if self._faults:
            self._on_role(self.role, next(iter(self._faults.values())))
        else:
            self._start_router("startup")

    def stop(self) -> None:
        """Give the address up; the others hear priority 0. May be repeated."""
        self._event = "stop"
        self._leave("stopped")
        self._loop.remove_reader(self._network.fileno())
        for handle in (self._next_try, self._clock_timer):
            if handle is not None:
                handle.cancel()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def fault(self, reason: str, by: str = "node") -> None:
        """This node cannot serve, as `by` finds: leave the election until each `by` says `recover`."""
        if self._faults.get(by) != reason:
            log.warning("fault: %s", reason)
        self._faults[by] = reason
        self._event = "fault"
        self._leave(reason)

    def recover(self, by: str = "node") -> None:
        """Take part again, if nothing else is wrong; nothing happens to one that does."""
        self._faults.pop(by, None)
        if not self._faults and self._timer is not None:
            self._start_router("fault")

    # ----- what happens ---------------------------------------------------------------------------

    def _start_router(self, event: str) -> None:
        self._event = event
        self._act(self.router.startup(self._loop.time()))

    def _readable(self) -> None:
        self._yield_if_late()
        for datagram in self._network.receive():
            self._datagram_received(datagram)
            if self.router.state is State.ACTIVE and self._is_due():
                break  # first the advertisement: a flood must not make us late; the rest waits in the socket

    def _datagram_received(self, datagram: Datagram) -> None:
        advertisement = self._read(datagram)
        if advertisement is None:
            return
        now = self._loop.time()
        self.received += 1
        self.farewells_received += advertisement.priority == STOPPING
        self._remember(str(datagram.source), now)
        self._compare(advertisement, datagram.source)
        self._event = "advertisement"
        self._act(self.router.advertisement_received(advertisement, datagram.source, now))
        if self.router.state is State.ACTIVE and advertisement.priority != STOPPING:
            self._limited.warning(
                f"also active: {datagram.source}",
                f"{datagram.source} is Active as well, with priority {advertisement.priority}: "
                "if this goes on, it does not hear us",
            )
            self._owner.remind()

    def _timer_expired(self) -> None:
        due = self.router.deadline
        if due is not None:
            self.lateness.observe(self._loop.time() - due)
        self._yield_if_late()
        if self.router.state is not State.ACTIVE:
            self._readable()
        deadline, now = self.router.deadline, self._loop.time()
        if deadline is None or now < deadline:
            self._arm()
        elif now - deadline > LATE_INTERVALS * self.router.active_interval:
            self._listen_first(now - deadline)
        else:
            self._event = "timer"
            self._act(self.router.timer_expired(now))

    def _is_due(self) -> bool:
        return self.router.deadline is not None and self._loop.time() >= self.router.deadline

    def _yield_if_late(self) -> None:
        """Before what has arrived is read: an Active would answer each of it with an advertisement."""
        if self.router.state is State.ACTIVE and self.router.deadline is not None:
            late = self._loop.time() - self.router.deadline
            if late > LATE_INTERVALS * self.router.interval:
                self._listen_first(late)

    def _listen_first(self, late: float) -> None:
        rule = (
            f"woke {late:.3f} s late, when another may be Active: listens for an Active_Down_Interval first"
        )
        origin, now = self.router.state, self._loop.time()
        outputs = [*self.router.shutdown(now), *self.router.startup(now)]
        self._event = "late"
        self._act(
            [
                replace(each, origin=origin, rule=rule) if isinstance(each, Transition) else each
                for each in outputs
                if not (isinstance(each, Transition) and each.to is State.INITIALIZE)
            ]
        )

    # ----- what is done ---------------------------------------------------------------------------

    def _act(self, outputs: Sequence[Output]) -> None:
        """Carry out what the router returned. The address is taken before anybody is told of it: a node that
        cannot take it would else drive out one that serves, at each attempt.
        """
        if AnnounceAddresses() in outputs:
            try:
                self._owner.take()
            except OSError as error:
                self._cannot_take(error)
                return
        for output in outputs:
            match output:
                case SendAdvertisement(priority):
                    self._send(priority)
                case WithdrawAddresses():
                    self._owner.release()
                case Transition():
                    self._transition(output)
        self._arm()

    def _leave(self, reason: str) -> None:
        outputs = self.router.shutdown(self._loop.time())
        self._act([replace(each, rule=reason) if isinstance(each, Transition) else each for each in outputs])
        self._owner.release()

    def _cannot_take(self, error: OSError) -> None:
        reason = f"the address cannot be taken: {error.strerror}; next try in {TAKE_AGAIN_SECONDS:g} s"
        self.fault(reason, "taking")
        self._next_try = self._loop.call_later(TAKE_AGAIN_SECONDS, self.recover, "taking")

    def _arm(self) -> None:
        """Have the timer fire at the router's deadline; without one, leave none armed."""
        if self._timer is not None:
            self._timer.arm(self.router.deadline)

    def _send(self, priority: int) -> None:
        def message_to(destination: Address) -> bytes:
            return self._codec.write(priority, self._network.source, destination, self._wall_clock())

        self.sent += 1
        self.farewells_sent += priority == STOPPING
        for destination, error in self._network.send(message_to):
            self._limited.warning(
                f"send to {destination}", f"cannot advertise to {destination}: {error.strerror}"
            )

    def _transition(self, transition: Transition) -> None:
        role = "fault" if transition.to is State.INITIALIZE else transition.to.value
        if transition.origin is not transition.to:
            self.last_transition = self._wall_clock()
            self.transitions[role, self._event] += 1
        log.info(
            "VRID %d: %s → %s: %s (RFC 9568 §%s)",
            self.election.vrid,
            transition.origin.value,
            transition.to.value,
            transition.rule,
            transition.section,
        )
        if transition.origin is not transition.to:
            self.role = role
            self._on_role(role, transition.rule)

    # ----- receipt, RFC 9568 §7.1 -----------------------------------------------------------------

    def _read(self, datagram: Datagram) -> Advertisement | None:
        """The advertisement, or None when it is dropped, which is counted by cause."""
        peers = self._network.peers
        if peers is None and datagram.source == self._network.source:
            self._drop("peer", datagram, "that is our own address: does another host have it, too?")
            return None
        if peers is not None and datagram.source not in peers:
            self._drop("peer", datagram, "not a peer; see --peer")
            return None
        try:
            advertisement = self._codec.read(
                datagram.data,
                datagram.source,
                datagram.destination,
                datagram.hop_limit,
                self._wall_clock(),
            )
        except (PacketError, AuthError) as error:
            self._drop(error.cause, datagram, str(error))
            if isinstance(error, AuthError) and error.from_future:
                self._doubt_the_clock(datagram.source, error)
            return None
        if self._codec.authenticator is not None:
            self._trust_the_clock()
        return advertisement

    def _drop(self, cause: str, datagram: Datagram, detail: str) -> None:
        self.dropped[cause] += 1
        if cause == "vrid" and self._network.peers is None:
            return  # other virtual routers on the link are nothing to complain about
        self._limited.warning(cause, f"dropped an advertisement of {datagram.source}: {detail}")

    def _remember(self, source: str, now: float) -> None:
        self.last_heard.pop(source, None)
        self.last_heard[source] = now
        if len(self.last_heard) > MAX_HEARD:
            del self.last_heard[next(iter(self.last_heard))]

    def _compare(self, advertisement: Advertisement, source: Address) -> None:
        """Differences that the RFC wants logged and not dropped."""
        if set(advertisement.addresses) != set(self.election.addresses):
            theirs = ", ".join(map(str, advertisement.addresses))
            self._limited.warning("addresses", f"{source} advertises other addresses: {theirs}; see --vip")
        if advertisement.priority != 0 and advertisement.interval != self.election.interval:
            self._limited.warning(
                "interval", f"{source} advertises every {advertisement.interval:g} s; see --interval"
            )

    # ----- the clock, where packets are authenticated by it: see `clock` ------------------------------

    def _doubt_the_clock(self, source: Address, error: AuthError) -> None:
        # No Active_Down_Interval is longer than 4 intervals.
        patience = 4 * max(self.election.interval, self.router.active_interval)
        self._clock.from_future(self._loop.time(), patience)
        if self._clock.deadline is None:
            return
        if self._clock_timer is not None:
            self._clock_timer.cancel()
        self._clock_timer = self._loop.call_at(self._clock.deadline, self._trust_the_clock)
        if "clock" not in self._faults:
            self.fault(f"our clock is wrong: advertisements of {source} are {error}; set it, by NTP", "clock")

    def _trust_the_clock(self) -> None:
        if self._clock_timer is not None:
            self._clock_timer.cancel()
        self._clock.believed()
        if "clock" in self._faults:
            log.info("our clock is believed again")
            self.recover("clock")
