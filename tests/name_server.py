"""A small name server: real DNS messages by UDP and TCP, and a few ways to be of no help."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from bench.ports import free_port
from scaleup.net.addresses import Endpoint

LONGEST = 65535


@dataclass
class NameServer:
    """`zone`: records by name and type, as in a zone file; a name that is not there does not exist.

    `mode`: "" answers; "silent" does not; "SERVFAIL", "REFUSED" answer so; "garbage" is no DNS; "tcp": by UDP only
    that the answer is too long.
    """

    endpoint: Endpoint
    zone: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    ttl: int = 1
    mode: str = ""
    additional: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)
    by_tcp: int = 0

    def say(self, name: str, kind: str, *records: str) -> None:
        """From now on; without records the name has none of that type, but exists."""
        self.zone[name, kind] = list(records)

    def forget(self, name: str) -> None:
        for key in [key for key in self.zone if key[0] == name]:
            del self.zone[key]

    def answer(self, wire: bytes, tcp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        name, kind = query.question[0].name, dns.rdatatype.to_text(query.question[0].rdtype)
        text = name.to_text(omit_final_dot=True).lower()
        self.asked.append((text, kind))
        self.by_tcp += tcp
        if self.mode == "silent":
            return None
        if self.mode == "garbage":
            return wire[:2] + b"not DNS"
        reply = dns.message.make_response(query)
        if self.mode in ("SERVFAIL", "REFUSED"):
            reply.set_rcode(dns.rcode.from_text(self.mode))
            return reply.to_wire()
        if self.mode == "tcp" and not tcp:
            reply.flags |= dns.flags.TC
            return reply.to_wire()
        zone = dict(self.zone)
        alias = zone.get((text, "CNAME"))
        if alias:
            reply.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", alias[0]))
            name = dns.name.from_text(alias[0])
            text = name.to_text(omit_final_dot=True)
        if not any(known == text for known, _ in zone):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif records := zone.get((text, kind)):
            reply.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *records))
            if kind == "SRV" and self.additional:
                for target in (record.split()[3] for record in records):
                    if addresses := zone.get((target.removesuffix("."), "A")):
                        reply.additional.append(dns.rrset.from_text(target, self.ttl, "IN", "A", *addresses))
        return reply.to_wire(max_size=LONGEST)


@contextlib.contextmanager
def name_server(host: str = "127.0.53.1") -> Iterator[NameServer]:
    """It listens on `host`, in a thread of its own."""
    with (
        socket.socket() as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        contextlib.ExitStack() as open_,
    ):
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = (host, free_port(host))  # of the kernel's own choice it would be free for TCP alone
        tcp.bind(address)
        tcp.listen()
        udp.bind(address)
        server = NameServer(Endpoint(*tcp.getsockname()))
        wake, woken = socket.socketpair()
        open_.enter_context(wake)
        open_.enter_context(woken)
        thread = threading.Thread(target=_serve, args=(server, udp, tcp, woken))
        thread.start()
        try:
            yield server
        finally:
            wake.send(b"!")
            thread.join()


def _serve(server: NameServer, udp: socket.socket, tcp: socket.socket, woken: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        for sock in (udp, tcp, woken):
            selector.register(sock, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                return
            if udp in ready:
                wire, client = udp.recvfrom(LONGEST)
                if (reply := server.answer(wire, tcp=False)) is not None:
                    udp.sendto(reply, client)
            if tcp in ready:
                connection, _ = tcp.accept()
                with connection, contextlib.suppress(OSError, struct.error):
                    connection.settimeout(10)
                    (length,) = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
                    wire = connection.recv(length, socket.MSG_WAITALL)
                    if (reply := server.answer(wire, tcp=True)) is not None:
                        connection.sendall(struct.pack("!H", len(reply)) + reply)
