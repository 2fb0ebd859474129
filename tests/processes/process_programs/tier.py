"""A tier, made of what every tier is made of: `python -m tier --act WHAT`."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, ClassVar

from scaleup.config import Flag, TierSettings
from scaleup.errors import ConfigurationError, StartupError
from scaleup.processes import Child, Message, Process, run
from scaleup.processes.logs import Destination

log = logging.getLogger(__name__)


class Settings(TierSettings):
    """A tier for tests."""

    tier: ClassVar[str] = "web"
    act: Annotated[str, Flag("WHAT")] = "nothing"


async def serve(settings: Settings, process: Process) -> None:
    match settings.act:
        case "serve":
            await _serve(process)
        case "hang":
            await _serve(process)
            await asyncio.Event().wait()
        case "parent":
            await _with_child(settings, process)
        case "parent of a deaf child":
            Child("kid", ["talker", "deaf"], on_message=_say, on_exit=lambda code: None)
            await _serve(process)
            await asyncio.Event().wait()
        case "log":
            await _log_until_lines_are_dropped(process)
            await _serve(process)
        case "log and crash":
            await _log_until_lines_are_dropped(process)
            raise RuntimeError("a bug")
        case "fail":
            raise StartupError("the world is not right\nin two ways")
        case "fail late":
            raise ConfigurationError("--act: not this")
        case "fail in parallel":
            async with asyncio.TaskGroup() as group:
                group.create_task(_fail(StartupError("one")))
                group.create_task(_fail_in_a_group(ConfigurationError("two")))
                group.create_task(_fail(StartupError("one")))
        case "fail with a bug":
            async with asyncio.TaskGroup() as group:
                group.create_task(_fail(StartupError("one")))
                group.create_task(_fail(RuntimeError("a bug")))


async def _log_until_lines_are_dropped(process: Process) -> None:
    while not process.log_dropped():
        log.info("x" * 1000)
    print("dropped", process.log_dropped(), flush=True)


async def _serve(process: Process) -> None:
    process.ready()
    print("ready", flush=True)
    await process.stopping.wait()
    print("stopping", flush=True)


async def _with_child(settings: Settings, process: Process) -> None:
    """Says what its child says, and never ends."""
    child = Child("kid", ["attached"], on_message=_say, on_exit=lambda code: print("exit", code, flush=True))
    child.send(
        "init",
        name=f"{process.name}/kid",
        log=Destination.of(settings),
        greeting="hello",
    )
    await _serve(process)
    await asyncio.Event().wait()


def _say(message: Message) -> None:
    print(message.kind, *message.fields.values(), flush=True)


async def _fail(error: Exception) -> None:
    raise error


async def _fail_in_a_group(error: Exception) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fail(error))


if __name__ == "__main__":
    run(Settings, serve)
