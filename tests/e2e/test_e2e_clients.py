"""Clients and servers as people have them, with our load balancer between: it must make no difference."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import os
import random
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from e2e.programs import PATIENCE_SECONDS, running
from lb.nodes import Node, eventually
from needs import SEARCH_PATH, requires
from upstream.mariadb_server import mariadb_server

from bench.ports import free_port
from bench.running import accepts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

HOST, SERVER = "127.0.86.11", "127.0.86.21"
NAME = "shop.example"
CONNECTIONS = 32
LARGE = random.Random(6).randbytes(20_000_003)

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    root {folder}/root;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    server {{ listen {plain[0]}; add_header Served-By web1; }}
    server {{ listen {plain[1]}; add_header Served-By web2; }}
    server {{ listen {tls} ssl; }}
}}
"""

Balance = Callable[..., str]


@pytest.fixture
def balance() -> Iterator[Balance]:
    """Starts a load balancer before servers that are up; returns where it listens."""
    with contextlib.ExitStack() as stack:

        def start(*servers: str, health_check: str = "tcp") -> str:
            listen = f"{HOST}:{free_port(HOST)}"
            arguments = [word for server in servers for word in ("--server", server)]
            arguments += ["--listen", listen, "--health-check", health_check, "--workers", "2"]
            node = stack.enter_context(contextlib.closing(Node("lb1", HOST, *arguments))).ready()
            eventually(lambda: node.metric("lb_backend_active_servers") == len(servers))
            return listen

        yield start


def program(*argv: str) -> str:
    """What it prints. It succeeds."""
    done = subprocess.run(
        argv,
        env={**os.environ, "PATH": SEARCH_PATH},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ----- HTTP, in the clear and not ---------------------------------------------------------------------


def write_certificate(folder: Path) -> None:
    """Of NAME, signed by itself, for a day: `certificate.pem` and `key.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


class Site:
    """nginx: two servers in the clear, `plain`, and one with `tls`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plain = [f"{SERVER}:{free_port(SERVER)}" for _ in range(2)]
        self.tls = f"{SERVER}:{free_port(SERVER)}"
        write_certificate(folder)
        (folder / "root").mkdir()
        (folder / "root" / "small").write_bytes(b"x" * 1000)
        (folder / "root" / "large").write_bytes(LARGE)
        user = "user root;" if os.geteuid() == 0 else ""
        text = NGINX.format(folder=folder, plain=self.plain, tls=self.tls, user=user)
        (folder / "nginx.conf").write_text(text)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    host, _, port = site.tls.partition(":")
    with running("nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")):
        eventually(lambda: accepts((host, int(port))))
        yield site


@requires("nginx", "curl")
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_curl(balance: Balance, site: Site, tls: bool) -> None:
    """Of HTTPS the load balancer sees nothing: curl verifies nginx's certificate."""
    where = balance(site.tls) if tls else balance(*site.plain)
    _, _, port = where.partition(":")
    url = f"http{'s' * tls}://{NAME}:{port}"
    flags = ["--silent", "--show-error", "--fail", "--max-time", "20", "--resolve", f"{NAME}:{port}:{HOST}"]
    flags += ["--cacert", str(site.folder / "certificate.pem")]
    saved = site.folder / "saved"
    program("curl", *flags, "--output", str(saved), f"{url}/large")
    assert hashlib.sha256(saved.read_bytes()).digest() == hashlib.sha256(LARGE).digest()
    said = program("curl", *flags, *[f"{url}/small"] * 3, "--write-out", "\n%{num_connects} %{http_code}\n")
    assert re.findall(r"^\d 200$", said, re.MULTILINE) == ["1 200", "0 200", "0 200"], (
        "one connection for all"
    )
    if not tls:
        flags += ["--header", "Connection: close", "--dump-header", "-"]
        said = program("curl", *flags, *[f"{url}/small"] * 3)
        assert {"Served-By: web1", "Served-By: web2"} <= set(said.splitlines()), (
            "in each worker they take turns"
        )


@requires("nginx", "wrk")
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("header", ["Connection: keep-alive", "Connection: close"])
def test_wrk(balance: Balance, site: Site, tls: bool, header: str) -> None:
    where = balance(site.tls) if tls else balance(*site.plain)
    url = f"http{'s' * tls}://{where}/small"
    said = program("wrk", "-t1", f"-c{CONNECTIONS}", "-d2s", "--timeout", "10s", "-H", header, url)
    found = re.search(r"(\d+) requests in", said)
    assert found, said
    assert int(found[1]) > 4 * CONNECTIONS
    assert "Socket errors" not in said, said
    assert "Non-2xx" not in said, said


# ----- WebSocket --------------------------------------------------------------------------------------


async def echo(request: web.Request) -> web.WebSocketResponse:
    channel = web.WebSocketResponse(max_msg_size=0)
    await channel.prepare(request)
    async for message in channel:
        if message.data == "bye":
            await channel.close(code=4321, message=b"closing time")
        elif message.type is aiohttp.WSMsgType.TEXT:
            await channel.send_str(message.data)
        else:
            await channel.send_bytes(message.data)
    return channel


async def test_a_websocket(balance: Balance) -> None:
    """Messages of any size both ways, many at once, and the code with which it is closed."""
    application = web.Application()
    application.router.add_get("/echo", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, SERVER, 0).start()
        host, port = runner.addresses[0]
        where = await asyncio.to_thread(balance, f"{host}:{port}")
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{where}/echo", max_msg_size=0) as channel,
        ):
            for size in (0, 1, 125, 126, 65535, 65536, 5_000_000):
                await channel.send_bytes(LARGE[:size])
                assert await channel.receive_bytes() == LARGE[:size]
            for number in range(200):
                await channel.send_str(f"message {number}")
            for number in range(200):
                assert await channel.receive_str() == f"message {number}"
            await channel.send_str("bye")
            last = await channel.receive()
            assert (last.type, last.data, last.extra) == (aiohttp.WSMsgType.CLOSE, 4321, "closing time")
    finally:
        await runner.cleanup()


# ----- a server that speaks first ---------------------------------------------------------------------


@requires("mariadbd", "mariadb")
def test_the_client_of_mariadb(balance: Balance) -> None:
    """The server greets before the client has said a word; the check logs in, and max_connect_errors stays."""
    users = "CREATE USER 'haproxy'@'127.0.86.%';", "CREATE USER 'shop'@'127.0.86.%' IDENTIFIED BY 'secret';"
    with mariadb_server(SERVER, *users) as database:
        where = balance(f"db={SERVER}:{database}", health_check="mysql?read_only=0")
        host, _, port = where.partition(":")
        with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as silent:
            assert b"MariaDB" in silent.recv(1000)
        shop = [
            "mariadb",
            "--no-defaults",
            f"--host={host}",
            f"--port={port}",
            "--user=shop",
            "--password=secret",
        ]
        shop += ["--batch", "--skip-column-names"]
        for _ in range(5):  # more than max_connect_errors
            assert program(*shop, "--execute", "SELECT USER(), 6 * 7").split() == [f"shop@{HOST}", "42"]
        counting = "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 900)"
        rows = program(*shop, "--quick", "--execute", f"{counting} SELECT i, REPEAT('x', 20000) FROM n")
        assert rows == "".join(f"{number}\t{'x' * 20000}\n" for number in range(1, 901))
