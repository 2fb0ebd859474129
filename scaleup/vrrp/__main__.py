"""`python -m scaleup.vrrp`: the election by itself; `… doctor`: what is in its way; `… status`: how it stands."""

from __future__ import annotations

import asyncio
import sys

from scaleup.config import load
from scaleup.processes import Process, run
from scaleup.vrrp.settings import VrrpSettings


async def serve(settings: VrrpSettings, process: Process) -> None:
    from scaleup.vrrp.standalone import Standalone  # not for the commands beside it

    standalone = Standalone(settings, process)

    def started() -> None:
        process.ready()
        process.reloads(lambda: load(VrrpSettings, sys.argv[1:]).settings, standalone.reload)

    await standalone.serve(started)


if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["doctor"]:
            from scaleup.vrrp.doctor_command import main

            main(sys.argv[2:])
        case ["status"]:
            from scaleup.vrrp.status_command import main

            main(sys.argv[2:])
    # The standard loop: it needs no faster one, since this process moves no user bytes.
    run(VrrpSettings, serve, loop_factory=asyncio.new_event_loop)
