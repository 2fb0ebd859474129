"""The socket: what is sent on it as the RFC wants, and what it can and cannot be opened on."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from elections import PATIENCE_SECONDS, free_udp_port

from scaleup.errors import StartupError
from scaleup.net.sockets import IP_RECVTTL
from scaleup.vrrp import network as network_module
from scaleup.vrrp.network import MAX_AGE_SECONDS, MAX_DATAGRAM_BYTES, Datagram, UnicastUdp

A, B = ip_address("127.0.61.1"), ip_address("127.0.61.2")
LOOPBACK6 = ip_address("::1")


@pytest.fixture
def port() -> int:
    return free_udp_port()


@pytest.fixture
def pair(port: int) -> Iterator[tuple[UnicastUdp, UnicastUdp]]:
    with (
        contextlib.closing(UnicastUdp(A, port, [B])) as a,
        contextlib.closing(UnicastUdp(B, port, [A])) as b,
    ):
        yield a, b


def received(network: UnicastUdp) -> list[Datagram]:
    """A batch, once there is something: a busy kernel hands even loopback's datagrams over later."""
    assert select.select([network], [], [], PATIENCE_SECONDS)[0]
    return list(network.receive())


def test_what_one_sends_the_other_receives_with_its_ttl(pair: tuple[UnicastUdp, UnicastUdp]) -> None:
    a, b = pair
    assert a.send(lambda peer: b"to " + str(peer).encode()) == []
    assert received(b) == [Datagram(b"to 127.0.61.2", A, B, 255)]
    assert list(b.receive()) == []


@pytest.mark.parametrize(("wall_ns", "age"), [(0, 0.0), (10**18, MAX_AGE_SECONDS), (-(10**18), 0.0)])
def test_what_has_arrived_has_an_age(
    pair: tuple[UnicastUdp, UnicastUdp], monkeypatch: pytest.MonkeyPatch, wall_ns: int, age: float
) -> None:
    """By the wall clock, which may be set meanwhile: never less than none, nor more than is harmless."""
    a, b = pair
    a.send(lambda peer: b"hello")
    assert select.select([b], [], [], PATIENCE_SECONDS)[0]
    clock = time.clock_gettime_ns
    monkeypatch.setattr(network_module.time, "clock_gettime_ns", lambda which: clock(which) + wall_ns)
    (datagram,) = b.receive()
    assert 0 < datagram.age <= MAX_AGE_SECONDS if wall_ns == 0 else datagram.age == age


def test_ipv6_has_a_hop_limit(port: int) -> None:
    with contextlib.closing(UnicastUdp(LOOPBACK6, port, [LOOPBACK6])) as network:
        assert network.send(lambda peer: b"hello") == []
        assert received(network) == [Datagram(b"hello", LOOPBACK6, LOOPBACK6, 255)]


def test_it_is_sent_as_routing_traffic(port: int) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
        contextlib.closing(UnicastUdp(A, port, [B])) as network,
    ):
        listener.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        listener.settimeout(PATIENCE_SECONDS)
        listener.bind((str(B), port))
        network.send(lambda peer: b"")
        _, ancillary, _, sender = listener.recvmsg(1, 256)
    assert {kind: value[0] for _, kind, value in ancillary} == {socket.IP_TTL: 255, socket.IP_TOS: 0xC0}
    assert sender == (str(A), port)


def test_a_peer_that_cannot_be_reached_is_named_and_the_others_are_told(port: int) -> None:
    nowhere = ip_address("255.255.255.255")
    with (
        contextlib.closing(UnicastUdp(A, port, [nowhere, B])) as a,
        contextlib.closing(UnicastUdp(B, port, [A])) as b,
    ):
        ((peer, error),) = a.send(lambda peer: b"hello")
        assert (peer, error.strerror) == (nowhere, "Permission denied")
        assert [datagram.data for datagram in received(b)] == [b"hello"]


def test_a_peer_that_does_not_run_is_no_error(pair: tuple[UnicastUdp, UnicastUdp]) -> None:
    a, b = pair
    b.close()
    for _ in range(3):  # the kernel answers with ICMP port unreachable
        assert a.send(lambda peer: b"hello") == []
    assert list(a.receive()) == []


def test_the_longest_advertisement_comes_whole(pair: tuple[UnicastUdp, UnicastUdp]) -> None:
    a, b = pair
    a.send(lambda peer: bytes(MAX_DATAGRAM_BYTES))
    a.send(lambda peer: b"")
    assert [len(datagram.data) for datagram in b.receive()] == [MAX_DATAGRAM_BYTES, 0]


def test_no_more_than_a_batch_is_read_at_once(
    pair: tuple[UnicastUdp, UnicastUdp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "MAX_DRAIN", 3)
    a, b = pair
    for _ in range(5):
        a.send(lambda peer: b"")
    assert [len(list(b.receive())) for _ in range(3)] == [3, 2, 0]


def test_a_socket_holds_fewer_advertisements_than_a_batch_by_default(
    pair: tuple[UnicastUdp, UnicastUdp],
) -> None:
    """What MAX_DRAIN says of itself: a late reader reads in one batch all that waited for it."""
    a, b = pair
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        if probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 212_992:
            pytest.skip("net.core.rmem_default was raised")
    for _ in range(1000):
        a.send(lambda peer: bytes(40))
    assert 0 < len(list(b.receive())) < network_module.MAX_DRAIN


def test_a_port_in_use(pair: tuple[UnicastUdp, UnicastUdp], port: int) -> None:
    with pytest.raises(StartupError, match=rf"--source 127.0.61.1, UDP port {port}: .*in use; .*--vrrp-port"):
        UnicastUdp(A, port, [B])


def test_an_address_of_another_host(port: int) -> None:
    with pytest.raises(StartupError, match=r"--source 192\.0\.2\.1, .*no interface of this host"):
        UnicastUdp(ip_address("192.0.2.1"), port, [B])
