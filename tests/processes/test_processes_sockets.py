"""The listening sockets of several workers: on loopback, with the kernel's own view of them."""

import socket
import struct

import pytest

from bench.ports import free_port
from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import BACKLOG, endpoint_of, listening, stop_listening
from scaleup.processes.sockets import Sockets

ANY = Endpoint("127.0.0.1", 0)
OTHER = Endpoint("127.0.0.2", 0)


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


def test_a_socket_for_each_worker_all_on_the_port_that_the_kernel_chose(sockets: Sockets) -> None:
    opened = sockets.open([ANY], 3)
    assert len({endpoint_of(sock) for sock in opened}) == 1
    rows = [sockets.of_worker([ANY], row, 3) for row in range(3)]
    assert sorted(map(len, rows)) == [1, 1, 1]
    sockets.close_all()
    assert all(sock.fileno() < 0 for sock in opened)


def test_the_backlog_is_ours(sockets: Sockets) -> None:
    """With a small one, a burst of connections loses SYNs, and each of those waits a second for the next."""
    (sock,) = sockets.open([ANY], 1)
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (backlog,) = struct.unpack_from("I", info, 28)  # tcpi_sacked: of a listener, its backlog
    assert 100 < backlog <= BACKLOG  # what Linux allows can be less, but by default is not
    sockets.close_all()


def test_fewer_workers_share_the_sockets_of_those_that_are_no_more(sockets: Sockets) -> None:
    opened = sockets.open([ANY], 3)
    assert sockets.open([ANY], 2) == []
    rows = [sockets.of_worker([ANY], row, 2) for row in range(2)]
    assert sorted(map(len, rows)) == [1, 2]
    assert {*rows[0], *rows[1]} == set(opened)
    sockets.close_all()


def test_more_workers_get_more_sockets_on_the_same_port(sockets: Sockets) -> None:
    first, second = sockets.open([ANY], 1), sockets.open([ANY], 2)
    assert len(first) == len(second) == 1
    assert endpoint_of(first[0]) == endpoint_of(second[0])
    sockets.close_all()


def test_a_port_in_use_is_told_in_one_line_and_nothing_is_opened(sockets: Sockets) -> None:
    taken = listening(ANY, "--listen")
    with pytest.raises(StartupError, match=f"--listen {endpoint_of(taken)}: Address already in use"):
        sockets.open([OTHER, endpoint_of(taken)], 2)
    assert sockets.leave([]) == []
    taken.close()


def test_an_address_that_is_left_and_comes_back_listens_again(sockets: Sockets) -> None:
    """Also while its old workers hold the sockets that they have shut down."""
    sockets.open([ANY], 2)
    where = Endpoint(OTHER.host, free_port(OTHER.host))
    handed = [sock.dup() for sock in sockets.open([where], 2)]
    assert sockets.leave([ANY]) == [where]
    for sock in handed:
        stop_listening(sock)
    again = sockets.open([ANY, where], 2)
    assert [endpoint_of(sock) for sock in again] == [where, where]
    socket.create_connection((where.host, where.port), 20).close()
    for sock in handed:
        sock.close()
    sockets.close_all()
