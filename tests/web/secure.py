"""Certificates for tests, and clients that speak TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import trustme
from web.outside import ANSWER_SECONDS, Address

from bench.ports import free_port


class Authority:
    """Signs certificates into `folder`, which replace those of the same file name."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ca = folder, trustme.CA()

    def pair(self, file: str, *names: str) -> str:
        """What --tls is told: the files of a certificate for these names, and its key."""
        made = self._ca.issue_cert(*names)
        chain, key = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return f"{chain},{key}"

    def context(self) -> ssl.SSLContext:
        """Of a client that trusts this authority."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    @contextlib.contextmanager
    def connected(
        self, address: Address, name: str | None = "site.test", first: bytes = b"", **attributes: object
    ) -> Iterator[ssl.SSLSocket]:
        """A client that asks for `name`; None: for none. It takes an end without a close_notify for what it is: an
        OSError.

        `first`: sent before the handshake. `attributes`: of its context.
        """
        context = self.context()
        context.check_hostname = name is not None
        for attribute, value in attributes.items():
            setattr(context, attribute, value)
        with socket.create_connection(address, ANSWER_SECONDS) as sock:
            sock.sendall(first)
            with context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False) as tls:
                yield tls

    def ask(self, address: Address, *lines: str, name: str | None = "site.test", first: bytes = b"") -> bytes:
        """All that comes on a connection of its own. Raises OSError when it ends without a close_notify."""
        request = "\r\n".join([*lines, "Host: site.test", "Connection: close", "", ""])
        with self.connected(address, name, first) as tls:
            tls.sendall(request.encode())
            return rest(tls)


def rest(tls: ssl.SSLSocket) -> bytes:
    received = b""
    while data := tls.recv(65536):
        received += data
    return received


def names_of(tls: ssl.SSLSocket) -> set[str]:
    """In the certificate that was shown."""
    certificate = tls.getpeercert()
    assert certificate is not None
    return {str(value) for _, value in certificate["subjectAltName"]}  # type: ignore[union-attr,str-unpack,misc]


def secure_port() -> Address:
    return "127.0.0.1", free_port()
