"""A page of a tier's own on the admin address. Apart from `admin`, so that whoever has one needs no HTTP server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Page:
    """What a path is answered with. `headers`: beside its type."""

    content_type: str
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


Pages = Mapping[str, Callable[[], Page]]
"""By path."""
