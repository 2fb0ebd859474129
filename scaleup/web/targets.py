"""The request's target: `/api/links?limit=5`.

It is kept twice. `raw` goes to the application byte for byte: an encoded slash may mean something there,
and re-quoting it would ask for something else. `segments` is what it means to us: decoded, dot segments
resolved, empty segments dropped, as nginx does before it compares locations. Prefixes and files are
chosen by the second, so that `/api/../x`, `/%61pi/` and `//api/` cannot be taken for something they are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from scaleup.web.problems import Problem
from scaleup.web.syntax import is_host, remembered

_ABSOLUTE = re.compile(
    r"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE
)  # no user name: RFC 9110 §4.2.4
_HALF_ENCODED = re.compile("%(?![0-9A-Fa-f]{2})")
_VISIBLE = re.compile(r"[!-\"$-~]+")  # RFC 3986 has no fragment in a request and nothing beyond ASCII


@dataclass(frozen=True, slots=True)
class Target:
    """`raw`: path and query as they came, starting with `/`. `authority`: of the absolute form.

    `path`: as it is meant, `/a/b` or, when it names a folder, `/a/b/`.
    """

    raw: str
    segments: tuple[bytes, ...]
    is_folder: bool
    path: bytes
    authority: bytes | None = None

    @property
    def canonical(self) -> str:
        """The one spelling of `path` in ASCII."""
        path = "/" + "/".join([quote_from_bytes(segment, safe="!$&'()*+,;=:@~") for segment in self.segments])
        return path + "/" if self.is_folder and self.segments else path

    @property
    def query(self) -> str:
        """`?limit=5`, or nothing."""
        _, mark, query = self.raw.partition("?")
        return mark + query


@remembered(1024)
def parse(text: str) -> Target:
    """Read a path or an http URL (RFC 9112 §3.2.1, §3.2.2); neither CONNECT nor `OPTIONS *` is served here.

    Raises Problem 400.
    """
    if not _VISIBLE.fullmatch(text):
        raise Problem(400, "The request target has characters that a URL cannot have.", close=True)
    authority = None
    if not text.startswith("/"):
        # §3.2.2: "a server MUST accept the absolute-form in requests"
        match = _ABSOLUTE.fullmatch(text)
        if match is None or not is_host(match[1].encode()):
            raise Problem(400, "The request target is neither a path nor an http URL.", close=True)
        authority, text = match[1].encode(), match[2] or "/"
        if text.startswith("?"):
            text = "/" + text
    path = text.partition("?")[0]
    if _HALF_ENCODED.search(path):
        raise Problem(400, "The request target has a % that is not followed by two digits.", close=True)
    decoded = unquote_to_bytes(path)
    if b"\0" in decoded:
        raise Problem(400, "The request target has a NUL in it.", close=True)
    segments, is_folder = _resolve(decoded)
    meant = b"/" + b"/".join(segments)
    return Target(text, segments, is_folder, meant + b"/" if is_folder and segments else meant, authority)


def _resolve(path: bytes) -> tuple[tuple[bytes, ...], bool]:
    """RFC 3986 §5.2.4, but a path that climbs above the root is refused instead of being clipped."""
    resolved: list[bytes] = []
    last = b""
    for last in path.split(b"/"):
        if last == b"..":
            if not resolved:
                raise Problem(400, "The request target leads above the root.", close=True)
            resolved.pop()
        elif last not in (b"", b"."):
            resolved.append(last)
    return tuple(resolved), last in (b"", b".", b"..")
