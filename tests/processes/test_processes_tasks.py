"""Tasks: background tasks with an owner, on both loops."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from scaleup.processes import Tasks


async def _fail() -> None:
    raise RuntimeError("a bug")


async def test_what_fails_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    task = tasks.spawn(_fail(), name="worker")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert len(tasks) == 0
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "task worker failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


async def test_what_ends_or_is_cancelled_is_not(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    ends = tasks.spawn(asyncio.sleep(0, "result"), name="ends")
    cancelled = tasks.spawn(asyncio.Event().wait(), name="cancelled")
    assert len(tasks) == 2
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([ends, cancelled])
    await asyncio.sleep(0)
    assert ends.result() == "result"
    assert len(tasks) == 0
    assert not caplog.records


async def test_a_task_is_kept_though_nobody_else_refers_to_it() -> None:
    """The loop does not (cpython #117379), and what this one waits for knows nobody else."""
    tasks = Tasks()

    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    task = weakref.ref(tasks.spawn(wait(), name="wait"))
    await asyncio.sleep(0)
    gc.collect()
    assert task() is not None
    await tasks.cancel()


async def test_cancel_waits_for_the_ends() -> None:
    tasks = Tasks()
    ended: list[str] = []

    async def tidy(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # tidying up takes a while
            ended.append(name)

    for name in ("one", "two"):
        tasks.spawn(tidy(name), name=name)
    await asyncio.sleep(0)
    await tasks.cancel()
    assert sorted(ended) == ["one", "two"]
    assert len(tasks) == 0
    await tasks.cancel()  # nothing is left


async def test_cancel_goes_on_when_an_end_fails(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()

    async def fail_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("a bug at the end")

    tasks.spawn(fail_at_the_end(), name="clumsy")
    other = tasks.spawn(asyncio.Event().wait(), name="other")
    await asyncio.sleep(0)
    await tasks.cancel()
    assert other.cancelled()
    assert [record.getMessage() for record in caplog.records] == ["task clumsy failed"]


async def test_a_task_that_ends_its_owner() -> None:
    """`cancel` called from one of the tasks leaves that one alone."""
    tasks = Tasks()
    other = tasks.spawn(asyncio.Event().wait(), name="other")
    last = tasks.spawn(tasks.cancel(), name="last")
    async with asyncio.timeout(5):
        await last
    assert other.cancelled()
