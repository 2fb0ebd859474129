"""Idempotency keys: how a client may repeat a POST without knowing whether the first one arrived. ●

    POST /api/links
    Idempotency-Key: "0b6e1c7e-…"        (draft-ietf-httpapi-idempotency-key-header: a string in quotes; a bare
                                          one is taken as well)

The first request with a key is done, and its response stored in the same transaction. So the two are there
together or not at all, and whoever repeats the request gets the response of the first, done once. A key that
comes with another request than its first is a mistake of the client's: 422.

Keys are remembered for KEPT, and until one comes that is so much newer. A chosen key must be one that nobody
guesses or uses by chance: a UUID.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import timedelta

from scaleup.app.links import InvalidLinkError

KEPT = timedelta(hours=24)
"""Longer than anybody goes on repeating a request."""

_KEY = re.compile(
    r"[!#-\[\]-~]{1,255}"
)  # visible ASCII without quotes and backslashes; as wide as the column


@dataclass(frozen=True, slots=True)
class Key:
    """`fingerprint`: of the request that it came with."""

    text: str
    fingerprint: str


class KeyReusedError(Exception):
    """This key came with another request before."""


def read_key(header: str, request: object) -> Key:
    """`request`: what was asked for, as JSON values. Raises InvalidLinkError."""
    text = header[1:-1] if len(header) >= 2 and header[0] == header[-1] == '"' else header
    if _KEY.fullmatch(text) is None:
        raise InvalidLinkError("Idempotency-Key", "must be 1 to 255 visible ASCII characters, such as a UUID")
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return Key(text, hashlib.sha256(canonical.encode()).hexdigest())
