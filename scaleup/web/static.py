"""Files as responses: small ones from memory, large ones from the page cache by sendfile.

A small file is read once, with its variants (`.br`, `.gz`, or compressed here), and its fields are put together
then. For a second it is answered without looking at the disk; then it is found again as if for the first time,
in a thread.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote_to_bytes

from scaleup.web.cache import Cache, Entry, Variant
from scaleup.web.conditions import (
    CONDITIONAL,
    Span,
    Unsatisfiable,
    Version,
    precondition,
    requested_spans,
)
from scaleup.web.connection import Request
from scaleup.web.disk import SUFFIXES, Disk, File, Folder, Found, compressed, version_of
from scaleup.web.encoding import IDENTITY, choose
from scaleup.web.problems import Problem
from scaleup.web.reply import Broken, Frame, Reply, lines_of, reply
from scaleup.web.stream import Stream
from scaleup.web.syntax import Field, RequestHead
from scaleup.web.targets import Target

MAX_CACHED_BYTES = 512 * 1024
"""Of a file; a larger one costs little more by sendfile."""
CACHE_BYTES = 64 * 1024 * 1024
FRESH_SECONDS = 1.0
MIN_COMPRESSED_BYTES = 512
"""What fits in a packet anyhow is not compressed."""
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
        self._cache = Cache(CACHE_BYTES)
        self._loop = asyncio.get_running_loop()

    def at_hand(self, request: Request) -> Reply | None:
        """From memory, without a look at what the target means; None: `respond` has to be asked."""
        head = request.head
        if head.method not in METHODS:
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
        entry = self._cache.get(path, self._loop.time())
        if entry is not None:
            return self._answer(head, path, entry)
        try:
            found = await self._load(path, target.segments, is_folder=target.is_folder)
        except Problem as problem:
            if problem.status != 404 or self._fallback is None:
                raise
            found = await self._load(self._fallback, _segments(self._fallback), is_folder=False)
        match found:
            case Folder():
                return reply(301, [(b"Location", f"{path}/{target.query}".encode()), *self._fields])
            case Entry():
                return self._answer(head, path, found)
            case _:
                return self._answer_large(head, path, found)

    async def page(self, path: str) -> bytes | None:
        """The content of a file, for an error page; None when it is absent, or large."""
        entry = self._cache.get(path, self._loop.time())
        if entry is None:
            try:
                found = await self._load(path, _segments(path), is_folder=False)
            except Problem:
                return None
            entry = found if isinstance(found, Entry) else None
        return None if entry is None else entry.variants[IDENTITY].content

    # ----- from the disk into memory ---------------------------------------------------------------

    async def _load(
        self, path: str, segments: tuple[bytes, ...], *, is_folder: bool
    ) -> Entry | Found | Folder:
        """Raises Problem."""
        self._cache.drop(path)
        found = await self._loop.run_in_executor(None, self._read, path, segments, is_folder)
        if isinstance(found, Entry):
            found.fresh_until = self._loop.time() + FRESH_SECONDS
            self._cache.put(path, found)
        return found

    def _read(self, path: str, segments: tuple[bytes, ...], is_folder: bool) -> Entry | Found | Folder:
        """In a thread."""
        found = self._disk.find(segments, is_folder=is_folder)
        if isinstance(found, Folder) or found.files[IDENTITY].size > MAX_CACHED_BYTES:
            return found
        content_type = _content_type(found.name)
        contents = {coding: (file.version, file.read(0, file.size)) for coding, file in found.files.items()}
        plain = found.files[IDENTITY]
        if b"gzip" not in contents and plain.size >= MIN_COMPRESSED_BYTES and _is_compressible(content_type):
            smaller = compressed(contents[IDENTITY][1])
            if len(smaller) < 0.9 * plain.size:
                contents[b"gzip"] = version_of(plain.modified_ns, plain.size, b"gzip"), smaller
        varies = len(contents) > 1
        variants = {
            coding: Variant(
                version, content, lines_of(self._describe(path, content_type, version, coding, varies=varies))
            )
            for coding, (version, content) in contents.items()
        }
        return Entry(variants, content_type, 0.0)

    def _describe(
        self, path: str, content_type: bytes, version: Version, coding: bytes, *, varies: bool
    ) -> list[Field]:
        caching = next((it.value for it in self._caching if fnmatchcase(path, it.pattern)), NO_CACHE)
        fields: list[Field] = [
            (b"Content-Type", content_type),
            (b"ETag", version.etag),
            (b"Last-Modified", version.last_modified),
            (b"Accept-Ranges", b"bytes"),
            (b"Cache-Control", caching.encode()),
        ]
        if coding:
            fields.append((b"Content-Encoding", coding))
        if varies:
            fields.append((b"Vary", b"Accept-Encoding"))
        return [*fields, *self._fields]

    # ----- from memory to the client ---------------------------------------------------------------

    def _answer(self, head: RequestHead, path: str, entry: Entry) -> Reply:
        """Raises Problem 412, 416."""
        named, variants = head.named, entry.variants
        coding = IDENTITY
        # Ranges are of the file as it is: what was compressed here may be compressed otherwise tomorrow.
        if len(variants) > 1 and b"range" not in named:
            coding = choose(named.get(b"accept-encoding"), [it for it in SUFFIXES if it in variants])
        variant = variants[coding]
        content = variant.content
        if CONDITIONAL.isdisjoint(named):
            return Reply(200, (), content, len(content), lines=variant.lines)
        spans = _condition(head, variant.version, len(content))
        if spans is None:
            return Reply(304, (), lines=variant.lines)
        if not spans:
            return Reply(200, (), content, len(content), lines=variant.lines)
        if len(spans) == 1:
            (span,) = spans
            piece = content[span.start : span.end]
            return Reply(206, [_content_range(span, len(content))], piece, len(piece), lines=variant.lines)
        parts = self._parts(entry.content_type, spans, len(content))
        pieces = [content[part.start : part.end] if isinstance(part, Span) else part for part in parts.parts]
        fields = self._describe(path, parts.content_type, variant.version, coding, varies=len(variants) > 1)
        return reply(206, fields, b"".join(pieces))

    def _answer_large(self, head: RequestHead, path: str, found: Found) -> Reply:
        """Raises Problem 412, 416."""
        files, coding = found.files, IDENTITY
        if len(files) > 1 and b"range" not in head.named:
            coding = choose(head.named.get(b"accept-encoding"), [it for it in SUFFIXES if it in files])
        file, content_type = files[coding], _content_type(found.name)
        fields = self._describe(path, content_type, file.version, coding, varies=len(files) > 1)
        spans: list[Span] | None = []
        if not CONDITIONAL.isdisjoint(head.named):
            spans = _condition(head, file.version, file.size)
        if spans is None:
            return Reply(304, fields)
        if not spans:
            return Reply(200, fields, length=file.size, source=_Parts(file, [Span(0, file.size)]))
        if len(spans) == 1:
            fields.append(_content_range(spans[0], file.size))
            return Reply(206, fields, length=spans[0].length, source=_Parts(file, spans))
        parts = self._parts(content_type, spans, file.size)
        fields = self._describe(path, parts.content_type, file.version, coding, varies=len(files) > 1)
        return Reply(206, fields, length=parts.length, source=_Parts(file, parts.parts))

    def _parts(self, content_type: bytes, spans: Sequence[Span], size: int) -> _Multipart:
        """RFC 9110 §14.6."""
        boundary, parts = self._boundary(), list[bytes | Span]()
        for span in spans:
            fields = [(b"Content-Type", content_type), _content_range(span, size)]
            parts += (b"\r\n--%b\r\n%b\r\n" % (boundary, lines_of(fields)), span)
        parts.append(b"\r\n--%b--\r\n" % boundary)
        return _Multipart(b"multipart/byteranges; boundary=" + boundary, parts)


@dataclass(frozen=True, slots=True)
class _Multipart:
    content_type: bytes
    parts: list[bytes | Span]

    @property
    def length(self) -> int:
        return sum(part.length if isinstance(part, Span) else len(part) for part in self.parts)


class _Parts:
    """Parts of a file, and what stands between them, as a `Source`."""

    def __init__(self, file: File, parts: Sequence[bytes | Span]) -> None:
        self._file, self._parts = file, parts

    async def send(self, to: Stream, frame: Frame, seconds: float) -> None:
        for part in self._parts:
            if isinstance(part, bytes):
                to.write(part)
            elif part.length and await self._send(to, part, seconds) < part.length:
                raise Broken("the file became shorter while it was sent", 500)

    async def _send(self, to: Stream, span: Span, seconds: float) -> int:
        if to.is_plain:
            return await to.send_file(self._file, span.start, span.length, seconds)
        sent = 0
        while sent < span.length:
            count = min(span.length - sent, PIECE_BYTES)
            piece = await to.loop.run_in_executor(None, self._file.read, span.start + sent, count)
            if not piece:
                break
            to.write(piece)
            sent += len(piece)
            await to.drain(to.loop.time() + seconds)
        return sent

    def close(self) -> None:
        """The file is closed with the last reference to it."""


def _condition(head: RequestHead, version: Version, size: int) -> list[Span] | None:
    """What to send: some ranges, [] for all, None for nothing (304). Raises Problem 412, 416."""
    status = precondition(head.named, version)
    if status == 412:
        raise Problem(412, "The file is not the version that was asked for.")
    if status == 304:
        return None
    if head.method != "GET":
        return []
    try:
        return requested_spans(head.named, version, size) or []
    except Unsatisfiable:
        raise Problem(
            416, "The range lies outside of the file.", fields=[(b"Content-Range", b"bytes */%d" % size)]
        ) from None


def _content_range(span: Span, size: int) -> Field:
    return b"Content-Range", b"bytes %d-%d/%d" % (span.start, span.end - 1, size)


def _content_type(name: str) -> bytes:
    content_type = _TYPES.guess_type(f"/{name}")[0] or "application/octet-stream"
    if content_type.startswith("text/"):
        content_type += "; charset=utf-8"
    return content_type.encode()


def _is_compressible(content_type: bytes) -> bool:
    return content_type.startswith(b"text/") or content_type.decode() in _COMPRESSIBLE


def _segments(path: str) -> tuple[bytes, ...]:
    return tuple(unquote_to_bytes(part) for part in path.split("/") if part)
