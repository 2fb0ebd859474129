"""Who sees whom die: real processes that are killed. The programs are in process_programs/."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes_harness import DEADLINE_SECONDS, PROGRAMS, program, watched

from scaleup.processes.channel import Channel

pytestmark = pytest.mark.slow  # real processes

PARENT = ("-m", "tier", "--act", "parent")
LAST_WORDS = [
    "web/kid INFO    the child hears of it at once",
    "web/kid WARNING the parent process is gone: stopping",
    "web/kid INFO    the child ends",
]
"""Of its child, when it is killed."""


def test_a_bug_keeps_its_traceback() -> None:
    with program("-m", "tier", "--act", "fail with a bug") as tier:
        returncode, _, err = tier.end()
    assert returncode == 1
    assert "Traceback" in err
    assert "RuntimeError: a bug" in err


def test_a_parent_hears_its_child_and_how_it_was_killed() -> None:
    with program(*PARENT, "--node", "web7") as tier:
        tier.line("ready")  # of the parent itself, as soon as the child is forked
        child = tier.line()
        assert re.fullmatch(r"child \d+ hello web7/kid", child)
        assert [tier.line(), tier.line()] == ["event something happened", "ready"]
        assert "web7/kid INFO    the child logs" in tier.line(of="err")
        os.kill(int(child.split()[1]), signal.SIGKILL)
        assert tier.line() == f"exit -{signal.SIGKILL.value}"


def test_a_child_ends_when_its_parent_is_killed() -> None:
    with program(*PARENT) as tier:
        with watched(int(tier.line("child").split()[1])) as child:
            tier.signal(signal.SIGKILL)
            child.ends()
        assert [line[24:] for line in tier.end()[2].splitlines()[-3:]] == LAST_WORDS


def test_a_child_that_is_starting_ends_when_its_parent_is_killed() -> None:
    """Its interpreter is still importing: it finds the end of the channel when it comes to it."""
    with program(*PARENT) as tier:
        tier.line("ready")
        children = Path(f"/proc/{tier.process.pid}/task/{tier.process.pid}/children").read_text()
        with watched(int(children)) as child:
            tier.signal(signal.SIGKILL)
            child.ends()


def test_a_child_that_was_told_nothing_ends_when_its_parent_dies() -> None:
    """It waits for its first message."""
    ours, theirs = Channel.pair()
    number = theirs.fileno()
    with (
        theirs,
        subprocess.Popen(
            [sys.executable, "-m", "attached"],
            env={**os.environ, **PROGRAMS, "SCALEUP_CHANNEL": str(number)},
            pass_fds=[number],
        ) as child,
    ):
        theirs.close()
        ours.close()
        assert child.wait(DEADLINE_SECONDS) == 0


def test_a_second_signal_forces_and_takes_the_children_along() -> None:
    """Even one that does not see its parent's death."""
    parent = program("-m", "tier", "--act", "parent of a deaf child")
    with parent as tier, watched(int(tier.line("hello").split()[1])) as child:
        tier.signal(signal.SIGTERM)
        tier.line("stopping")
        assert child.lives()
        tier.signal(signal.SIGINT)
        returncode, _, err = tier.end()
        child.ends()
    assert returncode == 1
    assert "SIGINT again: stopping at once" in err


def test_log_files_are_opened_again_on_sigusr2_also_by_children(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    with (
        program(*PARENT, "--log-file", str(log)) as tier,
        watched(int(tier.line("child").split()[1])) as child,
    ):
        tier.line("happened")
        log.rename(old)
        tier.signal(signal.SIGUSR2)
        tier.wait_until(log.exists)
        tier.signal(signal.SIGTERM)
        tier.line("stopping")
        tier.signal(signal.SIGKILL)
        child.ends()
    assert "web/kid INFO    the child logs" in old.read_text()
    assert [line[24:] for line in log.read_text().splitlines()] == [
        "web INFO    SIGTERM: stopping",
        *LAST_WORDS,
    ]


# ----- whoever reads the log, or does not -------------------------------------------------------------


def test_a_reader_of_stderr_that_stalls_stops_nobody() -> None:
    """Not the process, not its end; when it reads again it is told what is missing."""
    with program("-m", "tier", "--act", "log") as tier:
        assert int(tier.line("dropped").split()[1]) > 0  # stderr is a pipe that nobody has read
        tier.line(of="err", containing="lines of this log were dropped")
        tier.signal(signal.SIGTERM)
        tier.line("stopping")
        returncode, _, _ = tier.end()
    assert returncode == 0


def test_it_ends_although_nobody_reads() -> None:
    with program("-m", "tier", "--act", "log") as tier:
        tier.line("dropped")
        tier.signal(signal.SIGTERM)
        tier.line("stopping")
        assert tier.process.wait(DEADLINE_SECONDS) == 0


def test_a_crash_while_nobody_reads_is_no_hang() -> None:
    with program("-m", "tier", "--act", "log and crash") as tier:
        assert tier.process.wait(DEADLINE_SECONDS) == 1


def test_a_crash_is_in_the_log_and_on_stderr(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with program("-m", "tier", "--act", "fail with a bug", "--log-file", str(log)) as tier:
        returncode, _, err = tier.end()
    assert returncode == 1
    for text in (log.read_text(), err):
        assert "RuntimeError: a bug" in text
    assert "web CRITICAL an error of ours ends this process" in log.read_text()
