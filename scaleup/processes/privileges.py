"""Becoming a user who may do less, once all is open that took privileges."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import sys

import scaleup
from scaleup.errors import StartupError

PR_SET_NO_NEW_PRIVS = 38  # <linux/prctl.h>


def known_user(name: str | None) -> str | None:
    """For settings. Raises ValueError."""
    try:
        if name is not None:
            pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"there is no user {name}") from None
    return name


def known_group(name: str | None) -> str | None:
    """For settings. Raises ValueError."""
    try:
        if name is not None:
            grp.getgrnam(name)
    except KeyError:
        raise ValueError(f"there is no group {name}") from None
    return name


def drop(user: str | None, group: str | None, *, log_file: str | None) -> None:
    """Become them, for good; without a `group`, the user's own. Nothing happens to who is already that user.

    Raises StartupError: when that takes root, or when they could not read what may still have to be imported, or
    not open `log_file` again after a rotation.
    """
    if user is None and group is None:
        return
    entry = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    gid = entry.pw_gid if group is None else grp.getgrnam(group).gr_gid
    if (os.geteuid(), os.getegid()) != (entry.pw_uid, gid):
        try:
            os.initgroups(entry.pw_name, gid)
            os.setgid(gid)
            os.setuid(entry.pw_uid)
        except OSError as error:
            raise StartupError(f"--user {user}, --group {group}: {error.strerror}; start as root") from None
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for path in (scaleup.__file__, ctypes.__file__, sys.executable):
        if not os.access(path, os.R_OK):
            raise StartupError(
                f"--user {entry.pw_name} may not read {path}: install ScaleUp where that user can read it"
            )
    if log_file is not None and not os.access(log_file, os.W_OK):
        raise StartupError(
            f"--log-file {log_file}: --user {entry.pw_name} may not write to it, and has to open it again after a "
            "rotation: make it that user's"
        )
