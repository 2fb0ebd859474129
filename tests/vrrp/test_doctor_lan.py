"""The doctor on real hosts with real faults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lan import DEVICE, Host, Lan, lan_marks, until

pytestmark = [*lan_marks("setpriv"), pytest.mark.slow]

VIP, VIP6 = "10.77.0.100", "fe80::100"
FLAGS = ("--interface", DEVICE, "--interval", "0.1", "--vip", f"{VIP}/24")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("a", "b", "client") as lan:
        yield lan


def active(host: Host, log: Path, *flags: str, vip: str = VIP) -> None:
    """An election on `host`, which has won it."""
    words = ("--interface", DEVICE, "--interval", "0.1", "--vip", f"{vip}/24", *flags)
    host.python("-m", "scaleup.vrrp", *words, log=log)
    until(lambda: "backup → active" in (log.read_text() if log.exists() else ""), f"{host.name} is Active")


def asked(
    host: Host, *flags: str, before: tuple[str, ...] = ()
) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Its exit status, and the findings by level."""
    argv = ["ip", "netns", "exec", host.namespace, *before, sys.executable, "-m", "scaleup.vrrp", "doctor"]
    done = subprocess.run([*argv, *flags, "--json"], capture_output=True, text=True, timeout=30, check=False)
    assert not done.stderr, done.stderr
    levels: dict[str, list[dict[str, str]]] = {"ok": [], "warning": [], "error": []}
    for finding in json.loads(done.stdout):
        levels[finding["level"]].append(finding)
    return done.returncode, levels


def only_error(host: Host, *flags: str, before: tuple[str, ...] = ()) -> str:
    status, levels = asked(host, *flags, before=before)
    assert status == 1
    (error,) = levels["error"]
    assert error["cure"]
    return f"{error['check']}: {error['says']}"


def said(levels: dict[str, list[dict[str, str]]], level: str) -> list[str]:
    return [finding["says"] for finding in levels[level]]


def test_a_host_beside_an_active_one_is_well(lan: Lan, tmp_path: Path) -> None:
    a, b, _ = map(lan.host, ("a", "b", "client"))
    active(a, tmp_path / "a")
    status, levels = asked(b, *FLAGS)
    assert (status, levels["error"]) == (0, [])
    assert f"{a.ipv4} is Active with priority 100" in said(levels, "ok")
    status, levels = asked(a, *FLAGS)
    assert (status, levels["error"]) == (0, [])
    assert "this host is Active" in said(levels, "ok")


def test_of_ipv6_as_well(lan: Lan, tmp_path: Path) -> None:
    a, b, client = map(lan.host, ("a", "b", "client"))
    flags = ("--interface", DEVICE, "--interval", "0.1", "--vip", f"{VIP6}/64")
    active(a, tmp_path / "a", vip=VIP6)
    status, levels = asked(b, *flags)
    assert (status, levels["error"]) == (0, [])
    assert f"{a.ipv6} is Active with priority 100" in said(levels, "ok")
    _, levels = asked(b, *flags, "--peer", a.ipv6, "--auth", "none")
    assert f"{a.ipv6} answers" in said(levels, "ok")
    assert f"{a.ipv6} advertises by multicast, this node would by unicast" in said(levels, "error")
    client.ip("addr", "add", f"{VIP6}/64", "dev", DEVICE, "nodad")
    assert only_error(b, *flags).startswith(f"address: {VIP6} is used by {client.mac}")


def test_an_address_that_is_in_use_elsewhere(lan: Lan) -> None:
    b, client = lan.host("b"), lan.host("client")
    client.ip("addr", "add", f"{VIP}/24", "dev", DEVICE)
    assert only_error(b, *FLAGS).startswith(f"address: {VIP} is used by {client.mac}")


def test_two_that_do_not_believe_each_other(lan: Lan, tmp_path: Path) -> None:
    a, b, client = map(lan.host, ("a", "b", "client"))
    active(a, tmp_path / "a", "--strict")
    active(b, tmp_path / "b", "--strict", "--checksum", "rfc9568")
    assert "advertise at the same time" in only_error(client, *FLAGS)
    _, levels = asked(client, *FLAGS)
    assert f"{b.ipv4} sends the checksum rfc9568, this node would send pseudo-header" in said(
        levels, "warning"
    )


def test_advertisements_that_the_host_itself_drops(lan: Lan, tmp_path: Path) -> None:
    a, b = lan.host("a"), lan.host("b")
    active(a, tmp_path / "a")
    with b.entered():
        Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("1")
    b.ip(
        "route", "add", "blackhole", f"{a.ipv4}/32"
    )  # with no way back there, the kernel drops what it hears
    assert "firewall: advertisements reach the interface" in only_error(b, *FLAGS)


def test_interfaces_that_are_missing_down_or_unplugged(lan: Lan) -> None:
    a = lan.host("a")
    assert "there is no eth9" in only_error(a, *FLAGS, "--interface", "eth9")
    lan.unplug(a)
    assert "no carrier" in only_error(a, *FLAGS)
    a.ip("link", "set", DEVICE, "down")
    assert "is down" in only_error(a, *FLAGS)


def test_an_interface_without_an_address_of_its_own(lan: Lan) -> None:
    a = lan.host("a")
    a.ip("addr", "flush", "dev", DEVICE)
    assert "no IPv4 address of its own" in only_error(a, *FLAGS)
    ipv6 = ("--interface", DEVICE, "--vip", f"{VIP6}/64")
    assert "no link-local IPv6 address of its own" in only_error(a, *ipv6)


def test_a_peer_that_is_not_there(lan: Lan) -> None:
    a, b = lan.host("a"), lan.host("b")
    wrong = ("--peer", b.ipv4, "--peer", "10.77.0.77", "--auth", "none")
    assert only_error(a, *FLAGS, *wrong) == f"peer: 10.77.0.77 does not answer on {DEVICE}"
    _, levels = asked(a, *FLAGS, *wrong)
    assert f"{b.ipv4} answers" in said(levels, "ok")


def test_a_key_that_is_another_one(lan: Lan, tmp_path: Path) -> None:
    a, b = lan.host("a"), lan.host("b")
    for name in ("a", "b"):
        (tmp_path / f"{name}.key").write_bytes(name.encode() * 32)
    active(a, tmp_path / "a", "--auth", f"hmac:{tmp_path}/a.key")
    _, levels = asked(b, *FLAGS, "--auth", f"hmac:{tmp_path}/b.key")
    assert any(says.startswith(f"{a.ipv4} is not believed") for says in said(levels, "error"))
    _, levels = asked(b, *FLAGS, "--auth", f"hmac:{tmp_path}/a.key")
    assert f"{a.ipv4} is Active with priority 100" in said(levels, "ok")


def test_privileges_that_are_missing(lan: Lan) -> None:
    a = lan.host("a")
    assert "may not put addresses" in only_error(a, *FLAGS, before=("setpriv", "--bounding-set=-net_admin"))
    assert "may not send advertisements" in only_error(
        a, *FLAGS, before=("setpriv", "--bounding-set=-net_raw")
    )
