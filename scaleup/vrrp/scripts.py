"""Programs of the operator's, run on our behalf: to see whether a node is well, and to tell of a change.

They get nothing of what this process has for being on time or for handling addresses: they run under the
ordinary scheduler, without our capabilities (as `user`, or as we are), without our environment, in a session
of their own. That is arranged before the fork, in this process, by what the kernel does not hand on: code
between fork and exec would run in a copy of a process that has threads.

A program that takes too long is killed, with all that it has started in its session's process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import pwd
import resource
import shlex
import signal
import subprocess
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from scaleup.processes.privileges import known_user

PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4  # <linux/prctl.h>
REALTIME = (os.SCHED_FIFO, os.SCHED_RR)
REAP_SECONDS = 1.0  # a killed process is gone at once, but for one that waits for a dead disk
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

OF_THE_PROGRAM = (
    *(errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    errno.EPERM,  # another user's, and we are not root
)
"""Why a program cannot be started, when it is the program's fault and not for want of memory or descriptors."""

_libc = ctypes.CDLL(None, use_errno=True)


def _words(value: object) -> object:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not os.path.isabs(words[0]):
        raise ValueError("write a program with its whole path, and its arguments; no shell reads it")
    return words


Command = Annotated[
    tuple[str, ...], BeforeValidator(_words), AfterValidator(_command), PlainSerializer(shlex.join)
]
"""A program and its arguments, as one writes them in a shell; none reads it."""

User = Annotated[str | None, AfterValidator(known_user)]


async def run(command: Sequence[str], *, timeout: float, user: str | None = None) -> int | None:
    """Run a program and return its exit code (negative: the signal that ended it), or None when it was killed
    after `timeout` seconds. Raises OSError when it cannot be started.
    """
    loop = asyncio.get_running_loop()
    process = _start(command, user)
    pidfd = os.pidfd_open(process.pid)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(timeout):
            await ended.wait()
        return process.wait()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            await _kill(process, ended)
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _start(command: Sequence[str], user: str | None) -> subprocess.Popen[bytes]:
    _hand_on_no_privileges()
    entry = None if user is None else pwd.getpwnam(user)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": SEARCH_PATH},  # ours may have secrets in it
        start_new_session=True,
        user=None if entry is None else entry.pw_uid,
        group=None if entry is None else entry.pw_gid,
        extra_groups=None if entry is None else os.getgrouplist(entry.pw_name, entry.pw_gid),
    )
    with contextlib.suppress(OSError):  # it has ended already
        resource.prlimit(process.pid, resource.RLIMIT_RTPRIO, (0, 0))
    return process


def _hand_on_no_privileges() -> None:
    """Neither real-time scheduling nor ambient capabilities go to children; this process keeps what it has."""
    policy = os.sched_getscheduler(0)
    if policy in REALTIME:  # without the flag, which the kernel reports with the policy
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_getparam(0))
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


async def _kill(process: subprocess.Popen[bytes], ended: asyncio.Event) -> None:
    """It is not waited for yet, so its number is still its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # not ours any more: it changed its user
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_SECONDS):
            await ended.wait()
    process.poll()
