"""The parts of an election put together as its settings say."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address

from scaleup.errors import ConfigurationError
from scaleup.vrrp.announce import Schedule
from scaleup.vrrp.daemon import Daemon
from scaleup.vrrp.decisions import Notify, SetPriority
from scaleup.vrrp.instance import Instance
from scaleup.vrrp.interface import primary_address
from scaleup.vrrp.kernel import KernelOwner, Placed
from scaleup.vrrp.network import Network, UnicastUdp
from scaleup.vrrp.owner import ListenerOwner, Owner, Owners
from scaleup.vrrp.pcap import Recorded
from scaleup.vrrp.rawip import RawIp
from scaleup.vrrp.settings import Election
from scaleup.vrrp.tracking import TrackSettings

log = logging.getLogger(__name__)


@contextlib.contextmanager
def assembled(
    election: Election,
    sockets: Sequence[socket.socket],
    on_role: Callable[[str, str, str], None],
    on_decision: Callable[[Notify | SetPriority], None] = lambda decision: None,
    tracks: Sequence[TrackSettings] = (),
) -> Iterator[Daemon]:
    """A daemon with one router, yet to be started; it is stopped at the end. `sockets`: to listen on while Active.

    Made inside the running loop. Raises StartupError, or ConfigurationError when a key file has gone.
    """
    with contextlib.ExitStack() as stack:
        owner = open_owner(election, sockets)  # first: it removes addresses that are not the interface's own
        stack.callback(owner.close)
        network = open_network(election)
        stack.callback(network.close)
        try:
            instance, arrangement = Instance(election, network, owner), election.arrangement(tracks)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        daemon = Daemon([instance], arrangement, on_role, on_decision)
        stack.callback(daemon.stop)
        yield daemon


def open_owner(election: Election, sockets: Sequence[socket.socket]) -> Owner:
    listeners = ListenerOwner(sockets)
    if election.interface is None:
        return listeners
    interface = election.interface
    placed = [Placed(virtual.interface, virtual.device or interface) for virtual in election.vip]
    return Owners([listeners, KernelOwner(placed, Schedule(election.habits()), [interface])])


def open_network(election: Election) -> Network:
    peers = [ip_address(str(peer)) for peer in election.peer]
    if election.raw:
        assert election.interface is not None  # the settings saw to it
        virtual = election.addresses
        if election.source is not None:
            source = ip_address(str(election.source))
        else:
            source = primary_address(election.interface, virtual[0].version, virtual)
        network: Network = RawIp(election.interface, source, election.vrid, peers or None)
        how = f"to {len(peers)} peers" if peers else "by multicast"
        log.info("advertising on %s from %s %s", election.interface, source, how)
    else:
        network = UnicastUdp(ip_address(str(election.source)), election.vrrp_port, peers)
    if election.pcap is None:
        return network
    try:
        return Recorded(network, election.pcap, time.time)
    except BaseException:
        network.close()
        raise
