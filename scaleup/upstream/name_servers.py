"""Asking name servers: one question, and the first reply of use.

The messages are dnspython's; the sockets are ours, as in `probe`: a question that is broken off leaves no transport
behind (dnspython's asyncio backend does on uvloop: docs/decisions/0009), and time-outs are of the loop's clock.

By UDP, from a port of its own for each question (RFC 5452), connected, so that nobody else's packets are heard
and a port on which nobody listens is known at once; by TCP when the reply says that it was too long.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import connect, dialling, family_of

ATTEMPT_SECONDS = 1.0
"""For the reply of one name server."""
ROUNDS = 2
"""So often each of them is asked: a packet can be lost."""
EDNS_BYTES = 1232
"""Of a reply by UDP, as the DNS flag day 2020 has it; a larger one comes by TCP."""
LONGEST_MESSAGE_BYTES = 65535

_USEFUL = {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}


class Unanswered(Exception):
    """Nobody could say. Its text is the reason."""


async def ask(
    servers: Sequence[Endpoint], name: str, kind: dns.rdatatype.RdataType, silent: set[Endpoint]
) -> dns.message.QueryMessage:
    """What the first of them says that has anything to say, if only that there is no such name.

    Those that are `silent` are asked last; who does not answer becomes one of them, so that a look-up of several
    questions waits for it once. Raises Unanswered.
    """
    reasons: list[str] = []
    for server in sorted(servers, key=silent.__contains__) * ROUNDS:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                reply = await _ask_one(
                    server, dns.message.make_query(name, kind, use_edns=0, payload=EDNS_BYTES)
                )
        except TimeoutError:
            silent.add(server)
            reasons.append(f"{server} does not answer")
        except OSError as error:
            reasons.append(f"{server}: {os.strerror(error.errno or 0)}")
        except (dns.exception.DNSException, ValueError, struct.error) as error:
            reasons.append(f"{server}: {error or type(error).__name__}")
        else:
            if reply.rcode() in _USEFUL:
                return reply
            reasons.append(f"{server} says {dns.rcode.to_text(reply.rcode())}")
    raise Unanswered(", ".join(dict.fromkeys(reasons)))


async def _ask_one(server: Endpoint, query: dns.message.QueryMessage) -> dns.message.QueryMessage:
    loop = asyncio.get_running_loop()
    with socket.socket(family_of(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((server.host, server.port))
        await loop.sock_sendall(sock, query.to_wire())
        reply = None
        while reply is None:
            reply = _reply_to(query, await loop.sock_recv(sock, LONGEST_MESSAGE_BYTES))
    if not reply.flags & dns.flags.TC:
        return reply
    with dialling(server) as stream:
        await connect(stream, server)
        wire = query.to_wire()
        await loop.sock_sendall(stream, struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await _exactly(stream, 2))
        reply = _reply_to(query, await _exactly(stream, length))
    if reply is None:
        raise ValueError("what it says by TCP is no reply")
    return reply


def _reply_to(query: dns.message.QueryMessage, wire: bytes) -> dns.message.QueryMessage | None:
    """None: it is none, and perhaps of somebody who only guesses what was asked; the true one may come yet."""
    try:
        reply = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError):
        return None
    return reply if isinstance(reply, dns.message.QueryMessage) and query.is_response(reply) else None


async def _exactly(stream: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = b""
    while len(received) < count:
        more = await loop.sock_recv(stream, count - len(received))
        if not more:
            raise ValueError(f"closed after {len(received)} of {count} bytes")
        received += more
    return received
