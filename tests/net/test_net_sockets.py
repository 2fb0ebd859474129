"""Listening, ceasing to listen, and dialling, on real sockets. The coroutines are run on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.ports import free_port
from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import (
    BACKLOG,
    bound,
    close_with_reset,
    connect,
    dialling,
    endpoint_of,
    is_ours,
    listening,
    resolve,
    stop_listening,
)

ANYWHERE = Endpoint("127.0.0.1", 0)


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")


@contextlib.contextmanager
def client_of(sock: socket.socket) -> Iterator[socket.socket]:
    """A blocking connection to a listening socket."""
    endpoint = endpoint_of(sock)
    with socket.create_connection((endpoint.host, endpoint.port), timeout=5) as client:
        yield client


def is_refused(endpoint: Endpoint) -> bool:
    try:
        socket.create_connection((endpoint.host, endpoint.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def serves(sock: socket.socket) -> bool:
    """Whether a connection is accepted and carries bytes both ways."""
    with client_of(sock) as client:
        sock.setblocking(True)
        accepted, _ = sock.accept()
        sock.setblocking(False)
        with accepted:
            accepted.settimeout(5)
            accepted.sendall(b"hello")
            client.sendall(b"you too")
            return client.recv(9) == b"hello" and accepted.recv(9) == b"you too"


# ----- opening ----------------------------------------------------------------------------------------


def test_a_bound_socket_refuses_until_it_listens() -> None:
    with bound(ANYWHERE, "--listen") as sock:
        assert is_refused(endpoint_of(sock))
        sock.listen(BACKLOG)
        assert serves(sock)


def test_a_listening_socket() -> None:
    with listening(ANYWHERE, "--listen") as sock:
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert endpoint_of(sock).port > 0
        assert serves(sock)


def test_accepted_sockets_send_at_once() -> None:
    with listening(ANYWHERE, "--listen") as sock, client_of(sock):
        sock.setblocking(True)
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_can_be_taken_again_while_old_connections_linger() -> None:
    """We close first, so our side is in TIME_WAIT (RFC 9293 §3.6): a restart must not wait for that."""
    with listening(ANYWHERE, "--listen") as sock:
        where = endpoint_of(sock)
        with client_of(sock) as client:
            sock.setblocking(True)
            accepted, _ = sock.accept()
            accepted.close()
            assert client.recv(1) == b""
    listening(where, "--listen").close()


def test_several_sockets_share_an_address_if_all_say_so() -> None:
    with listening(ANYWHERE, "--listen", reuse_port=True) as first:
        listening(endpoint_of(first), "--listen", reuse_port=True).close()
        with pytest.raises(StartupError):
            listening(endpoint_of(first), "--listen")


@pytest.mark.parametrize(
    ("host", "free"), [("192.0.2.1", True), pytest.param("2001:db8::1", True, marks=needs_ipv6)]
)
def test_a_standby_binds_an_address_that_it_does_not_have(host: str, free: bool) -> None:
    with bound(Endpoint(host, 0), "--listen", free=free) as sock:
        assert endpoint_of(sock).host == host
        sock.listen()


def test_whose_address_it_is() -> None:
    assert is_ours(ANYWHERE)
    assert is_ours(Endpoint("0.0.0.0", 80))
    assert not is_ours(Endpoint("192.0.2.1", 80))


@needs_ipv6
def test_ipv6_is_only_ipv6() -> None:
    """So that 0.0.0.0 and [::] can be given side by side."""
    with listening(Endpoint("::1", 0), "--listen") as sock:
        assert endpoint_of(sock).host == "::1"
        assert serves(sock)
    port = free_port("0.0.0.0")  # one that the kernel gave [::] could be a client's of 0.0.0.0
    with listening(Endpoint("::", port), "--listen"):
        listening(Endpoint("0.0.0.0", port), "--listen").close()


def test_a_port_in_use() -> None:
    with listening(ANYWHERE, "--listen") as sock:
        where = endpoint_of(sock)
        for again in (listening, bound):
            with pytest.raises(StartupError) as caught:
                again(where, "--listen")
            cure = "stop what uses it, or choose another port"
            assert str(caught.value) == f"--listen {where}: Address already in use; {cure}"
            assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        (
            Endpoint("192.0.2.1", 80),
            "Cannot assign requested address; no interface of this host has the address",
        ),
        (Endpoint("no.such.name.invalid", 80), ""),  # the resolver's words
    ],
)
def test_an_address_that_is_not_ours(endpoint: Endpoint, said: str) -> None:
    with pytest.raises(StartupError) as caught:
        listening(endpoint, "--admin")
    assert str(caught.value).startswith(f"--admin {endpoint}: {said}")


def test_a_port_that_takes_a_privilege() -> None:
    """In a child, because it gives up root for good."""
    program = """if True:
        import os
        from scaleup.errors import StartupError
        from scaleup.net.sockets import Endpoint, listening

        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            listening(Endpoint("127.0.0.1", 1), "--listen")
        except StartupError as error:
            print(error, end="")
    """
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("here, ports take no privilege")
    said = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=20, check=True
    ).stdout
    cure = b"ports below 1024 need root or CAP_NET_BIND_SERVICE"
    assert said == b"--listen 127.0.0.1:1: Permission denied; " + cure


# ----- ceasing to listen ------------------------------------------------------------------------------


def test_stop_listening_refuses_and_listen_undoes_it() -> None:
    with listening(ANYWHERE, "--listen") as sock:
        for _ in range(3):
            assert serves(sock)
            stop_listening(sock)
            assert is_refused(endpoint_of(sock))
            stop_listening(sock)  # twice is no harm
            sock.listen(BACKLOG)
        assert serves(sock)


def test_stop_listening_leaves_a_socket_alone_that_never_listened() -> None:
    """Linux would remember the shutdown, and connections would be born shut down; see its docstring."""
    with bound(ANYWHERE, "--listen") as sock:
        stop_listening(sock)
        sock.listen(BACKLOG)
        assert serves(sock)


def test_the_trap_that_stop_listening_avoids_is_there() -> None:
    """If this fails, the kernel has changed, and the check in stop_listening can go."""
    with bound(ANYWHERE, "--listen") as sock:
        with pytest.raises(OSError, match="not connected"):
            sock.shutdown(socket.SHUT_RDWR)
        sock.listen(BACKLOG)
        with pytest.raises(BrokenPipeError):
            serves(sock)


def test_stop_listening_resets_those_whom_nobody_accepted() -> None:
    with listening(ANYWHERE, "--listen") as sock, client_of(sock) as waiting:
        stop_listening(sock)
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)


def test_stop_listening_leaves_accepted_connections_alone() -> None:
    with listening(ANYWHERE, "--listen") as sock, client_of(sock) as client:
        sock.setblocking(True)
        accepted, _ = sock.accept()
        with accepted:
            stop_listening(sock)
            accepted.sendall(b"x")
            assert client.recv(1) == b"x"


def test_stop_listening_acts_for_a_duplicate() -> None:
    with listening(ANYWHERE, "--listen") as sock, sock.dup() as duplicate:
        stop_listening(duplicate)
        assert is_refused(endpoint_of(sock))
        with pytest.raises(OSError, match="Invalid argument") as caught:
            sock.accept()
        assert caught.value.errno == errno.EINVAL
        sock.listen(BACKLOG)
        assert serves(duplicate)


def test_stop_listening_acts_for_the_socket_of_another_process() -> None:
    """As the vrrp process does with the sockets of its node."""
    program = """if True:
        import socket, sys
        from scaleup.net.sockets import stop_listening

        with socket.socket(fileno=int(sys.argv[1])) as sock:
            stop_listening(sock)
    """
    with listening(ANYWHERE, "--listen") as sock:
        number = sock.fileno()
        subprocess.run(
            [sys.executable, "-c", program, str(number)], pass_fds=[number], timeout=20, check=True
        )
        assert is_refused(endpoint_of(sock))
        sock.listen(BACKLOG)
        assert serves(sock)


def test_to_close_with_reset() -> None:
    with listening(ANYWHERE, "--listen") as sock, client_of(sock) as client:
        sock.setblocking(True)
        close_with_reset(sock.accept()[0])
        with pytest.raises(ConnectionResetError):
            client.recv(1)


# ----- dialling (on both loops) -----------------------------------------------------------------------


async def test_connect() -> None:
    with listening(ANYWHERE, "--listen") as listener, dialling(endpoint_of(listener)) as sock:
        await connect(sock, endpoint_of(listener))
        assert sock.getpeername() == listener.getsockname()
        assert not is_watched(sock)


async def test_connect_from_an_address_of_our_own() -> None:
    with listening(ANYWHERE, "--listen") as listener, dialling(endpoint_of(listener), "127.0.0.77") as sock:
        assert sock.getsockname() == ("127.0.0.77", 0)  # the port is left to connect()
        await connect(sock, endpoint_of(listener))
        assert sock.getsockname()[0] == "127.0.0.77"


@needs_ipv6
async def test_connect_over_ipv6_from_an_address_of_our_own() -> None:
    with (
        listening(Endpoint("::1", 0), "--listen") as listener,
        dialling(endpoint_of(listener), "::1") as sock,
    ):
        await connect(sock, endpoint_of(listener))
        assert sock.getpeername() == listener.getsockname()


def test_dialling_from_an_address_that_is_not_ours() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        dialling(ANYWHERE, "192.0.2.1")


async def test_connect_to_where_nobody_listens() -> None:
    with bound(ANYWHERE, "--listen") as silent, dialling(ANYWHERE) as sock:
        with pytest.raises(ConnectionRefusedError):
            await connect(sock, endpoint_of(silent))
        assert not is_watched(sock)


async def test_connect_that_is_decided_at_once() -> None:
    """UDP: there is nothing to wait for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await connect(sock, Endpoint("127.0.0.1", 9))
        assert sock.getpeername() == ("127.0.0.1", 9)


async def test_connect_that_fails_at_once() -> None:
    with dialling(ANYWHERE) as sock, pytest.raises(OSError, match=r".+"):
        await connect(sock, Endpoint("255.255.255.255", 9))


@pytest.fixture
def full() -> Iterator[Endpoint]:
    """Listens, and its queue is full: the kernel drops a further SYN, and connecting hangs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bound(ANYWHERE, "--listen"))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(dialling(ANYWHERE))
            client.connect_ex((endpoint_of(listener).host, endpoint_of(listener).port))
        yield endpoint_of(listener)


async def test_a_connect_that_takes_too_long_leaves_nothing_behind(full: Endpoint) -> None:
    with dialling(full) as sock:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connect(sock, full)
        assert not is_watched(sock)


async def test_a_connect_that_is_cancelled_leaves_nothing_behind(full: Endpoint) -> None:
    with dialling(full) as sock:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(connect(sock, full))
            await asyncio.sleep(0)
            assert is_watched(sock)
            task.cancel()
        assert not is_watched(sock)


async def test_a_connect_whose_decision_and_cancellation_come_together() -> None:
    with bound(ANYWHERE, "--listen") as silent, dialling(ANYWHERE) as sock:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(connect(sock, endpoint_of(silent)))
            group.create_task(_cancel_soon(task))
        assert not is_watched(sock)


async def _cancel_soon(task: asyncio.Task[None]) -> None:
    await asyncio.sleep(0)
    task.cancel()


def is_watched(sock: socket.socket) -> bool:
    """Whether the loop has a reader or a writer of it; uvloop then holds a reference to the socket."""
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    held: int = sock._io_refs  # type: ignore[attr-defined]
    return held > 0 if selector is None else sock.fileno() in selector.get_map()


async def test_resolve() -> None:
    assert await resolve(Endpoint("127.0.0.1", 80)) == Endpoint("127.0.0.1", 80)
    found = await resolve(Endpoint("localhost", 80))
    assert found.address is not None
    assert found.address.is_loopback
    assert found.port == 80


async def test_a_name_that_nobody_has() -> None:
    with pytest.raises(OSError, match=r".+"):
        await resolve(Endpoint("no.such.name.invalid", 80))
