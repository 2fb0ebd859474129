"""Errors that are told to the client.

Whoever finds out that a request cannot be answered raises `Problem`; the server turns it into a response:
problem details (RFC 9457) for programs, a bare page for people. Which of them is asked for by `Accept`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from http import HTTPStatus

RETRY_AFTER = (b"Retry-After", b"1")
"""With 503: in seconds, a health check or two."""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{status} {title}</title>
<h1>{status} {title}</h1>
<p>{detail}</p>
"""


def wants_page(accept: bytes) -> bool:
    """Whether a request with this Accept field is a person's."""
    return b"text/html" in accept.lower()


class Problem(Exception):
    """A request ends in an error response.

    `status`: 400–599. `detail`: one sentence for the person who made the request; it never repeats
    what that request said, nor the address of a server behind us. `fields`: further header fields.
    `close`: the connection cannot be used again, because what follows on it is not to be trusted.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        fields: Sequence[tuple[bytes, bytes]] = (),
        close: bool = False,
    ) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail, self.fields, self.close = status, detail, tuple(fields), close

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase

    def body(self, accept: bytes) -> tuple[bytes, bytes]:
        """The Content-Type and the content for a request with this Accept field."""
        if wants_page(accept):
            page = _PAGE.format(status=self.status, title=self.title, detail=escape(self.detail))
            return b"text/html; charset=utf-8", page.encode()
        problem = {
            "type": "about:blank",  # RFC 9457 §4.2.1: the title says what the status says
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return b"application/problem+json", json.dumps(problem).encode() + b"\n"
