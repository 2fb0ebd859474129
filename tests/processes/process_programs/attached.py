"""A child made of what every child of ours is made of; its parent is `tier --act parent`."""

from __future__ import annotations

import asyncio
import logging
import os

from scaleup.processes import Message, Process, run_child

log = logging.getLogger(__name__)


async def serve(init: Message, process: Process) -> None:
    process.tell_parent("child", pid=os.getpid(), greeting=init.fields["greeting"], name=process.name)
    process.event("something", what="happened")
    log.info("the child logs")
    process.when_orphaned = lambda: log.info("the child hears of it at once")
    process.ready()
    process.on_message = lambda message: log.info("told to %s", message.kind)
    await process.stopping.wait()
    log.info("the child ends")
    if not process.orphaned:
        await asyncio.Event().wait()


if __name__ == "__main__":
    run_child(serve)
