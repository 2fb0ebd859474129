"""What the tests of processes share: waiting with a deadline, and programs to start (in process_programs/)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from scaleup.processes import Child, Message

PROGRAMS = {"PYTHONPATH": str(Path(__file__).parent / "process_programs")}

DEADLINE_SECONDS = 30.0
"""For whatever a test waits for; on a busy machine an interpreter may take seconds to start."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the loop has brought it about. Only for what this process itself does."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """No handlers on the root logger, as in a fresh interpreter; pytest's own are back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)


class Talker:
    """`Child` that runs process_programs/talker.py, and what it has said."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.said: asyncio.Queue[Message] = asyncio.Queue()
        self.exits: list[int] = []
        self.child = Child(
            "talker",
            ["talker", *arguments],
            on_message=self.said.put_nowait,
            on_exit=self._ended,
            environment={**PROGRAMS, **(environment or {})},
        )

    def _ended(self, returncode: int) -> None:
        self.exits.append(returncode)
        self.said.put_nowait(Message("ended", {"returncode": returncode}))

    async def hear(self, kind: str) -> Message:
        """The next message, which must be of this kind."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            message = await self.said.get()
        assert message.kind == kind, message
        return message

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.child.wait()


@contextlib.asynccontextmanager
async def talking(*arguments: str) -> AsyncIterator[Talker]:
    """A talker that has said hello; killed at the end if need be."""
    talker = Talker(*arguments)
    try:
        await talker.hear("hello")
        yield talker
    finally:
        talker.child.kill()
        await talker.ended()


class Program:
    """A process of which the test is not the parent in our sense: it sees signals, output and exit codes."""

    def __init__(self, *argv: str, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **PROGRAMS, "NO_COLOR": "1", **(environment or {})},
        )
        self._deadline = time.monotonic() + DEADLINE_SECONDS
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._pipes = {"out": self.process.stdout.fileno(), "err": self.process.stderr.fileno()}
        self._read = {"out": b"", "err": b""}

    def line(self, containing: str = "", of: Literal["out", "err"] = "out") -> str:
        """The next line of stdout, or stderr, that has these words."""
        while True:
            line, newline, rest = self._read[of].partition(b"\n")
            if not newline:
                self._read_more(of, containing)
                continue
            self._read[of] = rest
            if containing in line.decode():
                return line.decode()

    def _read_more(self, of: str, wanted: str) -> None:
        left = self._deadline - time.monotonic()
        ready, _, _ = select.select([self._pipes[of]], [], [], max(0.0, left))
        assert ready, f"no line with {wanted!r} in time; there is {self._read}"
        chunk = os.read(self._pipes[of], 65536)
        assert chunk, f"ended without a line with {wanted!r}: {self._read}, {self.process.communicate()}"
        self._read[of] += chunk

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """For what it does to files, which tells nobody."""
        while not condition():
            assert time.monotonic() < self._deadline
            time.sleep(0.001)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end. The exit code, and the rest of stdout and stderr."""
        out, err = self.process.communicate(timeout=max(0.1, self._deadline - time.monotonic()))
        return self.process.returncode, (self._read["out"] + out).decode(), (self._read["err"] + err).decode()


@contextlib.contextmanager
def program(*argv: str, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    started = Program(*argv, environment=environment)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


class Watched:
    """Some process, by its pid: also one that is not our child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def ends(self) -> None:
        """Wait for its end."""
        ready, _, _ = select.select([self._pidfd], [], [], DEADLINE_SECONDS)
        assert ready, f"process {self.pid} lives on"

    def lives(self) -> bool:
        return not select.select([self._pidfd], [], [], 0)[0]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)


def watched(pid: int) -> contextlib.closing[Watched]:
    """Killed at the end if need be."""
    return contextlib.closing(Watched(pid))
