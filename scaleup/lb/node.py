"""The node: the parent of a load balancer's processes.

It opens the listening sockets and hands them down, watches the servers once for all workers (`servers`), keeps the
vrrp process and the workers running, and exports what they count. User bytes never come here.

The local health of the node, which the election should know of, is whether any worker can accept, and none has died
that cannot be started again. Else the vrrp process is told `fault` and another node takes over; servers that are
down are no fault of this node, since the others see the same.

Stopping is a planned hand-over: the workers first refuse new connections while the old ones finish, for
at most the drain time; then the vrrp process advertises priority 0, and the next node takes over within
its Skew_Time. A node that is not Active, or ceases to be while it drains, has nothing to hand over and is at
fault, lest the address comes to workers that do not accept any more.

A reload is another `generation` of workers on the same sockets; what is known of the servers stays known. What
it cannot change is said, and then nothing is changed: the election, and what concerns the process itself.

Workers are told the whole state, not its changes, when they are ready and whenever it changes. So it does
not matter what happened while one was being replaced.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from scaleup.config import TierSettings
from scaleup.config.model import refuse_changes
from scaleup.lb.generation import Generation
from scaleup.lb.metrics import LbCollector
from scaleup.lb.operations import Limits, Operations
from scaleup.lb.page import HEADERS, page
from scaleup.lb.runtime import RuntimeSocket
from scaleup.lb.servers import Servers
from scaleup.lb.settings import LbSettings
from scaleup.lb.statistics import Statistics
from scaleup.lb.stats import csv
from scaleup.lb.totals import Totals
from scaleup.lb.trend import SAMPLE_SECONDS
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound, stop_listening
from scaleup.processes import Child, Message, Process, Tasks
from scaleup.processes.keeper import Keeper
from scaleup.processes.logs import Destination
from scaleup.processes.pages import Page
from scaleup.processes.sockets import Sockets
from scaleup.vrrp.election import Election
from scaleup.vrrp.metrics import ElectionCollector

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 1.0
"""Until the vrrp process is killed."""

UNCHANGEABLE = {*TierSettings.model_fields, *Election.model_fields, "runtime_socket"} - {"drain"}
"""Settings that a reload cannot change."""


class Node:
    def __init__(self, settings: LbSettings, process: Process) -> None:
        self._settings, self._process = settings, process
        now = asyncio.get_running_loop().time
        self._servers = Servers(self._tell_workers, process.event, now)
        self._sockets = Sockets(lambda endpoint: self._settings.is_virtual(endpoint), free=True)
        self._generation: Generation | None = None  # that accepts
        self._retiring: set[Generation] = set()
        self._vrrp: Keeper | None = None
        self._election: dict[str, Any] = {}  # the vrrp process's newest statistics
        self.role: str | None = None
        self._tasks = Tasks()
        self._totals = Totals()
        self._limits = Limits()
        self._statistics = Statistics(
            lambda: self._settings, self._limits.maxconn, self._servers, self._totals, now
        )
        self._operations = Operations(
            lambda: self._settings,
            self._servers,
            self._statistics,
            self._limits,
            self._generations,
            self._tell_workers,
            process.log_dropped,
            process.stopping.is_set,
        )
        self._runtime: RuntimeSocket | None = None
        self._collectors = (
            LbCollector(lambda: self._settings, self._totals, self._operations.rows, self._operations.info),
            ElectionCollector(self._elected),
        )
        for collector in self._collectors:
            process.registry.register(collector)
        process.add_readiness(self._readiness)

    async def start(self) -> None:
        """Raises StartupError."""
        if self._source is not None:
            bound(Endpoint(self._source, 0), "--source").close()
        self._sockets.open(self._settings.endpoints, self._settings.workers)
        await self._servers.find(self._settings)
        self._servers.know(self._settings)
        self._generation = await self._start_generation(self._settings)
        self._tell_workers()
        self._servers.watch(self._settings, self._source)
        self._tasks.spawn(self._sample(), name="samples for the statistics")
        self._process.pages.update({"/stats": self._statistics_page, "/stats;csv": self._statistics_csv})
        if self._settings.runtime_socket is not None:
            self._runtime = RuntimeSocket(self._settings.runtime_socket, self._operations)
            await self._runtime.start()
        if self._settings.vip:
            name = f"{self._process.name}/vrrp"
            self._vrrp = Keeper(name, partial(self._spawn_vrrp, name), self._vrrp_died)
            self._vrrp.start()
            await self._vrrp.first_ready()

    async def reload(self, settings: LbSettings) -> None:
        """Serve by other settings from now on. Raises ScaleUpError; then nothing has changed."""
        self._refuse_what_needs_a_restart(settings)
        await self._servers.find(settings)
        opened = self._sockets.open(settings.endpoints, settings.workers)
        new: Generation | None = None
        try:
            new = await self._start_generation(settings)
            await self._servers.rest()
        except BaseException:
            if new is not None:
                await self._end_generation(new)
            self._sockets.close(opened)
            raise
        # Nothing may come between: new workers must not hear of the servers as the old settings have them, and
        # what an operator changes has to meet servers that somebody watches.
        old, self._generation, self._settings = self._generation, new, settings
        assert old is not None
        self._servers.know(settings)
        self._servers.watch(settings, self._source)
        self._tell_workers()
        self._retiring.add(old)
        self._tasks.spawn(self._retire(old), name="workers under the old settings")

    async def stop(self) -> None:
        """Drain, hand over, end. May be called after a `start` that failed."""
        await self._process.end_reload()
        await self._servers.rest()
        self._tell_fitness()
        if self._process.stopping.is_set() and not self._process.urgent.is_set():
            await self._stop_softly()
        else:
            await self._drain(self._settings.drain)
        if self._vrrp is not None:
            await self._vrrp.stop(STOP_GRACE_SECONDS)
        if self._runtime is not None:
            await self._runtime.stop()
        await self._tasks.cancel()
        for generation in self._generations():  # that have not ended meanwhile
            await generation.end()
        for collector in self._collectors:
            self._process.registry.unregister(collector)
        self._sockets.close_all()

    async def _stop_softly(self) -> None:
        """Sessions may go on for `hard_stop_after`, or, once it is urgent all the same, for `drain`."""
        patient = self._tasks.spawn(self._drain(self._settings.hard_stop_after), name="soft stop")
        urgent = self._tasks.spawn(self._process.urgent.wait(), name="the end of a soft stop")
        await asyncio.wait({patient, urgent}, return_when=asyncio.FIRST_COMPLETED)
        if not patient.done():
            await self._drain(self._settings.drain)

    async def _drain(self, seconds: float) -> None:
        await asyncio.gather(*(generation.drain(seconds) for generation in self._generations()))

    # ----- the workers ----------------------------------------------------------------------------

    async def _start_generation(self, settings: LbSettings) -> Generation:
        generation = Generation(
            settings,
            self._process.name,
            self._log,
            [self._sockets_of_worker(row, settings) for row in range(settings.workers)],
            self._worker_ready,
            self._worker_died,
            self._servers.observed,
        )
        self._totals.begin(settings, generation.counters)
        try:
            await generation.start()
        except BaseException:
            await self._end_generation(generation)
            raise
        return generation

    async def _end_generation(self, generation: Generation) -> None:
        self._totals.end(generation.counters)
        await generation.end()

    async def _retire(self, old: Generation) -> None:
        """In the end nothing of it is left."""
        gone = self._sockets.leave(self._settings.endpoints)
        await old.retire(old.settings.hard_stop_after, gone)
        await self._end_generation(old)
        self._retiring.discard(old)  # not before, or a stop that breaks this off would leave it
        log.info("the workers under the old settings have ended")

    def _worker_ready(self) -> None:
        self._tell_workers()
        self._tell_fitness()

    def _worker_died(self, name: str, how: str) -> None:
        self._process.event("worker", worker=name, how=how)
        self._tell_fitness()

    def _generations(self) -> list[Generation]:
        return [*self._retiring, *([self._generation] if self._generation else [])]

    def _tell_workers(self) -> None:
        for generation in self._generations():
            state = self._servers.state(generation.settings)
            maxconn = [self._limits.maxconn(frontend) for frontend in generation.settings.frontends]
            generation.tell("state", active=self.role == "active", maxconn=maxconn, **state)

    async def _sample(self) -> None:
        while True:
            self._statistics.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    def _statistics_page(self) -> Page:
        text = page(self._operations.rows(), self._operations.info(), self.role)
        return Page("text/html; charset=utf-8", text, HEADERS)

    def _statistics_csv(self) -> Page:
        return Page("text/plain; charset=utf-8", csv(self._operations.rows()))

    # ----- the election ---------------------------------------------------------------------------

    def _spawn_vrrp(self, name: str, on_exit: Callable[[int], None]) -> Child:
        child = Child(name, ["scaleup.vrrp.attached", name], on_message=self._vrrp_says, on_exit=on_exit)
        election = self._settings.model_dump(mode="json", include=set(Election.model_fields))
        sockets = [sock.fileno() for sock in self._elected_sockets()]
        child.send("init", sockets, name=name, log=self._log, election=election)
        return child

    def _fault(self) -> str | None:
        """Why this node cannot serve; None when it can."""
        if self._process.stopping.is_set() and self.role != "active":
            return "draining"
        return "no worker accepts" if self._generation is None else self._generation.fault

    async def _readiness(self) -> str | None:
        return self._fault()

    def _tell_fitness(self) -> None:
        """The vrrp process hears whether this node can serve; may be repeated."""
        if self._vrrp is None or not self._vrrp.is_ready or self._vrrp.child is None:
            return  # it is told when it is ready
        if reason := self._fault():
            self._vrrp.child.send("fault", reason=reason)
        else:
            self._vrrp.child.send("recover")

    def _vrrp_says(self, message: Message) -> None:
        match message.kind:
            case "ready":
                assert self._vrrp is not None
                self._vrrp.was_ready()
                self._tell_fitness()
            case "role":
                self._become(message.fields["role"], message.fields["rule"])
            case "statistics":
                self._election = message.fields

    def _elected(self) -> dict[str, Any]:
        """The newest statistics; the role is what it was told to be, also when the vrrp process has died."""
        routers = [{**router, "role": self.role} for router in self._election.get("routers", ())]
        return {**self._election, "routers": routers} if routers else {}

    def _vrrp_died(self, how: str) -> None:
        """Nobody advertises for us any more, so another node will take the address: let it go now."""
        for sock in self._elected_sockets():
            stop_listening(sock)
        self._become("fault", f"the vrrp process died ({how})")

    def _become(self, role: str, rule: str) -> None:
        self.role = role
        self._process.event("role", role=role, rule=rule)
        self._tell_workers()
        if role == "backup":  # perhaps it was Active, and drains
            self._tell_fitness()

    # ----- the sockets ----------------------------------------------------------------------------

    def _sockets_of_worker(self, row: int, settings: LbSettings) -> list[list[socket.socket]]:
        """Of each frontend. Those of workers that are no more go to the others: a reload closes none of them."""
        return [
            self._sockets.of_worker(frontend.listen, row, settings.workers) for frontend in settings.frontends
        ]

    def _elected_sockets(self) -> list[socket.socket]:
        return [sock for endpoint in self._settings.elected for sock in self._sockets.at(endpoint)]

    # ----- the settings ---------------------------------------------------------------------------

    def _refuse_what_needs_a_restart(self, settings: LbSettings) -> None:
        """Raises ConfigurationError."""
        changed = []
        if settings.elected != self._settings.elected:
            changed.append("--listen on a --vip")
        if any(settings.workers > len(self._sockets.at(endpoint)) for endpoint in settings.elected):
            changed.append("more --workers with a --vip")
        refuse_changes(self._settings, settings, UNCHANGEABLE, changed)

    @property
    def _source(self) -> str | None:
        return str(self._settings.source) if self._settings.source else None

    @property
    def _log(self) -> Destination:
        return Destination.of(self._settings)
