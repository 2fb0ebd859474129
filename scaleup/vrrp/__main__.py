"""`python -m scaleup.vrrp`: the election by itself; `… doctor`: what would be in its way."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from functools import partial

from scaleup.processes import Process, run
from scaleup.vrrp.assembly import assembled
from scaleup.vrrp.metrics import ElectionCollector, snapshot
from scaleup.vrrp.settings import VrrpSettings
from scaleup.vrrp.state import write_state

log = logging.getLogger(__name__)


async def serve(settings: VrrpSettings, process: Process) -> None:
    if settings.interface is None:
        log.warning("only the election is run: no address is put on an interface, no socket listens")
    loop = asyncio.get_running_loop()

    def on_role(role: str, rule: str) -> None:
        process.event("role", role=role, rule=rule)
        if settings.state_file is not None:
            loop.call_soon(write_state, daemon, settings.state_file)  # when all else is done

    with assembled(settings, (), on_role) as daemon:
        process.registry.register(ElectionCollector(lambda: snapshot(daemon, loop.time())))
        if settings.state_file is not None:
            loop.add_signal_handler(signal.SIGUSR1, partial(write_state, daemon, settings.state_file))
        daemon.start()
        process.ready()
        await process.stopping.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["doctor"]:
        from scaleup.vrrp.doctor_command import main

        main(sys.argv[2:])
    # The standard loop: it needs no faster one, since this process moves no user bytes.
    run(VrrpSettings, serve, loop_factory=asyncio.new_event_loop)
