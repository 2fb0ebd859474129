"""The parts of an election put together as its settings say."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import ip_address

from scaleup.errors import ConfigurationError, StartupError
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import is_ours
from scaleup.vrrp.announce import Schedule
from scaleup.vrrp.announcer import Announcer
from scaleup.vrrp.arrangement import Arrangement
from scaleup.vrrp.daemon import Daemon
from scaleup.vrrp.decisions import Notify, SetPriority
from scaleup.vrrp.election import Election
from scaleup.vrrp.instance import Instance
from scaleup.vrrp.interface import primary_address
from scaleup.vrrp.kernel import KernelOwner, Placed, not_its_own
from scaleup.vrrp.network import Network, UnicastUdp
from scaleup.vrrp.owner import ListenerOwner, Owner, Owners
from scaleup.vrrp.packet import Address
from scaleup.vrrp.pcap import Recorded
from scaleup.vrrp.rawip import RawIp
from scaleup.vrrp.renewals import Renewals
from scaleup.vrrp.router import OWNER

log = logging.getLogger(__name__)


@contextlib.contextmanager
def assembled(
    opener: Opener,
    elections: Sequence[Election],
    arrangement: Arrangement,
    on_role: Callable[[str, str, str], None],
    on_decision: Callable[[Notify | SetPriority], None] = lambda decision: None,
) -> Iterator[Daemon]:
    """A daemon, yet to be started; at the end it is stopped, and all that it has is closed.

    Made inside the running loop. Raises as `Opener.instances`.
    """

    def reopen(instance: Instance) -> None:
        opener.reopen(instance, [it.election for it in daemon.instances.values()])

    daemon = Daemon(opener.instances(elections), arrangement, on_role, on_decision, reopen)
    try:
        yield daemon
    finally:
        daemon.stop()
        for instance in daemon.instances.values():
            instance.close()


class Opener:
    """Opens what virtual routers need. `sockets`: to listen on while Active."""

    def __init__(self, sockets: Sequence[socket.socket] = ()) -> None:
        self._sockets = sockets
        self._announcer, self._renewals = Announcer(), Renewals()

    def instances(self, elections: Sequence[Election], virtual: Collection[Address] = ()) -> list[Instance]:
        """One for each, or none. `virtual`: further addresses that are virtual ones, though an interface may
        have them.

        Raises StartupError, or ConfigurationError when a key file has gone.
        """
        virtual = {*virtual, *virtual_addresses(elections)}
        with _sockets_for_it(), contextlib.ExitStack() as stack:
            owners = []
            for election in elections:
                # Before any network: they remove what a crash has left, lest it passes for an own address.
                owners.append(self._owner(election))
                stack.callback(owners[-1].close)
            instances = []
            for election, owner in zip(elections, owners, strict=True):
                network = open_network(election, virtual)
                stack.callback(network.close)
                try:
                    instances.append(Instance(election, network, owner))
                except ValueError as error:
                    raise ConfigurationError(str(error)) from None
            stack.pop_all()
        return instances

    def reopen(self, instance: Instance, elections: Sequence[Election]) -> None:
        """After its interface was removed, with what has its name now. `elections`: of all routers here.

        A UDP socket has an address, and no interface: it goes on. Raises StartupError; then nothing has changed.
        """
        election, network = instance.election, instance.network
        with _sockets_for_it(), contextlib.ExitStack() as stack:
            owner = self._owner(election)
            stack.callback(owner.close)
            if election.raw:
                network = open_network(election, virtual_addresses(elections))
            stack.pop_all()
        instance.reopened(network, owner)

    def close(self) -> None:
        """When all that it opened is closed."""
        self._announcer.close()
        self._renewals.shutdown()

    def _owner(self, election: Election) -> Owner:
        listeners = ListenerOwner(self._sockets)
        owned = election.priority == OWNER
        if election.interface is None:
            for address in election.addresses if owned else ():
                if not is_ours(Endpoint(str(address), 0)):
                    raise not_its_own(address)
            return listeners
        interface = election.interface
        placed = [Placed(virtual.interface, virtual.device or interface) for virtual in election.vip]
        schedule = Schedule(election.habits())
        kernel = KernelOwner(placed, schedule, self._announcer, self._renewals, [interface], its_own=owned)
        return Owners([listeners, kernel])


@contextlib.contextmanager
def _sockets_for_it() -> Iterator[None]:
    """A netlink socket, too, may be one more than there are descriptors."""
    try:
        yield
    except OSError as error:
        raise StartupError(f"the sockets of the election: {error.strerror}") from None


def virtual_addresses(elections: Iterable[Election]) -> set[Address]:
    """Those that come and go: of priority 255 they are the host's own."""
    return {address for election in elections if election.priority != OWNER for address in election.addresses}


def open_network(election: Election, virtual: Collection[Address]) -> Network:
    """`virtual`: addresses that are not the interface's own, even if it has them."""
    peers = [ip_address(str(peer)) for peer in election.peer]
    if election.raw:
        assert election.interface is not None  # the settings saw to it
        if election.source is not None:
            source = ip_address(str(election.source))
        else:
            source = primary_address(election.interface, election.addresses[0].version, virtual)
        network: Network = RawIp(election.interface, source, election.vrid, peers or None)
        how = f"to {len(peers)} peers" if peers else "by multicast"
        log.info("VRID %d: advertising on %s from %s %s", election.vrid, election.interface, source, how)
    else:
        network = UnicastUdp(ip_address(str(election.source)), election.vrrp_port, peers)
    if election.pcap is None:
        return network
    try:
        return Recorded(network, election.pcap, time.time)
    except BaseException:
        network.close()
        raise
