"""A node of the simulation: what the vrrp process is on a real one, with an inbox for a socket.

It can be down, run, or be paused (as by SIGSTOP, or by a host that is overloaded): then packets pile up in
its inbox as they would in the socket, its timer passes unnoticed, and if it was Active it still holds the
addresses. On waking it does what the daemon does: first it reads what has arrived, then it judges the timer.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from scaleup.sim.clock import VirtualClock
from scaleup.sim.log import Log
from scaleup.sim.network import Datagram, Network
from scaleup.vrrp.auth import Authenticator, AuthError
from scaleup.vrrp.packet import HOP_LIMIT, Address, Advertisement, PacketError, decode, encode
from scaleup.vrrp.router import (
    AnnounceAddresses,
    Output,
    Router,
    SendAdvertisement,
    State,
    Transition,
    WithdrawAddresses,
)

EPOCH = 1_750_000_000.0  # the wall clock, in seconds since 1970, when the simulation starts
INBOX_PACKETS = 256  # about what a socket's default receive buffer holds; what comes later is lost
KEY_ID = 1


class Life(StrEnum):
    DOWN = "down"
    RUNNING = "running"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """`priority`: 1–255. `interval`: seconds between its advertisements, in whole hundredths."""

    name: str
    priority: int = 100
    interval: float = 1.0
    preempt: bool = True

    def __str__(self) -> str:
        preempt = "" if self.preempt else ", does not preempt"
        return f"{self.name}: priority {self.priority}, interval {self.interval:g} s{preempt}"


@dataclass(frozen=True, slots=True)
class VirtualRouter:
    """What the nodes of a cluster have in common. `key`: None: no authentication. `window`: seconds."""

    vrid: int
    addresses: tuple[Address, ...]
    group: Address
    key: bytes | None
    window: float


class Node:
    """`changed` is called after each change of `life` or of the router's state."""

    def __init__(
        self,
        spec: NodeSpec,
        address: Address,
        virtual: VirtualRouter,
        clock: VirtualClock,
        network: Network,
        log: Log,
        changed: Callable[[], None],
    ) -> None:
        self.spec, self.address = spec, address
        self._virtual, self._clock, self._network, self._log = virtual, clock, network, log
        self._changed = changed
        self.life = Life.DOWN
        self.up_since = 0.0
        """When it last began to run, be it by `start` or by `resume`."""
        self.clock_error = 0.0
        """Seconds that its wall clock is ahead of the right time."""
        self.holds_addresses = False
        self.refused: Counter[str] = Counter()
        self._inbox: deque[Datagram] = deque()
        self._wake_at: float | None = None
        self._forget()
        network.attach(spec.name, self._receive)

    @property
    def active(self) -> bool:
        """Active, and able to act like it."""
        return self.life is Life.RUNNING and self.router.state is State.ACTIVE

    # What is done to it.

    def start(self) -> None:
        assert self.life is Life.DOWN
        self._live(Life.RUNNING, "starts")
        self._act(self.router.startup(self._clock.now))
        self._arm()

    def stop(self) -> None:
        """SIGTERM: it takes its leave."""
        assert self.life is Life.RUNNING
        self._tell("is stopped")
        self._act(self.router.shutdown(self._clock.now))
        self._die()

    def kill(self) -> None:
        """kill -9: it says nothing. (Its guardian, or the dead man's switch, takes the addresses off.)"""
        assert self.life is not Life.DOWN
        self._tell("is killed")
        self._die()

    def pause(self) -> None:
        assert self.life is Life.RUNNING
        self._live(Life.PAUSED, "is paused")

    def resume(self) -> None:
        assert self.life is Life.PAUSED
        self._live(Life.RUNNING, f"wakes up, {len(self._inbox)} packets are waiting")
        self._wake()

    def change_priority(self, priority: int) -> None:
        self._tell(f"now has priority {priority}")
        self._act(self.router.priority_changed(priority, self._clock.now))
        self._arm()

    # What happens to it.

    def _receive(self, datagram: Datagram) -> None:
        if self.life is not Life.DOWN and len(self._inbox) < INBOX_PACKETS:
            self._inbox.append(datagram)
        if self.life is Life.RUNNING:
            self._wake()

    def _timer_fired(self, when: float) -> None:
        if when != self._wake_at:
            return  # an earlier deadline has taken its place
        self._wake_at = None
        if self.life is Life.RUNNING:
            self._wake()

    def _wake(self) -> None:
        now = self._clock.now
        while self._inbox:
            self._read(self._inbox.popleft(), now)
        if self.router.deadline is not None and now >= self.router.deadline:
            beat = self.router.state is State.ACTIVE
            self._act(self.router.timer_expired(now), beat=beat)
        self._arm()

    def _read(self, datagram: Datagram, now: float) -> None:
        source = datagram.source
        try:
            data = datagram.data
            if self._auth is not None:
                data = self._auth.open(data, source, self._wall_clock())
            advertisement = decode(data, source, self._virtual.group, hop_limit=HOP_LIMIT)
        except (PacketError, AuthError) as error:
            self.refused[error.cause] += 1
            self._log.repeated(now, self.spec.name, f"refuses a packet of {source}: {error.cause}")
            return
        self._act(self.router.advertisement_received(advertisement, source, now))

    # What it does.

    def _act(self, outputs: Iterable[Output], *, beat: bool = False) -> None:
        for output in outputs:
            match output:
                case SendAdvertisement(priority):
                    self._send(priority, beat)
                case AnnounceAddresses():
                    assert not self.holds_addresses
                    self.holds_addresses = True
                    self._tell("takes the address")
                case WithdrawAddresses():
                    assert self.holds_addresses
                    self.holds_addresses = False
                    self._tell("gives the address up")
                case Transition(origin, to, rule, section):
                    self._tell(f"{origin} → {to}: {rule} (§{section})")
                    self._changed()
        assert self.holds_addresses == (self.router.state is State.ACTIVE)

    def _send(self, priority: int, beat: bool) -> None:
        assert self.router.state is (State.ACTIVE if priority else State.INITIALIZE)  # nobody else speaks
        say = self._log.repeated if beat else self._log.told
        say(self._clock.now, self.spec.name, f"advertises priority {priority}")
        interval_cs = round(self.spec.interval * 100)
        advertisement = Advertisement(self._virtual.vrid, priority, interval_cs, self._virtual.addresses)
        data = encode(advertisement, self.address, self._virtual.group)
        if self._auth is not None:
            data = self._auth.seal(data, self.address, self._wall_clock())
        self._network.send(self.spec.name, Datagram(data, self.address))

    def _arm(self) -> None:
        """One event in the clock is enough: when it comes too early, it is put off to the real deadline."""
        deadline = self.router.deadline
        if deadline is not None and (self._wake_at is None or deadline < self._wake_at):
            self._wake_at = deadline
            self._clock.at(deadline, partial(self._timer_fired, deadline))

    def _live(self, life: Life, text: str) -> None:
        self.life = life
        self.up_since = self._clock.now
        self._tell(text)
        self._changed()

    def _die(self) -> None:
        self.life = Life.DOWN
        self.holds_addresses = False
        self._inbox.clear()
        self._forget()
        self._changed()

    def _forget(self) -> None:
        """A process that dies takes all that it knew with it."""
        self.router = Router(
            vrid=self._virtual.vrid,
            priority=self.spec.priority,
            interval=self.spec.interval,
            address=self.address,
            preempt=self.spec.preempt,
        )
        key, window = self._virtual.key, self._virtual.window
        self._auth = None if key is None else Authenticator({KEY_ID: key}, KEY_ID, window)

    def _wall_clock(self) -> float:
        return EPOCH + self._clock.now + self.clock_error

    def _tell(self, text: str) -> None:
        self._log.told(self._clock.now, self.spec.name, text)
