"""Commands that meet the start or the stop of the whole stack; a view that nobody looks at."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.stack.plan import Spec
from scaleup.stack.rundir import RunDir
from scaleup.stack.settings import UpSettings
from scaleup.stack.stack import Stack
from scaleup.stack.view import ConsoleView


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """One process: a web server, which is quick to start, in the place of the only load balancer."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.open(UpSettings())
    arguments = ("scaleup.web", "--listen", "127.0.0.1:0", "--root", str(tmp_path), "--drain", "0")
    spec = Spec("lb", "lb1", Endpoint("127.0.0.1", 0), arguments)
    stack = Stack([spec], run_dir, Endpoint("127.0.0.1", 0), 0.5, ConsoleView(Console(file=io.StringIO())))
    yield stack
    await stack.stop()
    run_dir.close()


async def test_nothing_can_be_started_before_all_is(stack: Stack) -> None:
    with pytest.raises(StartupError, match="being started or stopped"):
        await stack.command("start", "lb1")
    assert stack.status()["processes"][0]["pid"] is None


async def test_a_restart_that_meets_the_stop_of_all_starts_nothing(stack: Stack) -> None:
    await stack.start(20.0)
    assert stack.status()["virtual_ip"]["owner"] == "lb1"
    restarting = asyncio.gather(stack.command("restart", "lb1"), return_exceptions=True)
    await asyncio.sleep(0)
    await stack.stop()
    (refused,) = await restarting
    assert isinstance(refused, StartupError)
    assert stack.parts["lb1"].child is None


def test_nobody_looks_any_more() -> None:
    """As in `up | head`: what is told is lost, and nothing else."""
    program = (
        "from rich.console import Console; from scaleup.stack.view import ConsoleView as View\n"
        "view = View(Console()); view.starting(['web1']); view.stopping(); view.stopped()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 0


def test_what_is_told_is_no_markup() -> None:
    written = io.StringIO()
    ConsoleView(Console(file=written))._line("web1 died", "[/nosuch] [red]", "red")
    assert "web1 died  ([/nosuch] [red])" in written.getvalue()
