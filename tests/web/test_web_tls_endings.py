"""How connections end that speak TLS, whose transport knows less of itself than a plain one does."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from web.secure import Authority
from web_harness import SECONDS, Application, Seen, Web, running, until

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import close_with_reset, endpoint_of, listening, outstanding
from scaleup.web.connection import Connection
from scaleup.web.tls import context

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


class Client:
    """TLS by hand on a plain socket, so that the test says what goes in one packet."""

    def __init__(self, authority: Authority, address: Endpoint) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = authority.context().wrap_bio(self._incoming, self._outgoing, server_hostname="site.test")
        self.sock = socket.create_connection((address.host, address.port), SECONDS)

    def shake_hands(self) -> None:
        while True:
            try:
                return self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send()
                self._incoming.write(self.sock.recv(65536))

    def send(self) -> None:
        """What has been written."""
        self.sock.sendall(self._outgoing.read())


def _context(chain: str, key: str) -> ssl.SSLContext:
    both = Path(f"{key}.both")
    both.write_bytes(Path(chain).read_bytes() + Path(key).read_bytes())
    return context([str(both)])


@contextlib.asynccontextmanager
async def connected(
    folder: Path, *applications: Application
) -> AsyncIterator[tuple[Web, Client, Connection]]:
    """A client, and our side of it."""
    authority = Authority(folder)
    chain, key = authority.pair("site", "site.test").split(",")
    async with running(*applications) as web:
        sock = listening(Endpoint("127.0.0.1", 0), "--listen-tls")
        address = endpoint_of(sock)
        web.clients.accept([sock], _context(chain, key))
        client = Client(authority, address)
        try:
            await asyncio.to_thread(client.shake_hands)
            client.send()
            await until(lambda: any(connection.was_connected for connection in web.clients._open))
            (ours,) = web.clients._open
            yield web, client, ours
        finally:
            client.sock.close()


async def test_who_asks_and_leaves_in_one_breath_was_sent_nothing(tmp_path: Path) -> None:
    async with connected(tmp_path) as (web, client, _):
        client.tls.write(GET)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.send()
        await until(lambda: bool(web.accesses))
        assert [(access.status, access.sent) for access in web.accesses] == [(499, 0)]


async def test_a_connection_whose_loss_has_not_been_told_yet_ends_as_well(tmp_path: Path) -> None:
    async def silent(seen: Seen) -> None:
        await seen.reader.read()

    app = Application(silent)
    async with connected(tmp_path, app) as (web, client, ours):
        client.tls.write(POST)
        client.send()
        await until(lambda: bool(app.seen))
        close_with_reset(client.sock)
        async with asyncio.timeout(SECONDS):
            while ours.transport.get_extra_info("socket") is not None:  # noqa: ASYNC110
                await asyncio.sleep(0)
        ours._leave()
        ours.reset()
        await until(lambda: web.metric("connections") == 0)


async def test_a_close_does_not_take_away_what_the_kernel_has_not_been_given_yet(tmp_path: Path) -> None:
    received, size = 0, 8 * 1024 * 1024

    def take() -> None:
        nonlocal received
        with contextlib.suppress(BlockingIOError):
            while data := client.sock.recv(1024 * 1024):
                received += len(data)

    async with connected(tmp_path) as (_, client, ours):
        client.sock.setblocking(False)
        ours.write(bytes(size))
        ours.close()
        descriptor = ours.transport.get_extra_info("socket").fileno()
        while True:  # without a turn of the loop
            take()
            if not outstanding(descriptor):
                break
        assert received < size
        ours._leave()

        def is_all() -> bool:
            take()
            return received > size

        await until(is_all)
