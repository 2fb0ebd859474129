"""Errors as problem details (RFC 9457): every answer with a status from 400 on has this body.

    Content-Type: application/problem+json
    {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "there is no link 'x'"}

`about:blank` means: the status says what kind of problem it is (§4.2.1). A problem with one member of what
the client sent has that member's name in `field`. One for which the database is to blame says in `outcome` what
became of the change that was asked for: `failed`, it was not made; or `unknown`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web

from scaleup.app import request_id
from scaleup.app.links import InvalidLinkError
from scaleup.app.outcomes import DatabaseAwayError, DatabaseOverloadedError, OutcomeUnknownError

log = logging.getLogger(__name__)

RETRY = {"Retry-After": "1"}
"""What a 503 advises, in seconds: about as long as a restart of the database takes."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProblemError(Exception):
    """Raised by a view, answered by the middleware."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        outcome: str | None = None,
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
    ) -> None:
        """`closes`: the connection ends with it."""
        super().__init__(detail)
        self.status, self.detail, self.headers, self.closes = status, detail, headers, closes
        self.field, self.outcome = field, outcome


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: str | None
) -> web.Response:
    """The response. `detail`: a sentence for the person who made the request. `more`: further members."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body |= {name: value for name, value in more.items() if value is not None}
    return web.Response(
        status=status,
        headers=headers,
        content_type="application/problem+json",
        body=json.dumps(body, separators=(",", ":")).encode(),  # pydantic's takes no half of a surrogate pair
    )


async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever a view raises becomes a problem."""
    try:
        return await handler(request)
    except ProblemError as error:
        members = {"field": error.field, "outcome": error.outcome}
        response = problem(error.status, error.detail, headers=error.headers, **members)
        if error.closes:
            response.force_close()
        return response
    except InvalidLinkError as error:
        return problem(400, f"{error.field} {error}", field=error.field)
    except DatabaseAwayError as error:
        return _from_database(error)  # no line in the log for each request: watch.py tells it once
    except web.HTTPException:  # server.py turns these into problems; some are not even raised in here
        raise
    except Exception:
        log.exception("%s %s failed (request %s)", request.method, request.raw_path, request_id.current.get())
        return problem(500, "an error of the application; its log says more")


def _from_database(error: DatabaseAwayError) -> web.Response:
    if isinstance(error, OutcomeUnknownError):
        detail = "the database's answer was lost: the change may have been made or not"
        return problem(503, detail, outcome="unknown", headers=RETRY)
    busy = "has too much to do" if isinstance(error, DatabaseOverloadedError) else "does not answer"
    return problem(503, f"the database {busy}; nothing was changed", outcome="failed", headers=RETRY)


def problem_of_aiohttp(request: web.BaseRequest, error: web.HTTPException) -> web.StreamResponse:
    """What aiohttp itself has to say of a request. A redirect is none, and stays what it is."""
    if error.status < 400:
        return error
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.path} takes {allowed}, not {error.method}"
        return problem(405, detail, headers={"Allow": allowed})  # RFC 9110 §15.5.6
    if isinstance(error, web.HTTPNotFound):
        return problem(404, f"there is nothing at {request.path}")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problem(413, f"the body may have {request.client_max_size} bytes")
    return problem(error.status, error.text or error.reason)
