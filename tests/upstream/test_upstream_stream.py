"""Checks in TLS, with OpenSSL on the other side."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from real_servers import descriptors, serving

from scaleup.net.addresses import Endpoint
from scaleup.upstream.healthcheck import HealthCheck, Tls
from scaleup.upstream.probe import Result, probe
from scaleup.upstream.stream import context_of

NAME = "web1.internal"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of NAME and 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(pem + secret)
    return path


class Site:
    """Answers in HTTP inside TLS; `asked_for` are the names by SNI, `ended` how each connection did."""

    def __init__(self, certificate: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.context.sni_callback = lambda connection, name, context: self.asked_for.append(name)
        self.asked_for: list[str | None] = []
        self.requests: list[bytes] = []
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await reader.read(-1)
            self.ended.put_nowait("in order")
        except asyncio.IncompleteReadError as error:
            self.ended.put_nowait(f"after {len(error.partial)} bytes")
        except OSError as error:
            self.ended.put_nowait(str(error))


async def check(endpoint: Endpoint, what: HealthCheck, timeout: float = 5, name: str = "") -> Result:
    assert what.tls is not None
    return await probe(endpoint, what, timeout=timeout, name=name, context=context_of(what.tls))


@pytest.mark.parametrize(
    ("kind", "code", "detail"), [("tcp", "L6OK", "TLSv1.3"), ("http", "L7OK", "status 200")]
)
async def test_a_server_that_speaks_tls_is_fine(certificate: Path, kind: str, code: str, detail: str) -> None:
    site = Site(certificate)
    async with serving(site.answer, tls=site.context) as endpoint:
        what = HealthCheck("http", "/x", tls=Tls()) if kind == "http" else HealthCheck("tcp", tls=Tls())
        result = await check(endpoint, what)
        assert (result.code, result.detail, result.passed) == (code, detail, True)
        assert await site.ended.get() == ("in order" if kind == "http" else "after 0 bytes"), (
            "with a close_notify"
        )
    assert [request.split()[1] for request in site.requests] == ([b"/x"] if kind == "http" else [])


@pytest.mark.parametrize(
    ("tls", "host", "name", "asked_for"),
    [
        (Tls(), "", "", None),
        (Tls(), "", NAME, NAME),
        (Tls(), "www.example:8443", NAME, "www.example"),
        (Tls("sni.example"), "www.example", NAME, "sni.example"),
    ],
)
async def test_whom_it_asks_for(
    certificate: Path, tls: Tls, host: str, name: str, asked_for: str | None
) -> None:
    """An address is no name to ask for (RFC 6066 §3)."""
    site = Site(certificate)
    async with serving(site.answer, tls=site.context) as endpoint:
        result = await check(endpoint, HealthCheck("http", "/", host=host, tls=tls), name=name)
    assert result.code == "L7OK"
    assert site.asked_for == [asked_for]


@pytest.mark.parametrize(
    ("trusted", "sni", "reason"),
    [
        (True, "", None),
        (True, NAME, None),
        (True, "other.internal", "certificate: Hostname mismatch"),
        (False, NAME, "certificate: self-signed certificate"),
    ],
)
async def test_a_certificate_that_is_asked_for_has_to_be_good(
    certificate: Path, trusted: bool, sni: str, reason: str | None
) -> None:
    """Of the address when nobody says a name."""
    site = Site(certificate)
    tls = Tls(sni, True, certificate if trusted else None)
    async with serving(site.answer, tls=site.context) as endpoint:
        result = await check(endpoint, HealthCheck("http", "/", tls=tls))
    if reason is None:
        assert result.code == "L7OK"
    else:
        assert (result.code, result.passed) == ("L6RSP", False)
        assert result.detail.startswith(reason)
        assert site.requests == []


async def test_a_server_without_tls(certificate: Path) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read(-1)

    async with serving(plain) as endpoint:
        result = await check(endpoint, HealthCheck("tcp", tls=Tls()))
    assert (result.code, result.detail) == ("L6RSP", "tls: wrong version number")


async def test_a_server_that_closes_during_the_handshake(certificate: Path) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with serving(close) as endpoint:
        result = await check(endpoint, HealthCheck("tcp", tls=Tls()))
    assert (result.code, result.passed) == ("L6RSP", False)


async def test_no_answer_in_time_in_and_after_the_handshake(certificate: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    site, what = Site(certificate), HealthCheck("http", "/", tls=Tls())
    async with serving(hang) as endpoint:
        assert (await check(endpoint, what, timeout=0.5)).code == "L6TOUT"
    async with serving(hang, tls=site.context) as endpoint:
        assert (await check(endpoint, what, timeout=1)).code == "L7TOUT"


async def test_an_end_without_an_answer(certificate: Path) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    site = Site(certificate)
    async with serving(close, tls=site.context) as endpoint:
        result = await check(endpoint, HealthCheck("http", "/", tls=Tls()))
    assert (result.code, result.detail) == ("L7RSP", "closed after 0 bytes of an answer")


async def test_nothing_is_left_after_a_cancellation_in_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, nobody answers
        before = descriptors()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await check(Endpoint(*listener.getsockname()), HealthCheck("tcp", tls=Tls()))
        assert descriptors() == before
