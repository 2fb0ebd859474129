"""A node of the simulation: what the vrrp process is on a real one, with an inbox for a socket.

Its routers run under their policy, as on a real node. What they track is made up: a check passes or fails as
the scenario wants, and is looked at every CHECK_INTERVALS.

It can be down, run, or be paused (as by SIGSTOP, or by a host that is overloaded): then packets pile up in
its inbox as they would in the socket, its timer passes unnoticed, and if it was Active it still holds the
addresses. On waking it does what the daemon does: first it reads what has arrived, then it judges the timer.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from scaleup.sim.clock import VirtualClock
from scaleup.sim.log import Log
from scaleup.sim.network import Datagram, Network
from scaleup.vrrp.arrangement import Arrangement, Check, RouterPolicy, SyncGroup
from scaleup.vrrp.auth import Authenticator, AuthError
from scaleup.vrrp.decisions import Condition, Notify, SetPreempt, SetPriority
from scaleup.vrrp.packet import HOP_LIMIT, Address, Advertisement, PacketError, decode, encode
from scaleup.vrrp.policy import Policy
from scaleup.vrrp.router import (
    OWNER,
    STOPPING,
    AnnounceAddresses,
    Router,
    SendAdvertisement,
    State,
    Transition,
    WithdrawAddresses,
)
from scaleup.vrrp.routers import Action, Routers

EPOCH = 1_750_000_000.0  # the wall clock, in seconds since 1970, when the simulation starts
INBOX_PACKETS = 256  # about what a socket's default receive buffer holds; what comes later is lost
KEY_ID = 1
CHECK_INTERVALS = 2  # from one look at what is tracked to the next
GROUP = "all"


class Life(StrEnum):
    DOWN = "down"
    RUNNING = "running"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """`priority`: 1–255. `interval`: seconds between its advertisements, in whole hundredths.

    `others`: priorities in the further virtual routers of the cluster, if it has any. `tracks`: checks with
    their weights. The delays are in seconds.
    """

    name: str
    priority: int = 100
    interval: float = 1.0
    preempt: bool = True
    preempt_delay: float = 0.0
    startup_delay: float = 0.0
    others: tuple[int, ...] = ()
    tracks: tuple[tuple[str, int], ...] = ()
    rise: int = 1
    fall: int = 1

    @property
    def priorities(self) -> tuple[int, ...]:
        return (self.priority, *self.others)

    @property
    def seconds_to_judge(self) -> float:
        """Until a check that has changed for good has decided."""
        return (max(self.rise, self.fall) + 1) * CHECK_INTERVALS * self.interval if self.tracks else 0.0

    def arrangement(self, vrids: Iterable[int], synced: bool) -> Arrangement:
        """Of the routers called as their VRIDs; `synced`: all of them are one sync group."""
        names = tuple(map(str, vrids))
        tracks = dict(self.tracks)
        return Arrangement(
            routers=tuple(
                RouterPolicy(name, priority, self.preempt, self.preempt_delay, tracks)
                for name, priority in zip(names, self.priorities, strict=True)
            ),
            checks=tuple(Check(name, self.rise, self.fall) for name, _ in self.tracks),
            groups=(SyncGroup(GROUP, names),) if synced else (),
            startup_delay=self.startup_delay,
        )

    def __str__(self) -> str:
        told = [
            f"{self.name}: priority {' and '.join(map(str, self.priorities))}, interval {self.interval:g} s"
        ]
        if not self.preempt:
            told.append("does not preempt")
        told += [f"preempt_delay {self.preempt_delay:g} s"] * bool(self.preempt_delay)
        told += [f"startup_delay {self.startup_delay:g} s"] * bool(self.startup_delay)
        told += [f"tracks {name} with weight {weight}" for name, weight in self.tracks]
        if self.tracks:
            told.append(f"rise {self.rise}, fall {self.fall}")
        return ", ".join(told)


@dataclass(frozen=True, slots=True)
class VirtualRouters:
    """What the nodes of a cluster have in common. `addresses`: VRID → its addresses. `synced`: they move
    together. `key`: None: no authentication. `window`: seconds.
    """

    addresses: dict[int, tuple[Address, ...]]
    group: Address
    synced: bool
    key: bytes | None
    window: float


class Seat:
    """A node's place in one election, as the properties see it."""

    def __init__(self, node: Node, router: str) -> None:
        self._node, self._name = node, router
        self.since = 0.0
        """When it last began to take part by starting up."""

    @property
    def router(self) -> Router:
        return self._node.routers[self._name]

    @property
    def takes_part(self) -> bool:
        """Runs, and was not kept out by its policy."""
        return self._node.life is Life.RUNNING and self.router.state is not State.INITIALIZE

    @property
    def up_since(self) -> float:
        return max(self.since, self._node.up_since)

    @property
    def active(self) -> bool:
        """Active, and able to act like it."""
        return self._node.life is Life.RUNNING and self.router.state is State.ACTIVE

    @property
    def preempts(self) -> bool:
        """Sooner or later: whether or not its policy holds it back now."""
        return self._node.spec.preempt or self.router.priority == OWNER


class Node:
    """`changed` is called after each change of `life` or of a router's state."""

    def __init__(
        self,
        spec: NodeSpec,
        address: Address,
        virtual: VirtualRouters,
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
        self.works = dict.fromkeys((name for name, _ in spec.tracks), True)
        """Check → whether what it looks at works."""
        self.seats = {vrid: Seat(self, str(vrid)) for vrid in virtual.addresses}
        self.refused: Counter[str] = Counter()
        self._holds: set[str] = set()  # routers whose addresses it has
        self._inbox: deque[Datagram] = deque()
        self._wake_at: float | None = None
        self._forget()
        network.attach(spec.name, self._receive)

    @property
    def router(self) -> Router:
        """The first one."""
        return self.routers[self._names[0]]

    @property
    def fit(self) -> bool:
        """Whether it should take part in its elections, once its policy knows all there is to know."""
        works = all(self.works[check] for check, weight in self.spec.tracks if weight == 0)
        return self.life is Life.RUNNING and works and not self._at_fault

    @property
    def holds_addresses(self) -> bool:
        return bool(self._holds)

    # What is done to it.

    def start(self) -> None:
        assert self.life is Life.DOWN
        self._live(Life.RUNNING, "starts")
        self._check_at = self._clock.now
        self.act(self.routers.started(self._clock.now))
        self._wake()

    def stop(self) -> None:
        """SIGTERM: it takes its leave."""
        assert self.life is Life.RUNNING
        self._tell("is stopped")
        self.act(self.routers.stopped("shutdown", self._clock.now))
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
        self.act(self.routers.woken(self._clock.now))  # only now can it be late: virtual timers fire on time
        self._wake()

    def change_priority(self, priority: int) -> None:
        """In all elections, as a reload does."""
        arrangement = self.spec.arrangement(self._virtual.addresses, self._virtual.synced)
        policies = tuple(replace(policy, priority=priority) for policy in arrangement.routers)
        routers = {name: self.routers[name] for name in self._names}
        arrangement = replace(arrangement, routers=policies)
        self.act(self.routers.rearranged(routers, arrangement, {}, self._clock.now))
        self._arm()

    def find_fault(self, reason: str) -> None:
        assert self.life is Life.RUNNING
        self._at_fault = True
        self.act(self.routers.fault_found(None, "node", reason, self._clock.now))
        self._arm()

    def lose_fault(self) -> None:
        assert self.life is Life.RUNNING
        self._at_fault = False
        self.act(self.routers.fault_gone(None, "node", self._clock.now))
        self._arm()

    def set_works(self, check: str, works: bool) -> None:
        """It shows when the check looks next."""
        self._tell(f"has {check} {'working' if works else 'broken'}")
        self.works[check] = works

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
        if self.works and now >= self._check_at:
            self._check(now)
        deadline = self.routers.deadline
        if deadline is not None and now >= deadline:
            self.act(self.routers.timer_expired(now), by_timer=True)
        self._arm()

    def _check(self, now: float) -> None:
        self._check_at = now + CHECK_INTERVALS * self.spec.interval
        for name, works in self.works.items():
            tell = self.routers.check_passed if works else self.routers.check_failed
            self.act(tell(name, "", now))

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
        self.act(self.routers.advertisement_received(str(advertisement.vrid), advertisement, source, now))

    # What it does.

    def act(self, actions: Iterable[Action], *, by_timer: bool = False) -> None:
        """Do these. `by_timer`: the advertisements of an Active that stays one are its heartbeat, no story."""
        if not actions:
            return
        changes = {action.router for action in actions if isinstance(action.what, Transition)}
        for name, what in actions:
            prefix = f"VRID {name} " if len(self._names) > 1 and name != GROUP else ""
            match what:
                case SendAdvertisement(priority):
                    self._send(name, priority, prefix, beat=by_timer and name not in changes)
                case AnnounceAddresses():
                    assert name not in self._holds
                    self._holds.add(name)
                    self._tell(f"{prefix}takes the address")
                case WithdrawAddresses():
                    self._holds.remove(name)
                    self._tell(f"{prefix}gives the address up")
                case Transition(origin, to, rule, section):
                    self._tell(f"{prefix}{origin} → {to}: {rule} (§{section})")
                    if origin is State.INITIALIZE:
                        self.seats[int(name)].since = self._clock.now
                case SetPriority(_, priority, rule):
                    self._tell(f"{prefix}has priority {priority}: {rule}")
                case SetPreempt(_, preempt, rule):
                    self._tell(f"{prefix}{'preempts' if preempt else 'does not preempt'}: {rule}")
                case Notify("INSTANCE", _, Condition.FAULT, _, rule) if name not in changes:
                    self._tell(f"{prefix}is in fault: {rule}")
        if changes:
            states = {name: self.routers[name].state for name in self._names}
            assert self._holds == {name for name, state in states.items() if state is State.ACTIVE}
            assert not self._virtual.synced or len(set(states.values())) == 1, "the group is torn apart"
            self._changed()

    def _send(self, name: str, priority: int, prefix: str, *, beat: bool) -> None:
        router = self.routers[name]
        assert (router.state is State.ACTIVE) == (priority != STOPPING)  # nobody else speaks
        say = self._log.repeated if beat else self._log.told
        say(self._clock.now, self.spec.name, f"{prefix}advertises priority {priority}")
        interval_cs = round(self.spec.interval * 100)
        advertisement = Advertisement(
            router.vrid, priority, interval_cs, self._virtual.addresses[router.vrid]
        )
        data = encode(advertisement, self.address, self._virtual.group)
        if self._auth is not None:
            data = self._auth.seal(data, self.address, self._wall_clock())
        self._network.send(self.spec.name, Datagram(data, self.address))

    def _arm(self) -> None:
        """One event in the clock is enough: when it comes too early, it is put off to the real deadline."""
        deadline = self.routers.deadline
        if self.works and (deadline is None or self._check_at < deadline):
            deadline = self._check_at
        if deadline is not None and (self._wake_at is None or deadline < self._wake_at):
            self._wake_at = deadline
            self._clock.at(max(deadline, self._clock.now), partial(self._timer_fired, deadline))

    def _live(self, life: Life, text: str) -> None:
        self.life = life
        self.up_since = self._clock.now
        self._tell(text)
        self._changed()

    def _die(self) -> None:
        self.life = Life.DOWN
        self._holds.clear()
        self._inbox.clear()
        self._forget()
        self._changed()

    def _forget(self) -> None:
        """A process that dies takes all that it knew with it."""
        self._at_fault = False
        self._names = tuple(map(str, self._virtual.addresses))
        routers = {
            str(vrid): Router(
                vrid=vrid,
                priority=priority,
                interval=self.spec.interval,
                address=self.address,
                preempt=self.spec.preempt,
            )
            for vrid, priority in zip(self._virtual.addresses, self.spec.priorities, strict=True)
        }
        arrangement = self.spec.arrangement(self._virtual.addresses, self._virtual.synced)
        self.routers = Routers(routers, Policy(arrangement))
        key, window = self._virtual.key, self._virtual.window
        self._auth = None if key is None else Authenticator({KEY_ID: key}, KEY_ID, window)

    def _wall_clock(self) -> float:
        return EPOCH + self._clock.now + self.clock_error

    def _tell(self, text: str) -> None:
        self._log.told(self._clock.now, self.spec.name, text)
