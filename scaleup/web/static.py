"""Files as responses: small ones from memory, large ones from the page cache by sendfile.

A file is opened once, with its variants (`.br`, `.gz`, or compressed here); what is small is read, and the fields
of its responses are put together then. For a second it is answered without looking at the disk; then a thread finds
it again as if for the first time, once for all who ask meanwhile, and what has not changed is kept.
"""

from __future__ import annotations

import asyncio
import errno
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from urllib.parse import unquote_to_bytes

from scaleup.web.cache import UNUSED_SECONDS, Cache, Entry, Variant
from scaleup.web.conditions import (
    CONDITIONAL,
    Span,
    Unsatisfiable,
    Version,
    precondition,
    requested_spans,
)
from scaleup.web.connection import Request
from scaleup.web.disk import SUFFIXES, Disk, File, Folder, compressed, version_of
from scaleup.web.encoding import IDENTITY, choose
from scaleup.web.problems import Problem
from scaleup.web.reply import Broken, Frame, Reply, reply
from scaleup.web.stream import Stream
from scaleup.web.syntax import Field, RequestHead, lines_of
from scaleup.web.targets import Target

IN_MEMORY_BYTES = 64 * 1024
"""Of a file; a larger one costs less by sendfile, which copies nothing."""
COMPRESSED_BYTES = range(512, 1024 * 1024)
"""What fits in a packet anyhow is not compressed, nor what would take a thread too long."""
CACHE_BYTES = 64 * 1024 * 1024
FRESH_SECONDS = 1.0
PIECE_BYTES = 128 * 1024
"""Read at a time where sendfile cannot be used, in TLS."""

METHODS = ("GET", "HEAD")

_COMPRESSIBLE = frozenset(
    (
        *("application/json", "application/javascript", "application/manifest+json", "application/xml"),
        *("application/wasm", "application/xhtml+xml", "image/svg+xml", "image/x-icon", "font/ttf"),
    )
)
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


@dataclass(frozen=True, slots=True)
class CacheControl:
    """`value` for the paths that `pattern` matches, with * and ? as a shell has them."""

    pattern: str
    value: str


NO_CACHE = "no-cache"  # ask each time, by ETag; a stale page could not find its own API


class Files:
    """Answers requests with files. `fields`: added to every response. `caching`: the first match counts.

    `fallback`: the path of what is served in place of what is absent (`try_files … /index.html`). `boundary`: gives
    what separates the parts of a response with several ranges.
    """

    def __init__(
        self,
        disk: Disk,
        fields: Sequence[Field],
        boundary: Callable[[], bytes],
        caching: Sequence[CacheControl] = (),
        fallback: str | None = None,
    ) -> None:
        self._disk, self._fields, self._boundary = disk, tuple(fields), boundary
        self._caching, self._fallback = caching, fallback
        self._cache: Cache[File] = Cache(CACHE_BYTES)
        self._loading: dict[str, asyncio.Future[Entry[File] | Folder]] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def at_hand(self, request: Request) -> Reply | None:
        """From memory, without a look at what the target means; None: `respond` has to be asked."""
        head = request.head
        if head.method not in METHODS or "#" in head.target:  # which `targets` refuses, in a query as well
            return None
        path = head.target.partition("?")[0]
        entry = self._cache.get(path, self._loop.time())
        return None if entry is None else self._answer(head, path, entry)

    async def respond(self, request: Request, target: Target) -> Reply:
        """The file that `target` names. Raises Problem 404, 405, 412, 416, 503."""
        head = request.head
        if head.method not in METHODS:
            allow = (b"Allow", ", ".join(METHODS).encode())
            raise Problem(405, "Files can only be read.", fields=[allow])
        path = target.canonical
        entry: Entry[File] | Folder | None = self._cache.get(path, self._loop.time())
        if entry is None:
            try:
                entry = await self._load(path, target.segments, is_folder=target.is_folder)
            except Problem as problem:
                if problem.status != 404 or self._fallback is None:
                    raise
                entry = await self._named(self._fallback)
        if isinstance(entry, Folder):
            return reply(301, [(b"Location", f"{path}/{target.query}".encode()), *self._fields])
        return self._answer(head, path, entry)

    async def page(self, path: str) -> bytes | None:
        """The content of a file, for an error page; None when it is absent, or large."""
        try:
            entry = await self._named(path)
        except Problem:
            return None
        if isinstance(entry, Folder):
            return None
        content = entry.variants[IDENTITY].content
        return content if isinstance(content, bytes) else None

    async def _named(self, path: str) -> Entry[File] | Folder:
        """A file that a setting names. Raises Problem.

        No target has a space: `at_hand` must not find what may belong to an application, below a prefix.
        """
        key = " " + path
        return self._cache.get(key, self._loop.time()) or await self._load(
            key, _segments(path), is_folder=False
        )

    def close(self) -> None:
        """Lets go of all files."""
        if self._timer is not None:
            self._timer.cancel()
        self._cache.clear()

    # ----- from the disk ---------------------------------------------------------------------------

    async def _load(self, path: str, segments: tuple[bytes, ...], *, is_folder: bool) -> Entry[File] | Folder:
        """Raises Problem."""
        loading = self._loading.get(path)
        if loading is None:
            before = self._cache.stale(path)
            loading = self._loop.run_in_executor(None, self._read, path, segments, is_folder, before)
            self._loading[path] = loading
            loading.add_done_callback(partial(self._loaded, path))
        try:
            return await asyncio.shield(loading)  # who leaves takes it away from nobody
        finally:
            del (
                loading
            )  # it has the exception, which has this frame: files would stay open until they are collected

    def _loaded(self, path: str, loading: asyncio.Future[Entry[File] | Folder]) -> None:
        del self._loading[path]
        if loading.cancelled() or loading.exception() or isinstance(entry := loading.result(), Folder):
            self._cache.drop(path)
        else:
            now = self._loop.time()
            entry.fresh_until = now + FRESH_SECONDS
            self._cache.put(path, entry, now)
            if self._timer is None:
                self._timer = self._loop.call_later(UNUSED_SECONDS, self._expire)

    def _expire(self) -> None:
        is_more = self._cache.expire(self._loop.time())
        self._timer = self._loop.call_later(UNUSED_SECONDS, self._expire) if is_more else None

    def _read(
        self, path: str, segments: tuple[bytes, ...], is_folder: bool, before: Entry[File] | None
    ) -> Entry[File] | Folder:
        """In a thread."""
        found = self._disk.find(segments, is_folder=is_folder)
        if isinstance(found, Folder):
            return found
        made_of = found.identity
        if before is not None and made_of is not None and before.made_of == made_of:
            return before
        content_type = _content_type(found.name)
        contents: dict[bytes, tuple[Version, bytes | File]] = {}
        for coding, file in found.files.items():
            contents[coding] = file.version, file
            if file.size <= IN_MEMORY_BYTES:
                content = file.read(0, file.size)
                contents[coding] = version_of(content, file.version.modified, coding), content
        plain = found.files[IDENTITY]
        if b"gzip" not in contents and plain.size in COMPRESSED_BYTES and _is_compressible(content_type):
            content = plain.read(0, plain.size)
            smaller = compressed(content)
            if len(smaller) < 0.9 * plain.size:
                contents[b"gzip"] = version_of(content, plain.version.modified, b"gzip"), smaller
        shared = self._shared(path.lstrip(), varies=len(contents) > 1)
        return Entry(
            content_type,
            {
                coding: _variant(content_type, coding, version, content, shared)
                for coding, (version, content) in contents.items()
            },
            made_of,
        )

    def _shared(self, path: str, *, varies: bool) -> list[Field]:
        """What all representations of a file have in common."""
        caching = next((it.value for it in self._caching if fnmatchcase(path, it.pattern)), NO_CACHE)
        fields = [(b"Cache-Control", caching.encode()), *self._fields]
        return [*fields, (b"Vary", b"Accept-Encoding")] if varies else fields

    # ----- to the client ---------------------------------------------------------------------------

    def _answer(self, head: RequestHead, path: str, entry: Entry[File]) -> Reply:
        """Raises Problem 412, 416."""
        named, variants, coding = head.named, entry.variants, IDENTITY
        # RFC 9110 §14.2: a range is of what would have been sent without it, and we have ranges of the file as it
        # is only: what was compressed here may be compressed otherwise tomorrow. Who has a part of that gets on.
        if len(variants) > 1 and named.get(b"if-range") != variants[IDENTITY].version.etag:
            coding = choose(named.get(b"accept-encoding"), [it for it in SUFFIXES if it in variants])
        variant = variants[coding]
        content, size = variant.content, variant.size
        spans: list[Span] | None = []
        if not CONDITIONAL.isdisjoint(named):
            spans = _condition(head, variant.version, size, has_ranges=coding == IDENTITY)
        if spans is None:
            return Reply(304, (), lines=variant.unchanged)
        if not spans:
            if isinstance(content, bytes):
                return Reply(200, (), content, size, lines=variant.whole)
            return Reply(200, (), length=size, source=_Parts(content, [Span(0, size)]), lines=variant.whole)
        if len(spans) == 1:
            (span,) = spans
            fields = [(b"Content-Range", _content_range(span, size))]
            return Reply(206, fields, length=span.length, source=_Parts(content, spans), lines=variant.part)
        boundary = self._boundary()
        parts = _multipart(entry.content_type, boundary, spans, size)
        fields = [(b"Content-Type", b"multipart/byteranges; boundary=" + boundary)]
        length = sum(part.length if isinstance(part, Span) else len(part) for part in parts)
        return Reply(206, fields, length=length, source=_Parts(content, parts), lines=variant.unchanged)


def _variant(
    content_type: bytes, coding: bytes, version: Version, content: bytes | File, shared: Sequence[Field]
) -> Variant[File]:
    unchanged = lines_of([(b"ETag", version.etag), (b"Last-Modified", version.last_modified), *shared])
    described = [(b"Content-Type", content_type), *([(b"Content-Encoding", coding)] if coding else [])]
    part = lines_of(described) + unchanged
    size = len(content) if isinstance(content, bytes) else content.size
    whole = part if coding else b"Accept-Ranges: bytes\r\n" + part
    return Variant(version, whole, part, unchanged, size, content)


def _multipart(content_type: bytes, boundary: bytes, spans: Sequence[Span], size: int) -> list[bytes | Span]:
    """RFC 9110 §14.6."""
    parts = list[bytes | Span]()
    for span in spans:
        fields = [(b"Content-Type", content_type), (b"Content-Range", _content_range(span, size))]
        parts += (b"\r\n--%b\r\n%b\r\n" % (boundary, lines_of(fields)), span)
    parts.append(b"\r\n--%b--\r\n" % boundary)
    return parts


class _Parts:
    """Parts of a file, and what stands between them, as a `Source`."""

    def __init__(self, content: bytes | File, parts: Sequence[bytes | Span]) -> None:
        self._content, self._parts = content, parts

    def at_hand(self) -> tuple[bytes, bool]:
        content = self._content
        if not isinstance(content, bytes):
            return b"", False
        return b"".join(
            [content[part.start : part.end] if isinstance(part, Span) else part for part in self._parts]
        ), True

    async def send(self, to: Stream, frame: Frame, seconds: float) -> None:
        file = self._content
        assert isinstance(file, File)
        for part in self._parts:
            if isinstance(part, bytes):
                to.write(part)
            elif part.length:
                send = to.send_file if to.is_plain else partial(_send_pieces, to)
                try:
                    sent = await send(file, part.start, part.length, seconds)
                except OSError as error:
                    if error.errno in (errno.EIO, errno.ESTALE):  # the disk's fault, not the client's
                        raise Broken(f"the file cannot be read: {error.strerror}", 500) from None
                    raise
                if sent < part.length:
                    raise Broken("the file became shorter while it was sent", 500)

    def trailers(self) -> bytes:
        return b""

    def close(self) -> None:
        """The file is closed with the last reference to it."""


async def _send_pieces(to: Stream, file: File, start: int, count: int, seconds: float) -> int:
    """As `Stream.send_file`, where the bytes have to come through this process."""
    sent = 0
    while sent < count:
        wanted = min(count - sent, PIECE_BYTES)
        piece = await to.loop.run_in_executor(None, file.read, start + sent, wanted)
        if not piece:
            break
        to.write(piece)
        sent += len(piece)
        await to.drain(to.loop.time() + seconds)
    return sent


def _condition(head: RequestHead, version: Version, size: int, *, has_ranges: bool) -> list[Span] | None:
    """What to send: some ranges, [] for all, None for nothing (304). Raises Problem 412, 416."""
    status = precondition(head.named, version)
    if status == 412:
        raise Problem(412, "The file is not the version that was asked for.")
    if status == 304:
        return None
    if head.method != "GET" or not has_ranges:
        return []
    try:
        return requested_spans(head.named, version, size) or []
    except Unsatisfiable:
        raise Problem(
            416, "The range lies outside of the file.", fields=[(b"Content-Range", b"bytes */%d" % size)]
        ) from None


def _content_range(span: Span, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (span.start, span.end - 1, size)


def _content_type(name: str) -> bytes:
    content_type = _TYPES.guess_type(f"/{name}")[0] or "application/octet-stream"
    if content_type.startswith("text/"):
        content_type += "; charset=utf-8"
    return content_type.encode()


def _is_compressible(content_type: bytes) -> bool:
    return content_type.startswith(b"text/") or content_type.decode() in _COMPRESSIBLE


def _segments(path: str) -> tuple[bytes, ...]:
    return tuple(unquote_to_bytes(part) for part in path.split("/") if part)
