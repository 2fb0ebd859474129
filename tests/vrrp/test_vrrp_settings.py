"""Every fault of an election's settings is one clear line with its origin and its cure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.config import load
from scaleup.errors import ConfigurationError
from scaleup.vrrp.auth import KEY_MAX_BYTES, KEY_MIN_BYTES
from scaleup.vrrp.election import Election, read_key
from scaleup.vrrp.packet import Advertisement
from scaleup.vrrp.settings import VrrpSettings

GOOD = {"vip": "10.0.0.100/24", "source": "10.0.0.11", "peer": "10.0.0.12", "auth": "none"}


def argv(**different: str | None) -> list[str]:
    """The command line of GOOD with differences; None leaves an option out."""
    chosen = {**GOOD, **different}
    return [word for name, value in chosen.items() if value is not None for word in (f"--{name}", value)]


def fault(arguments: list[str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(VrrpSettings, arguments, {})
    assert caught.value.exit_code == 78
    return str(caught.value)


def test_the_example_in_the_help_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key").write_bytes(b"k" * 32)
    commands = VrrpSettings.examples.replace("\\\n", " ").splitlines()
    words = [line.split() for line in commands if "python -m scaleup.vrrp --" in line]
    assert len(words) == 3
    assert load(VrrpSettings, words[0][3:], {}).settings.raw
    for line in words[1:]:
        settings = load(VrrpSettings, line[3:], {}).settings
        assert settings.key() == b"k" * 32


def test_the_defaults() -> None:
    settings = load(VrrpSettings, argv(), {}).settings
    assert (settings.vrid, settings.priority, settings.interval, settings.preempt) == (51, 100, 1.0, True)
    assert settings.key() is None
    assert [str(interface) for interface in settings.vip] == ["10.0.0.100/24"]


def test_what_goes_over_a_channel_is_read_back(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    settings = load(VrrpSettings, argv(auth=f"hmac:{key}"), {}).settings
    sent = settings.model_dump(mode="json", include=set(Election.model_fields))
    assert Election.model_validate(sent) == Election.model_validate(settings.model_dump(include=set(sent)))


@pytest.mark.parametrize(
    ("different", "said"),
    [
        ({"vip": None}, "--vip ADDRESS is missing: which address is the election about?"),
        ({"peer": None}, "say --peer ADDRESS for each"),
        ({"source": None}, "say --source ADDRESS, this node's own address"),
        ({"auth": None}, "say --auth hmac:KEYFILE"),
        (
            {"vip": "10.0.0.256"},
            "--vip: '10.0.0.256' is not an address: write for example 10.0.0.100/24",
        ),
        ({"vip": "name"}, "write for example 10.0.0.100/24"),
        ({"vip": "fe80::100"}, "mix IPv4 and IPv6"),
        ({"peer": "fd00::12"}, "mix IPv4 and IPv6"),
        ({"peer": "10.0.0.11"}, "--peer 10.0.0.11 is --source: list the other nodes only"),
        ({"peer": "0.0.0.0"}, "0.0.0.0 is no host's address"),
        ({"source": "224.0.0.18"}, "224.0.0.18 is no host's address"),
        ({"vip": "fd00::1", "source": "fd00::11", "peer": "fd00::12"}, "say --vip fe80::… before it"),
        ({"auth": "ah:1111"}, """write "hmac:KEYFILE", "pass:FILE" (VRRPv2) or "none", not 'ah:1111'"""),
        ({"auth": "hmac:/nowhere/key"}, "key file /nowhere/key: No such file or directory"),
        ({"vrid": "0"}, "--vrid: Input should be greater than or equal to 1 (given: '0')"),
        ({"vrid": "256"}, "less than or equal to 255"),
        ({"priority": "0"}, "greater than or equal to 1"),
        ({"priority": "256"}, "less than or equal to 255"),
        ({"interval": "0.009"}, "greater than or equal to 0.01"),
        ({"interval": "41"}, "less than or equal to 40.95"),
        ({"interval": "0.015"}, "hundredths of a second: write for example 0.05"),
        ({"interval": "often"}, "valid number"),
        ({"vrrp-port": "0"}, "greater than or equal to 1"),
        ({"transport": "multicast"}, "--transport: Input should be 'vrrp' or 'udp'"),
        ({"transport": "vrrp"}, "--transport vrrp: say --interface NAME"),
        ({"peer": None, "auth": None, "interface": "eth0", "minimum-ttl": "64"}, "multicast is not routed"),
        ({"vip": "10.0.0.100/24 dev eth1"}, "addresses are put on interfaces only with --interface"),
        ({"vip": "10.0.0.100/24 on eth1"}, "or 10.0.0.100/24 dev eth1"),
        ({"vip": "fe80::100%eth0/64"}, "or 10.0.0.100/24 dev eth1"),
        ({"vrrp-version": "1"}, "greater than or equal to 2"),
        ({"vrrp-version": "2", "interval": "0.5"}, "--interval 0.5: VRRPv2 says whole seconds"),
        ({"checksum": "none"}, "'pseudo-header' or 'rfc9568'"),
    ],
)
def test_a_fault_names_the_option_and_the_cure(different: dict[str, str | None], said: str) -> None:
    assert said in fault(argv(**different))


def test_all_faults_are_told_at_once() -> None:
    lines = fault(argv(vrid="0", priority="0", interval="0")).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["--vrid", "--priority", "--interval"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_interval_is_a_number(value: float) -> None:
    with pytest.raises(ValueError, match="interval"):
        Election(interval=value)


@given(st.integers(1, 4095))
def test_every_interval_that_an_advertisement_can_say_is_taken_exactly(centiseconds: int) -> None:
    election = Election(interval=float(f"{centiseconds / 100:.2f}"))
    assert round(election.interval * 100) == centiseconds
    assert election.interval == centiseconds / 100


def test_no_more_addresses_than_an_advertisement_can_carry() -> None:
    addresses = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(256)]
    common: dict[str, Any] = {"source": "10.1.0.1", "peer": ["10.1.0.2"], "auth": "none"}
    election = Election(vip=addresses[:255], **common)
    Advertisement(51, 100, 100, tuple(interface.ip for interface in election.vip))
    with pytest.raises(ValueError, match="at most 255"):
        Election(vip=addresses, **common)


# ----- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [KEY_MIN_BYTES - 1, KEY_MAX_BYTES + 1, 0])
def test_a_key_of_a_wrong_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"k" * size)
    with pytest.raises(ValueError, match=f"{size} bytes; write 32 to 64, .*openssl rand -hex 32 > "):
        read_key(path)


def test_a_key_as_openssl_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"0f" * 32 + b"\n")
    assert read_key(path) == b"0f" * 32


def test_a_key_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"key file .*: Is a directory"):
        read_key(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[vrrp\n", "cluster.toml"),
        ("[vrrp]\nvrid = 300\n", "cluster.toml:2: vrid: Input should be less than or equal to 255"),
        ("[vrrp]\n\nvird = 51\n", 'did you mean "vrid"?'),
        ('[vrrp]\nvip = "10.0.0.100"\n', 'cluster.toml:2: vip: write a list, ["10.0.0.100"]'),
        ("[vrrp]\nvip = [10]\n", "is not an address"),
        ("[vrrp]\npreempt = 3\n", "cluster.toml:2: preempt"),
        ("[vrrp]\nauth = 1\n", "hmac:KEYFILE"),
    ],
)
def test_a_fault_in_the_file_names_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    assert said in fault(["--config", str(file), *argv(vip=None, auth=None)])
