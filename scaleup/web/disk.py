"""Files below one folder: found, contained, opened, read. All of it blocks, so it runs in threads.

Resolve, then contain: the path's symlinks are followed first, and only what then still lies below the root is
opened, folder by folder and without following any further link, so that neither a link nor a strange spelling leads
out, nor a folder that becomes a link meanwhile. Names that begin with a dot are nobody's
business (`.git`, `.env`), except `.well-known` (RFC 8615). There are no listings: a folder is its index.html.

A file may have siblings that were compressed beforehand (`app.js.br`, `app.js.gz`); one that is older than the
file is not used, because it is of another version.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from scaleup.web.conditions import Version
from scaleup.web.encoding import IDENTITY
from scaleup.web.problems import RETRY_AFTER, Problem

SUFFIXES = {b"br": b".br", b"gzip": b".gz"}
"""By coding, in the order of preference."""
TICK_NS = 20_000_000
"""Linux's is 10 ms at most."""
IMPLAUSIBLE_NS = 315_619_200 * 10**9
"""2 January 1980: what is older than the first date of a ZIP file was given its time by a tool."""
_INDEX = b"index.html"


class File:
    """A file open for reading, which is closed when the last one lets go of it.

    That may be a thread: a cancelled request leaves one reading, and if the descriptor were closed under
    it, it would read from whatever gets that number next.
    """

    def __init__(self, name: bytes, folder: int | None = None, coding: bytes = IDENTITY) -> None:
        """`name`: in `folder`, a descriptor. Raises OSError; also when it is no regular file."""
        # NOFOLLOW: the path was resolved, so a link here came later. NONBLOCK: opening a FIFO would wait.
        how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(name, how, dir_fd=folder)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        self.size = status.st_size
        self.modified_ns = status.st_mtime_ns
        self.identity = (status.st_dev, status.st_ino, status.st_ctime_ns, self.modified_ns, self.size)
        """Differs when the content does, if `is_settled`: also who sets the time back changes st_ctime."""
        # For files the kernel's clock ticks (before Linux 6.13): what changes again within a tick keeps its times.
        self.is_settled = not 0 <= time.time_ns() - status.st_ctime_ns < TICK_NS
        # Times that say nothing, as reproducible builds set them, would make one version of two.
        stamp = self.modified_ns if self.modified_ns > IMPLAUSIBLE_NS else status.st_ctime_ns
        self.version = Version(_tag(b"%x-%x" % (stamp, self.size), coding), self.modified_ns // 10**9)

    def fileno(self) -> int:
        return self._descriptor

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Found:
    """`name`: of the file, which tells its type. `files`: by coding; IDENTITY is among them."""

    name: str
    files: Mapping[bytes, File]

    @property
    def identity(self) -> Hashable:
        """Equal to that of what has the same content; None when nothing can be compared with it."""
        if not all(file.is_settled for file in self.files.values()):
            return None
        return tuple((coding, file.identity) for coding, file in self.files.items())


class Folder:
    """Asked for one of its folders: that needs a slash at the end."""


class Disk:
    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root.resolve())

    def find(self, segments: tuple[bytes, ...], *, is_folder: bool) -> Found | Folder:
        """Raises Problem 404, or 503 when no descriptor is left."""
        path = self._contained(segments)
        if os.path.isdir(path):
            if not is_folder:
                return Folder()
            segments = (*segments, _INDEX)
            path = self._contained(segments)
        elif is_folder:
            raise not_found()
        try:
            files = self._open(path)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # out of descriptors: the file is there
                raise Problem(503, "This server is busy; try again soon.", fields=[RETRY_AFTER]) from None
            raise not_found() from None
        return Found(os.fsdecode(segments[-1]), files)

    def _open(self, path: bytes) -> dict[bytes, File]:
        """The file at a real path below the root, with its siblings. Raises OSError."""
        *folders, name = os.path.relpath(path, self._root).split(b"/")
        with contextlib.ExitStack() as opened:
            here = _open_folder(self._root, None, opened)
            for folder in folders:
                here = _open_folder(folder, here, opened)
            plain = File(name, here)
            files = {IDENTITY: plain}
            for coding, suffix in SUFFIXES.items():
                with contextlib.suppress(OSError):
                    sibling = File(name + suffix, here, coding)
                    if sibling.modified_ns >= plain.modified_ns:
                        files[coding] = sibling
        return files

    def _contained(self, segments: tuple[bytes, ...]) -> bytes:
        """The real path of what these segments name. Raises Problem 404 when it is hidden or outside."""
        if any(segment.startswith(b".") and segment != b".well-known" for segment in segments):
            raise not_found()
        try:
            real = os.path.realpath(os.path.join(self._root, *segments), strict=True)
        except (OSError, ValueError):  # absent, a loop of links, a name too long
            raise not_found() from None
        if os.path.commonpath((real, self._root)) != self._root:
            raise not_found()
        return real


def _open_folder(name: bytes, where: int | None, opened: contextlib.ExitStack) -> int:
    """Raises OSError; also when it is a link."""
    how = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, how, dir_fd=where)
    opened.callback(os.close, descriptor)
    return descriptor


def version_of(content: bytes, modified: int, coding: bytes) -> Version:
    """Of what is in memory anyhow: the same wherever the content is, and no other's."""
    return Version(_tag(blake2b(content, digest_size=12).hexdigest().encode(), coding), modified)


def _tag(text: bytes, coding: bytes) -> bytes:
    """Each coding is a representation of its own, with its own tag (RFC 9110 §8.8.3.3)."""
    return b'"%b-%b"' % (text, coding) if coding else b'"%b"' % text


def compressed(content: bytes) -> bytes:
    """As gzip (RFC 1952)."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def not_found() -> Problem:
    """One answer for absent, hidden and forbidden: which of them it is tells a stranger too much."""
    return Problem(404, "There is no such page here.")
