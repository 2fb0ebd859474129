"""The checker with real sockets and short intervals; which checks decide what is tested with `health`."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from real_servers import SECONDS, descriptors, serving

from scaleup.net.addresses import Endpoint
from scaleup.upstream.checks import Checker
from scaleup.upstream.health import Change
from scaleup.upstream.pool import Server
from scaleup.upstream.probe import Result
from scaleup.upstream.server import CheckOptions
from scaleup.upstream.settings import UpstreamSettings


def settings(**different: Any) -> UpstreamSettings:
    return UpstreamSettings.model_validate(
        {"inter": 0.01, "rise": 2, "fall": 2, "check_timeout": SECONDS} | different
    )


class Changes:
    """What the checker reported, to wait for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[Server, Change]] = asyncio.Queue()

    def __call__(self, server: Server, change: Change) -> None:
        assert server.up is change.up, "the server is updated before anybody is told"
        self._queue.put_nowait((server, change))

    async def next(self) -> tuple[Server, Change]:
        async with asyncio.timeout(SECONDS):
            return await self._queue.get()

    def none(self) -> bool:
        return self._queue.empty()


@contextlib.asynccontextmanager
async def running(checker: Checker) -> AsyncIterator[None]:
    """Cancels at the end, and asserts that neither tasks nor descriptors are left."""
    sockets, tasks = descriptors(), asyncio.all_tasks()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(checker.run())
        yield
        task.cancel()
    assert asyncio.all_tasks() == tasks
    assert descriptors() == sockets


async def test_a_server_comes_goes_and_comes_back(
    caplog: pytest.LogCaptureFixture, bound: socket.socket, refusing: Endpoint
) -> None:
    caplog.set_level(logging.INFO, "scaleup.upstream")
    changes, web1 = Changes(), Server("web1", refusing)
    async with running(Checker([web1], settings(), changes)):
        server, change = await changes.next()
        assert (server, change.up) == (web1, False)
        assert change.reason.startswith("first check failed: L4CON connection refused (")
        bound.listen()
        _, change = await changes.next()
        assert change.reason.startswith("first check passed: L4OK connected (")
        bound.shutdown(socket.SHUT_RDWR)
        _, change = await changes.next()
        assert change.reason.startswith("2 checks failed: L4CON")
        bound.listen()
        _, change = await changes.next()
        assert change.reason.startswith("2 checks passed: L4OK")
    assert changes.none()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING", "INFO"]
    assert f"server web1 ({refusing}) is DOWN: first check failed: L4CON" in caplog.messages[0]


async def test_each_server_has_its_own_health(refusing: Endpoint) -> None:
    changes, dead = Changes(), Server("dead", refusing)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        alive = Server("alive", Endpoint(*listener.getsockname()))
        async with running(Checker([alive, dead], settings(), changes)):
            assert (await changes.next())[0] is dead
    assert alive.up
    assert not dead.up
    assert changes.none()


async def test_a_server_without_weight_is_still_checked(refusing: Endpoint) -> None:
    changes, draining = Changes(), Server("draining", refusing, weight=0)
    async with running(Checker([draining], settings(), changes)):
        assert (await changes.next())[0] is draining


async def test_http_checks() -> None:
    status = 503

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} Whatever\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    changes = Changes()
    async with serving(answer) as endpoint, asyncio.TaskGroup() as group:
        checker = Checker([Server("web1", endpoint)], settings(health_check="http:/x"), changes)
        checking = group.create_task(checker.run())
        _, change = await changes.next()
        assert change.reason.startswith("first check failed: L7STS status 503 (")
        status = 200
        _, change = await changes.next()
        assert change.reason.startswith("first check passed: L7OK status 200 (")
        checking.cancel()


async def test_no_more_checks_at_a_time_than_allowed() -> None:
    """Twenty servers that answer when they are told to, of two backends, and four slots for both."""
    arrived: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def answer_when_told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = asyncio.Event()
        arrived.put_nowait(told)
        await told.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async with serving(answer_when_told) as endpoint, asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        servers = [Server(f"s{n}", endpoint) for n in range(20)]
        once_each = settings(health_check="http:/", inter=60.0, check_timeout=60.0)
        slots = asyncio.Semaphore(4)
        checking = [
            group.create_task(Checker(some, once_each, random=lambda: 0.0, slots=slots).run())
            for some in (servers[:10], servers[10:])
        ]
        waiting = [await arrived.get() for _ in range(4)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await arrived.get()
        for _ in range(16):
            waiting.pop(0).set()
            waiting.append(await arrived.get())
            assert arrived.empty()
        for told in waiting:
            told.set()
        for task in checking:
            task.cancel()


async def test_cancelled_in_every_phase_of_a_check_nothing_is_left(
    silent: Endpoint, bound: socket.socket, refusing: Endpoint
) -> None:
    """Waiting for the connection, for an answer, for a slot, and for the next check."""
    bound.listen()
    offsets = iter([0.0, 0.0, 0.0, 0.99])
    checker = Checker(
        [Server("a", silent), Server("b", refusing), Server("c", silent), Server("d", silent)],
        settings(inter=60.0, health_check="http:/", check_timeout=60.0),
        random=lambda: next(offsets),
        slots=asyncio.Semaphore(2),
    )
    async with running(checker):
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(bound)
        with connection:
            assert (await loop.sock_recv(connection, 100)).startswith(b"GET / ")


async def test_an_error_of_ours_ends_the_watch_with_that_error(refusing: Endpoint) -> None:
    """Servers are never left unwatched in silence."""

    def broken(server: Server, change: Change) -> None:
        raise LookupError(server.name)

    before = descriptors()
    with pytest.raises(ExceptionGroup) as caught:
        await Checker([Server("web1", refusing)], settings(), broken).run()
    assert caught.group_contains(LookupError, match="web1")
    assert descriptors() == before
    assert len(asyncio.all_tasks()) == 1


async def test_a_check_that_cannot_be_made_changes_nothing_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, refusing: Endpoint
) -> None:
    """192.0.2.1 (RFC 5737) is not an address of ours."""
    checks = 0
    enough = asyncio.Event()

    def random() -> float:
        nonlocal checks
        checks += 1
        if checks == 4:  # asked once for the offset and then after each check
            enough.set()
        return 0.5

    changes, web1 = Changes(), Server("web1", refusing)
    async with running(Checker([web1], settings(), changes, source="192.0.2.1", random=random)):
        await enough.wait()
    assert web1.up
    assert changes.none()
    [record] = caplog.records
    assert "cannot be checked: SOCKERR cannot assign requested address" in record.getMessage()


async def test_without_servers_there_is_nothing_to_do() -> None:
    await Checker([], settings()).run()


async def test_starting_again_forgets_what_was_known(bound: socket.socket, refusing: Endpoint) -> None:
    """`up` and the new Health must agree, or a server that is fine would stay down for ever."""
    bound.listen()
    web1 = Server("web1", refusing, up=False)
    async with running(Checker([web1], settings())):
        connection, _ = await asyncio.get_running_loop().sock_accept(bound)
        connection.close()
        assert web1.up


async def test_a_server_in_maintenance_is_not_checked_and_one_that_drains_is(
    caplog: pytest.LogCaptureFixture, refusing: Endpoint
) -> None:
    changes = Changes()
    resting, draining = (
        Server("resting", refusing, admin="maint"),
        Server("draining", refusing, admin="drain"),
    )
    checker = Checker([resting, draining], settings(), changes)
    async with running(checker):
        assert (await changes.next())[0] is draining
        assert checker.last(resting) is None
        resting.change(admin="ready")
        assert (await changes.next())[0] is resting


@pytest.mark.parametrize("returns", ["from maint", "at another address", "with an address at last"])
async def test_checks_start_anew_and_at_once(refusing: Endpoint, returns: str) -> None:
    """What was known of it says nothing any more. The next check would have come in an hour."""
    changes, web1 = Changes(), Server("web1", Endpoint("127.0.0.2", refusing.port))
    draws = iter([0.0])  # the first check of all is due at once
    checker = Checker([web1], settings(inter=3600), changes, random=lambda: next(draws, 1.0))
    async with running(checker):
        assert not (await changes.next())[1].up
        before = web1.live
        match returns:
            case "from maint":
                web1.change(admin="maint")
            case "with an address at last":
                web1.change(endpoint=None)
        checker.live_changed(web1, before)
        assert changes.none()
        before = web1.live
        web1.change(admin="ready", endpoint=refusing)
        checker.live_changed(web1, before)
        assert (await changes.next())[1] == Change(True, "checks start anew")
        assert (await changes.next())[1].reason.startswith("first check failed: L4CON")


async def test_what_a_check_says_of_an_address_that_was_left_counts_for_nothing(refusing: Endpoint) -> None:
    """A check of the old one is in progress, and would have failed: it is a server that leaves without a word."""
    changes = Changes()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        web1 = Server("web1", Endpoint(*silent.getsockname()))
        draws = iter([0.0])
        checker = Checker(
            [web1], settings(inter=3600, health_check="http:/"), changes, random=lambda: next(draws, 1.0)
        )
        silent.setblocking(False)
        async with running(checker):
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            before = web1.live
            web1.change(endpoint=refusing)
            checker.live_changed(web1, before)
            connection.close()
            _, change = await changes.next()
            assert change.reason.startswith("first check failed: L4CON"), "and not: L7RSP"


async def test_a_server_whose_checks_are_off_stays_as_it_is(refusing: Endpoint) -> None:
    changes = Changes()
    spared, checked = Server("spared", refusing), Server("checked", refusing)
    spared.change(checked=False)
    checker = Checker([spared, checked], settings(), changes)
    async with running(checker):
        assert (await changes.next())[0] is checked
        assert (spared.up, checker.last(spared)) == (True, None)
        spared.change(checked=True)
        assert (await changes.next())[0] is spared


async def test_an_operator_says_what_it_is_until_checks_find_something_else(refusing: Endpoint) -> None:
    changes, web1 = Changes(), Server("web1", refusing)
    checker = Checker([web1], settings(), changes)
    async with running(checker):
        assert (await changes.next())[1].reason.startswith("first check failed")
        checker.force(web1, up=False)
        assert changes.none(), "it is down already"
        checker.force(web1, up=True)
        assert (await changes.next())[1] == Change(True, "an operator says so")
        assert (await changes.next())[1].reason.startswith("2 checks failed"), (
            "as of one that has passed before"
        )


async def test_every_result_is_told(bound: socket.socket, refusing: Endpoint) -> None:
    results: asyncio.Queue[tuple[str, bool | None]] = asyncio.Queue()
    checker = Checker(
        [Server("web1", refusing)],
        settings(),
        on_result=lambda server, result: results.put_nowait((server.name, result.passed)),
    )
    async with running(checker), asyncio.timeout(SECONDS):
        assert await results.get() == ("web1", False)
        bound.listen()
        while (await results.get()) != ("web1", True):
            pass


async def test_the_last_check_is_kept(refusing: Endpoint) -> None:
    changes, dead = Changes(), Server("dead", refusing)
    checker = Checker([dead], settings(), changes)
    assert checker.last(dead) is None
    async with running(checker):
        await changes.next()
        last = checker.last(dead)
    assert last is not None
    assert (last.code, last.detail) == ("L4CON", "connection refused")
    assert 0 <= last.seconds < SECONDS


async def test_failed_connections_bring_the_next_check_forward(
    bound: socket.socket, refusing: Endpoint
) -> None:
    """It would come in a minute; the test ends sooner."""
    bound.listen()
    checked = asyncio.Event()
    asked = 0

    def random() -> float:
        nonlocal asked
        asked += 1
        if asked == 2:  # once for the offset, and then after each check
            checked.set()
        return 0.0

    loop = asyncio.get_running_loop()
    changes, web1 = Changes(), Server("web1", refusing)
    checker = Checker(
        [web1],
        settings(inter=60.0, fastinter=0.01, fall=1),
        changes,
        random=random,
        error_limit=3,
        on_error="fastinter",
    )
    async with running(checker), asyncio.timeout(SECONDS):
        connection, _ = await loop.sock_accept(bound)
        connection.close()
        await checked.wait()
        bound.shutdown(socket.SHUT_RDWR)
        for _ in range(3):
            checker.connection_failed(web1, "L4CON connection refused")
        _, change = await changes.next()
    assert change.reason.startswith("1 check failed: L4CON connection refused")


async def test_failed_connections_alone_can_bring_a_server_down(
    bound: socket.socket, refusing: Endpoint
) -> None:
    bound.listen()
    changes, web1 = Changes(), Server("web1", refusing)
    checker = Checker([web1], settings(inter=60.0), changes, error_limit=2, on_error="mark-down")
    async with running(checker):
        await asyncio.sleep(0)
        checker.connection_failed(web1, "refused")
        checker.connection_made(web1)
        checker.connection_failed(web1, "refused")
        assert web1.up
        checker.connection_failed(web1, "refused")
        assert await changes.next() == (web1, Change(False, "2 connections failed: refused"))


async def test_a_server_is_checked_where_it_says(bound: socket.socket, refusing: Endpoint) -> None:
    """At the port, or at the address, of something that speaks for it; and clients' connections go elsewhere."""
    bound.listen()
    where = CheckOptions(addr=refusing.host, port=refusing.port)
    results: asyncio.Queue[tuple[Server, Result]] = asyncio.Queue()
    web1 = Server("web1", Endpoint("192.0.2.1", 9), options=where)
    async with running(Checker([web1], settings(), on_result=lambda *it: results.put_nowait(it))):
        async with asyncio.timeout(SECONDS):
            _, result = await results.get()
    assert result.code == "L4OK"
    assert CheckOptions(port=5).elsewhere(refusing) == Endpoint(refusing.host, 5)
    assert CheckOptions(addr="127.0.0.9").elsewhere(refusing) == Endpoint("127.0.0.9", refusing.port)


async def test_a_server_s_own_words_count_before_those_of_all(refusing: Endpoint) -> None:
    """All are checked once an hour, and down after three failures."""
    changes = Changes()
    own = CheckOptions(inter=0.01, fastinter=0.02, downinter=0.03, rise=4, fall=5)
    eager, lazy = Server("eager", refusing, options=own), Server("lazy", refusing)
    checker = Checker(
        [lazy, eager], settings(inter=3600.0, fall=3), changes, random=lambda: 0.5, known={eager}
    )
    async with running(checker):
        assert checker.level(eager) == 4 + 5 - 1
        server, change = await changes.next()
    assert (server, change.reason.split(":")[0]) == (eager, "5 checks failed")
    assert changes.none()


async def test_a_server_that_is_not_checked_stays_up_whatever_clients_meet(refusing: Endpoint) -> None:
    """As in HAProxy: nothing would bring it up again."""
    changes = Changes()
    spared, checked = Server("spared", refusing, checked=False), Server("checked", refusing)
    watched = [spared, checked]
    checker = Checker(watched, settings(inter=3600.0), changes, error_limit=1, on_error="mark-down")
    async with running(checker):
        await asyncio.sleep(0)
        for server in watched:
            checker.connection_failed(server, "refused")
        assert (await changes.next())[0] is checked
    assert spared.up


async def test_in_tls_the_name_that_people_know_is_asked_for(refusing: Endpoint) -> None:
    """Its address is from a resolver; of what the handshake begins with, the name is in the clear."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        web1 = Server("web1", Endpoint("web1.internal", 443))
        web1.change(endpoint=Endpoint(*listener.getsockname()))
        loop = asyncio.get_running_loop()
        async with running(Checker([web1], settings(check_ssl=True))), asyncio.timeout(SECONDS):
            connection, _ = await loop.sock_accept(listener)
            with connection:
                assert b"web1.internal" in await loop.sock_recv(connection, 16384)
