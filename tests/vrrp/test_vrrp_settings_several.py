"""Several routers and sync groups in cluster.toml: defaults, conflicts, and what goes on in a reload."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scaleup.config import load
from scaleup.errors import ConfigurationError
from scaleup.vrrp.arrangement import Arrangement, Check, RouterPolicy, SyncGroup
from scaleup.vrrp.settings import GroupTable, RouterTable, VrrpSettings, unchanged
from scaleup.vrrp.tracking import TrackSettings

TWO = """
[vrrp]
interface = "eth0"
interval = 0.1
notify = "/usr/bin/logger"

[[vrrp.track]]
name = "haproxy"
process = "haproxy"
weight = -60

[[vrrp.track]]
name = "uplink"
interface = "eth1"

[[vrrp.router]]
name = "www"
vrid = 51
vip = ["10.0.0.100/24"]
priority = 150
tracks = { haproxy = -20 }

[[vrrp.router]]
name = "mail"
vrid = 52
vip = ["10.0.0.101/24"]
notify_master = "/usr/bin/wall"
"""
GROUP = """
[[vrrp.group]]
name = "both"
routers = ["www", "mail"]
"""


class File:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "cluster.toml"

    def load(self, text: str, *flags: str) -> VrrpSettings:
        self._path.write_text(text)
        return load(VrrpSettings, ["--config", str(self._path), *flags], {}).settings

    def fault(self, text: str) -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.load(text)
        return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


def test_each_has_the_defaults_and_what_it_says_itself(file: File) -> None:
    www, mail = file.load(TWO).routers
    assert (www.name, www.vrid, www.priority, www.interval, www.interface) == ("www", 51, 150, 0.1, "eth0")
    assert (mail.name, mail.vrid, mail.priority, mail.interval, mail.interface) == (
        "mail",
        52,
        100,
        0.1,
        "eth0",
    )
    assert www.tracks == {"haproxy": -20}
    assert mail.tracks == {"haproxy": -60, "uplink": 0}, "without tracks: all there are"


def test_flags_are_defaults_too(file: File) -> None:
    www, mail = file.load(TWO, "--interval", "0.5", "--priority", "90").routers
    assert (www.interval, mail.interval) == (0.5, 0.5)
    assert (www.priority, mail.priority) == (150, 90)


def test_the_arrangement(file: File) -> None:
    text = TWO.replace("tracks = { haproxy = -20 }", "") + GROUP
    settings = file.load(text, "--startup-delay", "3")
    assert settings.arrangement == Arrangement(
        tuple(
            RouterPolicy(name, priority, tracks={"haproxy": -60, "uplink": 0})
            for name, priority in (("www", 150), ("mail", 100))
        ),
        tuple(Check(track.name, what=track.what) for track in settings.track),
        (SyncGroup("both", ("www", "mail")),),
        3.0,
    )


def test_scripts_of_each_with_those_of_all(file: File) -> None:
    group = GROUP + 'notify_fault = "/usr/bin/wall"\n'
    scripts = file.load(TWO.replace("tracks = { haproxy = -20 }", "") + group).scripts
    assert {name: [str(it.notify), it.notify_master, it.notify_fault] for name, it in scripts.items()} == {
        "www": [str(scripts["www"].notify), None, None],
        "mail": [str(scripts["www"].notify), scripts["mail"].notify_master, None],
        "both": [str(scripts["www"].notify), None, scripts["both"].notify_fault],
    }
    assert scripts["mail"].notify_master is not None
    assert scripts["both"].notify_fault is not None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "vrid = 52",
            "vrid = 51",
            "routers www and mail: both are VRID 51 on eth0: give one of them another",
        ),
        (
            "10.0.0.101/24",
            "10.0.0.100/24",
            "routers www and mail: both have 10.0.0.100: an address is one router's",
        ),
        ('name = "mail"', 'name = "www"', "two [[vrrp.router]] are called"),
        ('vip = ["10.0.0.101/24"]', "", "router mail: vip is missing"),
        ("haproxy = -20", "haprox = -20", "router www: there is no track 'haprox'; did you mean"),
        (
            "interval = 0.1",
            'interval = 0.1\nvip = ["10.0.0.102"]',
            "vip says one router, [[vrrp.router]] several",
        ),
        ("priority = 150", "priority = 300", "router"),
        ("priority = 150", 'transport = "udp"', "router www: "),
        ("priority = 150", "priorty = 150", "priorty"),
        ("haproxy = -20", "haproxy = -300", "-253"),
        (
            "interval = 0.1",
            'interval = 0.1\npcap = "a.pcap"',
            "both write to a.pcap: give each a pcap of its own",
        ),
    ],
)
def test_what_cannot_be_meant_is_said(file: File, old: str, new: str, said: str) -> None:
    assert old in TWO
    assert said in file.fault(TWO.replace(old, new))


def test_a_group_of_what_is_not_there(file: File) -> None:
    assert "group both: there is no router 'mial'; did you mean" in file.fault(
        TWO + GROUP.replace('"mail"', '"mial"')
    )
    assert "it wants routers, as [[vrrp.router]]" in file.fault(
        f'[vrrp]\nvip = ["10.0.0.1"]\ninterface = "lo"{GROUP}'
    )
    assert "haproxy has the weights -20 and -60 in one sync group" in file.fault(TWO + GROUP)


def test_two_vrids_alike_are_fine_on_two_links_or_for_two_families(file: File) -> None:
    file.load(TWO.replace("vrid = 52", 'vrid = 51\ninterface = "eth1"'))
    file.load(TWO.replace("vrid = 52", "vrid = 51").replace("10.0.0.101/24", "fe80::101/64"))


@pytest.mark.parametrize(
    ("old", "new", "on"),
    [
        ("", "", {"www", "mail"}),
        ("priority = 150", "priority = 90\npreempt = false\npreempt_delay = 1.0", {"www", "mail"}),
        ("interval = 0.1", "interval = 0.1\nstrict = true", {"www", "mail"}),
        ("haproxy = -20", "haproxy = -30", {"www", "mail"}),
        ("vrid = 51", "vrid = 61", {"mail"}),
        ("priority = 150", "priority = 255", {"mail"}),
        ("10.0.0.101/24", "10.0.0.102/24", {"www"}),
        ("interval = 0.1", "interval = 0.2", set()),
        ('name = "www"', 'name = "web"', {"mail"}),
    ],
)
def test_who_goes_on_in_a_reload(file: File, old: str, new: str, on: set[str]) -> None:
    assert unchanged(file.load(TWO), file.load(TWO.replace(old, new))) == on


def test_a_sync_group_goes_on_together_or_not_at_all(file: File) -> None:
    two = TWO.replace("tracks = { haproxy = -20 }", "")
    grouped = file.load(two + GROUP)
    assert unchanged(grouped, file.load(two + GROUP)) == {"www", "mail"}
    assert unchanged(grouped, file.load(two)) == set()
    assert unchanged(grouped, file.load(two.replace("vrid = 52", "vrid = 53") + GROUP)) == set()


def test_the_manual_for_keepalived_s_operators_names_what_there_is() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    table = manual.partition("## keepalived's words, and ours")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    known = {*VrrpSettings.model_fields, *TrackSettings.model_fields, *RouterTable.model_fields}
    assert named - known - {*GroupTable.model_fields} == set()
    assert len(named) > 40
