"""What a link is: which URLs and codes are taken, how a code is made, how a link looks as JSON. ●

A URL is stored as it came, byte for byte, or refused; nothing is normalised behind the user's back. What
is refused is what would make a redirect dangerous or ambiguous:

- other schemes than http and https (`javascript:` runs in the page that shows the link);
- characters outside RFC 3986: white space and control characters (header injection), backslashes (browsers
  read them as slashes, and so another host), and non-ASCII letters, which the client writes as %XX or xn--;
- a user name or password (`https://bank.example@evil.example/` is not what it seems).

A code is 1–32 of A–Z a–z 0–9 _ -, upper and lower case distinct. One that we make has 7 of 58 characters,
those that nobody confuses: 2.2e12 codes, so with a million links one in two million tries is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from scaleup.net.addresses import Endpoint

MAX_URL_LENGTH = 2048  # characters; the column in migrations/0001_links.sql is as wide
MAX_CODE_LENGTH = 32

_URL_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")  # RFC 3986 §2.2, §2.3, and %
_CODE = re.compile(r"[A-Za-z0-9_-]{1,32}")

_CODE_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"  # without 0 O I l
_NEW_CODE_LENGTH = 7


class InvalidLinkError(ValueError):
    """What a user sent cannot be a link. `field` is the member at fault, the message says why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True, slots=True)
class Link:
    """A stored link. `created` is in UTC, without a time zone."""

    code: str
    url: str
    clicks: int
    created: datetime

    def as_json(self) -> dict[str, Any]:
        """`{"code", "url", "short": "/l/CODE", "clicks", "created": "2026-01-31T12:00:00.000000Z"}`

        `short` is to be joined to whatever host the visitor sees.
        """
        return {
            "code": self.code,
            "url": self.url,
            "short": f"/l/{self.code}",
            "clicks": self.clicks,
            "created": self.created.isoformat(timespec="microseconds") + "Z",
        }


def check_url(url: object) -> str:
    """The URL, unchanged. Raises InvalidLinkError."""
    if not isinstance(url, str):
        raise InvalidLinkError("url", "must be a string")
    if len(url) > MAX_URL_LENGTH:
        raise InvalidLinkError("url", f"is longer than {MAX_URL_LENGTH} characters")
    # Before urlsplit, which silently removes tabs and line ends (cpython #88048).
    if (end := _URL_CHARACTERS.match(url).end()) < len(url):  # type: ignore[union-attr] # matches "" at least
        raise InvalidLinkError("url", f"has {url[end]!r} at {end}: write it percent-encoded (RFC 3986)")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidLinkError("url", f"is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidLinkError("url", "must begin with http://HOST or https://HOST")
    if "@" in parts.netloc:
        raise InvalidLinkError("url", "must not contain a user name or password")
    _check_host(parts.netloc)
    return url


def _check_host(netloc: str) -> None:
    if netloc.startswith(":"):
        raise InvalidLinkError("url", "has no host")
    if netloc.startswith("[") and ":" not in netloc.partition("]")[0]:
        raise InvalidLinkError("url", "has brackets around something that is no IPv6 address")
    try:
        endpoint = Endpoint.parse(netloc.removesuffix(":"), default_port=80)
    except ValueError as error:
        raise InvalidLinkError("url", f"has a bad host: {error}") from None
    if endpoint.port == 0:
        raise InvalidLinkError("url", "has port 0")


def is_code(text: str) -> bool:
    """Whether a link could have this code. One that could not needs no look into the database."""
    return _CODE.fullmatch(text) is not None


def check_code(code: object) -> str:
    """A code chosen by a user. Raises InvalidLinkError."""
    if not isinstance(code, str) or not is_code(code):
        raise InvalidLinkError("code", f"must be 1 to {MAX_CODE_LENGTH} of A-Z, a-z, 0-9, _ and -")
    return code


def new_code(randrange: Callable[[int], int]) -> str:
    """A code by chance. `randrange(n)` gives 0…n-1; codes are guessed unless it is `secrets.randbelow`."""
    return "".join(_CODE_ALPHABET[randrange(len(_CODE_ALPHABET))] for _ in range(_NEW_CODE_LENGTH))
