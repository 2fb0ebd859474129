"""Which content coding a client takes: RFC 9110 §12.5.3. ●"""

from __future__ import annotations

import re
from collections.abc import Iterable

from scaleup.web.syntax import remembered

_MEMBER = re.compile(rb"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")

IDENTITY = b""


@remembered(256)
def accepted(field: bytes) -> dict[bytes, float]:
    """The codings that an Accept-Encoding names, in lower case, with their weights, but malformed ones."""
    weights: dict[bytes, float] = {}
    for member in field.split(b","):
        if match := _MEMBER.fullmatch(member):
            weights[match[1].lower()] = float(match[2] or 1)
    return weights


def choose(field: bytes | None, available: Iterable[bytes]) -> bytes:
    """The best of `available` (in order of our preference) for this Accept-Encoding; IDENTITY when none is better.

    Who asks for nothing gets the file as it is: an unknown client may not be able to decode.
    """
    if not field:
        return IDENTITY
    weights = accepted(field)
    others = weights.get(b"*", 0.0)
    best, best_weight = IDENTITY, 0.0
    for coding in available:
        weight = weights.get(coding, others)
        if weight > best_weight:
            best, best_weight = coding, weight
    return best if best_weight >= weights.get(b"identity", 0.0) else IDENTITY
