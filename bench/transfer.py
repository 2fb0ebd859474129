"""Bulk through a proxy, each way: GET or PUT of one large body a stream; prints the seconds as JSON.

    python -m bench.transfer download|upload HOST:PORT [--bytes N] [--streams N]

Both ends are as cheap as the kernel allows, so that the proxy is what limits: what is sent comes from memory by
sendfile(2), what arrives is dropped inside the kernel (recv with MSG_TRUNC, tcp(7)) and copied nowhere.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time

from bench.flags import described, host_and_port

CHUNK_BYTES = 1 << 20
PROGRESS_SECONDS = 30.0
"""A stream on which nothing moves for so long has failed."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class TransferError(Exception):
    """The stream ended early, or what came was no answer."""


def download(sock: socket.socket, size: int) -> None:
    """Ask for `size` bytes and drop them. Raises TransferError."""
    sock.sendall(b"GET /%d HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n" % size)
    head = b""
    while b"\r\n\r\n" not in head:
        if not (data := sock.recv(4096)):
            raise TransferError("the connection ended before an answer")
        head += data
    header, _, body = head.partition(b"\r\n\r\n")
    found = _LENGTH.search(header)
    if b" 200 " not in header[:16] or found is None or int(found[1]) != size:
        raise TransferError(f"GET /{size} was answered {header[:200]!r}; is bench.server behind the proxy?")
    missing, waste = size - len(body), bytearray(CHUNK_BYTES)
    while missing > 0:
        if not (count := sock.recv_into(waste, CHUNK_BYTES, socket.MSG_TRUNC)):
            raise TransferError(f"the connection ended {missing} bytes too early")
        missing -= count


def upload(sock: socket.socket, size: int) -> None:
    """Send `size` bytes and wait until they were taken. Raises TransferError."""
    sock.sendall(b"PUT / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
    file = os.memfd_create("body")
    try:
        os.truncate(file, CHUNK_BYTES)
        missing = size
        while missing > 0:
            sock.settimeout(PROGRESS_SECONDS)
            with os.fdopen(os.dup(file), "rb") as body:
                missing -= sock.sendfile(body, 0, min(missing, CHUNK_BYTES))
    finally:
        os.close(file)
    if b" 204 " not in sock.recv(4096)[:16]:
        raise TransferError("the upload was not acknowledged; is bench.server behind the proxy?")


def transfer(direction: str, address: tuple[str, int], size: int, streams: int) -> float:
    """Seconds until all streams have moved `size` bytes each. Raises TransferError or OSError."""
    failures: list[Exception] = []

    def stream(sock: socket.socket) -> None:
        try:
            (download if direction == "download" else upload)(sock, size)
        except (TransferError, OSError) as error:
            failures.append(error)

    socks = [socket.create_connection(address, PROGRESS_SECONDS) for _ in range(streams)]
    threads = [threading.Thread(target=stream, args=(sock,)) for sock in socks]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    for sock in socks:
        sock.close()
    if failures:
        raise failures[0]
    return seconds


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("direction", choices=["download", "upload"])
    parser.add_argument("address", type=host_and_port, metavar="HOST:PORT")
    parser.add_argument("--bytes", type=int, default=1 << 30, metavar="N", help="of each stream")
    parser.add_argument("--streams", type=int, default=1, metavar="N")
    arguments = parser.parse_args()
    try:
        seconds = transfer(arguments.direction, arguments.address, arguments.bytes, arguments.streams)
    except (TransferError, OSError) as error:
        raise SystemExit(str(error)) from None
    json.dump({"seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
