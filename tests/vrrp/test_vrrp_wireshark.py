"""Wireshark's dissector finds what we send, as `--pcap` records it, well-formed and as it was meant."""

from __future__ import annotations

import json
import random
import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from elections import KEY
from needs import requires

from scaleup.vrrp.auth import Authenticator
from scaleup.vrrp.codec import Codec
from scaleup.vrrp.network import Datagram
from scaleup.vrrp.packet import GROUP_IPV4, GROUP_IPV6, HOP_LIMIT, Address
from scaleup.vrrp.pcap import Recorded

pytestmark = requires("tshark")
SOURCES: dict[int, Address] = {4: IPv4Address("10.77.0.1"), 6: IPv6Address("fe80::1")}
GROUPS: dict[int, Address] = {4: GROUP_IPV4, 6: GROUP_IPV6}
GOOD = "1"  # as tshark says it of a checksum
PASSWORD = b"secret"


class Nowhere:
    """A network of which only the record is of interest."""

    peers = None

    def __init__(self, family: int) -> None:
        self.source = SOURCES[family]
        self._group = GROUPS[family]

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass

    def receive(self) -> list[Datagram]:
        return []

    def send(self, message_to: Any) -> list[tuple[Address, OSError]]:
        message_to(self._group)
        return []


def some_addresses(chance: random.Random, family: int) -> tuple[Address, ...]:
    count = chance.randint(1, 20)
    if family == 4:
        return tuple(IPv4Address(chance.randrange(1 << 24, 224 << 24)) for _ in range(count))
    first = IPv6Address("fe80::") + chance.randrange(1 << 64)
    return first, *(IPv6Address(chance.randrange(1 << 128)) for _ in range(count - 1))


def dissected(file: Path) -> list[dict[str, Any]]:
    """What tshark makes of each packet: its protocols, with the fields of each by name."""
    options = [
        "-o",
        "ip.check_checksum:TRUE",
        "-o",
        "nameres.network_name:FALSE",
        "-T",
        "json",
        "--no-duplicate-keys",
    ]
    done = subprocess.run(
        ["tshark", "-r", file, *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("version", "family", "protection"),
    [(3, 4, ""), (3, 6, ""), (2, 4, ""), (2, 4, "password"), (3, 4, "hmac"), (3, 6, "hmac")],
)
def test_every_packet_is_well_formed(version: int, family: int, protection: str, tmp_path: Path) -> None:
    chance, file = random.Random(9568), tmp_path / "sent.pcap"
    meant = list[tuple[int, int, int, list[str]]]()
    recorded = Recorded(Nowhere(family), file, lambda: 1_800_000_000.0)
    for _ in range(200):
        interval = chance.randint(1, 40) * 100 if version == 2 else chance.randint(1, 4095)
        addresses, vrid, priority = (
            some_addresses(chance, family),
            chance.randint(1, 255),
            chance.randint(0, 255),
        )
        codec = Codec(
            vrid=vrid,
            interval_cs=interval,
            addresses=addresses,
            version=version,
            authenticator=Authenticator({1: KEY}, 1, 5.0) if protection == "hmac" else None,
            password=PASSWORD if protection == "password" else None,
        )
        recorded.send(lambda to, it=codec, say=priority: it.write(say, SOURCES[family], to, 1_800_000_000.0))
        meant.append((vrid, priority, interval, [str(address) for address in addresses]))
    recorded.close()
    packets = dissected(file)
    assert len(packets) == len(meant)
    for layers, (vrid, priority, interval, addresses) in zip(packets, meant, strict=True):
        assert "_ws.malformed" not in json.dumps(layers)
        ip = layers["ip" if family == 4 else "ipv6"]
        assert ip["ip.ttl" if family == 4 else "ipv6.hlim"] == str(HOP_LIMIT)
        if family == 4:
            assert ip["ip.checksum.status"] == GOOD
        vrrp = layers["vrrp"]
        if protection != "hmac":  # of the trailer Wireshark 4.0 does not know: it adds it to the sum
            assert vrrp["vrrp.checksum.status"] == GOOD
            assert "_ws.expert" not in json.dumps(layers)
        said = [vrrp["vrrp.virt_rtr_id"], vrrp["vrrp.prio"], vrrp["vrrp.addr_count"]]
        assert said == [str(vrid), str(priority), str(len(addresses))]
        if version == 3:
            assert vrrp["vrrp.short_adver_int"] == str(interval)
        else:
            assert vrrp["vrrp.adver_int"] == str(interval // 100)
        if protection == "password":
            assert vrrp["vrrp.auth_string"] == PASSWORD.decode()
        shown = vrrp["vrrp.ip_addr" if family == 4 else "vrrp.ipv6_addr"]
        assert (shown if isinstance(shown, list) else [shown]) == addresses
