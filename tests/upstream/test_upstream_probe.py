"""Real sockets on 127.0.0.1, each a server that misbehaves in one way."""

import asyncio
import contextlib
import os
import resource
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_servers import SECONDS, Handler, descriptors, serving

from scaleup.net.addresses import Endpoint
from scaleup.upstream.healthcheck import HealthCheck, Method, Statuses
from scaleup.upstream.probe import DRAIN_BYTES, DRAIN_S, Result, probe, status_of

TCP, HTTP = HealthCheck("tcp"), HealthCheck("http", "/healthz")


def answering(answer: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    return handler


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what comes, say nothing, until the client goes."""
    await reader.read(-1)


async def until_reset(reader: asyncio.StreamReader) -> bool:
    """Whether the client ended with RST (and not with FIN)."""
    try:
        await reader.read(-1)
    except ConnectionResetError:
        return True
    return False


class TestTcp:
    async def test_a_server_that_accepts_is_fine(self) -> None:
        async with serving(hang) as endpoint:
            result = await probe(endpoint, TCP, timeout=5)
        assert (result.code, result.passed) == ("L4OK", True)
        assert 0 <= result.seconds < 5

    async def test_a_server_that_refuses_is_not(self, refusing: Endpoint) -> None:
        result = await probe(refusing, TCP, timeout=5)
        assert (result.code, result.detail, result.passed) == ("L4CON", "connection refused", False)

    async def test_a_server_that_does_not_accept_in_time_is_not(self, silent: Endpoint) -> None:
        result = await probe(silent, TCP, timeout=0.05)
        assert (result.code, result.detail) == ("L4TOUT", "no answer within 0.05 s")
        assert result.passed is False

    async def test_a_server_that_speaks_first_is_fine(self) -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"5.5.5-MariaDB\0")
            await hang(reader, writer)

        async with serving(greet) as endpoint:
            assert (await probe(endpoint, TCP, timeout=5)).code == "L4OK"

    async def test_the_check_ends_with_a_reset_so_nothing_stays_in_time_wait(self) -> None:
        ended: asyncio.Queue[bool] = asyncio.Queue()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ended.put_nowait(await until_reset(reader))

        async with serving(handler) as endpoint:
            await probe(endpoint, TCP, timeout=5)
            assert await ended.get()

    async def test_ipv6(self) -> None:
        async with serving(hang, "::1") as endpoint:
            assert (await probe(endpoint, TCP, timeout=5)).code == "L4OK"

    async def test_a_name_is_resolved(self) -> None:
        address = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)[0][4][0]
        async with serving(hang, str(address)) as endpoint:
            assert (await probe(Endpoint("localhost", endpoint.port), TCP, timeout=5)).code == "L4OK"

    @pytest.mark.parametrize("listening", ["127.0.0.1", "::1"])
    async def test_checks_come_from_the_source_address(self, listening: str) -> None:
        source = "127.0.0.9" if listening == "127.0.0.1" else "::1"
        came_from: asyncio.Queue[str] = asyncio.Queue()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came_from.put_nowait(writer.get_extra_info("peername")[0])
            await answering(b"HTTP/1.1 200 OK\r\n\r\n")(reader, writer)

        async with serving(handler, listening) as endpoint:
            assert (await probe(endpoint, HTTP, timeout=5, source=source)).code == "L7OK"
            assert await came_from.get() == source


class TestHttp:
    @pytest.mark.parametrize("status", [200, 204, 301, 399])
    async def test_2xx_and_3xx_are_fine(self, status: int) -> None:
        async with serving(answering(b"HTTP/1.1 %d Whatever\r\n\r\n" % status)) as endpoint:
            result = await probe(endpoint, HTTP, timeout=5)
        assert (result.code, result.detail, result.passed) == ("L7OK", f"status {status}", True)

    @pytest.mark.parametrize("status", [101, 400, 404, 500, 503])
    async def test_other_statuses_are_not(self, status: int) -> None:
        async with serving(answering(b"HTTP/1.1 %d Whatever\r\n\r\n" % status)) as endpoint:
            result = await probe(endpoint, HTTP, timeout=5)
        assert (result.code, result.detail, result.passed) == ("L7STS", f"status {status}", False)

    async def test_the_request_is_plain_http_1_1(self) -> None:
        requests: asyncio.Queue[bytes] = asyncio.Queue()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async with serving(handler) as endpoint:
            await probe(endpoint, HealthCheck("http", "/ready?deep=1"), timeout=5)
        lines = (await requests.get()).decode().split("\r\n")
        assert lines[0] == "GET /ready?deep=1 HTTP/1.1"
        assert f"Host: {endpoint}" in lines
        assert "Connection: close" in lines

    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST"])
    async def test_method_and_host_as_said(self, method: Method) -> None:
        requests: asyncio.Queue[bytes] = asyncio.Queue()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        async with serving(handler) as endpoint:
            check = HealthCheck("http", "/", method=method, host="www.example:81")
            assert (await probe(endpoint, check, timeout=5, name="web1")).code == "L7OK"
        lines = (await requests.get()).decode().split("\r\n")
        assert lines[0] == f"{method} / HTTP/1.1"
        assert "Host: www.example:81" in lines
        assert ("Content-Length: 0" in lines) == (method == "POST")

    async def test_the_host_is_as_the_server_is_called(self) -> None:
        requests: asyncio.Queue[bytes] = asyncio.Queue()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async with serving(handler) as endpoint:
            await probe(endpoint, HTTP, timeout=5, name="web1.internal")
            assert f"Host: web1.internal:{endpoint.port}\r\n".encode() in await requests.get()

    @pytest.mark.parametrize(
        ("status", "code"), [(200, "L7STS"), (401, "L7OK"), (404, "L7STS"), (503, "L7OK")]
    )
    async def test_only_the_expected_statuses_are_fine(self, status: int, code: str) -> None:
        check = HealthCheck("http", "/", expect=Statuses.parse("401,5xx"))
        async with serving(answering(b"HTTP/1.1 %d Whatever\r\n\r\n" % status)) as endpoint:
            assert (await probe(endpoint, check, timeout=5)).code == code

    async def test_refused(self, refusing: Endpoint) -> None:
        assert (await probe(refusing, HTTP, timeout=5)).code == "L4CON"

    async def test_not_accepted_in_time(self, silent: Endpoint) -> None:
        assert (await probe(silent, HTTP, timeout=0.05)).code == "L4TOUT"

    async def test_never_answered(self) -> None:
        async with serving(hang) as endpoint:
            result = await probe(endpoint, HTTP, timeout=0.5)
        assert (result.code, result.passed) == ("L7TOUT", False)

    @pytest.mark.parametrize(
        "garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x4a\0\0\0\x0a5.5.5", b"HTTP/2 200 \r\n"]
    )
    async def test_garbage_is_told_at_once(self, garbage: bytes) -> None:
        """The server keeps the connection: waiting for a line would run into the time-out."""

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(garbage)
            await hang(reader, writer)

        async with serving(handler) as endpoint:
            result = await probe(endpoint, HTTP, timeout=5)
        assert result.code == "L7RSP"
        assert result.detail.startswith("not an HTTP/1 answer: ")

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 20"])
    async def test_closed_before_the_status(self, answer: bytes) -> None:
        async with serving(answering(answer)) as endpoint:
            result = await probe(endpoint, HTTP, timeout=5)
        assert (result.code, result.detail) == ("L7RSP", f"closed after {len(answer)} bytes of an answer")

    async def test_reset_before_the_status(self) -> None:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()

        async with serving(handler) as endpoint:
            result = await probe(endpoint, HTTP, timeout=5)
        assert result.code == "L7RSP"

    async def test_an_answer_in_single_bytes_is_read(self) -> None:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"HTTP/1.1 200 OK\r\n\r\n":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)

        async with serving(handler) as endpoint:
            assert (await probe(endpoint, HTTP, timeout=5)).code == "L7OK"

    async def test_the_time_out_is_for_all_of_the_answer(self) -> None:
        """A byte every 300 ms never lets a time-out per read expire."""

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            unsent = iter(b"HTTP/1.1 200 OK\r\n\r\n")
            while not writer.is_closing():
                writer.write(bytes([next(unsent)]))
                await asyncio.sleep(0.3)

        async with serving(handler) as endpoint:
            result = await probe(endpoint, HTTP, timeout=1)
        assert result.code == "L7TOUT"
        assert result.seconds < 4  # all of it would take 5.4 s

    async def test_an_endless_answer_is_read_only_so_far(self) -> None:
        sent = 0

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(bytes(16384))
                await writer.drain()
                sent += 16384

        async with serving(handler) as endpoint:
            result = await probe(endpoint, HTTP, timeout=5)
        assert result.code == "L7OK"
        assert sent < DRAIN_BYTES + 16 * 2**20  # the rest is what both kernels buffer

    async def test_an_answer_before_the_question_counts(self) -> None:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
            await reader.readuntil(b"\r\n\r\n")

        async with serving(handler) as endpoint:
            assert (await probe(endpoint, HTTP, timeout=5)).code == "L7OK"

    async def test_a_server_that_closes_after_its_answer_sees_an_orderly_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It closed first, so TIME_WAIT is its own; and it has nothing to log."""
        monkeypatch.setattr("scaleup.upstream.probe.DRAIN_S", SECONDS)  # which a busy machine may need
        ended: asyncio.Queue[bool] = asyncio.Queue()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(10_000))
            writer.write_eof()
            ended.put_nowait(await until_reset(reader))

        async with serving(handler) as endpoint:
            await probe(endpoint, HTTP, timeout=5)
            assert not await ended.get()

    async def test_a_server_that_keeps_the_connection_is_not_waited_for(self) -> None:
        ended: asyncio.Queue[bool] = asyncio.Queue()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            ended.put_nowait(await until_reset(reader))

        loop = asyncio.get_running_loop()
        async with serving(handler) as endpoint:
            began = loop.time()
            result = await probe(endpoint, HTTP, timeout=60)
            took = loop.time() - began
            assert await ended.get()
        assert took < DRAIN_S + SECONDS
        assert result.code == "L7OK"
        assert took - result.seconds > DRAIN_S / 2  # waiting for the end is not part of the verdict


class TestFaultsOfOurOwn:
    async def test_a_source_address_that_is_not_ours(self, refusing: Endpoint) -> None:
        result = await probe(refusing, TCP, timeout=5, source="192.0.2.1")
        assert (result.code, result.passed) == ("SOCKERR", None)
        assert result.detail == "cannot assign requested address"

    async def test_no_descriptor_left(self, refusing: Endpoint) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            result = await probe(refusing, TCP, timeout=5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (result.code, result.detail) == ("SOCKERR", "too many open files")


class TestNothingIsLeft:
    async def test_after_a_cancellation_while_connecting(self, silent: Endpoint) -> None:
        before = descriptors()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await probe(silent, TCP, timeout=5)
        assert descriptors() == before

    async def test_after_a_cancellation_while_waiting_for_an_answer(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, nobody answers
            before = descriptors()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await probe(Endpoint(*listener.getsockname()), HTTP, timeout=5)
            assert descriptors() == before

    @pytest.mark.parametrize("check", [TCP, HTTP])
    async def test_after_every_kind_of_end(
        self, check: HealthCheck, refusing: Endpoint, silent: Endpoint
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            before = descriptors()
            for endpoint in (refusing, silent, Endpoint(*listener.getsockname())):
                await probe(endpoint, check, timeout=0.02)
                await probe(endpoint, check, timeout=0.02, source="192.0.2.1")
            assert descriptors() == before
        assert asyncio.all_tasks() == {asyncio.current_task()}


class TestStatusOf:
    ANSWER = b"HTTP/1.1 404 Not Found\r\nServer: x\r\n\r\nbody"

    def test_whole_with_what_follows(self) -> None:
        assert status_of(self.ANSWER) == 404

    def test_byte_by_byte(self) -> None:
        seen = [status_of(self.ANSWER[:end]) for end in range(len(self.ANSWER) + 1)]
        assert seen == [None] * 13 + [404] * (len(seen) - 13)

    @pytest.mark.parametrize("answer", [b"HTTP/1.0 200\r\n", b"HTTP/1.1 200\n", b"HTTP/1.1 200 \r\n"])
    def test_a_reason_may_be_missing(self, answer: bytes) -> None:
        assert status_of(answer) == 200

    @pytest.mark.parametrize(
        "answer",
        [
            b"\r",
            b"http",
            b"HTTP/2",
            b"HTTP/1.1  200 ",
            b"HTTP/1.1 2000",
            b"HTTP/1.1 020 ",
            b"HTTP/1.x 200 ",
            b"\x16",
        ],
    )
    def test_what_is_not_a_status_line(self, answer: bytes) -> None:
        with pytest.raises(ValueError, match="not an HTTP/1 answer"):
            status_of(answer)

    @given(st.binary(max_size=40))
    def test_any_bytes_are_a_status_or_too_few_or_the_one_error(self, answer: bytes) -> None:
        with contextlib.suppress(ValueError):
            status = status_of(answer)
            assert status is None if len(answer) < 13 else status is not None

    @given(st.integers(100, 999), st.text(st.characters(max_codepoint=255, exclude_characters="\r\n")))
    def test_any_status_line_is_read(self, status: int, reason: str) -> None:
        assert status_of(f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1")) == status


def test_a_result_reads_as_a_line() -> None:
    assert str(Result("L7STS", "status 503", 0.0123)) == "L7STS status 503 (12 ms)"
