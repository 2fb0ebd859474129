"""`python -m scaleup.lb`: a load balancer node."""

from __future__ import annotations

from scaleup.lb.node import Node
from scaleup.lb.settings import LbSettings
from scaleup.processes import Process, run


async def serve(settings: LbSettings, process: Process) -> None:
    node = Node(settings, process)
    try:
        await node.start()
        process.ready()
        await process.stopping.wait()
    finally:
        await node.stop()


if __name__ == "__main__":
    run(LbSettings, serve)
