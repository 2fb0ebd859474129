"""Doing with less: once all is open that took privileges, giving them up, and becoming another user."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import struct
import sys

import scaleup
from scaleup.errors import StartupError

PR_SET_NO_NEW_PRIVS = 38  # <linux/prctl.h>
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3, CAPABILITY_SETS_BYTES = 0x20080522, 24  # <linux/capability.h>


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
    """Become them, for good; without a `group`, the user's own. Whoever is not root then has no capability left,
    not even those that the service manager gave to all processes of a tier, and gets none by what it executes.

    Raises StartupError: when that takes root, or when they could not read what may still have to be imported, or
    not open `log_file` again after a rotation.
    """
    if user is not None or group is not None:
        _become(user, group, log_file)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid():
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(CAPABILITY_SETS_BYTES))


def _become(user: str | None, group: str | None, log_file: str | None) -> None:
    entry = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    gid = entry.pw_gid if group is None else grp.getgrnam(group).gr_gid
    if (os.geteuid(), os.getegid()) != (entry.pw_uid, gid):
        try:
            os.initgroups(entry.pw_name, gid)
            os.setgid(gid)
            os.setuid(entry.pw_uid)
        except OSError as error:
            raise StartupError(f"--user {user}, --group {group}: {error.strerror}; start as root") from None
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
