"""The vrrp process of a load balancer, started by its node (`scaleup.lb.node`).

It is a process of its own so that a busy proxy never delays an advertisement, and it is the node's
guardian: it holds duplicates of the listening sockets, and when the node dies, however it dies, the end
of the channel says so, the address is given up and the peers hear priority 0. Signals are the node's: who stops
all processes of a service at once must not take the address away from sessions that the node lets finish.

Messages from the node: `init` (with the listening sockets), `fault` (a reason), `recover`.
Messages to the node: `role` at each change, `statistics` once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import partial
from typing import Any

from pydantic import ValidationError

from scaleup.errors import ConfigurationError
from scaleup.processes import Message, Process, run_child
from scaleup.processes.worker import leave_signals
from scaleup.vrrp.arrangement import Arrangement
from scaleup.vrrp.assembly import Opener, assembled
from scaleup.vrrp.daemon import Daemon
from scaleup.vrrp.election import Election
from scaleup.vrrp.metrics import snapshot
from scaleup.vrrp.scheduling import be_on_time

STATISTICS_SECONDS = 1.0


async def serve(init: Message, process: Process) -> None:
    leave_signals(process)
    election = read(init.fields["election"])
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(fileno=number)) for number in init.descriptors]
        opener = stack.enter_context(contextlib.closing(Opener(sockets)))
        daemon = stack.enter_context(
            assembled(
                opener,
                [election],
                Arrangement((election.policy(),), startup_delay=election.startup_delay),
                lambda _, role, rule: process.tell_parent("role", role=role, rule=rule),
            )
        )
        process.on_message = partial(obey, daemon)
        process.when_orphaned = daemon.stop
        be_on_time(election.realtime)
        daemon.start()
        process.ready()
        await tell_statistics(daemon, process)


def read(table: dict[str, Any]) -> Election:
    """The settings were valid when the node read them; since then the key file may have gone."""
    try:
        return Election.model_validate(table)
    except ValidationError as error:
        raise ConfigurationError("\n".join(fault["msg"] for fault in error.errors())) from None


def obey(daemon: Daemon, message: Message) -> None:
    match message.kind:
        case "fault":
            daemon.fault(message.fields["reason"])
        case "recover":
            daemon.recover()


async def tell_statistics(daemon: Daemon, process: Process) -> None:
    """Until the process is to stop."""
    loop = asyncio.get_running_loop()
    while not process.stopping.is_set():
        process.tell_parent("statistics", **snapshot(daemon, loop.time()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATISTICS_SECONDS):
                await process.stopping.wait()


if __name__ == "__main__":
    run_child(serve, loop_factory=asyncio.new_event_loop)
