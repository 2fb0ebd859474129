"""The shell around the router: one socket, one timer, and the actions carried out.

Everything that happens takes the same three steps: tell the router, do what it returns, arm the one timer
for its next deadline. On waking, what has arrived is read before the timer is judged: after a pause of
this process the advertisements that would have kept it a Backup are already in the socket.

A node that cannot serve leaves the election (`fault`), by the word of its parent or because it could not
take the address when its turn came. It goes on listening then, for the metrics and so that nothing old is
in the socket when it comes back, but the router, in Initialize, takes no notice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from scaleup.processes.logs import LimitedLog
from scaleup.vrrp.auth import AUTH_CAUSES, Authenticator, AuthError, default_window
from scaleup.vrrp.network import Datagram, UnicastUdp
from scaleup.vrrp.owner import Owner
from scaleup.vrrp.packet import CAUSES, HOP_LIMIT, Address, Advertisement, PacketError, decode, encode
from scaleup.vrrp.router import (
    AnnounceAddresses,
    Output,
    Router,
    SendAdvertisement,
    State,
    Transition,
    WithdrawAddresses,
)
from scaleup.vrrp.settings import Election

log = logging.getLogger(__name__)

ROLES = ("active", "backup", "fault")
DROP_CAUSES = ("peer", *CAUSES, *AUTH_CAUSES)

LOG_EVERY_SECONDS = 5.0
AUTH_KEY_ID = 1
EARLY_SECONDS = 0.0005  # a loop may call that much before the time; the router would only be armed again
TAKE_AGAIN_SECONDS = 5.0  # until an address that could not be taken is tried again


class Daemon:
    """One virtual router. `on_role` is told `active`, `backup` or `fault`, and the rule that decided."""

    def __init__(
        self,
        election: Election,
        network: UnicastUdp,
        owner: Owner,
        on_role: Callable[[str, str], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._election, self._network, self._owner = election, network, owner
        self._on_role, self._wall_clock = on_role, wall_clock
        self._loop = asyncio.get_running_loop()
        self._router = Router(
            vrid=election.vrid,
            priority=election.priority,
            interval=election.interval,
            address=network.source,
            preempt=election.preempt,
        )
        key, window = election.key(), default_window(election.interval)
        self._auth = Authenticator({AUTH_KEY_ID: key}, AUTH_KEY_ID, window) if key is not None else None
        self._addresses = tuple(ip_address(str(interface.ip)) for interface in election.vip)
        self._timer: asyncio.TimerHandle | None = None
        self._next_try: asyncio.TimerHandle | None = None
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)
        self.role = "fault"
        self.transitions = Counter(dict.fromkeys(ROLES, 0))
        self.sent = 0
        self.received = 0
        self.dropped = Counter(dict.fromkeys(DROP_CAUSES, 0))
        self.last_heard: dict[str, float] = {}
        """Monotonic time of the last accepted advertisement of each peer."""

    def start(self) -> None:
        """Take part in the election, as a Backup at first."""
        self._owner.release()
        self._loop.add_reader(self._network.fileno(), self._readable)
        self._act(self._router.startup(self._loop.time()))

    def stop(self) -> None:
        """Give the address up; the others hear priority 0. May be repeated."""
        self._leave("stopped")
        self._loop.remove_reader(self._network.fileno())

    def fault(self, reason: str) -> None:
        """This node cannot serve: leave the election until `recover`."""
        log.warning("fault: %s", reason)
        self._leave(reason)

    def recover(self) -> None:
        """Take part again; nothing happens to one that does."""
        self._act(self._router.startup(self._loop.time()))

    # ----- what happens ---------------------------------------------------------------------------

    def _readable(self) -> None:
        for datagram in self._network.receive():
            self._datagram_received(datagram)

    def _datagram_received(self, datagram: Datagram) -> None:
        advertisement = self._read(datagram)
        if advertisement is None:
            return
        self.received += 1
        self.last_heard[str(datagram.source)] = now = self._loop.time()
        self._compare(advertisement, datagram.source)
        self._act(self._router.advertisement_received(advertisement, datagram.source, now))

    def _timer_expired(self) -> None:
        self._readable()
        deadline, now = self._router.deadline, self._loop.time()
        if deadline is not None and now >= deadline - EARLY_SECONDS:
            self._act(self._router.timer_expired(now))
        else:
            self._arm()

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
        if self._next_try is not None:
            self._next_try.cancel()
        outputs = self._router.shutdown(self._loop.time())
        self._act([replace(each, rule=reason) if isinstance(each, Transition) else each for each in outputs])
        self._owner.release()

    def _cannot_take(self, error: OSError) -> None:
        self.fault(f"the address cannot be taken: {error.strerror}; next try in {TAKE_AGAIN_SECONDS:g} s")
        self._next_try = self._loop.call_later(TAKE_AGAIN_SECONDS, self.recover)

    def _arm(self) -> None:
        """Have the timer fire at the router's deadline; without one, leave none armed."""
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._router.deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._timer_expired)

    def _send(self, priority: int) -> None:
        advertisement = Advertisement(
            vrid=self._election.vrid,
            priority=priority,
            interval_cs=round(self._election.interval * 100),
            addresses=self._addresses,
        )

        def message_to(peer: Address) -> bytes:
            message = encode(advertisement, self._network.source, peer, checksum=self._election.checksum)
            if self._auth is None:
                return message
            return self._auth.seal(message, self._network.source, self._wall_clock())

        self.sent += 1
        for peer, error in self._network.send(message_to):
            self._limited.warning(f"send to {peer}", f"cannot advertise to {peer}: {error.strerror}")

    def _transition(self, transition: Transition) -> None:
        self.role = "fault" if transition.to is State.INITIALIZE else transition.to.value
        self.transitions[self.role] += 1
        log.info(
            "VRID %d: %s → %s: %s (RFC 9568 §%s)",
            self._election.vrid,
            transition.origin.value,
            transition.to.value,
            transition.rule,
            transition.section,
        )
        self._on_role(self.role, transition.rule)

    # ----- receipt, RFC 9568 §7.1 -----------------------------------------------------------------

    def _read(self, datagram: Datagram) -> Advertisement | None:
        """The advertisement, or None when it is dropped, which is counted by cause."""
        if datagram.source not in self._network.peers:
            self._drop("peer", datagram, "not a peer; see --peer")
            return None
        if datagram.hop_limit != HOP_LIMIT:  # judged first: it costs no digest
            self._drop("ttl", datagram, f"TTL {datagram.hop_limit}, not {HOP_LIMIT}: it was routed")
            return None
        message = datagram.data
        try:
            if self._auth is not None:
                message = self._auth.open(message, datagram.source, self._wall_clock())
            advertisement = decode(
                message, datagram.source, self._network.source, hop_limit=datagram.hop_limit
            )
        except (PacketError, AuthError) as error:
            self._drop(error.cause, datagram, str(error))
            return None
        if advertisement.vrid != self._election.vrid:
            self._drop("vrid", datagram, f"VRID {advertisement.vrid} is not ours; see --vrid")
            return None
        return advertisement

    def _drop(self, cause: str, datagram: Datagram, detail: str) -> None:
        self.dropped[cause] += 1
        self._limited.warning(cause, f"dropped an advertisement of {datagram.source}: {detail}")

    def _compare(self, advertisement: Advertisement, source: Address) -> None:
        """Differences that the RFC wants logged and not dropped."""
        if set(advertisement.addresses) != set(self._addresses):
            theirs = ", ".join(map(str, advertisement.addresses))
            self._limited.warning("addresses", f"{source} advertises other addresses: {theirs}; see --vip")
        if advertisement.priority != 0 and advertisement.interval != self._election.interval:
            self._limited.warning(
                "interval", f"{source} advertises every {advertisement.interval:g} s; see --interval"
            )
