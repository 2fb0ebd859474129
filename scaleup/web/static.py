"""Files below one folder.

Resolve, then contain: the path's symlinks are followed first, and only what then still lies below the root
is opened, so that neither a link nor a strange spelling leads out. Names that begin with a dot are nobody's
business (`.git`, `.env`), except `.well-known` (RFC 8615). There are no listings: a folder is its index.html.

What touches the disk runs in a thread, in one go for files of up to `PIECE_BYTES`: find, open, decide, read.
"""

from __future__ import annotations

import asyncio
import errno
import mimetypes
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

from aiohttp.web import BaseRequest

from scaleup.web.conditions import Span, Unsatisfiable, Version, precondition, requested_span
from scaleup.web.connection import reset
from scaleup.web.headers import Field
from scaleup.web.problems import RETRY_AFTER, Problem
from scaleup.web.reply import Reply
from scaleup.web.targets import Target

PIECE_BYTES = 128 * 1024
"""Read at a time, and so held for each download."""

METHODS = ("GET", "HEAD")
_CACHING = (b"Cache-Control", b"no-cache")  # ask each time, by ETag; a stale page could not find its own API

_TYPES = mimetypes.MimeTypes()  # Python's own table: a host's /etc/mime.types would make hosts differ
_TYPES.encodings_map = {}  # site.tar.gz is a gzip file, not a tar file that was encoded on the way
for _suffix, _type in {
    ".js": "text/javascript",  # RFC 9239; application/javascript before Python 3.12
    ".mjs": "text/javascript",
    ".map": "application/json",
    ".md": "text/markdown",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".ico": "image/x-icon",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".gz": "application/gzip",
}.items():
    _TYPES.add_type(_type, _suffix)


class _File:
    """A file open for reading, which is closed when the last one lets go of it.

    That may be a thread: a cancelled request leaves one reading, and if the descriptor were closed under
    it, it would read from whatever gets that number next.
    """

    def __init__(self, path: bytes) -> None:
        # NOFOLLOW: the path was resolved, so a link here came later. NONBLOCK: opening a FIFO would wait.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)

    def status(self) -> os.stat_result:
        return os.fstat(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, min(length, PIECE_BYTES), offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


@dataclass(slots=True)
class _Found:
    """An open file and how to answer with it."""

    file: _File
    version: Version
    size: int
    status: int = 200
    span: Span | None = None
    first: bytes = b""


class Files:
    """Answers requests with files below `root`. `fields`: added to every response."""

    def __init__(self, root: Path, fields: Sequence[Field]) -> None:
        self._root = os.fsencode(root.resolve())
        self._fields = tuple(fields)

    async def respond(self, request: BaseRequest, target: Target) -> Reply:
        """The file that `target` names. Raises Problem 404 or 405."""
        if request.method not in METHODS:
            allow = (b"Allow", ", ".join(METHODS).encode())
            raise Problem(405, "Files can only be read.", fields=[allow])
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, self._find, target, request.method, request.raw_headers)
        if isinstance(found, Reply):
            return found
        return await _send(request, found, self._describe(found, target))

    def _find(self, target: Target, method: str, fields: Sequence[Field]) -> _Found | Reply:
        """In a thread: the file, opened, with its first bytes; or a redirection to a folder."""
        path = self._contained(target.segments)
        if os.path.isdir(path):
            if not target.is_folder:
                location = b"/" + b"/".join(map(_quoted, target.segments)) + b"/" + target.query.encode()
                return Reply(301, [(b"Location", location), *self._fields])
            path = self._contained((*target.segments, b"index.html"))
        elif target.is_folder:
            raise _not_found()
        found = _open(path)
        found.status = precondition(fields, found.version)
        if found.status == 200 and method == "GET":
            _choose_bytes(found, fields)
        return found

    def _contained(self, segments: tuple[bytes, ...]) -> bytes:
        """The real path of what these segments name. Raises Problem 404 when it is hidden or outside."""
        if any(segment.startswith(b".") and segment != b".well-known" for segment in segments):
            raise _not_found()
        try:
            real = os.path.realpath(os.path.join(self._root, *segments), strict=True)
        except (OSError, ValueError):  # absent, a loop of links, a name too long
            raise _not_found() from None
        if os.path.commonpath((real, self._root)) != self._root:
            raise _not_found()
        return real

    def _describe(self, found: _Found, target: Target) -> list[Field]:
        name = "index.html" if target.is_folder else os.fsdecode(target.segments[-1])
        content_type = _TYPES.guess_type(f"/{name}")[0] or "application/octet-stream"
        if content_type.startswith("text/"):
            content_type += "; charset=utf-8"
        fields: list[Field] = [
            (b"Content-Type", content_type.encode()),
            (b"ETag", found.version.etag),
            (b"Last-Modified", found.version.last_modified),
            (b"Accept-Ranges", b"bytes"),
            _CACHING,
            *self._fields,
        ]
        if found.status == 206 and found.span:
            last = found.span.start + found.span.length - 1
            fields.append((b"Content-Range", b"bytes %d-%d/%d" % (found.span.start, last, found.size)))
        return fields


def _choose_bytes(found: _Found, fields: Sequence[Field]) -> None:
    try:
        asked = requested_span(fields, found.version, found.size)
    except Unsatisfiable:
        found.status = 416
        return
    found.status = 206 if asked else 200
    found.span = asked or Span(0, found.size)
    found.first = found.file.read(found.span.start, found.span.length)


async def _send(request: BaseRequest, found: _Found, fields: list[Field]) -> Reply:
    if found.status == 412:
        raise Problem(412, "The file is not the version that was asked for.")
    if found.status == 416:
        raise Problem(
            416,
            "The range lies outside of the file.",
            fields=[(b"Content-Range", b"bytes */%d" % found.size)],
        )
    if found.span is None:
        return Reply(found.status, fields, length=None if found.status == 304 else found.size)
    if len(found.first) == found.span.length:
        return Reply(found.status, fields, found.first)
    return await _stream(request, found, found.span, fields)


async def _stream(request: BaseRequest, found: _Found, span: Span, fields: list[Field]) -> Reply:
    """Send a file that is larger than one piece, at the client's pace."""
    loop = asyncio.get_running_loop()
    reply = Reply(found.status, fields, length=span.length)
    await reply.prepare(request)
    piece, sent = found.first, 0
    while piece:
        await reply.write(piece)
        sent += len(piece)
        left = span.length - sent
        piece = await loop.run_in_executor(None, found.file.read, span.start + sent, left) if left else b""
    if sent < span.length:
        reset(request.transport)
        raise ConnectionAbortedError("the file became shorter while it was sent")
    return reply


def _open(path: bytes) -> _Found:
    """Open a regular file by its real path. Raises Problem 404 when it is none, or may not be read."""
    try:
        file = _File(path)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # out of descriptors: the file is there
            raise Problem(503, "This server is busy; try again soon.", fields=[RETRY_AFTER]) from None
        raise _not_found() from None
    status = file.status()
    if not stat.S_ISREG(status.st_mode):
        raise _not_found()
    etag = b'"%x-%x"' % (status.st_mtime_ns, status.st_size)
    return _Found(file, Version(etag, int(status.st_mtime)), status.st_size)


def _quoted(segment: bytes) -> bytes:
    return quote_from_bytes(segment, safe="").encode("ascii")


def _not_found() -> Problem:
    """One answer for absent, hidden and forbidden: which of them it is tells a stranger too much."""
    return Problem(404, "There is no such page here.")
