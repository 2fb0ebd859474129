"""Forged packets from a neighbour, as fast as he likes: nothing changes hands, and each is counted by its cause."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from elections import KEY
from lan import ADMIN, DEVICE, Host, Lan, metrics, needs_lan, until
from scapy.layers import inet, l2, vrrp

from scaleup.vrrp.auth import Authenticator

VIP = "10.77.0.100"
GROUP, GROUP_MAC = "224.0.0.18", "01:00:5e:00:00:12"
PER_SECOND = 5_000
INTERVAL = 1.0  # three of them: no pause of a busy machine is taken for a death
FRESH_SECONDS = 1.0
UNDER_WAY = 500  # packets; a socket holds more than twice as many


class Forger:
    """Knows everything but the key, and has heard what the Active one says."""

    def __init__(self, host: Host, victim: Host, wire: socket.socket) -> None:
        self._victim, self._mac = victim, host.mac
        self.captured = self._capture(wire)

    def _capture(self, wire: socket.socket) -> bytes:
        while True:
            packet = l2.Ether(wire.recv(2048))
            if inet.IP in packet and packet[inet.IP].proto == 112:
                return bytes(packet)

    def frame(self, payload: bytes, ttl: int = 255) -> bytes:
        header = inet.IP(src=self._victim.ipv4, dst=GROUP, ttl=ttl, proto=112, tos=0xC0)
        return bytes(l2.Ether(dst=GROUP_MAC, src=self._mac) / header / payload)

    def message(self, **fields: Any) -> bytes:
        described = {"vrid": 51, "priority": 255, "adv": int(INTERVAL * 100), "addrlist": [VIP], **fields}
        header = inet.IP(src=self._victim.ipv4, dst=GROUP, proto=112)
        return bytes(header / vrrp.VRRPv3(**described))[20:]

    def sealed(self, key: bytes, key_id: int, **fields: Any) -> bytes:
        seal = Authenticator({key_id: key}, key_id, 5.0).seal
        return seal(self.message(**fields), ip_address(self._victim.ipv4), time.time())

    def kinds(self) -> list[tuple[str, bytes]]:
        """Each with the cause that it must be counted under: the first check that it fails."""
        good = self.message()
        return [
            ("missing", self.frame(good)),
            ("missing", self.frame(self.message(priority=0))),
            ("missing", self.frame(good[:6] + b"\xab\xcd" + good[8:])),  # a wrong checksum: never looked at
            ("replay", self.captured),
            ("ttl", self.frame(good, ttl=254)),
            ("short", self.frame(good[:10])),
            *(("version", self.frame(bytes([version << 4 | 1]) + good[1:])) for version in (1, 4, 15)),
            ("type", self.frame(b"\x32" + good[1:])),
            ("mac", self.frame(self.sealed(b"x" * 32, 1))),
            ("mac", self.frame(self.sealed(b"x" * 32, 1, priority=0))),
            ("mac", self.frame(self.sealed(b"x" * 32, 1, addrlist=["10.77.0.200"]))),
            ("key", self.frame(self.sealed(b"x" * 32, 2))),
        ]


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("a", "b", "forger") as lan:
        yield lan


def start(host: Host, priority: int, keyfile: Path, log: Path) -> None:
    options = f"--interface {DEVICE} --vip {VIP}/24 --interval {INTERVAL} --priority {priority}".split()
    options += ["--auth", f"hmac:{keyfile}", "--admin", ADMIN]
    host.python("-m", "scaleup.vrrp", *options, log=log)


def transitions(values: dict[tuple[str, str], float]) -> dict[str, float]:
    return {label: value for (name, label), value in values.items() if "transitions_total" in name}


def flood(lan: Lan, count: int, folder: Path) -> None:
    a, b, forger_host = map(lan.host, ("a", "b", "forger"))
    keyfile = folder / "key"
    keyfile.write_bytes(KEY)
    start(a, 150, keyfile, folder / "a.log")
    until(lambda: a.has(VIP), "a has the address")
    start(b, 100, keyfile, folder / "b.log")
    until(lambda: "initialize → backup" in (folder / "b.log").read_text(), "b takes part")
    with forger_host.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        wire.bind((DEVICE, 0x0800))
    with wire:
        wire.settimeout(10)
        forger = Forger(forger_host, a, wire)
        before = transitions(metrics(a)), transitions(metrics(b))
        heard = metrics(b)["advertisements_received_total", "VI_51"]
        sent = pour(forger.kinds, wire.send, count, lambda: sum(dropped(b).values()))
    found = dropped(b)
    found["replay"] += found.pop("stale", 0)  # what was captured grows old
    assert {cause: number for cause, number in found.items() if number} == sent
    assert sum(dropped(a).values()) == 0, "its kernel drops what says that it comes from itself"
    assert (transitions(metrics(a)), transitions(metrics(b))) == before
    until(lambda: metrics(b)["advertisements_received_total", "VI_51"] > heard, "b hears a, as before")
    assert a.has(VIP)
    assert not b.has(VIP)


def dropped(host: Host) -> Counter[str]:
    found = metrics(host).items()
    return Counter(
        {
            label.removesuffix("/VI_51"): int(number)
            for (name, label), number in found
            if "dropped_total" in name
        }
    )


def pour(
    kinds: Callable[[], list[tuple[str, bytes]]],
    send: Callable[[bytes], int],
    count: int,
    counted: Callable[[], int],
) -> dict[str, int]:
    """At PER_SECOND, but never so many that a reader which is kept waiting would lose one; what is sealed is made
    anew each second, to be fresh. Returns when all are counted.
    """
    sent: Counter[str] = Counter()
    began = time.monotonic()
    made = -FRESH_SECONDS
    for number in range(count):
        if number % UNDER_WAY == 0:
            until(lambda: counted() >= number, "those before are counted")  # noqa: B023 - at once
        if number % 50 == 0:
            time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
        if time.monotonic() >= made + FRESH_SECONDS:
            forged, made = kinds(), time.monotonic()
        cause, frame = forged[number % len(forged)]
        send(frame)
        sent[cause] += 1
    until(lambda: counted() >= count, "all are counted")
    print(f"{count} forged packets, {count / (time.monotonic() - began):.0f} in a second")
    return dict(sent)


@needs_lan()
def test_10_000_forged_packets_change_nothing(lan: Lan, tmp_path: Path) -> None:
    flood(lan, 10_000, tmp_path)


@pytest.mark.soak
@needs_lan()
@pytest.mark.timeout(180)
def test_100_000_forged_packets_change_nothing(lan: Lan, tmp_path: Path) -> None:
    flood(lan, 100_000, tmp_path)
