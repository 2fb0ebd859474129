"""The contract of an owner, for each implementation; and what listening and not listening mean to clients."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound
from scaleup.vrrp.owner import ListenerOwner, Owner

HOST = "127.0.62.100"


def unused() -> Endpoint:
    """A port by number: one that the kernel chose would be given up with the address."""
    with bound(Endpoint(HOST, 0), "--listen") as sock:
        return Endpoint(*sock.getsockname())


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Bound, and not listening."""
    opened = [bound(unused(), "--listen", reuse_port=True) for _ in range(2)]
    yield opened
    for sock in opened:
        sock.close()


@pytest.fixture(params=["two sockets", "no socket"])
def owner(request: pytest.FixtureRequest, sockets: list[socket.socket]) -> Owner:
    return ListenerOwner(sockets if request.param == "two sockets" else ())


def connects(sock: socket.socket) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect(sock.getsockname())
        except ConnectionRefusedError:
            return False
        return True


def test_it_may_be_taken_and_released_in_any_order_and_often(owner: Owner) -> None:
    owner.release()
    owner.release()
    for _ in range(20):
        owner.take()
        owner.take()
        owner.release()
        owner.release()


def test_owning_means_listening_again_and_again(sockets: list[socket.socket]) -> None:
    owner = ListenerOwner(sockets)
    for _ in range(20):
        assert [connects(sock) for sock in sockets] == [False, False]
        owner.take()
        assert [connects(sock) for sock in sockets] == [True, True]
        owner.release()


def test_connections_live_after_the_address_came_back(sockets: list[socket.socket]) -> None:
    """A shutdown that Linux remembers would cut them at birth (see net.sockets.stop_listening)."""
    owner = ListenerOwner(sockets)
    owner.release()
    owner.take()
    owner.release()
    owner.release()
    owner.take()
    with socket.socket() as client:
        client.settimeout(5)
        client.connect(sockets[0].getsockname())
        sockets[0].setblocking(True)
        accepted, _ = sockets[0].accept()
        with accepted:
            accepted.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_whoever_shares_the_socket_gives_it_up_too(sockets: list[socket.socket]) -> None:
    ListenerOwner(sockets).take()
    with socket.socket(fileno=socket.dup(sockets[0].fileno())) as shared:
        ListenerOwner([shared]).release()
    assert [connects(sock) for sock in sockets] == [False, True]


def test_clients_that_nobody_had_accepted_are_reset(sockets: list[socket.socket]) -> None:
    owner = ListenerOwner(sockets)
    owner.take()
    with socket.socket() as client:
        client.settimeout(5)
        client.connect(sockets[0].getsockname())
        owner.release()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_it_takes_everything_or_nothing(sockets: list[socket.socket]) -> None:
    mine, contested = sockets[0], bound(unused(), "--listen")
    with contested, bound(Endpoint(*contested.getsockname()), "--listen") as foreign:
        foreign.listen()
        owner = ListenerOwner([mine, contested])
        with pytest.raises(OSError, match="in use"):
            owner.take()
        assert not connects(mine)
        foreign.close()
        owner.take()
        assert connects(mine)
        assert connects(contested)


def test_a_socket_that_another_holder_has_given_up_is_no_obstacle(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a drain the worker and the vrrp process may both be at it: the slower one gets ENOTCONN."""
    owner = ListenerOwner(sockets)
    owner.take()

    def too_late(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_RDWR)
        sock.shutdown(socket.SHUT_RDWR)

    monkeypatch.setattr("scaleup.vrrp.owner.stop_listening", too_late)
    owner.release()
    assert [connects(sock) for sock in sockets] == [False, False]
