"""Tie a foreign program to its parent: the kernel kills it when the parent dies.

A program of ours sees its parent's death on the channel. A foreign one (mariadbd) does not look there,
so it is started through this file, which becomes it:

    python tether.py PARENT_PID USER|- PROGRAM ARGUMENT…

1. drop to USER, before the next step because a change of credentials clears what that step sets;
2. ask for SIGKILL at the parent's death (PR_SET_PDEATHSIG, which survives exec);
3. end if the parent has died in the meantime;
4. exec the program.

The signal comes when the *thread* that started the program ends: start it from the main thread.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys
import warnings  # noqa: F401 - os.execvp imports it, and USER may not be allowed to read it
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def command(arguments: Sequence[str], *, user: str | None = None) -> list[str]:
    """The argv that runs `arguments` tied to this process, as `user` if given (which needs root)."""
    return [sys.executable, "-I", __file__, str(os.getpid()), user or "-", *arguments]


def main() -> None:
    parent, user, *arguments = sys.argv[1:]
    if user != "-":
        _become(user)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):
        raise SystemExit(1)
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        raise SystemExit(f"{arguments[0]}: {error.strerror}") from None


def _become(user: str) -> None:
    try:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except KeyError:
        raise SystemExit(f"there is no user {user}") from None
    except OSError as error:
        raise SystemExit(f"cannot become the user {user}: {error.strerror}") from None
    os.environ["HOME"] = entry.pw_dir


if __name__ == "__main__":
    main()
