"""`python -m scaleup.vrrp`: the election by itself."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address

from scaleup.processes import Process, run
from scaleup.vrrp.daemon import Daemon
from scaleup.vrrp.metrics import ElectionCollector, snapshot
from scaleup.vrrp.network import UnicastUdp
from scaleup.vrrp.owner import ListenerOwner
from scaleup.vrrp.settings import Election, VrrpSettings

log = logging.getLogger(__name__)


def open_network(election: Election) -> UnicastUdp:
    peers = [ip_address(str(peer)) for peer in election.peer]
    return UnicastUdp(ip_address(str(election.source)), election.vrrp_port, peers)


async def serve(settings: VrrpSettings, process: Process) -> None:
    network = open_network(settings)
    log.warning("only the election is run: no address is put on an interface, no socket listens")
    daemon = Daemon(
        settings,
        network,
        ListenerOwner(()),
        lambda role, rule: process.event("role", role=role, rule=rule),
    )
    process.registry.register(ElectionCollector(lambda: snapshot(daemon, asyncio.get_running_loop().time())))
    try:
        daemon.start()
        process.ready()
        await process.stopping.wait()
    finally:
        daemon.stop()
        network.close()


if __name__ == "__main__":
    # The standard loop: uvloop rounds timers to milliseconds as well, and this process moves no user bytes.
    run(VrrpSettings, serve, loop_factory=asyncio.new_event_loop)
