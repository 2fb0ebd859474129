"""The HTTP server of an application process: aiohttp with bounds, and what every response carries.

Limits: a request's head may have 8 KiB a line, its body MAX_BODY_BYTES; a connection that is idle, or that
has not sent a whole head, for KEEPALIVE_SECONDS is closed, and so is one whose client does not take what it asked
for. A client that goes away does not cancel what was begun for it (aiohttp's default): a link is stored or not,
whoever is still listening.

What breaks HTTP is answered by aiohttp with 400 and the end of the connection; it becomes a problem like
every other error, and a line of the log instead of a traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware
from aiohttp.web_protocol import RequestHandler

from scaleup.app import deadline, request_id, session
from scaleup.app.problems import Handler, answer_problems, problem, problem_of_aiohttp
from scaleup.app.views import Views

log = logging.getLogger(__name__)
access_log = logging.getLogger("scaleup.app.access")

MAX_BODY_BYTES = 16 * 1024
"""A URL of 2048 characters, escaped as JSON in the longest way (\\uXXXX), has 12 KiB."""
MAX_LINE_BYTES = 8190
KEEPALIVE_SECONDS = 30.0
"""Also the time for a request's head. Longer than proxies keep idle connections (aiohttp's client: 15 s), so
that it is they who close, and never we while a request is on its way."""
ACCESS_LOG_FORMAT = f'%a "%r" %s %b %{{User-Agent}}i %Tf s, request %{{{request_id.HEADER}}}o'
SEND_SECONDS = 30.0
"""How long a client may take nothing of what waits for it; or, of what is in our own buffer, three quarters."""
LOOK_SECONDS = 0.02
"""At the end, until it is looked whether requests are still in progress."""
CUT_SECONDS = 0.1
"""What is cut off at the end has so long to notice, twice."""
LINGERING_SECONDS = 1.0
"""How long a body that nobody wants is still read, so that the client sees the answer and not a reset."""


class _Handler(RequestHandler):
    """One connection. `complete(response)`: called with every response, aiohttp's own too, before it is sent."""

    def __init__(
        self, server: web.Server, complete: Callable[[web.StreamResponse], None], **bounds: Any
    ) -> None:
        super().__init__(server, **bounds)
        self._complete = complete
        self._too_slow: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """A request has come, and its response has not gone yet."""
        return self._request_in_progress

    def pause_writing(self) -> None:
        super().pause_writing()
        assert self.transport is not None
        self._too_slow = asyncio.get_running_loop().call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._hurry_no_more()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._hurry_no_more()
        super().connection_lost(exc)

    def _hurry_no_more(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Here rather than in the signal `on_response_prepare`, which costs several times as much."""
        if isinstance(resp, web.HTTPException):
            # 404 and 405 come by the middleware, 417 does not.
            request_id.begin_once(request.headers.get(request_id.HEADER))
            resp = problem_of_aiohttp(request, resp)
        self._complete(resp)
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A request that is not HTTP. (What fails in a view is answered by `answer_problems`.)"""
        request_id.begin_once(request.headers.get(request_id.HEADER))
        its_id = request_id.current.get()
        if status < 500:
            reason = str(message or exc).partition("\n")[0]
            log.info("%s sent what is not HTTP: %s (request %s)", request.remote, reason, its_id)
        else:
            log.error("a request of %s failed (request %s)", request.remote, its_id, exc_info=exc)
        response = problem(status, message or "this is not HTTP" if status < 500 else "the log says more")
        response.force_close()
        return response


def _answering(positions: bool) -> Middleware:
    """One middleware, since each costs some microseconds."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id.begin(request.headers.get(request_id.HEADER))
        deadline.begin(request.headers.get(deadline.HEADER))
        if not positions:
            return await answer_problems(request, handler)
        its_session = session.begin(request)
        response = await answer_problems(request, handler)
        its_session.tell(response)
        return response

    return answer


class HttpServer:
    """Serves the views. `name` stands in `X-Served-By` of every response.

    `positions`: whether clients carry along what they have seen (see `session`). `grace`: seconds that `stop` gives
    to requests in progress.
    """

    def __init__(
        self,
        views: Views,
        *,
        name: str,
        positions: bool = False,
        grace: float = 1.0,
        log_access: bool = False,
    ) -> None:
        self._name = name
        self._draining = False
        self.responses: dict[int, int] = {}
        """How many there were, by status."""
        application = web.Application(middlewares=[_answering(positions)], client_max_size=MAX_BODY_BYTES)
        application.add_routes(views.routes())
        self._access_log = access_log if log_access else None
        self._grace = grace
        self._runner = web.AppRunner(application, shutdown_timeout=CUT_SECONDS)
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on those listening sockets, which are ours from now on."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for sock in sockets:
            # What is accepted there inherits it: the kernel ends a connection whose client takes nothing for so
            # long, also when all that is left is in its buffer, and nobody here waits for it any more.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_SECONDS * 1000))
            self._servers.append(await loop.create_server(self._connection, sock=sock))

    def drain(self) -> None:
        """From now on each response ends its connection, so that the next request goes elsewhere."""
        self._draining = True

    async def stop(self) -> None:
        """Accept nothing more, and let requests in progress finish.

        aiohttp would no longer read their bodies then, and grant each connection the time twice.
        """
        for server in self._servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while self._is_busy():  # noqa: ASYNC110 - aiohttp sets no event
                    await asyncio.sleep(LOOK_SECONDS)
        await self._runner.cleanup()

    def _is_busy(self) -> bool:
        connections = self._runner.server.connections if self._runner.server else []
        return any(isinstance(it, _Handler) and it.is_busy for it in connections)

    def _connection(self) -> _Handler:
        assert self._runner.server is not None
        return _Handler(
            self._runner.server,
            self._complete,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            access_log_format=ACCESS_LOG_FORMAT,
            access_log=self._access_log,
        )

    def _complete(self, response: web.StreamResponse) -> None:
        headers = response.headers
        headers["X-Served-By"] = self._name
        headers[request_id.HEADER] = request_id.current.get()
        headers["Server"] = "scaleup"  # aiohttp would tell versions
        if self._draining:
            response.force_close()
        self.responses[response.status] = self.responses.get(response.status, 0) + 1
