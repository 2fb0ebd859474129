"""The PROXY header with which a connection from a trusted proxy begins, read before anything else is done.

It is looked at with MSG_PEEK and then taken off, so that what comes behind it, HTTP or TLS, stays in the socket.
What was looked at would be reported again at once, for ever: hence SO_RCVLOWAT, with which the kernel tells only
of more than that, or of the end.
"""

from __future__ import annotations

import asyncio
import socket

from scaleup.net.proxy_protocol import MAX_BYTES, Cause, Header, Parsed, Refused, parse

GREETING_SECONDS = 3.0
"""A proxy sends its header with the first packet."""


async def greeting(sock: socket.socket, seconds: float) -> Header:
    """The header, which is taken off. Raises Refused, also when it is not whole in time, and OSError."""
    loop = asyncio.get_running_loop()
    whole: asyncio.Future[Parsed] = loop.create_future()
    loop.add_reader(sock, _look, sock, whole)
    try:
        async with asyncio.timeout(seconds):
            parsed = await whole
    except TimeoutError:
        raise Refused(Cause.TRUNCATED, f"not whole within {seconds:g} s") from None
    finally:
        loop.remove_reader(sock)
    sock.recv(parsed.length)
    _expect(sock, 1)
    return parsed.header


def _look(sock: socket.socket, whole: asyncio.Future[Parsed]) -> None:
    if whole.done():
        return
    try:
        received = sock.recv(MAX_BYTES, socket.MSG_PEEK)
        parsed = parse(received)
        if parsed is not None:
            whole.set_result(parsed)
        elif len(received) < sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT):
            whole.set_exception(Refused(Cause.TRUNCATED, "the connection ended before it was whole"))
        else:
            _expect(sock, len(received) + 1)
    except BlockingIOError:
        pass
    except (OSError, Refused) as error:
        whole.set_exception(error)


def _expect(sock: socket.socket, count: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
