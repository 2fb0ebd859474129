"""The runtime socket: a Unix socket at which an operator, or HAProxy's tools, say commands.

One line is answered, then the connection is closed; `;` stands between several commands on it. After `prompt` the
connection stays, and each answer ends with `> `; that is how people and hatop use it.

It is made with mode 600: whoever may connect may take servers out. A socket that a dead process has left behind is
replaced, one of a living process is not.

Nobody who is connected can hold the node: there are at most MAX_CLIENTS of them, a line is at most MAX_LINE_BYTES
long, who says nothing or takes nothing for the idle time is disconnected, and an answer is one text, which is
handed to the kernel in pieces as it is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from scaleup.errors import StartupError
from scaleup.lb.commands import answer
from scaleup.lb.control import Control, whole
from scaleup.processes import Tasks
from scaleup.processes.logs import LimitedLog

log = logging.getLogger(__name__)

IDLE_SECONDS = 10.0
"""As HAProxy's `stats timeout`; `set timeout cli` changes it for a connection."""
MAX_IDLE_SECONDS = 86400
MAX_CLIENTS = 16
MAX_LINE_BYTES = 16384  # as HAProxy's buffer
PIECE_BYTES = 65536
BACKLOG = 16
LOG_EVERY_SECONDS = 5.0


class RuntimeSocket:
    """Answers from `start` to `stop`."""

    def __init__(self, path: Path, control: Control) -> None:
        self._path, self._control = path, control
        self._tasks = Tasks()
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, asyncio.get_running_loop().time)
        self._server: asyncio.Server | None = None
        self._inode = 0

    async def start(self) -> None:
        """Raises StartupError."""
        sock = listening(self._path)
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._connected, sock=sock, limit=MAX_LINE_BYTES)
        log.info("commands on %s", self._path)

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        await self._tasks.cancel()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:  # not that of a successor
                self._path.unlink()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_CLIENTS:
            self._limited.warning(
                "clients", f"a client of the runtime socket is refused: there are {MAX_CLIENTS} already"
            )
            writer.close()
            return
        self._tasks.spawn(_Client(reader, writer, self._control).serve(), name="runtime socket")


class _Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, control: Control) -> None:
        self._reader, self._writer, self._control = reader, writer, control
        self._idle = IDLE_SECONDS
        self._interactive = False

    async def serve(self) -> None:
        writer = self._writer
        writer.transport.set_write_buffer_limits(high=0)  # what is drained is in the kernel, to the last byte
        try:
            stays = True
            while stays and (line := await self._line()) is not None:
                stays = await self._obey(line)
        except (TimeoutError, OSError):
            writer.transport.abort()  # whoever does not take an answer gets no rest of it
        finally:
            writer.close()

    async def _line(self) -> str | None:
        """None: it has ended."""
        async with asyncio.timeout(self._idle):
            try:
                line = await self._reader.readline()
            except ValueError:
                await self._say(f"The line is longer than {MAX_LINE_BYTES} bytes.\n\n")
                return None
        # A last line without its newline is none: it may be half of a command.
        return line.decode("utf-8", "replace") if line.endswith(b"\n") else None

    async def _obey(self, line: str) -> bool:
        """False: the connection is to end."""
        for command in line.split(";"):
            match command.split():
                case ["quit", *_]:
                    return False
                case ["prompt", *_]:
                    self._interactive = not self._interactive
                    await self._say("\n")
                case ["set", "timeout", "cli", *words]:
                    await self._say(self._set_timeout(words))
                case [] if self._interactive:
                    pass
                case _:
                    await self._say(await self._answer(command))
            await asyncio.sleep(0)  # a line may have thousands of them
        if self._interactive:
            await self._say("> ")
        return self._interactive

    async def _answer(self, command: str) -> str:
        try:
            return await answer(command, self._control)
        except Exception:
            log.exception("an error of ours, in the command %r", command[:200])
            return "An error of ours: see the log.\n\n"

    def _set_timeout(self, words: list[str]) -> str:
        seconds = whole(words[0].removesuffix("s")) if words else None
        if seconds is None or not 0 < seconds <= MAX_IDLE_SECONDS:
            return "Invalid timeout value.\n\n"
        self._idle = float(seconds)
        return "\n"

    async def _say(self, text: str) -> None:
        said = text.encode()
        for start in range(0, len(said), PIECE_BYTES):
            self._writer.write(said[start : start + PIECE_BYTES])
            async with asyncio.timeout(self._idle):
                await self._writer.drain()


def listening(path: Path) -> socket.socket:
    """A Unix socket of mode 600 that listens. Raises StartupError."""
    try:
        with _alone_in(path.parent):
            _remove_stale(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            mask = os.umask(0o177)
            try:
                sock.bind(str(path))
            except BaseException:
                sock.close()
                raise
            finally:
                os.umask(mask)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            return sock
    except OSError as error:
        raise StartupError(f"--runtime-socket {path}: {(error.strerror or str(error)).lower()}") from None


def _remove_stale(path: Path) -> None:
    """Raises StartupError when somebody answers there, or when it is something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartupError(f"--runtime-socket {path}: there is a file that is no socket: say another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody is there
    raise StartupError(f"--runtime-socket {path}: another process listens there: say another path")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of two nodes that are started at the same time, one looks after the other."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
