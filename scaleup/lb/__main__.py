"""`python -m scaleup.lb`: a load balancer node."""

from __future__ import annotations

import sys

from scaleup.config import load
from scaleup.lb.node import Node
from scaleup.lb.settings import LbSettings
from scaleup.processes import Process, run


async def serve(settings: LbSettings, process: Process) -> None:
    node = Node(settings, process)
    try:
        await node.start()
        process.ready()
        process.stops_softly()
        process.reloads(lambda: load(LbSettings, sys.argv[1:]).settings, node.reload)
        await process.stopping.wait()
    finally:
        await node.stop()


if __name__ == "__main__":
    run(LbSettings, serve)
