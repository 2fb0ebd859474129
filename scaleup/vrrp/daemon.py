"""The shell around the routers: their sockets, one timer, and the actions carried out.

Everything that happens takes the same three steps: tell the routers, do what they return, arm the one timer
for the next deadline. What they decide, when they wake too late and when a node leaves its elections is told in
`routers` and `policy`: here is nothing that the simulation does not run, but for the moment that a Backup
waits awake.

On waking, a Backup reads what has arrived before it judges the timer: after a pause of this process the
advertisements that keep it a Backup are already in the socket. An Active one whose timer is due advertises first,
so that no flood can make it late.

**Faults.** A node that cannot serve leaves the election, by the word of its parent (`fault`), because a link
is down, because its clock is wrong or because it could not take the address when its turn came. It is back when
each that found a fault has taken it back (`recover`). It goes on listening meanwhile, for the metrics and so
that nothing old is in the socket when it comes back, but the router, in Initialize, takes no notice.

An interface that is removed takes its routers' sockets with it. The routers stay, at fault, and are opened again
when an interface of that name is there.

**A reload** (`remove`, then `rearrange`): routers that stay are not touched; what the new arrangement means for
them, another priority perhaps, their policy says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from scaleup.errors import ScaleUpError
from scaleup.processes.logs import LimitedLog
from scaleup.vrrp.arrangement import Arrangement
from scaleup.vrrp.decisions import Condition, Notify, SetPreempt, SetPriority
from scaleup.vrrp.instance import LOG_EVERY_SECONDS, Instance
from scaleup.vrrp.lateness import Lateness
from scaleup.vrrp.owner import GONE
from scaleup.vrrp.policy import Policy
from scaleup.vrrp.router import (
    STOPPING,
    AnnounceAddresses,
    SendAdvertisement,
    State,
    Transition,
    WithdrawAddresses,
)
from scaleup.vrrp.routers import Action, Routers
from scaleup.vrrp.timer import Timer

log = logging.getLogger(__name__)

TAKE_AGAIN_SECONDS = 5.0  # until an address that could not be taken is tried again
LOOK_AGAIN_SECONDS = 1.0  # until an interface that is gone is looked for again
AWAKE_SECONDS = 0.001
"""By which a Backup is woken before its Active_Down_Timer fires, to be wide awake then: from sleep it would come
0.1 to 0.2 ms late, and do slowly what it has not done for long. In a steady state that timer does not come so far.
"""


class Daemon:
    """The virtual routers of a node, whose names and priorities are those of `arrangement`.

    `on_role` is told the router's name, `active`, `backup` or `fault`, and the rule that decided; `on_decision`,
    what people and scripts are to be told: a condition, or another effective priority. `reopen` gives an instance
    whose interface was removed new sockets and a new owner, or raises ScaleUpError.
    """

    def __init__(
        self,
        instances: Iterable[Instance],
        arrangement: Arrangement,
        on_role: Callable[[str, str, str], None],
        on_decision: Callable[[Notify | SetPriority], None] = lambda decision: None,
        reopen: Callable[[Instance], None] = lambda instance: None,
    ) -> None:
        self.instances = {instance.name: instance for instance in instances}
        self._checks = {check.name for check in arrangement.checks}
        self.routers = Routers(
            {name: instance.router for name, instance in self.instances.items()}, Policy(arrangement)
        )
        self._on_role, self._on_decision, self._reopen = on_role, on_decision, reopen
        self._loop = asyncio.get_running_loop()
        self._timer: Timer | None = None  # while started
        self._armed: float | None = None  # for when
        self._joining: dict[str, dict[str, str]] = {}  # faults of routers that the policy does not know yet
        self._next_tries: dict[tuple[str, str], asyncio.TimerHandle] = {}  # by router and fault
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)
        self.lateness = Lateness()

    def start(self) -> None:
        """Take part in the elections, as a Backup at first."""
        self._timer = Timer(self._timer_expired)
        for instance in self.instances.values():
            self._attach(instance)
        self._act(self.routers.started(self._loop.time()), "startup")

    def stop(self) -> None:
        """Give the addresses up; the others hear priority 0. May be repeated."""
        self._act(self.routers.stopped("stopped", self._loop.time()), "stop")
        for instance in self.instances.values():
            self._loop.remove_reader(instance.network.fileno())
            instance.stop()
        for handle in self._next_tries.values():
            handle.cancel()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def remove(self, name: str, reason: str) -> Instance:
        """It gives its address up, with a farewell, and is no more. The caller closes it."""
        self._act(self.routers.removed(name, reason, self._loop.time()), "reload")
        instance = self.instances.pop(name)
        self._loop.remove_reader(instance.network.fileno())
        instance.stop()
        for by in ("taking", GONE):
            if (name, by) in self._next_tries:
                self._next_tries.pop((name, by)).cancel()
        return instance

    def rearrange(self, instances: Iterable[Instance], arrangement: Arrangement) -> None:
        """From now on these. New ones take part as at a start; those that are gone were removed."""
        known = self.instances
        self.instances = {instance.name: instance for instance in instances}
        self._checks = {check.name for check in arrangement.checks}
        self._joining = {name: {} for name in self.instances if name not in known}
        for name in self._joining:
            self._attach(self.instances[name])
        faults, self._joining = self._joining, {}
        routers = {name: instance.router for name, instance in self.instances.items()}
        self._act(self.routers.rearranged(routers, arrangement, faults, self._loop.time()), "reload")

    def fault(self, reason: str, by: str = "node") -> None:
        """This node cannot serve, as `by` finds: leave all elections until each `by` says `recover`."""
        self._fault(None, reason, by)

    def recover(self, by: str = "node") -> None:
        """Take part again, if nothing else is wrong; nothing happens to one that does."""
        self._recover(None, by)

    def check(self, name: str, passed: bool, detail: str) -> None:
        """One result of a check. What nobody tracks decides nothing."""
        if name in self._checks:
            tell = self.routers.check_passed if passed else self.routers.check_failed
            self._act(tell(name, detail, self._loop.time()), "check")

    # ----- what happens ---------------------------------------------------------------------------

    def _attach(self, instance: Instance) -> None:
        """From now on it is heard, what arrives for it and what it finds itself."""
        instance.start(partial(self._fault, instance.name), partial(self._recover, instance.name))
        self._loop.add_reader(instance.network.fileno(), self._readable, instance)

    def _fault(self, router: str | None, reason: str, by: str) -> None:
        self._limited.warning(f"fault of {router}: {by}", f"fault: {reason}")
        if router is not None and by == GONE:
            self._try_next(router, GONE, LOOK_AGAIN_SECONDS, self._look_for_interface)
        if router in self._joining:
            self._joining[router][by] = reason
            return
        self._act(self.routers.fault_found(router, by, reason, self._loop.time()), "fault")

    def _recover(self, router: str | None, by: str) -> None:
        if router in self._joining:
            self._joining[router].pop(by, None)
            return
        self._act(self.routers.fault_gone(router, by, self._loop.time()), "fault")

    def _look_for_interface(self, name: str) -> None:
        instance = self.instances[name]
        before = instance.network.fileno()
        try:
            self._reopen(instance)
        except ScaleUpError as error:
            log.debug("%s: %s", name, error)
            self._try_next(name, GONE, LOOK_AGAIN_SECONDS, self._look_for_interface)
            return
        self._loop.remove_reader(before)
        self._attach(instance)
        self._recover(name, GONE)

    def _try_next(self, name: str, by: str, seconds: float, what: Callable[[str], None]) -> None:
        if (name, by) in self._next_tries:
            self._next_tries[name, by].cancel()
        self._next_tries[name, by] = self._loop.call_later(seconds, what, name)

    def _woken(self) -> None:
        if actions := self.routers.woken(self._loop.time()):
            self._act(actions, "late")

    def _readable(self, instance: Instance) -> None:
        self._woken()
        self._read(instance, self.instances.values())

    def _read(self, instance: Instance, first: Iterable[Instance]) -> None:
        """What has arrived, but when one of `first` has to advertise: a flood must not make it late, and the rest
        waits in the socket.
        """
        actives = [it for it in first if it.router.state is State.ACTIVE]
        for datagram in instance.network.receive():
            # Of the arrival, if that is not long ago: what follows is our own delay.
            now = self._loop.time() - datagram.age
            advertisement = instance.read(datagram)
            if advertisement is not None:
                source = datagram.source
                actions = self.routers.advertisement_received(instance.name, advertisement, source, now)
                if actions or self.routers.wakes_before(self._armed, instance.name, AWAKE_SECONDS):
                    self._act(actions, "advertisement")
                # Else it has put its timer off: ours fires all the same, finds nothing due, and is armed anew.
                if instance.router.state is State.ACTIVE and advertisement.priority != STOPPING:
                    instance.also_active(source, advertisement.priority)
            now = self._loop.time()
            if any(it.is_active_and_due(now) for it in actives):
                break

    def _timer_expired(self) -> None:
        self._armed = None  # should what follows fail, whoever puts a deadline off arms it
        self._wait_awake()
        due = self.routers.deadline
        if due is not None and (late := self._loop.time() - due) >= 0:
            self.lateness.observe(late)
        self._woken()
        for instance in self.instances.values():
            if instance.router.state is not State.ACTIVE:
                self._read(instance, [instance])
        deadline, now = self.routers.deadline, self._loop.time()
        if deadline is None or now < deadline:
            self._arm()
        else:
            self._act(self.routers.timer_expired(now), "timer")

    def _wait_awake(self) -> None:
        """Where a take-over is near, until any timer is due, looking for what would keep us from it. It ends: one
        that is put off beyond AWAKE_SECONDS from now is no reason to wait, however often that happens.
        """
        end = self._loop.time() + AWAKE_SECONDS
        while near := [it for it in self.instances.values() if it.is_backup_and_due(end)]:
            for instance in near:
                self._read(instance, self.instances.values())
            due = self.routers.deadline
            if due is None or self._loop.time() >= due:
                break

    # ----- what is done ---------------------------------------------------------------------------

    def _act(self, actions: Sequence[Action], event: str) -> None:
        """Carry out what the routers returned. All addresses are taken before anybody is told of one: a node that
        cannot take it, or that of a router which moves with it, would else drive out one that serves, at each
        attempt. What was to follow from having them is left out then. `event`: what made them return it.
        """
        refused: dict[str, OSError] = {}
        left_out: set[str] = set()
        for name, what in actions:
            if what == AnnounceAddresses() and name not in left_out:
                try:
                    self.instances[name].owner.take()
                except OSError as error:
                    refused[name] = error
                    left_out |= self.routers.moving_with(name)
        for name, what in actions:
            if name not in left_out:
                self._do(name, what, event)
        for name, why in refused.items():
            self._cannot_take(name, why)  # and what others in its group have taken is given back
        self._arm()

    def _do(self, name: str, output: object, event: str) -> None:
        match output:
            case SendAdvertisement(priority):
                self.instances[name].send(priority)
            case AnnounceAddresses():
                self.instances[name].owner.announce()
            case WithdrawAddresses():
                self.instances[name].owner.release()
            case Transition():
                self.instances[name].changed(output, event)
            case SetPriority(_, priority, rule):
                log.info("%s: priority %d: %s", name, priority, rule)
                self._on_decision(output)
            case SetPreempt(_, preempt, rule):
                log.info("%s: %s: %s", name, "preempts" if preempt else "does not preempt", rule)
            case Notify():
                self._tell(output)

    def _tell(self, change: Notify) -> None:
        if change.kind == "INSTANCE":
            instance = self.instances[change.router]
            before = instance.role
            instance.condition, instance.rule = change.condition, change.rule
            if instance.role != before or change.condition is Condition.FAULT:
                self._on_role(change.router, instance.role, change.rule)
        self._on_decision(change)

    def _cannot_take(self, name: str, error: OSError) -> None:
        reason = f"the address cannot be taken: {error.strerror}; next try in {TAKE_AGAIN_SECONDS:g} s"
        self._fault(name, reason, "taking")
        self._try_next(name, "taking", TAKE_AGAIN_SECONDS, partial(self._recover, by="taking"))

    def _arm(self) -> None:
        """Have the timer fire at the next deadline; without one, leave none armed."""
        if self._timer is not None:
            self._armed = self.routers.wake(AWAKE_SECONDS)
            self._timer.arm(self._armed)
