"""`python -m scaleup.vrrp`: the election by itself; `… doctor`: what would be in its way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable

from scaleup.processes import Process, run
from scaleup.vrrp.assembly import assembled
from scaleup.vrrp.decisions import Notify, SetPriority
from scaleup.vrrp.events import EventStream
from scaleup.vrrp.helper import Helper
from scaleup.vrrp.metrics import ElectionCollector, snapshot
from scaleup.vrrp.notify import NotifySettings
from scaleup.vrrp.scheduling import be_on_time
from scaleup.vrrp.settings import VrrpSettings
from scaleup.vrrp.state import status, write_state

log = logging.getLogger(__name__)


async def serve(settings: VrrpSettings, process: Process) -> None:
    if settings.interface is None:
        log.warning("only the election is run: no address is put on an interface, no socket listens")
    for line in settings.arrangement(settings.track).warnings():
        log.warning("%s", line)
    loop = asyncio.get_running_loop()
    helper = open_helper(settings, lambda name, passed, detail: daemon.check(name, passed, detail))
    stream: EventStream | None = None

    def on_role(_: str, role: str, rule: str) -> None:
        process.event("role", role=role, rule=rule)

    def on_decision(decision: Notify | SetPriority) -> None:
        if helper is not None and isinstance(decision, Notify):
            helper.tell(decision)
        if stream is not None and decision.router in daemon.instances:
            stream.tell(status(daemon.instances[decision.router]))
        if settings.state_file is not None:
            loop.call_soon(write_all)  # when all else is done

    def write_all() -> None:
        if settings.state_file is not None:
            write_state(daemon.instances.values(), settings.state_file)

    async with contextlib.AsyncExitStack() as stack:
        if helper is not None:
            stack.push_async_callback(helper.stop)  # last: it has to tell that this process stops
        daemon = stack.enter_context(assembled(settings, (), on_role, on_decision, settings.track))
        process.registry.register(ElectionCollector(lambda: snapshot(daemon, loop.time())))
        if settings.state_file is not None:
            loop.add_signal_handler(signal.SIGUSR1, write_all)
        if settings.event_socket is not None:
            stream = EventStream(settings.event_socket, lambda: map(status, daemon.instances.values()))
            stream.start()
            stack.callback(stream.stop)
            stack.callback(daemon.stop)  # while its readers still hear
        if helper is not None:
            await helper.start()
        be_on_time(settings.realtime)
        daemon.start()
        process.ready()
        await process.stopping.wait()


def open_helper(settings: VrrpSettings, report: Callable[[str, bool, str], None]) -> Helper | None:
    """None when there is nothing for it to do."""
    scripts = settings.scripts
    if not settings.track and scripts == NotifySettings():
        return None
    logs = settings.log_format, settings.log_level, settings.log_file
    name = f"{settings.name}/helper"
    return Helper(settings.track, {settings.router_name: scripts}, report, name=name, logs=logs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["doctor"]:
        from scaleup.vrrp.doctor_command import main

        main(sys.argv[2:])
    # The standard loop: it needs no faster one, since this process moves no user bytes.
    run(VrrpSettings, serve, loop_factory=asyncio.new_event_loop)
