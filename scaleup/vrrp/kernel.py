"""Owning addresses on real interfaces: the kernel answers for them, and the neighbours are told.

**A dead man's switch.** Each address is given to the kernel for LIFETIME_SECONDS only, and that is renewed all the
time. So when everything of ours was killed, or stopped, the address goes by itself, and what answers for it
is one host again.

**Others meddle.** A DHCP client or a network manager may take away what it did not put there. An address
of ours that vanishes is put back once, and announced. If it vanishes again soon, two programs would fight, so
this node is at fault and rests. A renewal that fails is tried again for as long as the kernel keeps the address.
Renewals are made in a thread (`renewals`), since the kernel may let one wait.

Addresses that a crash left behind are removed before the election begins.

Two routers may have addresses of one network on one interface, and one of them leaves: `promote_secondaries` is set
there, or the kernel would take the other's address away as well.

**Priority 255** says that the addresses are this host's own, configured by somebody else (the owner of RFC 9568
§1.7). Those are only announced: never added, renewed or removed. While one is missing, the node is at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from scaleup.errors import StartupError
from scaleup.processes.logs import LimitedLog
from scaleup.vrrp import bpf
from scaleup.vrrp.announce import Schedule
from scaleup.vrrp.announcer import Announcer
from scaleup.vrrp.interface import index_of
from scaleup.vrrp.owner import GONE
from scaleup.vrrp.packet import Address
from scaleup.vrrp.rawip import attach_filter
from scaleup.vrrp.renewals import Renewal, Renewals
from scaleup.vrrp.rtnetlink import RTM_NEWADDR, AddressEvent, LinkEvent, Overrun, Rtnetlink, Watch

log = logging.getLogger(__name__)

LIFETIME_SECONDS = 2
"""The kernel counts whole seconds, and 1 would leave a busy host too little room."""
RENEW_SECONDS = 0.5
RENEW_AGAIN_SECONDS = 0.1
"""After a renewal that has failed. The kernel keeps the address meanwhile, so nothing is lost yet."""
NOT_RENEWED_SECONDS = LIFETIME_SECONDS - 0.25
"""Since the last renewal: now it is given up, while there is still time to say so."""
REST_SECONDS = 5.0
"""After it was given up, as for one that cannot be taken."""
MEDDLED_SECONDS = 60.0
"""Vanishing twice within it is no accident; it is also how long the fault lasts."""
LOG_EVERY_SECONDS = 5.0

Fault = Callable[[str, str], None]
"""fault(reason, by): this node cannot serve, as `by` finds."""
Recover = Callable[[str], None]
"""recover(by): what `by` found is over."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A virtual address with its prefix, and the interface that it goes to."""

    interface: IPv4Interface | IPv6Interface
    device: str


class KernelOwner:
    """Owns `addresses`. `devices`: further interfaces without whose link there is no election.
    `its_own`: priority 255, see above.

    Made inside the running loop. Raises StartupError.
    """

    def __init__(
        self,
        addresses: Sequence[Placed],
        schedule: Schedule,
        announcer: Announcer,
        renewals: Renewals,
        devices: Sequence[str] = (),
        *,
        its_own: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._schedule = schedule
        self._announcer, self._renewals = announcer, renewals
        self._its_own = its_own
        self._is_missing = False  # one of its own
        names = dict.fromkeys([*devices, *(placed.device for placed in addresses)])
        self._indexes = {name: index_of(name) for name in names}
        self._addresses = [(placed.interface, self._indexes[placed.device]) for placed in addresses]
        self._places = {(interface.ip, index) for interface, index in self._addresses}
        self._fault: Fault = lambda reason, by: None  # until somebody watches
        self._recover: Recover = lambda by: None
        self._down: set[str] = set()
        self._is_gone = False  # one of the interfaces
        self._owns = False
        self._renewed = self._next_renewal = 0.0
        self._renewal: Renewal | None = None  # the newest one
        self._put_back_at: float | None = None
        self._tell_again = False  # once it is put back
        self._excused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)
        announcer.open()
        with contextlib.ExitStack() as stack:
            self._rtnetlink = stack.enter_context(Rtnetlink())
            self._in_thread = stack.enter_context(Rtnetlink())
            self._watch = stack.enter_context(contextlib.closing(Watch()))
            if its_own:
                for interface in self._missing(self._rtnetlink):
                    raise not_its_own(interface.ip)
            else:
                attach_filter(self._watch.socket, bpf.but(RTM_NEWADDR))
                self._promote_secondaries()
                self._purge()
            self._closing = stack.pop_all()

    def watch(self, fault: Fault, recover: Recover) -> None:
        """From now on tell of links that go down or come up, and of addresses that others take away."""
        self._fault, self._recover = fault, recover
        self._loop.add_reader(self._watch.fileno(), self._changed)
        self._look()

    def take(self) -> None:
        """Adds all addresses. Raises OSError, and has nothing then."""
        self._owns = True
        try:
            self._renew(self._rtnetlink)
        except OSError:
            self.release()
            raise
        self._tell_again = False
        self._was_renewed()
        self._arm()

    def announce(self) -> None:
        """The first burst has left when this returns."""
        if self._owns:
            self._announce(self._schedule.taken(self._loop.time()))
            self._arm()

    def release(self) -> None:
        self._owns = False
        self._schedule.lost()
        self._arm()
        if self._renewal is not None:
            wait([self._renewal])  # or it would come after the removal, which waits for the same lock
        for interface, index in () if self._its_own else self._addresses:
            try:
                self._rtnetlink.remove(interface, index)
            except FileNotFoundError:
                pass
            except OSError as error:
                self._limited.warning("remove", f"cannot remove {interface}: {error.strerror}")

    def remind(self) -> None:
        if self._owns:
            self._announce(self._schedule.reminded(self._loop.time()))
            self._arm()

    def close(self) -> None:
        """The addresses are released. May be repeated."""
        if self._watch.fileno() >= 0:
            self.release()
            self._loop.remove_reader(self._watch.fileno())
        if self._resting is not None:
            self._resting.cancel()
        self._closing.close()

    # ----- addresses ------------------------------------------------------------------------------

    def _purge(self) -> None:
        """Before the election; and the first thing that takes CAP_NET_ADMIN.

        What a crash of ours, or a keepalived that was killed, has left is removed. But not an address without which
        the interface would have none that stays: that is the host's own, and the host would be cut off.
        """
        stays = [event for event in self._rtnetlink.addresses() if event.lifetime > LIFETIME_SECONDS]
        for interface, index in self._addresses:
            there = {
                event.ip for event in stays if event.index == index and event.ip.version == interface.version
            }
            if there == {interface.ip}:
                raise StartupError(
                    f"--vip {interface}: that is the one address that this host has there: if it is its own, say "
                    "--priority 255 (RFC 9568 §1.7), else give it another one"
                )
        for interface, index in self._addresses:
            try:
                self._rtnetlink.remove(interface, index)
            except FileNotFoundError:
                continue
            except PermissionError:
                raise StartupError(
                    f"--vip {interface}: addresses may not be changed; grant CAP_NET_ADMIN"
                ) from None
            except OSError as error:
                raise StartupError(f"--vip {interface}: {error.strerror}") from None
            log.warning("%s was still there, from a process that did not end well: removed", interface)

    def _promote_secondaries(self) -> None:
        """Before the purge: what a crash has left may stand before an address that somebody else serves."""
        for name, index in self._indexes.items():
            try:
                self._rtnetlink.promote_secondaries(index)
            except PermissionError:
                return  # the purge says what to do
            except OSError as error:
                log.warning("%s: promote_secondaries cannot be set: %s", name, error.strerror)

    def _renew(self, rtnetlink: Rtnetlink) -> None:
        if self._its_own:
            if self._missing(rtnetlink):
                raise OSError(errno.EADDRNOTAVAIL, "an address of this host's own is missing")
        else:
            for interface, index in self._addresses:
                rtnetlink.add(interface, index, LIFETIME_SECONDS)

    def _was_renewed(self) -> None:
        self._renewed = self._loop.time()
        self._next_renewal = self._renewed + RENEW_SECONDS

    def _missing(self, rtnetlink: Rtnetlink) -> dict[IPv4Interface | IPv6Interface, int]:
        """With the indexes of their interfaces."""
        there = {(event.ip, event.index) for event in rtnetlink.addresses()}
        return {
            interface: index for interface, index in self._addresses if (interface.ip, index) not in there
        }

    def _announce(self, times: int) -> None:
        for _ in range(times):
            for interface, index in self._addresses:
                try:
                    self._announcer.announce(interface.ip, index)
                except OSError as error:
                    self._limited.warning("announce", f"cannot announce {interface}: {error.strerror}")

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._owns:
            deadline = min(self._next_renewal, self._schedule.deadline or math.inf)
            if deadline < math.inf:
                self._timer = self._loop.call_at(deadline, self._expired)

    def _expired(self) -> None:
        now = self._loop.time()
        if now >= self._next_renewal - 0.001:  # asyncio may call a clock tick early
            self._start_renewal()
        self._announce(self._schedule.expired(now))
        self._arm()

    def _start_renewal(self) -> None:
        self._next_renewal = math.inf  # until this one has ended
        self._renewal = self._renewals.submit(self._renew, self._in_thread)
        self._renewal.add_done_callback(
            lambda renewal: self._loop.call_soon_threadsafe(self._renewal_ended, renewal)
        )

    def _renewal_ended(self, renewal: Renewal) -> None:
        if not self._owns:
            return  # released meanwhile
        now, error = self._loop.time(), renewal.exception()
        if error is None:
            if now >= self._renewed + LIFETIME_SECONDS:
                # The kernel looks at the time first, then waits for the lock, too, and removes what was renewed
                # meanwhile all the same (check_lifetime of 6.18).
                self._excused_until = now + LIFETIME_SECONDS
            self._was_renewed()
            if self._tell_again:
                self._tell_again = False
                self._announce(self._schedule.taken(now))
        elif not isinstance(error, OSError):
            raise error
        else:
            reason = f"the virtual addresses cannot be renewed: {error.strerror or error}"
            if now >= self._renewed + NOT_RENEWED_SECONDS:
                self._lost(reason, REST_SECONDS)
                return
            self._limited.warning("renew", reason)
            self._next_renewal = now + RENEW_AGAIN_SECONDS
        self._arm()

    # ----- what others do -------------------------------------------------------------------------

    def _changed(self) -> None:
        for event in self._watch.events():
            match event:
                case LinkEvent():
                    self._link(event)
                case AddressEvent() if (event.ip, event.index) not in self._places:
                    pass
                case AddressEvent(present=False):
                    # Not now: after a pause of this process the daemon has to see first how late it is.
                    self._loop.call_soon(self._check_addresses)
                case AddressEvent():
                    if self._is_missing:
                        self._loop.call_soon(self._check_addresses)
                case Overrun():
                    self._look()
                    self._loop.call_soon(self._check_addresses)

    def _look(self) -> None:
        links = self._rtnetlink.links()
        for link in links:
            self._link(link)
        there = {link.index for link in links}
        for name, index in self._indexes.items():
            if index not in there:
                self._gone(name)

    def _link(self, link: LinkEvent) -> None:
        if self._is_gone or self._indexes.get(link.name) != link.index:
            return
        by = f"link {link.name}"
        if not link.exists:
            self._gone(link.name)
        elif not link.running and link.name not in self._down:
            self._down.add(link.name)
            self._fault(f"the link of {link.name} is down", by)
        elif link.running and link.name in self._down:
            self._down.remove(link.name)
            self._recover(by)

    def _gone(self, name: str) -> None:
        """One of the same name has another index. What else was wrong went with it."""
        if self._is_gone:
            return
        self._is_gone = True
        self._fault(
            f"the interface {name} is gone: it is looked for until it is back, with its address", GONE
        )
        for link in self._down:
            self._recover(f"link {link}")
        if self._resting is not None:
            self._resting.cancel()
        self._recover("address")

    def _check_addresses(self) -> None:
        """Is everything there that we own? Asked of the kernel: an event may be about an earlier time."""
        if self._watch.fileno() < 0 or self._is_gone or not (self._owns or self._its_own):
            return  # closed since the event, or nothing to look after
        missing = self._missing(self._rtnetlink)
        names = ", ".join(map(str, missing))
        if self._its_own:
            self._look_after_its_own(names)
            return
        if not missing:
            return
        now = self._loop.time()
        expired = now >= self._renewed + LIFETIME_SECONDS or now < self._excused_until
        if not expired and self._put_back_at is not None and now < self._put_back_at + MEDDLED_SECONDS:
            self._lost(f"something on this host takes {names} away again and again", MEDDLED_SECONDS)
            return
        if expired:
            why = "was not renewed in time"
        else:
            self._put_back_at = now
            why = "was taken away by something on this host"
        log.warning("%s %s: put back", names, why)
        self._tell_again = True
        self._start_renewal()
        self._arm()

    def _look_after_its_own(self, missing: str) -> None:
        if bool(missing) is self._is_missing:
            return
        self._is_missing = bool(missing)
        if missing:
            self._fault(f"{missing} is gone, and priority 255 says that it is this host's own", "address")
        else:
            self._recover("address")

    def _lost(self, reason: str, rest: float) -> None:
        self.release()
        if self._is_gone:
            return
        if self._resting is not None:
            self._resting.cancel()
        self._resting = self._loop.call_later(rest, self._recover, "address")
        self._fault(f"{reason}; next try in {rest:g} s", "address")


def not_its_own(address: Address) -> StartupError:
    return StartupError(
        f"--priority 255: {address} is not an address of this host, and 255 is for the host whose own it is "
        "(RFC 9568 §1.7): say 1 to 254"
    )
