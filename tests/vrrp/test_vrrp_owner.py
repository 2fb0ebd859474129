"""The contract of an owner, for each implementation; and what listening and not listening mean to clients."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_interface

import pytest
from lan import DEVICE, Lan, lan_marks

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound
from scaleup.vrrp import kernel as kernel_module
from scaleup.vrrp.announce import Habits, Schedule
from scaleup.vrrp.announcer import Announcer
from scaleup.vrrp.kernel import KernelOwner, Placed
from scaleup.vrrp.owner import ListenerOwner, Owner, Owners
from scaleup.vrrp.renewals import Renewals

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


@dataclass(frozen=True)
class World:
    """Where an owner is tested; `taken` asks for each thing that it owns, from outside of it."""

    owner: Owner
    taken: Callable[[], list[bool]]


def listener(sockets: list[socket.socket]) -> World:
    return World(ListenerOwner(sockets), lambda: [connects(sock) for sock in sockets])


def kernel(lan: Lan, announcer: Announcer, renewals: Renewals) -> World:
    host = lan.host("a")
    host.ip("link", "add", "eth1", "up", "type", "bridge")
    placed = [Placed(ip_interface("10.77.0.100/24"), DEVICE), Placed(ip_interface("10.78.0.100/24"), "eth1")]
    with host.entered():
        owner = KernelOwner(placed, Schedule(Habits()), announcer, renewals)
    return World(owner, lambda: [str(each.interface.ip) in host.addresses(each.device) for each in placed])


@pytest.fixture(
    params=["listener", pytest.param("kernel", marks=lan_marks()), pytest.param("both", marks=lan_marks())]
)
async def world(
    request: pytest.FixtureRequest, sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(
        kernel_module, "LIFETIME_SECONDS", 60
    )  # nothing is renewed: these tests let no loop run
    with contextlib.ExitStack() as stack:
        worlds = [listener(sockets)] if request.param != "kernel" else []
        if request.param != "listener":
            announcer = stack.enter_context(contextlib.closing(Announcer()))
            renewals = stack.enter_context(Renewals())
            worlds.append(kernel(stack.enter_context(Lan("a")), announcer, renewals))
        stack.callback(worlds[-1].owner.close)
        if len(worlds) == 1:
            yield worlds[0]
        else:
            first, second = worlds
            owner = Owners([first.owner, second.owner])
            yield World(owner, lambda: first.taken() + second.taken())


async def test_it_may_be_taken_and_released_in_any_order_and_often(world: World) -> None:
    world.owner.release()
    world.owner.release()
    for _ in range(5):
        assert not any(world.taken())
        world.owner.announce()
        world.owner.remind()
        world.owner.take()
        world.owner.take()
        world.owner.announce()
        world.owner.remind()
        assert all(world.taken())
        world.owner.release()
        world.owner.release()
    assert not any(world.taken())


async def test_its_end_releases_what_was_taken(world: World) -> None:
    world.owner.take()
    world.owner.close()
    assert not any(world.taken())


def test_without_anything_to_own_only_the_election_is_run() -> None:
    owner = ListenerOwner(())
    owner.release()
    owner.take()
    owner.announce()
    owner.remind()
    owner.close()


def connects(sock: socket.socket) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect(sock.getsockname())
        except ConnectionRefusedError:
            return False
        return True


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
