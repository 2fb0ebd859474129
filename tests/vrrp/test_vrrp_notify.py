"""Notify scripts: keepalived's arguments, one after the other, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from elections import until
from pydantic import ValidationError
from scripts import lines, program

from scaleup.vrrp import scripts as scripts_module
from scaleup.vrrp.decisions import Condition, Notify
from scaleup.vrrp.notify import MAX_WAITING, Notifier, NotifySettings


def change(condition: Condition, name: str = "VI_1", kind: Any = "INSTANCE", priority: int = 100) -> Notify:
    return Notify(kind, name, condition, priority, "a rule")


def writing(folder: Path, name: str, to: Path) -> str:
    return program(folder, name, f'echo {name} "$@" >> {to}')


@contextlib.asynccontextmanager
async def running(settings: dict[str, NotifySettings]) -> AsyncIterator[Notifier]:
    notifier = Notifier(settings)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(notifier.run())
        try:
            yield notifier
        finally:
            task.cancel()


async def test_each_state_has_its_script_and_notify_is_told_of_all(tmp_path: Path) -> None:
    told = tmp_path / "told"
    names = ("notify_master", "notify_backup", "notify_fault", "notify_stop", "notify")
    settings = NotifySettings.model_validate({name: writing(tmp_path, name, told) for name in names})
    conditions = [Condition.BACKUP, Condition.ACTIVE, Condition.FAULT, Condition.STOPPED]
    async with running({"VI_1": settings}) as notifier:
        for condition in conditions:
            notifier.tell(change(condition, priority=42))
        await notifier.finish(20)
    assert lines(told) == [
        "notify_backup",
        "notify INSTANCE VI_1 BACKUP 42",
        "notify_master",
        "notify INSTANCE VI_1 MASTER 42",
        "notify_fault",
        "notify INSTANCE VI_1 FAULT 42",
        "notify_stop",
        "notify INSTANCE VI_1 STOP 42",
    ]


async def test_of_a_group_and_with_arguments_of_its_own(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = f"{writing(tmp_path, 'notify', told)} --to 'the operator'"
    async with running({"G": NotifySettings.model_validate({"notify": command})}) as notifier:
        notifier.tell(change(Condition.ACTIVE, "G", "GROUP", 0))
        notifier.tell(change(Condition.ACTIVE))  # nobody asked for VI_1
        await notifier.finish(20)
    assert lines(told) == ["notify --to the operator GROUP G MASTER 0"]


async def test_no_script_is_told_of_a_router_that_waits(tmp_path: Path) -> None:
    told = tmp_path / "told"
    settings = NotifySettings.model_validate({"notify": writing(tmp_path, "notify", told)})
    assert settings.commands(change(Condition.WAITING)) == []


async def test_they_run_one_after_the_other(tmp_path: Path) -> None:
    """Each would find the mark of one that runs beside it."""
    told, mark = tmp_path / "told", tmp_path / "mark"
    text = f"mkdir {mark} || echo beside another >> {told}; sleep 0.02; echo $3 >> {told}; rmdir {mark}"
    settings = NotifySettings.model_validate({"notify": program(tmp_path, "notify", text)})
    async with running({"VI_1": settings, "VI_2": settings}) as notifier:
        for number in range(4):
            notifier.tell(
                change(Condition.ACTIVE if number % 2 else Condition.BACKUP, f"VI_{number % 2 + 1}")
            )
        await notifier.finish(20)
    assert lines(told) == ["BACKUP", "MASTER"] * 2


async def test_one_that_hangs_is_killed_and_the_next_one_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = tmp_path / "told"
    hanging = NotifySettings.model_validate(
        {"notify": program(tmp_path, "hangs", "exec sleep 600"), "notify_timeout": 0.1}
    )
    settings = NotifySettings.model_validate({"notify_master": writing(tmp_path, "notify_master", told)})
    async with running({"VI_1": hanging, "VI_2": settings}) as notifier:
        notifier.tell(change(Condition.BACKUP))
        notifier.tell(change(Condition.ACTIVE, "VI_2"))
        await notifier.finish(20)
    assert lines(told) == ["notify_master"]
    assert "hangs INSTANCE VI_1 BACKUP 100 was killed after 0.1 s" in caplog.text


async def test_one_that_fails_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = NotifySettings.model_validate(
        {"notify_backup": program(tmp_path, "fails", "exit 3"), "notify": str(tmp_path / "none")}
    )
    async with running({"VI_1": settings}) as notifier:
        notifier.tell(change(Condition.BACKUP))
        await notifier.finish(20)
    assert "fails ended with 3" in caplog.text
    assert f"{tmp_path}/none INSTANCE VI_1 BACKUP 100 cannot be started: No such file" in caplog.text


async def test_what_waits_is_bounded_and_the_newest_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told, gate = tmp_path / "told", tmp_path / "gate"
    os.mkfifo(gate)
    settings = NotifySettings.model_validate(
        {
            "notify_fault": program(tmp_path, "hangs", f"read line < {gate}"),
            "notify": writing(tmp_path, "notify", told),
            "notify_timeout": 60,
        }
    )
    async with running({"VI_1": settings}) as notifier:
        notifier.tell(change(Condition.FAULT))
        await until(lambda: len(notifier._waiting) == 1)  # the first one runs, and waits at the gate
        for priority in range(1, MAX_WAITING + 11):
            notifier.tell(change(Condition.BACKUP, priority=priority))
        opened = os.open(gate, os.O_RDWR)
        os.write(opened, b"go\n")
        await notifier.finish(40)  # as many programs as MAX_WAITING
        os.close(opened)
    assert lines(told) == [f"notify INSTANCE VI_1 BACKUP {number}" for number in range(11, MAX_WAITING + 11)]
    assert caplog.text.count("left out") == 11


async def test_finishing_is_bounded_too_and_what_runs_then_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts_module, "REAP_SECONDS", 20.0)
    pid = tmp_path / "pid"
    text = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"
    settings = NotifySettings.model_validate(
        {"notify_stop": program(tmp_path, "hangs", text), "notify_timeout": 60}
    )
    async with running({"VI_1": settings}) as notifier:
        notifier.tell(change(Condition.STOPPED))
        await until(pid.exists)
        await notifier.finish(0.01)
    assert not os.path.exists(f"/proc/{pid.read_text().strip()}")  # noqa: ASYNC240 - /proc does not block


def test_settings_want_whole_paths_and_known_users() -> None:
    with pytest.raises(ValidationError, match="with its whole path"):
        NotifySettings.model_validate({"notify": "notify.sh"})
    with pytest.raises(ValidationError, match="there is no user"):
        NotifySettings.model_validate({"notify": "/bin/true", "notify_user": "no-such-user"})
