"""The kernel as the owner of addresses, on a host of its own: what it has, what it says, and who meddles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address, ip_interface

import pytest
from elections import until
from lan import DEVICE, Host, Lan, lan_marks
from scapy.layers import inet6, l2

from scaleup.errors import StartupError
from scaleup.vrrp import kernel as kernel_module
from scaleup.vrrp.announce import Habits, Schedule
from scaleup.vrrp.announcer import Announcer
from scaleup.vrrp.interface import index_of, primary_address
from scaleup.vrrp.kernel import LIFETIME_SECONDS, KernelOwner, Placed
from scaleup.vrrp.owner import GONE
from scaleup.vrrp.renewals import Renewals
from scaleup.vrrp.rtnetlink import AddressEvent, Rtnetlink

pytestmark = lan_marks()

VIP, VIP6 = "10.77.0.100", "fe80::100"
LONG_SECONDS = 60
FRAMES_SECONDS = 20.0


class Judge:
    """Remembers what an owner says of its fitness."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def fault(self, reason: str, by: str) -> None:
        self.said.append((by, reason))

    def recover(self, by: str) -> None:
        self.said.append((by, "recovered"))


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("a", "client") as lan:
        yield lan


@pytest.fixture
def host(lan: Lan) -> Host:
    return lan.host("a")


@pytest.fixture(autouse=True)
def outlives_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy for LIFETIME_SECONDS costs the address, and rightly so: few tests are about that."""
    monkeypatch.setattr(kernel_module, "LIFETIME_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(kernel_module, "NOT_RENEWED_SECONDS", LONG_SECONDS - 0.25)


@pytest.fixture
def short_lived(outlives_a_pause: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "LIFETIME_SECONDS", LIFETIME_SECONDS)


ANNOUNCERS: list[Announcer] = []
RENEWALS: list[Renewals] = []


@pytest.fixture(autouse=True)
def _announcers_are_closed() -> Iterator[None]:
    yield
    while ANNOUNCERS:
        ANNOUNCERS.pop().close()
        RENEWALS.pop().shutdown()


def owning(host: Host, *placed: Placed, habits: Habits | None = None, its_own: bool = False) -> KernelOwner:
    ANNOUNCERS.append(Announcer())
    RENEWALS.append(Renewals())
    with host.entered():
        return KernelOwner(
            placed, Schedule(habits or Habits()), ANNOUNCERS[-1], RENEWALS[-1], its_own=its_own
        )


def opened(host: Host, *addresses: str, device: str = DEVICE, habits: Habits | None = None) -> KernelOwner:
    return owning(host, *(Placed(ip_interface(address), device) for address in addresses), habits=habits)


@pytest.fixture
async def owner(host: Host) -> AsyncIterator[KernelOwner]:
    with contextlib.closing(opened(host, f"{VIP}/24", f"{VIP6}/64")) as owner:
        yield owner


@pytest.fixture
def judge(owner: KernelOwner) -> Judge:
    judge = Judge()
    owner.watch(judge.fault, judge.recover)
    return judge


@contextlib.contextmanager
def listening(host: Host, kind: int) -> Iterator[socket.socket]:
    """A socket for the Ethernet frames of one kind that come to a host."""
    with host.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(kind))
        sock.bind((DEVICE, kind))
    with sock:
        yield sock


def heard(sock: socket.socket) -> list[bytes]:
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frames.append(sock.recv(2048))
    return frames


def await_frames(sock: socket.socket, count: int, mark: bytes = b"") -> list[bytes]:
    """What has come when there are `count` frames with `mark` in them. The loop does not run meanwhile."""
    frames: list[bytes] = []
    deadline = time.monotonic() + FRAMES_SECONDS
    while sum(mark in frame for frame in frames) < count:
        readable, _, _ = select.select([sock], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"no {count} frames within {FRAMES_SECONDS:g} s, but {frames}"
        frames += heard(sock)
    return frames


def remaining(host: Host) -> dict[str, int]:
    """Whole seconds that the kernel will keep each virtual address."""
    (link,) = json.loads(host.ip("-j", "addr", "show", "dev", DEVICE))
    return {it["local"]: it["valid_life_time"] for it in link["addr_info"] if it["local"] in (VIP, VIP6)}


# ----- having an address ------------------------------------------------------------------------------


async def test_an_address_has_its_prefix_and_a_lifetime(host: Host, owner: KernelOwner) -> None:
    owner.take()
    (link,) = json.loads(host.ip("-j", "addr", "show", "dev", DEVICE))
    found = {info["local"]: info for info in link["addr_info"]}
    assert (found[VIP]["prefixlen"], found[VIP6]["prefixlen"]) == (24, 64)
    assert 0 < found[VIP]["valid_life_time"] <= LONG_SECONDS
    assert 0 < found[VIP6]["valid_life_time"] <= LONG_SECONDS
    assert found[VIP]["secondary"], "it is not what the host speaks from by itself"
    assert found[VIP6]["deprecated"]
    assert found[VIP6].get("tentative") is None, "nothing waits for duplicate address detection"


async def test_it_is_renewed(host: Host, owner: KernelOwner) -> None:
    owner.take()
    taken = owner._renewed
    await until(lambda: owner._renewed > taken + 2)
    # Without a renewal there would be two seconds less; the kernel may count the one that has begun.
    await until(lambda: {LONG_SECONDS - 1, LONG_SECONDS} >= set(remaining(host).values()))
    assert remaining(host).keys() == {VIP, VIP6}


@pytest.mark.usefixtures("short_lived")
async def test_when_nobody_renews_it_goes_by_itself(host: Host, owner: KernelOwner) -> None:
    owner.take()
    began = time.monotonic()
    while host.has(VIP) or host.has(VIP6):
        assert time.monotonic() < began + LIFETIME_SECONDS + 20, "the kernel looks once a second at IPv6"
        time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs: that is the point
    assert time.monotonic() > began + LIFETIME_SECONDS - 1.1


async def test_what_a_crash_left_behind_is_removed_at_the_start(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.ip("addr", "add", f"{VIP}/24", "dev", DEVICE)
    with contextlib.closing(opened(host, f"{VIP}/24")):
        assert not host.has(VIP)
    assert f"{VIP}/24 was still there" in caplog.text


async def test_another_address_of_the_network_stays(host: Host) -> None:
    """The kernel's default is to remove with the first address of a network all the others."""
    with (
        contextlib.closing(opened(host, "10.88.0.100/24")) as first,
        contextlib.closing(opened(host, "10.88.0.101/24")) as second,
    ):
        first.take()
        second.take()
        first.release()
        assert "10.88.0.101" in host.addresses()


async def test_an_event_that_was_read_before_it_was_closed_is_nothing(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    owner = owning(host, Placed(ip_interface(f"{host.ipv4}/24"), DEVICE), its_own=True)
    with contextlib.closing(owner):
        judge = Judge()
        owner.watch(judge.fault, judge.recover)
        host.ip("addr", "del", f"{host.ipv4}/24", "dev", DEVICE)
        owner._changed()
        owner.close()
        await asyncio.sleep(0)
    assert (judge.said, caplog.text) == ([], "")


async def test_the_only_address_of_an_interface_is_left_alone(host: Host) -> None:
    host.ip("addr", "del", f"{host.ipv4}/24", "dev", DEVICE)
    host.ip("addr", "add", f"{VIP}/24", "dev", DEVICE)
    with pytest.raises(
        StartupError, match=r"the one address that this host has there: .* say --priority 255"
    ):
        opened(host, f"{VIP}/24")
    assert host.has(VIP)


async def test_it_takes_everything_or_nothing(host: Host) -> None:
    host.ip("link", "add", "eth1", "up", "type", "bridge")
    placed = [Placed(ip_interface(f"{VIP}/24"), DEVICE), Placed(ip_interface("10.78.0.100/24"), "eth1")]
    owner = owning(host, *placed)
    with contextlib.closing(owner):
        host.ip("link", "del", "eth1")
        with pytest.raises(OSError, match="No such device"):
            owner.take()
        assert not host.has(VIP)


async def test_what_cannot_be_owned_is_said_at_the_start(host: Host) -> None:
    with pytest.raises(StartupError, match=r"--interface eth7: there is no such interface; there are .*eth0"):
        opened(host, f"{VIP}/24", device="eth7")


def test_the_interface_speaks_from_an_address_of_its_own(host: Host) -> None:
    host.ip("addr", "flush", "dev", DEVICE, "scope", "global")
    host.ip("addr", "add", f"{VIP}/24", "dev", DEVICE)
    host.ip("addr", "add", "10.77.0.1/24", "dev", DEVICE)
    virtual = [ip_address(VIP)]
    with host.entered():
        assert primary_address(DEVICE, 4, virtual) == ip_address("10.77.0.1")
        assert primary_address(DEVICE, 6, []) == ip_address("fe80::1")
        with pytest.raises(StartupError, match="no link-local IPv6 address of its own"):
            primary_address("lo", 6, [])


# ----- telling the neighbours ---------------------------------------------------------------------------


async def test_the_first_burst_has_left_when_announce_returns(
    lan: Lan, host: Host, owner: KernelOwner
) -> None:
    with listening(lan.host("client"), l2.ETH_P_ARP) as arp, listening(lan.host("client"), 0x86DD) as ipv6:
        owner.take()
        owner.announce()
        requests = [l2.Ether(frame) for frame in await_frames(arp, 5)]
        told = [l2.Ether(frame) for frame in await_frames(ipv6, 5, ip_address(VIP6).packed)]
    assert len(requests) == 5
    for request in requests:
        packet = request[l2.ARP]
        assert (request.dst, packet.op, packet.hwsrc) == ("ff:ff:ff:ff:ff:ff", 1, host.mac)
        assert (packet.psrc, packet.pdst) == (VIP, VIP)
    advertisements = [frame for frame in told if inet6.ICMPv6ND_NA in frame]
    assert len(advertisements) == 5
    for frame in advertisements:
        packet = frame[inet6.ICMPv6ND_NA]
        assert (frame.dst, frame[inet6.IPv6].dst, frame[inet6.IPv6].hlim) == (
            "33:33:00:00:00:01",
            "ff02::1",
            255,
        )
        assert (packet.tgt, packet.R, packet.S, packet.O) == (VIP6, 1, 0, 1)
        assert packet[inet6.ICMPv6NDOptDstLLAddr].lladdr == host.mac
        sum_of_ours, packet.cksum = packet.cksum, None
        assert l2.Ether(bytes(frame))[inet6.ICMPv6ND_NA].cksum == sum_of_ours, "scapy computes the same"


async def test_neighbours_learn_where_it_is_now(lan: Lan, host: Host, owner: KernelOwner) -> None:
    client = lan.host("client")
    client.ip("neigh", "replace", VIP, "lladdr", "02:00:00:00:00:01", "dev", DEVICE, "nud", "stale")
    client.ip("neigh", "replace", VIP6, "lladdr", "02:00:00:00:00:01", "dev", DEVICE, "nud", "stale")
    owner.take()
    owner.announce()
    await until(lambda: (client.neighbour(VIP), client.neighbour(VIP6)) == (host.mac, host.mac))


async def test_it_is_said_again_past_the_lifetime(lan: Lan, owner: KernelOwner) -> None:
    with listening(lan.host("client"), l2.ETH_P_ARP) as arp:
        owner.take()
        owner.announce()
        count = 0
        began = time.monotonic()
        while count < 5 + 5:
            count += len(heard(arp))
            await asyncio.sleep(0.02)
            assert time.monotonic() < began + 10
        assert time.monotonic() > began + LIFETIME_SECONDS


async def test_a_reminder_is_a_burst_and_a_flood_of_them_is_not(lan: Lan, owner: KernelOwner) -> None:
    with listening(lan.host("client"), l2.ETH_P_ARP) as arp:
        owner.remind()
        assert heard(arp) == []
        owner.take()
        assert heard(arp) == [], "another of its group may not be had"
        owner.announce()
        assert len(await_frames(arp, 5)) == 5
        for _ in range(100):
            owner.remind()
        assert len(await_frames(arp, 5)) == 5


# ----- what others do -----------------------------------------------------------------------------------


async def test_what_somebody_takes_away_is_put_back_once(
    lan: Lan, host: Host, owner: KernelOwner, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_module, "MEDDLED_SECONDS", 3.0)
    owner.take()
    with listening(lan.host("client"), l2.ETH_P_ARP) as arp:
        host.ip("addr", "del", f"{VIP}/24", "dev", DEVICE)
        await until(lambda: host.has(VIP))
        frames: list[bytes] = []

        def are_told() -> bool:
            frames.extend(heard(arp))
            return len(frames) >= 5

        await until(are_told)  # the address comes first
    assert judge.said == []

    host.ip("addr", "del", f"{VIP}/24", "dev", DEVICE)
    await until(lambda: judge.said)
    ((by, reason),) = judge.said
    assert (by, reason) == (
        "address",
        f"something on this host takes {VIP}/24 away again and again; next try in 3 s",
    )
    assert not host.has(VIP)
    assert not host.has(VIP6)
    await until(lambda: judge.said[1:] == [("address", "recovered")])


async def test_what_happens_to_the_addresses_of_others_is_not_heard_or_not_asked_about(
    host: Host, owner: KernelOwner, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of hundreds of routers in a process each would hear, and look for, the addresses of all."""
    owner.take()
    asked: list[object] = []
    monkeypatch.setattr(owner, "_missing", lambda *what: asked.append(what) or {})
    heard: list[object] = []
    told = owner._watch.events
    monkeypatch.setattr(owner._watch, "events", lambda: (heard.append(it) or it for it in told()))
    for number in range(1, 4):
        host.ip("address", "add", f"10.77.9.{number}/24", "dev", DEVICE)
        host.ip("address", "del", f"10.77.9.{number}/24", "dev", DEVICE)
    host.ip("address", "change", f"{VIP}/24", "dev", DEVICE, "valid_lft", "60", "preferred_lft", "60")
    host.ip("address", "del", f"{VIP}/24", "dev", DEVICE)
    await until(lambda: bool(asked))
    events = [it for it in heard if isinstance(it, AddressEvent)]
    assert [it.present for it in events] == [False] * 4
    assert len(asked) == 1


async def test_a_renewal_that_fails_is_tried_again_and_costs_nothing(
    host: Host,
    owner: KernelOwner,
    judge: Judge,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_module, "RENEW_SECONDS", 0.05)
        owner.take()
        patch.setattr(owner, "_addresses", [(ip_interface(f"{VIP}/24"), 4711)])  # ENODEV
        await until(lambda: "cannot be renewed: No such device" in caplog.text)
        assert host.has(VIP)
    failed = owner._renewed
    await until(lambda: owner._renewed > failed)
    assert host.has(VIP)
    assert judge.said == []


async def test_an_address_that_cannot_be_renewed_is_given_up_for_a_while_before_it_goes(
    host: Host, owner: KernelOwner, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"RENEW": 0.05, "RENEW_AGAIN": 0.02, "NOT_RENEWED": 0.2, "REST": 0.1}.items():
        monkeypatch.setattr(kernel_module, f"{name}_SECONDS", seconds)
    owner.take()
    monkeypatch.setattr(owner, "_addresses", [(ip_interface(f"{VIP}/24"), 4711)])
    await until(lambda: judge.said)
    reason = "the virtual addresses cannot be renewed: No such device; next try in 0.1 s"
    assert judge.said[0] == ("address", reason)
    await until(lambda: judge.said[1:] == [("address", "recovered")])


async def test_a_renewal_that_the_kernel_lets_wait_holds_nobody_up_and_does_not_come_after_the_release(
    host: Host, owner: KernelOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_module, "RENEW_SECONDS", 0.01)
    lock = threading.Event()
    RENEWALS[-1].submit(lock.wait, 10)
    owner.take()
    await until(lambda: owner._renewal is not None)
    assert not owner._renewal.done()
    free = threading.Timer(0.05, lock.set)
    free.start()
    owner.release()
    free.join()
    assert owner._renewal.done()
    assert not host.has(VIP)


async def test_what_goes_just_after_a_late_renewal_was_taken_away_by_the_kernel_s_clock(
    host: Host,
    owner: KernelOwner,
    judge: Judge,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kernel_module, "RENEW_SECONDS", 60.0)
    owner.take()
    late = owner._renewed = owner._renewed - LONG_SECONDS  # for which it is excused, too
    owner._start_renewal()
    await until(lambda: owner._renewed > late)
    for times in (1, 2):
        host.ip("addr", "del", f"{VIP}/24", "dev", DEVICE)
        await until(lambda: caplog.text.count("was not renewed in time: put back") == times)  # noqa: B023
        await until(lambda: host.has(VIP))
    assert judge.said == []


async def test_what_was_released_is_not_missed(host: Host, owner: KernelOwner, judge: Judge) -> None:
    for _ in range(20):
        owner.take()
        owner.release()
        owner.take()
        await asyncio.sleep(0.005)
        owner.release()
    await asyncio.sleep(0.1)
    assert judge.said == []
    assert not host.has(VIP)


@pytest.mark.usefixtures("short_lived")
async def test_what_expired_while_we_were_stopped_is_put_back(
    host: Host, owner: KernelOwner, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    owner.take()
    while host.has(VIP):
        time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs: that is the point
    await until(lambda: host.has(VIP))
    assert judge.said == []


async def test_without_its_link_it_is_at_fault(
    lan: Lan, host: Host, owner: KernelOwner, judge: Judge
) -> None:
    lan.unplug(host)
    await until(lambda: judge.said == [("link eth0", "the link of eth0 is down")])
    lan.plug(host)
    await until(lambda: judge.said[1:] == [("link eth0", "recovered")])
    host.ip("link", "set", DEVICE, "down")
    await until(lambda: len(judge.said) == 3)
    host.ip("link", "set", DEVICE, "up")
    await until(lambda: len(judge.said) == 4)


async def test_a_link_that_is_down_at_the_start(lan: Lan, host: Host, owner: KernelOwner) -> None:
    lan.unplug(host)
    judge = Judge()
    owner.watch(judge.fault, judge.recover)
    assert judge.said == [("link eth0", "the link of eth0 is down")]


async def test_an_interface_that_is_gone(host: Host, owner: KernelOwner, judge: Judge) -> None:
    host.ip("link", "del", DEVICE)
    await until(lambda: GONE in [by for by, _ in judge.said])
    assert (
        GONE,
        "the interface eth0 is gone: it is looked for until it is back, with its address",
    ) in judge.said


# ----- rtnetlink ------------------------------------------------------------------------------------------


def test_the_kernel_s_refusal_is_an_error_with_its_reason(host: Host) -> None:
    with host.entered(), Rtnetlink() as rtnetlink:
        index = index_of(DEVICE)
        with pytest.raises(FileNotFoundError):
            rtnetlink.remove(ip_interface(f"{VIP}/24"), index)
        with pytest.raises(OSError, match="No such device"):
            rtnetlink.add(ip_interface(f"{VIP}/24"), 4711, 2)
        rtnetlink.add(ip_interface(f"{VIP}/24"), index, 2)
        rtnetlink.add(ip_interface(f"{VIP}/24"), index, 2)  # renewed
        assert [str(found.ip) for found in rtnetlink.addresses() if found.index == index][:2] == [
            "10.77.0.1",
            VIP,
        ]
