"""Child: starting, watching and stopping real processes, on both loops."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
from processes_harness import DEADLINE_SECONDS, PROGRAMS, Talker, talking, until, watched

from scaleup.processes import Message
from scaleup.processes.children import Child, describe, running
from scaleup.processes.logs import Destination


@pytest.mark.parametrize("code", [0, 3, 78])
async def test_the_exit_code_is_told_once(code: int) -> None:
    async with talking() as talker:
        assert talker.child.returncode is None
        assert talker.child in running
        talker.child.send("exit", code=code)
        assert await talker.ended() == code
        assert talker.child.returncode == code
        assert talker.exits == [code]
        assert talker.child not in running
        assert await talker.child.wait() == code  # also later


async def test_a_child_that_is_killed_by_somebody_else() -> None:
    async with talking() as talker:
        os.kill(talker.child.pid, signal.SIGKILL)
        assert await talker.ended() == -signal.SIGKILL
        assert talker.exits == [-signal.SIGKILL]


async def test_messages_go_both_ways() -> None:
    async with talking() as talker:
        talker.child.send("echo", text="ü", more=[1, {"a": None}])
        fields = (await talker.hear("echo")).fields
        assert (fields["text"], fields["more"]) == ("ü", [1, {"a": None}])


async def test_the_largest_message_reaches_a_process() -> None:
    async with talking() as talker:
        talker.child.send("echo", text="x" * 100_000)
        assert len((await talker.hear("echo")).fields["text"]) == 100_000


async def test_its_last_words_are_heard_before_its_end() -> None:
    """Also when the kernel tells of its end first: here, the loop is not told of the messages at all."""
    heard: list[object] = []
    talker = Talker()
    await talker.hear("hello")
    talker.child._on_exit = heard.append
    talker.child._channel._on_message = heard.append
    talker.child.send("say and exit", times=20, code=5)
    talker.child.send("unread")
    asyncio.get_running_loop().remove_reader(talker.child._channel._socket)
    await talker.ended()
    assert heard == [*(Message("word", {"number": number}) for number in range(20)), 5]


async def test_a_child_sees_the_end_of_the_channel() -> None:
    async with talking() as talker:
        talker.child._channel.close()  # as the kernel does when we die
        assert await talker.ended() == 7


async def test_nothing_happens_to_a_child_that_is_gone() -> None:
    async with talking() as talker:
        talker.child.send("exit", code=0)
        await talker.ended()
        talker.child.send("echo")
        talker.child.signal(signal.SIGTERM)
        talker.child.kill()
        assert await talker.child.stop(0) == 0
        assert talker.exits == [0]


async def test_a_child_has_a_process_group_of_its_own() -> None:
    """Ctrl-C on a terminal goes to the group in the foreground: to the parent alone."""
    talker = Talker()
    hello = await talker.hear("hello")
    assert hello.fields["group"] == hello.fields["pid"] == talker.child.pid != os.getpgrp()
    talker.child.kill()
    await talker.ended()


async def test_what_is_said_to_us_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("SOMETHING", "ours")
    talker = Talker(environment={"MORE": "x"})
    environment = (await talker.hear("hello")).fields["environment"]
    assert not {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"} & set(environment)
    assert {"SOMETHING", "MORE", "SCALEUP_CHANNEL", "PATH"} <= set(environment)
    assert "SCALEUP_CHANNEL" not in os.environ
    talker.child.kill()
    await talker.ended()


async def test_output_goes_where_it_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ended = asyncio.Event()
    with path.open("wb") as output:
        Child(
            "broken",
            ["no_such_module"],
            on_message=lambda message: None,
            on_exit=lambda code: ended.set(),
            output=output,
        )
    async with asyncio.timeout(DEADLINE_SECONDS):
        await ended.wait()
    assert "No module named no_such_module" in path.read_text()


def test_a_program_that_cannot_be_started_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture of all tests looks for descriptors."""

    async def start() -> None:
        with pytest.raises(FileNotFoundError):
            Talker()

    monkeypatch.setattr("sys.executable", "/no/such/interpreter")
    asyncio.run(start())
    assert not running


# ----- stopping ---------------------------------------------------------------------------------------


async def test_stop_is_sigterm() -> None:
    async with talking() as talker:
        assert await talker.child.stop(grace=20) == -signal.SIGTERM


async def test_stop_is_sigkill_for_a_child_that_does_not_obey() -> None:
    async with talking("ignore-sigterm") as talker:
        started = asyncio.get_running_loop().time()
        assert await talker.child.stop(grace=0.1) == -signal.SIGKILL
        assert asyncio.get_running_loop().time() - started >= 0.1


async def test_stop_without_grace() -> None:
    async with talking("ignore-sigterm") as talker:
        assert await talker.child.stop(grace=0) == -signal.SIGKILL


async def test_several_may_stop_and_wait_at_once() -> None:
    async with talking() as talker:
        ends = await asyncio.gather(talker.child.stop(20), talker.child.stop(20), talker.child.wait())
        assert set(ends) == {-signal.SIGTERM}


async def test_kill_reaches_what_the_child_has_started() -> None:
    async with talking() as talker:
        talker.child.send("have a child")
        with watched((await talker.hear("child")).fields["pid"]) as grandchild:
            assert grandchild.lives()
            talker.child.kill()
            grandchild.ends()


async def test_a_callback_that_fails_does_not_hide_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with talking() as talker:

        def fail(message: Message) -> None:
            raise RuntimeError("a bug in an owner")

        talker.child._channel._on_message = fail
        talker.child.send("say and exit", times=1, code=0)
        assert await talker.ended() == 0
        assert talker.exits == [0]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize(
    ("returncode", "said"),
    [
        (0, "exit code 0"),
        (78, "exit code 78"),
        (-9, "killed by SIGKILL"),
        (-15, "killed by SIGTERM"),
        (-40, "killed by signal 40"),  # a real-time signal: Python has no name for it
    ],
)
def test_an_end_in_words(returncode: int, said: str) -> None:
    assert describe(returncode) == said


async def test_what_a_child_is_told_while_it_starts_is_not_lost(tmp_path: Path) -> None:
    """A worker that is told to retire before it could listen must not go on for ever."""
    log, said = tmp_path / "log", asyncio.Queue[Message]()
    child = Child(
        "kid",
        ["attached"],
        on_message=said.put_nowait,
        on_exit=lambda code: None,
        environment=PROGRAMS,
    )
    child.send("init", name="kid", greeting="hello", log=Destination(file=str(log)))
    child.send("retire")  # it will read both at once
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await said.get()).kind != "ready":
                pass
        await until(lambda: "told to retire" in log.read_text())
    finally:
        child.kill()
        await child.wait()
