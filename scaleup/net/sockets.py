"""Listening sockets, and the socket options that we use, by name."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
from socket import SocketType
from typing import TypeVar

from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint

# Linux's numbers, absent in the socket module of Python 3.11.
IP_FREEBIND = 15
IP_RECVTTL = 12
IP_BIND_ADDRESS_NO_PORT = 24
IPV6_FREEBIND = 78

NONBLOCKING_STREAM = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

Dialling = TypeVar("Dialling", bound=SocketType)

BACKLOG = 4096
"""Connections that the kernel keeps for us; it takes net.core.somaxconn when that is less."""


def family_of(endpoint: Endpoint) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET


def bound(endpoint: Endpoint, option: str, *, reuse_port: bool = False, free: bool = False) -> socket.socket:
    """A TCP socket that is bound and does not listen yet.

    `reuse_port`: several sockets share the address, and the kernel spreads connections over those that
    listen. `free`: bind although no interface has the address yet, as a standby must. `option` names
    the setting in the StartupError that a failure raises.
    """
    sock = None
    try:
        sock = socket.socket(family_of(endpoint), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if free and sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        elif free:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        sock.bind((endpoint.host, endpoint.port))
    except OSError as error:
        if sock is not None:
            sock.close()
        raise StartupError(f"{option} {endpoint}: {error.strerror}{_cure(error)}") from None
    return sock


def listening(
    endpoint: Endpoint, option: str, *, reuse_port: bool = False, free: bool = False
) -> socket.socket:
    """A TCP socket that listens. Arguments and errors as in `bound`."""
    sock = bound(endpoint, option, reuse_port=reuse_port, free=free)
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartupError(f"{option} {endpoint}: {error.strerror}{_cure(error)}") from None
    return sock


def stop_listening(sock: socket.socket) -> None:
    """Refuse connections from now on, in every process that shares the socket; listen() undoes it.

    Connections that nobody had accepted are reset. Nothing happens to a socket that does not listen, and
    must not: Linux would then refuse the call with ENOTCONN and yet remember the shutdown, and connections
    accepted after a later listen() would be born shut down (inet_shutdown; tried on 6.18). Two holders that
    call this at the same moment do not exclude each other: see docs/decisions/0002 for why they need not.
    """
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.shutdown(socket.SHUT_RDWR)


def close_with_reset(sock: SocketType) -> None:
    """Close a connection so that its peer hears RST at once; what was not sent yet is dropped."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # on, 0 seconds
    sock.close()


def outstanding(descriptor: int) -> int:
    """Bytes that were sent on a connection and that its peer has not acknowledged (tcp(7), SIOCOUTQ)."""
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
    return int(count)


def is_ours(endpoint: Endpoint) -> bool:
    """Whether an interface of this host has the address now."""
    with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((endpoint.host, 0))
        except OSError:
            return False
    return True


def endpoint_of(sock: socket.socket) -> Endpoint:
    """Where a socket is bound: the port that the kernel chose for port 0."""
    host, port, *_ = sock.getsockname()
    return Endpoint(host, port)


def dialling(endpoint: Endpoint, source: str | None = None) -> socket.socket:
    """A non-blocking TCP socket that is about to connect, from the address `source` if given.

    IP_BIND_ADDRESS_NO_PORT leaves the port to connect(), which may then use one port for several
    destinations; bound at once, 28,000 connections would be all, whatever their destinations.
    """
    return _about_to_dial(socket.socket(family_of(endpoint), NONBLOCKING_STREAM), source)


def dialling_lightly(endpoint: Endpoint, source: str | None = None) -> SocketType:
    """The same as what a socket.socket is made of: it has the system's calls and no others, and costs 2 µs less."""
    return _about_to_dial(SocketType(family_of(endpoint), NONBLOCKING_STREAM, 0), source)


def _about_to_dial(sock: Dialling, source: str | None) -> Dialling:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
    except OSError:
        sock.close()
        raise
    return sock


async def resolve(endpoint: Endpoint) -> Endpoint:
    """The endpoint with an address: of a name the first that the resolver gives. Raises OSError."""
    if endpoint.address is not None:
        return endpoint
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    return Endpoint(str(found[0][4][0]), endpoint.port)


async def connect(sock: SocketType, address: Endpoint) -> None:
    """Connect a non-blocking socket to a resolved endpoint. Raises OSError; the socket stays the caller's.

    As loop.sock_connect, which under uvloop asks a thread to resolve what is already an address.
    """
    code = sock.connect_ex((address.host, address.port))
    if code == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        decided: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, _decide, decided)
        try:
            await decided
        finally:
            loop.remove_writer(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _decide(decided: asyncio.Future[None]) -> None:
    if not decided.done():
        decided.set_result(None)


def _cure(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "; stop what uses it, or choose another port",
        errno.EACCES: "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "; no interface of this host has the address",
    }.get(error.errno or 0, "")
