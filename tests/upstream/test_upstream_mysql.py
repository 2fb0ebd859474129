"""The check of MySQL: against servers that say exactly so much, and against MariaDB."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import requires
from real_servers import Handler, serving
from upstream.mariadb_server import mariadb_server

from scaleup.net.addresses import Endpoint
from scaleup.upstream.healthcheck import HealthCheck
from scaleup.upstream.mysql import Malformed, _error, _texts
from scaleup.upstream.probe import Result, probe

GREETING = b"\x0a10.11.6-MariaDB\0" + bytes(40)
OK, EOF = b"\0\0\0\2\0\0\0", b"\xfe\0\0\2\0"
DENIED = b"\xff\x15\x04#28000Access denied for user 'haproxy'"
SWITCH = b"\xfecaching_sha2_password\0" + b"x" * 20 + b"\0"


def packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def row(*texts: str) -> bytes:
    return b"".join(bytes([len(text)]) + text.encode() for text in texts)


class Server:
    """Says `script`, one entry after each packet that comes; keeps what came."""

    def __init__(self, *script: bytes) -> None:
        self.script, self.heard = script, list[bytes]()

    @property
    def handler(self) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for said in self.script:
                for byte in said:  # the smallest pieces that there are
                    writer.write(bytes([byte]))
                    await writer.drain()
                with contextlib.suppress(asyncio.IncompleteReadError):
                    header = await reader.readexactly(4)
                    self.heard.append(header + await reader.readexactly(int.from_bytes(header[:3], "little")))

        return handle

    async def probed(self, check: str = "mysql") -> Result:
        async with serving(self.handler) as endpoint:
            return await probe(endpoint, HealthCheck.parse(check), timeout=20)


def result_set(first: int, *texts: str) -> bytes:
    columns = [packet(first + 1 + n, b"\3def" + bytes(20)) for n in range(len(texts))]
    after = first + 1 + len(texts)
    rows = [packet(after, EOF), packet(after + 1, row(*texts)), packet(after + 2, EOF)]
    return b"".join([packet(first, bytes([len(texts)])), *columns, *rows])


HELLO = packet(0, GREETING), packet(2, OK)


async def test_it_logs_in_without_a_password_and_takes_leave() -> None:
    server = Server(*HELLO)
    result = await server.probed()
    assert (result.code, result.detail, result.passed) == ("L7OK", "10.11.6-MariaDB", True)
    login, leave = server.heard
    assert login[3] == 1
    assert login[4 + 32 :] == b"haproxy\0\0mysql_native_password\0"
    assert leave == b"\1\0\0\0\1"


async def test_another_way_to_log_in_is_followed() -> None:
    server = Server(packet(0, GREETING), packet(2, SWITCH), packet(4, OK))
    assert (await server.probed("mysql:monitor")).code == "L7OK"
    assert b"monitor\0" in server.heard[0]
    assert server.heard[1] == b"\0\0\0\3"


async def test_a_user_that_is_not_let_in() -> None:
    result = await Server(packet(0, GREETING), packet(2, DENIED)).probed()
    assert (result.code, result.detail) == ("L7STS", "1045 Access denied for user 'haproxy'")
    assert result.passed is False


@pytest.mark.parametrize(
    ("check", "answers", "code", "detail"),
    [
        ("mysql?wsrep_ready", [("wsrep_ready", "ON")], "L7OK", "10.11.6-MariaDB"),
        ("mysql?wsrep_ready", [("wsrep_ready", "OFF")], "L7STS", "wsrep_ready is not ON"),
        ("mysql?read_only=0", [("0",)], "L7OK", "10.11.6-MariaDB"),
        ("mysql?read_only=0", [("1",)], "L7STS", "read_only is 1"),
        ("mysql?read_only=1", [("1",)], "L7OK", "10.11.6-MariaDB"),
        ("mysql?wsrep_ready&read_only=0", [("wsrep_ready", "ON"), ("1",)], "L7STS", "read_only is 1"),
    ],
)
async def test_what_may_be_asked(check: str, answers: list[tuple[str, ...]], code: str, detail: str) -> None:
    server = Server(*HELLO, *(result_set(1, *texts) for texts in answers))
    result = await server.probed(check)
    assert (result.code, result.detail) == (code, detail)
    assert server.heard[-1] == b"\1\0\0\0\1"


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not a MySQL packet: b'SSH-'"),
        (packet(0, b"\x09old\0"), "not a MySQL greeting"),
        (packet(0, b"\x0ano end"), "not a MySQL greeting"),
        (packet(0, b""), "not a MySQL packet"),
    ],
)
async def test_what_is_no_mysql_is_told(said: bytes, detail: str) -> None:
    result = await Server(said).probed()
    assert result.code == "L7RSP"
    assert detail in result.detail


async def test_a_host_that_is_blocked_is_told_in_the_servers_words() -> None:
    """What bare connects lead to."""
    result = await Server(packet(0, b"\xff\x69\x04Host '10.0.0.11' is blocked")).probed()
    assert (result.code, result.detail) == ("L7STS", "1129 Host '10.0.0.11' is blocked")


async def test_a_server_that_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = await probe(Endpoint(*listener.getsockname()), HealthCheck.parse("mysql"), timeout=0.5)
    assert result.code == "L7TOUT"


async def test_an_endless_answer_is_read_only_so_far() -> None:
    endless = b"".join(packet(1 + n, row("x")) for n in range(100))
    result = await Server(*HELLO, endless).probed("mysql?read_only=0")
    assert (result.code, result.detail[:20]) == ("L7RSP", "more than 32 packets")


@given(st.binary(max_size=60))
def test_any_bytes_are_texts_or_the_one_error(payload: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert all(isinstance(text, str) for text in _texts(payload))
    assert _error(b"\xff" + payload)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Endpoint]:
    """With the user that HAProxy's manual asks for."""
    secret = "CREATE USER 'secret'@'%' IDENTIFIED BY 'x';"
    with mariadb_server("127.0.0.1", "CREATE USER 'haproxy'@'127.0.0.%';", secret) as port:
        yield Endpoint("127.0.0.1", port)


@pytest.mark.slow
@pytest.mark.timeout(120)  # the first one waits for a database to be made
@requires("mariadbd")
class TestMariaDB:
    async def probed(self, endpoint: Endpoint, check: str) -> Result:
        return await probe(endpoint, HealthCheck.parse(check), timeout=20)

    async def test_the_user_of_the_check_is_let_in(self, mariadb: Endpoint) -> None:
        result = await self.probed(mariadb, "mysql:haproxy?read_only=0")
        assert (result.code, "MariaDB" in result.detail) == ("L7OK", True)

    async def test_others_are_not(self, mariadb: Endpoint) -> None:
        result = await self.probed(mariadb, "mysql:secret")
        assert (result.code, result.detail[:4]) == ("L7STS", "1045")

    async def test_a_server_without_galera_is_not_ready_for_it(self, mariadb: Endpoint) -> None:
        result = await self.probed(mariadb, "mysql?wsrep_ready")
        assert (result.code, result.detail) == ("L7STS", "wsrep_ready is not ON")

    async def test_checks_do_not_run_into_max_connect_errors(self, mariadb: Endpoint) -> None:
        """The fault that bare connects have: after 3 errors of a host the server refuses it."""
        for _ in range(10):
            assert (await self.probed(mariadb, "mysql")).code == "L7OK"
