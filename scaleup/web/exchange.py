"""One exchange with one application server: its response, or how it failed.

A failure is a value, because it decides what happens next: whether any byte of the request was sent says
whether it may be sent again (nginx's rule, see `forward`).

Connections are pooled, and closed when idle for less time than the application keeps them. Still, the
application may close one at the very moment when a request is sent on it; nobody can tell then whether
that request was processed. aiohttp repeats it when it is idempotent; one that is not gets a connection of
its own, which costs a handshake and leaves no such doubt.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
from aiohttp.client_reqrep import ClientRequest, ClientResponse
from aiohttp.connector import Connection
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict
from yarl import URL

from scaleup.upstream.pool import Server
from scaleup.web.body import Body
from scaleup.web.headers import Field

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
"""RFC 9110 §9.2.2: the effect of several such requests is that of one."""

READ_BYTES = 64 * 1024
"""aiohttp stops reading from a server when it holds twice as much that the client has not taken."""
MAX_FIELD_BYTES = 64 * 1024
"""Of a response: the application is ours, and policies and cookies get long."""
_ADDED_BY_AIOHTTP = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(frozen=True, slots=True)
class Failure:
    """No response. `status`: what the client is told, 502 or 504. `reason`: a label for metrics.

    `was_sent`: whether the application may have seen the request. `is_final`: it did answer, with garbage.
    """

    status: int
    reason: str
    detail: str
    was_sent: bool
    is_final: bool = False


class Response(ClientResponse):
    """An application's response."""

    @property
    def was_cut_off(self) -> bool:
        """Whether a body that only the connection's end delimits was ended by a reset instead.

        aiohttp takes either for the end of the body. Of all others it knows the length.
        """
        if self.content is EMPTY_PAYLOAD or "Content-Length" in self.headers or self._protocol is None:
            return False
        return "Transfer-Encoding" not in self.headers and isinstance(
            self._protocol.exception(), aiohttp.ClientOSError
        )

    async def next_piece(self, seconds: float) -> bytes:
        """What has come of the body, at least a byte; empty at its end. Raises TimeoutError and ClientError.

        aiohttp has a time-out of its own for this. It drops it when a chunk is malformed, and then waits for
        ever (3.14.5).
        """
        async with asyncio.timeout(seconds):
            piece = await self.content.readany()
        if not piece and self.was_cut_off:
            raise aiohttp.ClientPayloadError("the connection was reset")
        return piece


class _Request(ClientRequest):
    async def send(self, conn: Connection) -> ClientResponse:
        # What came on an idle connection is nobody's response, but aiohttp would take it for this one's.
        if conn.protocol is None or conn.protocol.should_close:
            conn.close()
            raise aiohttp.ServerDisconnectedError("bytes that nobody asked for")
        return await super().send(conn)


class Client:
    """Sends requests to application servers. Make it inside the running loop, and close it.

    `connect_timeout`, `response_timeout`, `keepalive`: seconds.
    """

    def __init__(self, *, connect_timeout: float, response_timeout: float, keepalive: float) -> None:
        self.response_timeout = response_timeout
        self._connect_timeout = connect_timeout
        self._pooled = self._session(aiohttp.TCPConnector(limit=0, keepalive_timeout=keepalive))
        self._single_use = self._session(aiohttp.TCPConnector(limit=0, force_close=True))

    async def send(
        self, server: Server, method: str, path: str, fields: list[Field], body: Body
    ) -> Response | Failure:
        """Send a request; return when the head of the response is there. The caller closes the response.

        `path`: with the query, byte for byte as it came. `fields`: UTF-8, without the framing.
        """
        session = self._pooled if method in IDEMPOTENT else self._single_use
        headers = CIMultiDict((name.decode(), value.decode()) for name, value in fields)
        if body.length:
            headers["Content-Length"] = str(body.length)
        body.server_seconds = self.response_timeout
        try:
            async with asyncio.timeout(None) as body.server_timer:
                response = await session.request(
                    method,
                    URL(f"http://{server.endpoint}{path}", encoded=True),
                    headers=headers,
                    data=None if body.length == 0 else body,
                    allow_redirects=False,
                )
        except aiohttp.ConnectionTimeoutError:
            detail = f"no connection within {self._connect_timeout:g} s"
            return Failure(504, "connect_timeout", detail, was_sent=False)
        except aiohttp.ClientConnectorError as error:
            return Failure(502, "connect", str(error.os_error), was_sent=False)
        except TimeoutError:
            detail = f"no response within {self.response_timeout:g} s"
            return Failure(504, "response_timeout", detail, was_sent=True)
        except aiohttp.ClientResponseError as error:
            return Failure(502, "garbage", str(error.message), was_sent=True, is_final=True)
        except (aiohttp.ClientError, OSError) as error:
            return Failure(502, "disconnected", str(error), was_sent=True)
        finally:
            body.server_timer = None
        assert isinstance(response, Response)
        return response

    async def close(self) -> None:
        await self._pooled.close()
        await self._single_use.close()

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            request_class=_Request,
            response_class=Response,
            cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are no other's
            skip_auto_headers=_ADDED_BY_AIOHTTP,
            auto_decompress=False,
            read_bufsize=READ_BYTES,
            max_line_size=8 * 1024,
            max_field_size=MAX_FIELD_BYTES,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._connect_timeout, sock_read=self.response_timeout
            ),
        )
