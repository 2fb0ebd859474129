"""The helper as a real process: checks and notify scripts away from the election."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from elections import until
from scripts import lines, program

from scaleup.errors import StartupError
from scaleup.processes.logs import Destination
from scaleup.vrrp.decisions import Condition, Notify
from scaleup.vrrp.helper import Helper
from scaleup.vrrp.notify import NotifySettings
from scaleup.vrrp.tracking import TrackSettings

pytestmark = pytest.mark.slow  # interpreters are started


def change(condition: Condition) -> Notify:
    return Notify("INSTANCE", "VI_1", condition, 150, "a rule")


@contextlib.asynccontextmanager
async def helping(
    report: Callable[[str, bool, str], None], *tracks: dict[str, Any], **scripts: Any
) -> AsyncIterator[Helper]:
    helper = Helper(
        [
            TrackSettings.model_validate({"name": "chk", "interval": 0.05, "timeout": 20.0, **track})
            for track in tracks
        ],
        {"VI_1": NotifySettings.model_validate(scripts)},
        report,
        name="lb1/helper",
        log_to=Destination(),
    )
    try:
        await helper.start()
        yield helper
    finally:
        await helper.stop()


async def test_checks_are_made_there_and_again_after_its_death(tmp_path: Path) -> None:
    flag, parents = tmp_path / "flag", tmp_path / "parents"
    results: list[tuple[str, bool, str]] = []
    text = f"echo $PPID > {parents}.new; mv {parents}.new {parents}; test -e {flag}"
    track = {"script": program(tmp_path, "check", text)}
    async with helping(lambda *result: results.append(result), track) as helper:
        await until(lambda: results and results[-1] == ("chk", False, "exit code 1"))
        (first,) = lines(parents)
        assert first != str(os.getpid())
        os.kill(int(first), signal.SIGKILL)
        await until(lambda: lines(parents) not in ([], [first]))
        flag.touch()
        await until(lambda: results[-1] == ("chk", True, "exit code 0"))
        assert helper._keeper.is_ready


async def test_interfaces_are_watched_by_the_election_itself(tmp_path: Path) -> None:
    results: list[tuple[Any, ...]] = []
    async with helping(lambda *result: results.append(result), {"interface": "none0"}) as helper:
        await until(lambda: results)
        assert results == [("chk", False, "there is no none0")]
        assert helper._tracks == []


async def test_notify_scripts_run_in_order_and_the_last_ones_before_it_ends(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = program(tmp_path, "notify", f'sleep 0.05; echo "$@" >> {told}')
    async with helping(lambda *result: None, notify=script) as helper:
        child = helper._keeper.child
        assert child is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            child.signal(number)  # as a service manager may: they are its parent's business
        for condition in (Condition.BACKUP, Condition.ACTIVE, Condition.STOPPED):
            helper.tell(change(condition))
    assert child.returncode == 0
    assert lines(told) == [f"INSTANCE VI_1 {state} 150" for state in ("BACKUP", "MASTER", "STOP")]


async def test_a_change_while_it_is_started_again_is_told_then(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = program(tmp_path, "notify", f'echo "$3" >> {told}')
    async with helping(lambda *result: None, notify=script) as helper:
        child = helper._keeper.child
        assert child is not None
        child.kill()
        await until(lambda: not helper._keeper.is_ready or helper._keeper.child is not child)
        helper.tell(change(Condition.ACTIVE))
        await until(lambda: lines(told) == ["MASTER"])


async def test_one_that_is_held_tells_when_it_is_released(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = program(tmp_path, "notify", f'echo "$3" >> {told}')
    async with helping(lambda *result: None, notify=script) as helper:
        helper.hold()
        helper.tell(change(Condition.BACKUP))
        child = helper._keeper.child
        assert child is not None
        child.kill()
        await until(lambda: helper._keeper.child is not child and helper._keeper.is_ready)
        helper.tell(change(Condition.ACTIVE))
        assert len(helper._early) == 2
        helper.release()
        helper.tell(change(Condition.STOPPED))
    assert lines(told) == ["BACKUP", "MASTER", "STOP"]


async def test_without_a_helper_there_is_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/none/python")
    helper = Helper([], {}, lambda *result: None, name="lb1/helper", log_to=Destination())
    with pytest.raises(StartupError, match="lb1/helper cannot be started: No such file"):
        await helper.start()
    await helper.stop()
