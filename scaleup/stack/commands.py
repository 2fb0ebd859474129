"""`up`, `status`, `start`, `stop`, `restart`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich_argparse import RichHelpFormatter

from scaleup.errors import ScaleUpError, StartupError
from scaleup.processes import Process, run
from scaleup.stack.control import ControlServer, ask, is_served
from scaleup.stack.plan import make_plan, virtual_endpoint, virtual_tls_endpoint
from scaleup.stack.rundir import RunDir
from scaleup.stack.settings import UpSettings, default_run_dir
from scaleup.stack.stack import Stack
from scaleup.stack.view import ConsoleView, table


async def _serve(settings: UpSettings, process: Process) -> None:
    run_dir = RunDir(settings.run_dir)
    if is_served(run_dir.control):
        raise StartupError(f"a stack runs already in {run_dir.path}: stop it, or say --run-dir and --network")
    for variable in [name for name in os.environ if name.startswith("SCALEUP_")]:
        del os.environ[variable]  # what was said to `up` is not said to each of its processes
    view = ConsoleView(Console())
    files = run_dir.open(settings)
    virtual = virtual_endpoint(settings)
    stack = Stack(make_plan(settings, files), run_dir, virtual, settings.drain, view)
    control = ControlServer(run_dir.control, stack.command)
    try:
        await control.start()
        if await _started(stack, settings, process):
            details = {name: part.detail for name, part in stack.parts.items() if part.detail}
            urls = [f"http://{virtual}/", f"http://{virtual}/api/whoami"]
            urls.append(f"https://{virtual_tls_endpoint(settings)}/  (trust {run_dir.authority})")
            view.serving(stack.status(), details, urls, str(run_dir.path / "logs"))
            process.ready()
            await process.stopping.wait()
    finally:
        view.stopping()
        await stack.stop()
        await control.stop()
        run_dir.close()
        view.stopped()


async def _started(stack: Stack, settings: UpSettings, process: Process) -> bool:
    """Start all, unless a signal comes first. Raises StartupError."""
    settle_seconds = 10 * settings.interval + 1  # Active_Down_Interval is less than 4 intervals
    async with asyncio.TaskGroup() as group:
        start = group.create_task(stack.start(settle_seconds))
        stop = group.create_task(process.stopping.wait())
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
        start.cancel()
        stop.cancel()
    return not start.cancelled()


def up(argv: Sequence[str]) -> NoReturn:
    run(UpSettings, _serve, argv=argv)


def status(argv: Sequence[str]) -> None:
    parser = _parser("status", "Show the processes of the running stack, and who owns the virtual address.")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args(argv)
    answer = ask(RunDir(arguments.run_dir).control, "status")
    if arguments.json:
        print(json.dumps(answer, indent=2))  # noqa: T201
        return
    console = Console()
    console.print(table(answer))
    virtual = answer["virtual_ip"]
    owner = virtual["owner"] or "nobody"
    console.print(f"\n{virtual['address']}:{virtual['port']} is owned by {owner}", highlight=False)


def one(command: str, argv: Sequence[str]) -> None:
    """`start NAME`, `stop NAME`, `restart NAME`."""
    parser = _parser(command, f"{command.capitalize()} one process of the running stack.")
    parser.add_argument("name", metavar="NAME", help="as `status` shows it, for example web1")
    arguments = parser.parse_args(argv)
    answer = ask(RunDir(arguments.run_dir).control, command, arguments.name)
    state = next(row["state"] for row in answer["processes"] if row["name"] == arguments.name)
    print(f"{arguments.name} is {state}")  # noqa: T201


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m scaleup {command}", description=description, formatter_class=RichHelpFormatter
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        type=Path,
        default=default_run_dir(),
        help="as given to `up` (default: %(default)s)",
    )
    return parser


def guarded(command: str, argv: Sequence[str]) -> int:
    """Run a command of those that talk to a stack; returns the exit code."""
    try:
        status(argv) if command == "status" else one(command, argv)
    except KeyboardInterrupt:
        return 130
    except ScaleUpError as error:
        print(f"scaleup: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0
