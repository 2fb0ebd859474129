"""The directory with the data: kept, or temporary and removed at the end.

    DIR/lock           held (flock) as long as we live: two servers on the same data would destroy them
    DIR/mariadb/       a MariaDB's data directory; DIR/replica1/ … of its replicas, DIR/node2/ … of further nodes
    DIR/mysql/         a MySQL's
    DIR/links.sqlite   the embedded engine's file

The kernel lets go of the lock however we die, so a temporary directory whose lock is free belongs to a
process that was killed; whoever makes the next one removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from scaleup.db.engines import EngineName
from scaleup.errors import StartupError

PREFIX = "scaleup-db-"
_LOCK = "lock"
_FILES: dict[EngineName, str] = {"mariadb": "mariadb", "mysql": "mysql", "embedded": "links.sqlite"}


class DataDirectory:
    """Made and locked by `open`. `keep`: whether it stays at `close`."""

    def __init__(self, path: Path, lock: int, *, keep: bool) -> None:
        self.path, self.keep = path, keep
        self._lock = lock

    @classmethod
    def open(cls, path: Path | None) -> DataDirectory:
        """The directory `path`, made if need be, or a temporary one. Raises StartupError."""
        if path is None:
            _remove_abandoned()
            return cls._temporary()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(path.iterdir()) and not (path / _LOCK).exists():
                raise StartupError(f"--data {path}: it has other things in it; use an empty directory")
            lock = _try_lock(path)
        except OSError as error:
            raise StartupError(f"--data {path}: {error.strerror}") from None
        if lock is None:
            raise StartupError(
                f"--data {path}: another scaleup.db uses it; stop that, or use another directory"
            )
        return cls(path.resolve(), lock, keep=True)

    @classmethod
    def _temporary(cls) -> DataDirectory:
        while True:
            path = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = _try_lock(path)
            # Between making and locking it, another process may have taken it for an abandoned one.
            if lock is not None and (path / _LOCK).exists():
                return cls(path, lock, keep=False)
            if lock is not None:
                os.close(lock)

    def of(self, engine: EngineName) -> Path:
        """Where that engine's data are, or would be."""
        return self.path / _FILES[engine]

    def found(self) -> list[EngineName]:
        """The engines whose data are there."""
        return [engine for engine in _FILES if self.of(engine).exists()]

    def give_to(self, user: str) -> None:
        """Let that user come in (as root, we run mariadbd as somebody else). Raises StartupError."""
        entry = pwd.getpwnam(user)
        os.chown(self.path, entry.pw_uid, entry.pw_gid)
        for parent in self.path.parents:
            status = parent.stat()
            needed = stat.S_IXUSR if status.st_uid == entry.pw_uid else stat.S_IXGRP | stat.S_IXOTH
            if not status.st_mode & needed:
                raise StartupError(
                    f"--data {self.path}: the server runs as the user {user}, who may not enter {parent}; "
                    "choose another directory, or start scaleup.db as another user than root"
                )

    def close(self) -> None:
        if not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _try_lock(path: Path, *, make: bool = True) -> int | None:
    """The descriptor that holds the lock, or None when somebody else holds it."""
    flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
    descriptor = os.open(path / _LOCK, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # just being removed, or none of ours
            if not _is_ours(path):
                continue
            lock = _try_lock(path, make=False)  # else who just removes it could not remove it whole
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _is_ours(path: Path) -> bool:
    """Anybody may put something into /tmp that looks like it. (`give_to` gives away the directory only.)"""
    lock = (path / _LOCK).lstat()
    return stat.S_ISDIR(path.lstat().st_mode) and stat.S_ISREG(lock.st_mode) and lock.st_uid == os.geteuid()
