"""One exchange with one application server: a response, or how it failed.

A failure is a value, because it decides what happens next: whether any byte of the request was sent says
whether it may be sent again (nginx's rule, see `forward`).

The body goes there while the response may already come back. The application's time runs while it has something
to do: not while we wait for the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from scaleup.processes.tasks import Tasks
from scaleup.web.body import Body
from scaleup.web.framing import Chunks, chunk, goes_on, has_body, last_chunk, response_length
from scaleup.web.headers import trailers_to_client
from scaleup.web.problems import Problem
from scaleup.web.reply import Broken, Frame
from scaleup.web.stream import Stream
from scaleup.web.syntax import (
    END,
    MAX_RESPONSE_HEAD_BYTES,
    ResponseHead,
    SyntaxFault,
    lines_of,
    read_response,
)

MAX_INTERIM = 16
"""Responses of 1xx before the one that counts."""
_BEGINNING = b"HTTP/1."


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


class Response:
    """An application's response, of which the head is here: a `Source` of its body."""

    def __init__(
        self,
        connection: Stream,
        head: ResponseHead,
        length: int | None,
        method: str,
        seconds: float,
        upload: Upload | None,
    ) -> None:
        self.head, self.length = head, length
        self.connection = connection
        self.failure: Failure | None = None
        """How the body failed, if it did."""
        self.on_close: Callable[[Response], None] | None = None
        self.keeps_trailers = False
        """Whether they are sent on."""
        self._seconds = seconds
        self._upload = upload
        self._left = length
        self._chunks = Chunks() if length is None and b"transfer-encoding" in head.named else None
        self._is_complete = not has_body(method, head.status) or length == 0

    @property
    def may_be_kept(self) -> bool:
        """Whether its connection is as good as new."""
        is_done = self._is_complete and (self._upload is None or self._upload.is_complete)
        # RFC 9112 §6.1: with a Transfer-Encoding in HTTP/1.0 the framing is faulty; what follows is not trusted
        is_faulty = self._chunks is not None and not self.head.is_http11
        return is_done and not is_faulty and self.head.status != 101 and goes_on(self.head)

    def at_hand(self) -> tuple[bytes, bool]:
        """See `Source`."""
        if self._is_complete:
            return b"", True
        try:
            return self._take(), self._is_complete
        except SyntaxFault as fault:
            raise self._broken(Failure(502, "cut_off", str(fault), was_sent=True)) from None

    async def send(self, to: Stream, frame: Frame, seconds: float) -> None:
        """See `Source`."""
        while piece := await self._next():
            await to.send(frame(piece), seconds)

    def trailers(self) -> bytes:
        """See `Source`."""
        if self._chunks is None or not self.keeps_trailers:
            return b""
        return lines_of(trailers_to_client(self._chunks.trailers))

    def close(self) -> None:
        if self._upload is not None:
            self._upload.stop()
        if not self._is_complete:
            self.connection.abort()
        if self.on_close is not None:
            self.on_close(self)

    async def _next(self) -> bytes:
        """Empty at the end. Raises Broken."""
        connection = self.connection
        while not self._is_complete:
            try:
                if piece := self._take():
                    return piece
                if self._is_complete:
                    break
                if await _more(connection, connection.loop.time() + self._seconds, self._upload):
                    continue
            except TimeoutError:
                raise self._broken(
                    Failure(504, "body_timeout", "the response stopped coming", True)
                ) from None
            except SyntaxFault as fault:
                raise self._broken(Failure(502, "cut_off", str(fault), True)) from None
            except ConnectionError as error:
                raise self._broken(Failure(502, "cut_off", str(error), True)) from None
            if self._left is not None or self._chunks is not None:
                raise self._broken(Failure(502, "cut_off", "the connection was closed", True))
            self._is_complete = True  # RFC 9112 §6.3: the end of the connection is the end of the body
        return b""

    def _take(self) -> bytes:
        connection = self.connection
        if self._chunks is not None:
            piece, done = self._chunks.take(connection.received)
            connection.take(done)
            self._is_complete = self._chunks.is_complete
            return piece
        if self._left is None:
            return connection.take(len(connection.received))
        piece = connection.take(self._left)
        self._left -= len(piece)
        self._is_complete = not self._left
        return piece

    def _broken(self, failure: Failure) -> Broken:
        if self._upload is not None and (problem := self._upload.problem) is not None:
            return Broken(problem.detail, problem.status)  # the client's failure, for which we broke it off
        self.failure = failure
        return Broken(failure.detail, failure.status)


class Upload:
    """A request's body on its way to the application, as it comes."""

    def __init__(self, to: Stream, body: Body, seconds: float, tasks: Tasks) -> None:
        self._to, self._body, self._seconds = to, body, seconds
        self._began = to.loop.time()
        self._task = tasks.spawn(self._run(), name="body of a request")
        self.is_complete = False

    def deadline(self) -> float:
        """Until when the application may take, as it stands now."""
        since = self._to.loop.time() if self._body.is_slow else self._began
        return since + self._seconds

    @property
    def problem(self) -> Problem | None:
        """Why the client's body will not arrive whole, once that is known."""
        return self._body.problem

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        loop, is_chunked = self._to.loop, self._body.length is None
        try:
            while piece := await self._body.next_piece():
                self._to.write(chunk(piece) if is_chunked else piece)
                self._began = loop.time()
                await self._to.drain(self._began + self._seconds)
                await asyncio.sleep(0)  # others have their turns, also when all of it is at hand
            if is_chunked:
                self._to.write(last_chunk())  # a client's trailers end here: see `headers`
            self._began = loop.time()
            self.is_complete = True
        except Problem as problem:
            self._body.problem = problem
            self._to.abort()
        except (TimeoutError, ConnectionError):
            pass  # whoever waits for the response finds the same


async def exchange(
    connection: Stream,
    request: bytes,
    method: str,
    body: Body,
    seconds: float,
    tasks: Tasks,
    interim: Callable[[ResponseHead], None],
    *,
    upgrades: bool,
) -> Response | Failure:
    """Send a request; return when the head of the response is here. The connection is lost with a Failure.

    `request`: its head. `seconds`: for the application. `interim`: told of 1xx. `upgrades`: whether it asks for
    another protocol. It may be the client that failed: see `body.problem`.
    """
    upload: Upload | None = None
    try:
        whole = body.at_hand()
        connection.write(request + whole if whole else request)
        if whole is None:
            upload = Upload(connection, body, seconds, tasks)
        for _ in range(MAX_INTERIM + 1):
            head = read_response(await _head(connection, seconds, upload))
            if head.status == 101 and not upgrades:
                raise SyntaxFault(502, "101 without a request for it")
            if head.status >= 200 or head.status == 101:
                return Response(connection, head, response_length(method, head), method, seconds, upload)
            interim(head)
        raise SyntaxFault(502, "too many responses of 1xx")
    except TimeoutError:
        detail = f"no response within {seconds:g} s"
        failure = Failure(504, "response_timeout", detail, was_sent=True)
    except ConnectionError as error:
        failure = Failure(502, "disconnected", str(error), was_sent=True)
    except SyntaxFault as fault:
        failure = Failure(502, "garbage", str(fault), was_sent=True, is_final=True)
    except asyncio.CancelledError:
        _break_off(connection, upload)
        raise
    _break_off(connection, upload)
    return failure


def _break_off(connection: Stream, upload: Upload | None) -> None:
    connection.abort()
    if upload is not None:
        upload.stop()


async def _head(connection: Stream, seconds: float, upload: Upload | None) -> bytes:
    """Raises SyntaxFault, TimeoutError, ConnectionError."""
    deadline = connection.loop.time() + seconds
    while True:
        if data := connection.received:
            end = data.find(END, 0, MAX_RESPONSE_HEAD_BYTES)
            if end >= 0:
                return connection.take(end + len(END))
            if data[: len(_BEGINNING)] != _BEGINNING[: len(data)] or len(data) >= MAX_RESPONSE_HEAD_BYTES:
                raise SyntaxFault(502, "the response is not HTTP/1.1, or its head is too large")
        if not await (_more(connection, deadline, upload) if upload else connection.more(deadline)):
            raise ConnectionResetError("the connection was closed")


async def _more(connection: Stream, deadline: float, upload: Upload | None) -> bool:
    """As `Stream.more`, but the application has more time while its client has not sent all."""
    while True:
        try:
            return await connection.more(deadline)
        except TimeoutError:
            if upload is None or (deadline := upload.deadline()) <= connection.loop.time():
                raise
