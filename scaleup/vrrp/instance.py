"""One virtual router of this node, but for its decisions: what it hears and says, what it owns, what is counted.

Receipt is RFC 9568 §7.1: what fails a check is dropped, counted by cause and logged with a cure. Where packets are
authenticated by their time, this is also where a wrong clock shows (`clock`): that is a fault of the router.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from scaleup.processes.logs import LimitedLog
from scaleup.vrrp.auth import AUTH_CAUSES, AuthError
from scaleup.vrrp.clock import ClockWatch
from scaleup.vrrp.codec import Codec
from scaleup.vrrp.decisions import Condition
from scaleup.vrrp.election import Election
from scaleup.vrrp.network import Datagram, Network
from scaleup.vrrp.owner import Owner
from scaleup.vrrp.packet import CAUSES, Address, Advertisement, PacketError
from scaleup.vrrp.router import STOPPING, Router, State, Transition

log = logging.getLogger(__name__)

ROLES = ("active", "backup", "fault")
PEER_VRID = "peer-vrid"
"""Another VRID by unicast, from a peer: that is a mistake. By multicast it is another election."""
DROP_CAUSES = ("peer", PEER_VRID, *CAUSES, *AUTH_CAUSES)
EVENTS = ("startup", "advertisement", "timer", "late", "check", "fault", "reload", "stop")
"""What makes a role change, for the metrics."""

LOG_EVERY_SECONDS = 5.0
MAX_HEARD = 64  # senders remembered: multicast has no list of peers to bound them


class Instance:
    """Made inside the running loop; `start` it before anything is read. Raises ValueError."""

    def __init__(
        self,
        election: Election,
        network: Network,
        owner: Owner,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = election.router_name
        self.election, self.network, self.owner = election, network, owner
        self._wall_clock = wall_clock
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
        self._clock_is_wrong = False
        self._clock_timer: asyncio.TimerHandle | None = None
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)
        self._fault: Callable[[str, str], None] = lambda reason, by: None
        self._recover: Callable[[str], None] = lambda by: None
        self.condition = Condition.WAITING
        self.rule = ""
        """As last told, and why."""
        self.last_transition = wall_clock()
        self.transitions = Counter({(role, event): 0 for role in ROLES for event in EVENTS})
        """Changes of role, by the new role and what made it."""
        self.sent = self.received = 0
        self.farewells_sent = self.farewells_received = 0
        """Of those the ones with priority 0."""
        self.dropped = Counter(dict.fromkeys(DROP_CAUSES, 0))
        self.last_heard: dict[str, float] = {}
        """Monotonic time of the last accepted advertisement of each peer."""

    @property
    def _title(self) -> str:
        vrid = f"VRID {self.election.vrid}"
        return vrid if self.name == f"VI_{self.election.vrid}" else f"{self.name} ({vrid})"

    @property
    def role(self) -> str:
        """What it serves as: one of ROLES."""
        return self.condition.value if self.condition in (Condition.ACTIVE, Condition.BACKUP) else "fault"

    def start(self, fault: Callable[[str, str], None], recover: Callable[[str], None]) -> None:
        """Own nothing, and from now on say `fault(reason, by)` when it cannot serve, then `recover(by)`."""
        self._fault, self._recover = fault, recover
        self.owner.release()
        self.owner.watch(fault, recover)

    def stop(self) -> None:
        """May be repeated."""
        if self._clock_timer is not None:
            self._clock_timer.cancel()
        self.owner.release()

    def reopened(self, network: Network, owner: Owner) -> None:
        """Its interface was made anew: from now on with these, as the same router. `start` comes next."""
        if network is not self.network:
            self.network.close()
        self.owner.close()
        self.network, self.owner = network, owner
        self.router.address = network.source

    def close(self) -> None:
        """The end of it, of its sockets and of what it owned."""
        self.stop()
        self.network.close()
        self.owner.close()

    def adopt(self, election: Election, codec: Codec) -> None:
        """Other settings, of those with which it stays the same router (`settings.IN_PLACE`).

        The policy tells the router of its priority. What was heard goes on to count against replays.
        """
        if codec.authenticator == self._codec.authenticator:
            codec = replace(codec, authenticator=self._codec.authenticator)
        elif codec.authenticator is not None and self._codec.authenticator is not None:
            codec.authenticator.follow(self._codec.authenticator)
        self._codec = codec
        self.election = election

    def is_active_and_due(self, now: float) -> bool:
        router = self.router
        return router.state is State.ACTIVE and router.deadline is not None and now >= router.deadline

    def is_backup_and_due(self, now: float) -> bool:
        router = self.router
        return router.state is State.BACKUP and router.deadline is not None and now >= router.deadline

    def changed(self, transition: Transition, event: str) -> None:
        """Log the transition and count it. `event`: one of EVENTS."""
        log.info(
            "%s: %s → %s: %s (RFC 9568 §%s)",
            self._title,
            transition.origin.value,
            transition.to.value,
            transition.rule,
            transition.section,
        )
        if transition.origin is not transition.to:
            self.last_transition = self._wall_clock()
            role = "fault" if transition.to is State.INITIALIZE else transition.to.value
            self.transitions[role, event] += 1

    def also_active(self, source: Address, priority: int) -> None:
        """Somebody else claims what we own."""
        self._limited.warning(
            "also active",  # not for each: a forger has as many sources as he likes
            f"{source} is Active as well, with priority {priority}: if this goes on, it does not hear us",
        )
        self.owner.remind()

    def send(self, priority: int) -> None:
        def message_to(destination: Address) -> bytes:
            return self._codec.write(priority, self.network.source, destination, self._wall_clock())

        self.sent += 1
        self.farewells_sent += priority == STOPPING
        for destination, error in self.network.send(message_to):
            self._limited.warning(
                f"send to {destination}", f"cannot advertise to {destination}: {error.strerror}"
            )

    # ----- receipt, RFC 9568 §7.1 -----------------------------------------------------------------

    def read(self, datagram: Datagram) -> Advertisement | None:
        """The advertisement, or None when it is dropped."""
        advertisement = self._opened(datagram)
        if advertisement is not None:
            self.received += 1
            self.farewells_received += advertisement.priority == STOPPING
            self._remember(str(datagram.source), self._loop.time())
            self._compare(advertisement, datagram.source)
        return advertisement

    def _opened(self, datagram: Datagram) -> Advertisement | None:
        peers = self.network.peers
        if peers is None and datagram.source == self.network.source:
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
            cause = PEER_VRID if error.cause == "vrid" and peers is not None else error.cause
            self._drop(cause, datagram, str(error))
            if isinstance(error, AuthError) and error.from_future:
                self._doubt_the_clock(datagram.source, error)
            return None
        if self._codec.authenticator is not None:
            self._trust_the_clock()
        return advertisement

    def _drop(self, cause: str, datagram: Datagram, detail: str) -> None:
        self.dropped[cause] += 1
        if cause == "vrid":
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
        if not self._clock_is_wrong:
            self._clock_is_wrong = True
            self._fault(
                f"our clock is wrong: advertisements of {source} are {error}; set it, by NTP", "clock"
            )

    def _trust_the_clock(self) -> None:
        if self._clock_timer is not None:
            self._clock_timer.cancel()
        self._clock.believed()
        if self._clock_is_wrong:
            self._clock_is_wrong = False
            log.info("our clock is believed again")
            self._recover("clock")
