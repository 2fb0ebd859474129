"""Starting, watching and stopping child processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from scaleup.processes.channel import Channel, Message

CHANNEL_VARIABLE = "SCALEUP_CHANNEL"
"""Tells a child the descriptor of its end of the channel."""

_OUR_OWN = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""What the service manager said to us and not to our children."""

running: set[Child] = set()
"""Every child that has not ended, for a forced exit."""

_dropped_before = 0
"""Lines of the log that were lost by children that have ended."""


def log_dropped() -> int:
    """Lines of the log that children have lost, as far as they have said with their last sign of life."""
    return _dropped_before + sum(child.log_dropped for child in running)


class Child:
    """A `python -m MODULE` of ours, bound to us by a channel, in a process group of its own.

    `on_message(message)` for each message; `on_exit(returncode)` once, when the process has ended
    (negative: the signal that ended it). Started by the constructor; raises OSError when it cannot be.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        on_message: Callable[[Message], None],
        on_exit: Callable[[int], None],
        environment: Mapping[str, str] | None = None,
        output: IO[Any] | None = None,
    ) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        ours, theirs = Channel.pair()
        variables = {key: value for key, value in os.environ.items() if key not in _OUR_OWN}
        variables |= {CHANNEL_VARIABLE: str(theirs.fileno()), **(environment or {})}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._process.kill()
            self._process.wait()
            ours.close()
            raise
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self.unanswered = 0
        """Pings since the last answer."""
        self.log_dropped = 0
        """Lines that it and its children could not log, as of that answer."""
        self._on_message = on_message
        self._channel = Channel(ours, self._says, lambda: None)  # its death is told by the pidfd
        self._loop.add_reader(self._pidfd, self._exited)
        running.add(self)

    def send(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a message; nothing happens when the child is gone."""
        self._channel.send(kind, descriptors, **fields)

    def ping(self) -> None:
        """Ask for a sign of life; the child's event loop answers (see `unanswered`)."""
        self.unanswered += 1
        self.send("ping")

    def signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to it and to all that it started in its process group."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    async def stop(self, grace: float) -> int:
        """SIGTERM, and SIGKILL after `grace` seconds. Returns the return code."""
        self.send("stop")  # to one that leaves signals to us
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()

    def _says(self, message: Message) -> None:
        if message.kind == "pong":
            self.unanswered = 0
            self.log_dropped = message.fields.get("log_dropped", 0)
        else:
            self._on_message(message)

    def _exited(self) -> None:
        returncode = self._process.poll()
        if returncode is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = returncode
        running.discard(self)
        global _dropped_before
        _dropped_before += self.log_dropped
        try:
            self._channel.finish()
        finally:
            self._ended.set()
            self._on_exit(returncode)


def describe(returncode: int) -> str:
    """`exit code 1` or `killed by SIGKILL`."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:  # real-time signals have no names
        return f"killed by signal {-returncode}"
