"""Keeper: a child that is started again, on both loops."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable

import pytest
from processes_harness import DEADLINE_SECONDS, Talker, until

from scaleup.errors import StartupError
from scaleup.processes import keeper as module
from scaleup.processes.children import Child
from scaleup.processes.keeper import Keeper

pytestmark = pytest.mark.slow  # real processes


class Kept:
    """A keeper of talkers, as an owner uses it."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.talkers: list[Talker] = []
        self.deaths: list[str] = []
        self.started_at: list[float] = []
        self.failure: OSError | None = None
        self.keeper = Keeper("kid", self._spawn, self.deaths.append)

    def _spawn(self, on_exit: Callable[[int], None]) -> Child:
        self.started_at.append(asyncio.get_running_loop().time())
        if self.failure is not None:
            error, self.failure = self.failure, None
            raise error
        talker = Talker(*self.arguments)
        talker.child._on_exit = on_exit
        self.talkers.append(talker)
        return talker.child

    async def ready(self, times: int) -> None:
        """Wait until the child of this number has said hello, and tell the keeper."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.talkers) < times:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)
        await self.talkers[times - 1].hear("hello")
        self.keeper.was_ready()

    async def kill(self) -> None:
        assert self.keeper.child is not None
        os.kill(self.keeper.child.pid, signal.SIGKILL)
        await self.keeper.child.wait()


@pytest.fixture
def short_life(monkeypatch: pytest.MonkeyPatch) -> float:
    """Long enough for a start and a death on a machine that is busy."""
    monkeypatch.setattr(module, "SHORT_LIFE_SECONDS", 1.5)
    return 1.5


async def test_a_child_is_started_again_when_it_dies(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SHORT_LIFE_SECONDS", 0.0)  # every life is long
    kept = Kept()
    kept.keeper.start()
    await kept.ready(1)
    await kept.keeper.first_ready()
    for times in (2, 3):
        assert kept.keeper.is_ready
        await kept.kill()
        assert not kept.keeper.is_ready
        await kept.ready(times)
    assert kept.deaths == ["killed by SIGKILL"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "kid died (killed by SIGKILL): starting it again"
    ] * 2
    await kept.keeper.stop(20)
    assert len(kept.talkers) == 3


async def test_a_child_that_lives_short_has_to_wait(short_life: float) -> None:
    kept = Kept()
    kept.keeper.start()
    kept.keeper.was_ready()  # without waiting for its interpreter: that would be a long life
    await kept.kill()
    died_at = asyncio.get_running_loop().time()
    await kept.ready(2)
    assert kept.started_at[1] - died_at >= short_life * 0.9
    await kept.keeper.stop(20)


async def test_a_child_that_hangs_is_killed_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.05)
    monkeypatch.setattr(module, "HUNG_AFTER_PINGS", 10)
    kept = Kept()
    kept.keeper.start()
    await kept.ready(1)
    first = kept.talkers[0].child
    first.signal(signal.SIGSTOP)
    await kept.ready(2)
    assert kept.deaths == ["killed by SIGKILL"]
    assert first.unanswered == 10
    await kept.keeper.stop(5)


async def test_a_child_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take the time of many pings, and without its answers it would be killed soon after."""
    hung = 15
    monkeypatch.setattr(module, "PING_SECONDS", 0.1)
    monkeypatch.setattr(module, "HUNG_AFTER_PINGS", hung)
    kept = Kept()
    kept.keeper.start()
    await kept.talkers[0].hear("hello")
    child = kept.talkers[0].child
    unanswered: list[int] = []
    ping = child.ping

    def asked() -> None:
        unanswered.append(child.unanswered)
        ping()

    monkeypatch.setattr(child, "ping", asked)
    kept.keeper.was_ready()
    await until(lambda: len(unanswered) > hung + 5)
    assert kept.deaths == []
    assert unanswered.count(0) > 1
    await kept.keeper.stop(5)


async def test_a_child_that_dies_before_it_was_ready_is_not_started_again() -> None:
    kept = Kept()
    kept.keeper.start()
    await kept.talkers[0].hear("hello")
    kept.talkers[0].child.send("exit", code=78)
    with pytest.raises(StartupError, match=r"^kid did not start: exit code 78; see its log$"):
        await kept.keeper.first_ready()
    with pytest.raises(StartupError):
        await kept.keeper.first_ready()  # as often as it is asked
    assert not kept.deaths
    await kept.keeper.stop(20)
    assert len(kept.talkers) == 1


async def test_a_child_that_is_never_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.1)
    kept = Kept()
    kept.keeper.start()
    with pytest.raises(StartupError, match=r"^kid was not ready within 0\.1 s; see its log$"):
        await kept.keeper.first_ready()
    await kept.keeper.stop(20)


async def test_a_failure_that_nobody_asks_for_is_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """Of several keepers the owner may hear of the first that fails, and give up."""
    kept = Kept()
    kept.keeper.start()
    await kept.kill()
    del kept
    gc.collect()
    await asyncio.sleep(0)
    assert not caplog.records


async def test_a_wanted_end_is_no_death(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    kept.keeper.start()
    await kept.ready(1)
    kept.keeper.expect_exit()
    await kept.kill()
    await kept.keeper.stop(20)
    assert not kept.deaths
    assert not caplog.records
    assert len(kept.talkers) == 1


async def test_stop_kills_a_child_that_does_not_obey() -> None:
    kept = Kept("ignore-sigterm")
    kept.keeper.start()
    await kept.ready(1)
    await kept.keeper.stop(0.05)
    assert kept.talkers[0].child.returncode == -signal.SIGKILL


async def test_stop_while_a_child_waits_to_be_started_again(short_life: float) -> None:
    kept = Kept()
    kept.keeper.start()
    kept.keeper.was_ready()
    await kept.kill()
    await kept.keeper.stop(20)
    await asyncio.sleep(short_life * 1.2)  # nothing happens, which is what this waits for
    assert len(kept.talkers) == 1


async def test_who_waits_for_the_start_hears_of_a_stop_in_between() -> None:
    kept = Kept()
    kept.keeper.start()
    await kept.talkers[0].hear("hello")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(asyncio.wait_for(_failure(kept.keeper.first_ready()), 20))  # noqa: TID251
        await asyncio.sleep(0)
        await kept.keeper.stop(20)
    assert str(waiting.result()) == "kid did not start: killed by SIGTERM; see its log"


async def _failure(coroutine: object) -> StartupError:
    with pytest.raises(StartupError) as caught:
        await coroutine  # type: ignore[misc]
    return caught.value


async def test_stop_before_start() -> None:
    kept = Kept()
    await kept.keeper.stop(0)
    assert not kept.talkers
    kept.keeper.was_ready()  # so that nobody waits for ever


async def test_the_system_that_can_start_no_process_is_told_at_first_and_tried_again_later(
    caplog: pytest.LogCaptureFixture, short_life: float
) -> None:
    """fork() fails with EAGAIN at a limit of processes, which passes."""
    kept = Kept()
    kept.failure = BlockingIOError(11, "Resource temporarily unavailable")
    with pytest.raises(StartupError, match=r"^kid cannot be started: Resource temporarily unavailable$"):
        kept.keeper.start()
    kept.keeper.start()
    await kept.ready(1)
    kept.failure = BlockingIOError(11, "Resource temporarily unavailable")
    await kept.kill()
    await kept.ready(2)
    last = caplog.records[-1]
    assert last.levelno == logging.ERROR
    assert last.getMessage().startswith(
        "kid cannot be started: Resource temporarily unavailable; trying again"
    )
    await kept.keeper.stop(20)
