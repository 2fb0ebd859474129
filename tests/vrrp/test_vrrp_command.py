"""`python -m scaleup.vrrp` on a host of its own: its state file, what it says without privileges, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lan import DEVICE, Lan, lan_marks, until

pytestmark = lan_marks()
VIP = "10.77.0.100"
NORMAL_SCHEDULING = "0"  # SCHED_OTHER, the 41st field of /proc/PID/stat


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("a", "b") as lan:
        yield lan


def arguments(*more: str) -> list[str]:
    return ["-m", "scaleup.vrrp", "--interface", DEVICE, "--vip", f"{VIP}/24", "--interval", "0.1", *more]


def read(file: Path) -> dict[str, Any]:
    try:
        (instance,) = json.loads(file.read_text())
    except FileNotFoundError:
        return {"data": {"state": None}}
    assert isinstance(instance, dict)
    return instance


def test_its_state_has_keepalived_s_names(lan: Lan, tmp_path: Path) -> None:
    a, b = lan.host("a"), lan.host("b")
    file = tmp_path / "a.json"
    process = a.python(*arguments("--priority", "150", "--state-file", str(file)))
    until(lambda: read(file)["data"]["state"] == 2, "a is Active")
    b.python(*arguments("--priority", "200"))
    until(lambda: read(file)["data"]["state"] == 1, "a is Backup")

    def now(field: str) -> Any:
        process.send_signal(signal.SIGUSR1)
        return read(file)["stats"][field]

    until(lambda: now("advert_rcvd") > 3, "the state is written on SIGUSR1")
    instance = read(file)
    data, stats = instance["data"], instance["stats"]
    assert data | {"last_transition": None} == {
        "iname": "VI_51",
        "state": 1,
        "vrid": 51,
        "base_priority": 150,
        "effective_priority": 150,
        "vipset": False,
        "vips": [f"{VIP}/24"],
        "ifp_ifname": DEVICE,
        "adver_int": 0.1,
        "master_adver_int": 0.1,
        "last_transition": None,
    }
    assert (stats["become_master"], stats["release_master"]) == (1, 1)
    b.processes[0].terminate()
    until(lambda: now("pri_zero_rcvd") == 1, "b has said that it stops")


@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        ("", "grant CAP_NET_RAW"),
        ("+net_raw", "addresses may not be changed; grant CAP_NET_ADMIN"),
    ],
)
def test_without_a_capability_it_names_it(lan: Lan, capabilities: str, said: str) -> None:
    """As in a container that was given too little; setpriv (util-linux) takes them away."""
    kept = f"-all,{capabilities}" if capabilities else "-all"
    process = subprocess.run(
        [
            *("ip", "netns", "exec", lan.host("a").namespace),
            *("setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}", "--"),
            *(sys.executable, *arguments()),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
    assert process.returncode == 1
    assert said in process.stderr


def test_at_its_end_the_address_is_gone_and_the_other_told(lan: Lan, tmp_path: Path) -> None:
    a, b = lan.host("a"), lan.host("b")
    log = tmp_path / "b.log"
    process = a.python(*arguments("--priority", "150"))
    until(lambda: a.has(VIP), "a has the address")
    b.python(*arguments(), log=log)
    until(lambda: "initialize → backup" in log.read_text(), "b takes part")
    process.send_signal(signal.SIGUSR1)  # it has no state file, and goes on
    process.terminate()
    assert process.wait(20) == 0
    assert not a.has(VIP)
    until(lambda: b.has(VIP), "b has it")
    until(lambda: "Skew_Time after priority 0 was heard" in log.read_text(), "it says why")


def test_a_link_that_is_down_is_a_fault_until_it_is_up(lan: Lan, tmp_path: Path) -> None:
    a, file = lan.host("a"), tmp_path / "a.json"
    lan.unplug(a)
    a.python(*arguments("--state-file", str(file)))
    until(lambda: read(file)["data"]["state"] == 3, "a is at fault")
    assert not a.has(VIP)
    lan.plug(a)
    until(lambda: a.has(VIP), "a has the address")


def write_program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_what_it_tracks_lowers_its_priority_and_scripts_and_readers_are_told(
    lan: Lan, tmp_path: Path
) -> None:
    a, b = lan.host("a"), lan.host("b")
    well, told, config = tmp_path / "well", tmp_path / "told", tmp_path / "cluster.toml"
    well.touch()
    tell = write_program(tmp_path / "tell", f'echo "$*" $(cut -d" " -f41 /proc/self/stat) >> {told}')
    config.write_text(f"""[vrrp]
notify = "{tell}"
event_socket = "{tmp_path}/events"

[[vrrp.track]]
name = "service"
script = "/usr/bin/test -e {well}"
weight = -60
interval = 0.1
timeout = 20
""")
    log = tmp_path / "a.log"
    process = a.python(*arguments("--priority", "150", "--config", str(config)), log=log)
    until(lambda: a.has(VIP), "a has the address")
    b.python(*arguments("--priority", "100"))
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(f"{tmp_path}/events")
        reader.settimeout(20)
        with reader.makefile() as lines:
            assert json.loads(lines.readline())["condition"] == "active"
            well.unlink()
            until(lambda: b.has(VIP) and not a.has(VIP), "b has taken over")
            events = [json.loads(lines.readline()) for _ in range(2)]
            assert [(it["effective_priority"], it["condition"]) for it in events] == [
                (90, "active"),
                (90, "backup"),
            ]
            assert "150 -60 (service) = 90" in log.read_text()
            well.touch()
            until(lambda: a.has(VIP), "a is worth its priority again")
            process.terminate()
            assert process.wait(20) == 0
            assert json.loads(lines.read().splitlines()[-1])["condition"] == "stopped"
    assert [line.split() for line in told.read_text().splitlines()] == [
        ["INSTANCE", "VI_51", state, priority, NORMAL_SCHEDULING]
        for state, priority in (
            ("BACKUP", "150"),
            ("MASTER", "150"),
            ("BACKUP", "90"),
            ("MASTER", "150"),
            ("STOP", "150"),
        )
    ]
