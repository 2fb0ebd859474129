"""The election by itself: the daemon, its helper, and all that tell of it.

A reload is all or nothing. What can fail comes first: keys are read, the helper for other checks and scripts is
started. Then the routers that cannot go on as they are (`settings.unchanged`) leave their elections, with a
farewell, and those that are new are opened. If that fails, the old ones are opened again. Nothing is waited for
in between, so the others notice nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable

from scaleup.config import TierSettings
from scaleup.config.model import refuse_changes
from scaleup.errors import ConfigurationError, ScaleUpError
from scaleup.processes import Process, Tasks
from scaleup.processes.logs import Destination
from scaleup.vrrp.assembly import Opener, assembled, virtual_addresses
from scaleup.vrrp.codec import Codec
from scaleup.vrrp.daemon import Daemon
from scaleup.vrrp.decisions import Notify, SetPriority
from scaleup.vrrp.events import EventStream, Status
from scaleup.vrrp.helper import Helper
from scaleup.vrrp.instance import Instance
from scaleup.vrrp.metrics import ElectionCollector, snapshot
from scaleup.vrrp.scheduling import be_on_time
from scaleup.vrrp.settings import RouterSettings, VrrpSettings, unchanged
from scaleup.vrrp.state import status, write_state

log = logging.getLogger(__name__)

UNCHANGEABLE = {*TierSettings.model_fields, "realtime", "state_file", "event_socket"} - {"drain"}
"""Settings that a reload cannot change."""

CHANGED = "the configuration was changed"


def _nobody(name: str, passed: bool, detail: str) -> None:
    pass


def _helped(settings: VrrpSettings) -> object:
    """What the helper does; weights, rise and fall are the policy's."""
    return [track.what for track in settings.track], settings.scripts


class Reports:
    """What a helper reports, kept until there is somebody to hear it: then its checks are known."""

    def __init__(self) -> None:
        self._early: list[tuple[str, bool, str]] | None = []
        self._hear: Callable[[str, bool, str], None] = _nobody

    def __call__(self, name: str, passed: bool, detail: str) -> None:
        if self._early is None:
            self._hear(name, passed, detail)
        else:
            self._early.append((name, passed, detail))

    def heard_by(self, hear: Callable[[str, bool, str], None]) -> None:
        early, self._early, self._hear = self._early, None, hear
        for report in early or ():
            hear(*report)


class Standalone:
    """Raises ScaleUpError from `serve`; `reload` may be called while it serves."""

    def __init__(self, settings: VrrpSettings, process: Process) -> None:
        self._settings, self._process = settings, process
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._helper: Helper | None = None
        self._reports = Reports()
        self._ending: asyncio.Task[None] | None = None  # the helper under the settings before
        self._stream: EventStream | None = None
        self._opener = Opener()
        self._daemon: Daemon

    async def serve(self, started: Callable[[], None]) -> None:
        """Until the process is to stop. `started()` is called once all take part."""
        settings = self._settings
        self._warn(settings)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._stop_helper)  # last: it has to tell that this process stops
            stack.callback(self._opener.close)
            self._daemon = stack.enter_context(
                assembled(
                    self._opener, settings.routers, settings.arrangement, self._on_role, self._on_decision
                )
            )
            collector = ElectionCollector(lambda: snapshot(self._daemon, self._loop.time()))
            self._process.registry.register(collector)
            self._loop.add_signal_handler(signal.SIGUSR1, self._write_state)  # who used keepalived sends it
            if settings.event_socket is not None:
                self._stream = EventStream(settings.event_socket, self._present)
                self._stream.start()
                stack.callback(self._stream.stop)
                stack.callback(self._daemon.stop)  # while its readers still hear
            self._helper, self._reports = await self._start_helper(settings)
            self._reports.heard_by(self._daemon.check)
            be_on_time(settings.realtime)
            self._daemon.start()
            started()
            await self._process.stopping.wait()
            await self._process.end_reload()

    async def reload(self, settings: VrrpSettings) -> None:
        """Raises ScaleUpError; then everything is as it was."""
        refuse_changes(self._settings, settings, UNCHANGEABLE)
        await self._old_helper_ended()
        before, instances = self._settings, self._daemon.instances
        stay = unchanged(before, settings) & instances.keys()
        codecs = {router.name: _codec(router) for router in settings.routers if router.name in stay}
        old, old_reports = self._helper, self._reports
        new, reports = old, old_reports
        if _helped(settings) != _helped(before):
            new, reports = await self._start_helper(settings)
        try:
            self._exchange(settings, codecs, new)
        except BaseException:
            if new is not None and new is not self._helper:
                await new.stop()
            raise
        self._warn(settings)
        if reports is not old_reports:
            old_reports.heard_by(_nobody)
            reports.heard_by(self._daemon.check)
            self._reports = reports
        self._write_state()

    # ----- the routers ------------------------------------------------------------------------------------

    def _exchange(self, settings: VrrpSettings, codecs: dict[str, Codec], helper: Helper | None) -> None:
        """`codecs`: of the routers that stay. Of those that go the old helper is told; of all else, `helper`."""
        for name in self._daemon.instances.keys() - codecs.keys():
            self._daemon.remove(name, CHANGED).close()
        new = [router for router in settings.routers if router.name not in codecs]
        try:
            opened = self._opener.instances(new, virtual_addresses(settings.routers))
        except Exception:
            self._put_back()
            raise
        self._hand_over(helper)
        for router in settings.routers:
            if router.name in codecs:
                self._daemon.instances[router.name].adopt(router, codecs[router.name])
        self._rearrange(settings, opened)
        self._settings = settings

    def _put_back(self) -> None:
        """The routers that were removed, as they were. One that cannot be opened waits for the next reload."""
        opened, routers = list[Instance](), self._settings.routers
        virtual = virtual_addresses(routers)
        for router in routers:
            if router.name not in self._daemon.instances:
                try:
                    opened += self._opener.instances([router], virtual)
                except ScaleUpError as error:
                    log.error("%s cannot be started again as it was: %s", router.name, error)
        if opened:
            log.warning(
                "put back as they were, after a farewell: %s", ", ".join(instance.name for instance in opened)
            )
        self._rearrange(self._settings, opened)

    def _rearrange(self, settings: VrrpSettings, opened: list[Instance]) -> None:
        instances = self._daemon.instances | {instance.name: instance for instance in opened}
        names = [router.name for router in settings.routers if router.name in instances]
        self._daemon.rearrange([instances[name] for name in names], settings.arrangement.of(names))

    def _warn(self, settings: VrrpSettings) -> None:
        if all(router.interface is None for router in settings.routers):
            log.warning("only the election is run: no address is put on an interface, no socket listens")
        for line in settings.arrangement.warnings():
            log.warning("%s", line)

    # ----- the helper -------------------------------------------------------------------------------------

    async def _start_helper(self, settings: VrrpSettings) -> tuple[Helper | None, Reports]:
        """None when there is nothing for it to do. Raises StartupError."""
        reports, scripts = Reports(), settings.scripts
        if not settings.track and not scripts:
            return None, reports
        name, log_to = f"{settings.name}/helper", Destination.of(settings)
        helper = Helper(settings.track, scripts, reports, name=name, log_to=log_to)
        try:
            await helper.start()
        except BaseException:
            await helper.stop()
            raise
        return helper, reports

    def _hand_over(self, helper: Helper | None) -> None:
        """To another one, which runs scripts when those of the old one have run."""
        old = self._helper
        if helper is old:
            return
        self._helper = helper
        if old is not None:
            if helper is not None:
                helper.hold()
            self._ending = self._tasks.spawn(_end(old, helper), name="the helper under the old settings")

    async def _old_helper_ended(self) -> None:
        """Within GRACE_SECONDS."""
        if self._ending is not None:
            await asyncio.wait([self._ending])

    async def _stop_helper(self) -> None:
        await self._old_helper_ended()
        if self._helper is not None:
            await self._helper.stop()

    # ----- who is told ------------------------------------------------------------------------------------

    def _on_role(self, router: str, role: str, rule: str) -> None:
        self._process.event("role", router=router, role=role, rule=rule)

    def _on_decision(self, decision: Notify | SetPriority) -> None:
        if isinstance(decision, Notify) and self._helper is not None:
            self._helper.tell(decision)
        if self._stream is not None and decision.router in self._daemon.instances:
            self._stream.tell(status(self._daemon.instances[decision.router]))
        self._loop.call_soon(self._write_state)  # when all else is done

    def _present(self) -> list[Status]:
        return [status(instance) for instance in self._daemon.instances.values()]

    def _write_state(self) -> None:
        if self._settings.state_file is not None:
            write_state(self._daemon.instances.values(), self._settings.state_file)


async def _end(old: Helper, new: Helper | None) -> None:
    try:
        await old.stop()
    finally:
        if new is not None:
            new.release()


def _codec(router: RouterSettings) -> Codec:
    """Raises ConfigurationError when a key file has gone."""
    try:
        return router.codec()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
