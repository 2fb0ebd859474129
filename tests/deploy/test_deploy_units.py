"""The systemd units: accepted by systemd-analyze, true to the settings, and run by a systemd of their own."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from machine import NODES, ROOT, Machine, answers, on_a_machine, unit_of, until
from needs import SEARCH_PATH, requires

from scaleup.config import TierSettings

OPERATING = ROOT / "docs" / "operating.md"
CLUSTER = ROOT / "deploy" / "cluster.toml"
CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW = 1 << 10, 1 << 12, 1 << 13
VIRTUAL = "http://10.0.0.100"

each_tier = pytest.mark.parametrize("tier", NODES)


def file_of(tier: str) -> Path:
    return ROOT / "deploy" / f"scaleup-{tier}@.service"


def entries(tier: str, key: str) -> list[str]:
    """The values of a key, in their order: configparser would keep the last."""
    lines = file_of(tier).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def here(text: str, node: str, credentials: Path) -> str:
    """A unit's text as it would be on this machine, where nothing is installed below /opt."""
    text = text.replace("/opt/scaleup/.venv/bin/python", sys.executable).replace("/opt/scaleup", str(ROOT))
    text = text.replace("/etc/scaleup/cluster.toml", str(CLUSTER))
    return text.replace("%i", node).replace("%d", str(credentials))


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    (tmp_path / "password").write_text("x" * 16)
    return tmp_path


@each_tier
def test_a_stop_has_time_to_drain(tier: str) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(file_of(tier))
    settings: type[TierSettings] = getattr(
        import_module(f"scaleup.{tier}.settings"), f"{tier.capitalize()}Settings"
    )
    drain = settings.model_fields["drain"].default
    assert float(parser["Service"]["TimeoutStopSec"]) >= drain + 5
    # SIGTERM to the parent alone, who knows the order; the load balancer's unit says why it has another way.
    assert parser["Service"]["KillMode"] == ("control-group" if tier == "lb" else "mixed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tier", "node"),
    [(tier, node) for tier, table in tomllib.loads(CLUSTER.read_text()).items() for node in table["node"]],
)
def test_the_command_lines_are_right(tier: str, node: str, credentials: Path) -> None:
    (start,) = entries(tier, "ExecStart")
    environment = {"PATH": SEARCH_PATH}
    for command in (f"{start} --check", *(line for line in entries(tier, "ExecReload") if "python" in line)):
        checked = subprocess.run(
            here(command, node, credentials).split(),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            check=False,
        )
        assert (checked.returncode, checked.stderr) == (0, "")


@each_tier
@requires("systemd-analyze")
def test_systemd_accepts_it(tier: str, tmp_path: Path) -> None:
    unit = tmp_path / unit_of(tier)
    unit.write_text(here(file_of(tier).read_text(), NODES[tier], tmp_path))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@each_tier
@requires("systemd-analyze")
def test_it_is_as_closed_as_the_docs_say(tier: str, tmp_path: Path) -> None:
    shutil.copy(file_of(tier), unit := tmp_path / unit_of(tier))
    documented = re.search(rf"^\| `scaleup-{tier}@` \| ([\d.]+) \|", OPERATING.read_text(), re.MULTILINE)
    assert documented
    threshold = f"{float(documented[1]) * 10:.0f}"
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr


# ----- run by systemd ---------------------------------------------------------------------------------


def capabilities(machine: Machine, pid: str) -> tuple[int, int]:
    """Effective ones, and those that it could ever get."""
    status = machine.run("cat", f"/proc/{pid}/status").stdout
    effective, bounding = (
        int(next(line for line in status.splitlines() if line.startswith(name)).split()[1], 16)
        for name in ("CapEff:", "CapBnd:")
    )
    return effective, bounding


@on_a_machine
def test_the_shipped_files_make_a_cluster(machine: Machine) -> None:
    """cluster.toml, the user, the secret and the units as they are, all on one host: a link is made and found."""
    for tier in ("db", "app", "web", "lb"):
        assert machine.show(unit_of(tier), "ActiveState") == "active"
    until(lambda: answers(machine, f"{VIRTUAL}/"), "the page, through the virtual address", machine)
    body = json.dumps({"url": "http://example.com/", "code": "unit"})
    make = ("-X", "POST", "-H", "Content-Type: application/json", "-d", body, f"{VIRTUAL}/api/links")
    assert json.loads(machine.run("curl", "-s", *make).stdout)["code"] == "unit"
    assert "302" in machine.run("curl", "-si", f"{VIRTUAL}/l/unit").stdout.splitlines()[0]


@on_a_machine
@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        ("lb", CAP_NET_ADMIN | CAP_NET_RAW | CAP_NET_BIND_SERVICE),
        ("web", CAP_NET_BIND_SERVICE),
        ("app", 0),
        ("db", 0),
    ],
)
def test_a_process_has_what_it_needs_and_no_more(machine: Machine, tier: str, expected: int) -> None:
    pid = machine.show(unit_of(tier), "MainPID")
    assert capabilities(machine, pid) == (expected, expected)
    assert machine.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == "scaleup"


@on_a_machine
def test_root_commands_at_the_runtime_socket(machine: Machine) -> None:
    def command(text: str) -> str:
        return machine.run("sh", "-c", f"echo '{text}' | socat - /run/scaleup/lb.sock").stdout

    def state(server: str) -> str:
        rows = [line.split(",") for line in command("show stat lb 4 -1").splitlines() if line]
        at = rows[0].index("status")
        return next(row[at] for row in rows if row[1] == server)

    assert machine.run("stat", "-c", "%U %a", "/run/scaleup/lb.sock").stdout.split() == ["scaleup", "600"]
    until(lambda: state("web1") == "UP", "web1 is up", machine)
    assert command("set server lb/web1 state maint").strip() == ""
    assert state("web1") == "MAINT"
    assert command("set server lb/web1 state ready").strip() == ""
    until(lambda: state("web1") == "UP", "web1 is up again", machine)


@on_a_machine
@pytest.mark.parametrize(
    ("tier", "break_it"),
    [("lb", "s/^workers = 2/workers = two/"), ("web", 's/^root = "site"/root = "nowhere"/')],
)
def test_a_reload_is_a_reload(machine: Machine, tier: str, break_it: str) -> None:
    """The process stays; systemd sees RELOADING and READY. A bad file is an error of `systemctl reload`."""
    unit, file = unit_of(tier), "/etc/scaleup/cluster.toml"
    pid = machine.show(unit, "MainPID")
    machine.run("systemctl", "reload", unit)
    until(lambda: "INFO    reloaded" in machine.log(unit), "the reload is done", machine)
    machine.run("sed", "-i.good", break_it, file)
    try:
        refused = machine.run("systemctl", "reload", unit, check=False)
        assert refused.returncode != 0
        until(lambda: f"{file}:" in machine.log(unit), "the journal says where", machine)
    finally:
        machine.run("mv", f"{file}.good", file)
    assert machine.show(unit, "ActiveState") == "active"
    assert machine.show(unit, "MainPID") == pid
    assert machine.log(unit).count("reloading") == 1


@on_a_machine
def test_what_is_killed_is_started_again(machine: Machine) -> None:
    """And its election has time to give the address up: systemd kills nobody."""
    unit = unit_of("lb")
    until(lambda: answers(machine, f"{VIRTUAL}/"), "it is Active", machine)
    before = machine.show(unit, "MainPID")
    machine.run("kill", "-9", before)

    def is_back() -> bool:
        return (
            machine.show(unit, "MainPID") not in (before, "0")
            and machine.show(unit, "ActiveState") == "active"
        )

    until(is_back, "it is started again", machine)
    assert b"Killing process" not in machine.console, machine.console.decode()
    until(lambda: "active → initialize: stopped" in machine.log(), "the address was given up", machine)
    until(lambda: answers(machine, f"{VIRTUAL}/"), "and serves", machine)
    processes = machine.run("systemctl", "status", "--no-pager", unit).stdout
    assert processes.count("-m scaleup") == 4, processes  # a node, two workers, the election: nothing is left


@on_a_machine
def test_a_stop_drains_and_hands_over(machine: Machine) -> None:
    unit = unit_of("lb")
    before = machine.log()
    machine.run("systemctl", "stop", unit)
    assert machine.show(unit, "Result") == "success"  # not killed by the time-out

    def said() -> str:
        return machine.log()[len(before) :]

    until(lambda: "active → initialize: stopped" in said(), "it hands over", machine)
    assert "left to the parent" not in said()  # as a worker says when it gets the signal, too
    assert machine.run("ip", "-o", "address", "show", "to", "10.0.0.100").stdout == ""


@on_a_machine
def test_the_election_alone(machine: Machine) -> None:
    """For HAProxy on the same host, which has to live; the load balancer of ours has gone before."""
    unit = unit_of("vrrp")
    machine.run("systemctl", "stop", unit_of("lb"))
    transparent = "s/bind 127.0.0.101:8080/bind 10.0.0.100:80 transparent/"
    machine.run("sed", "-i", transparent, "/opt/scaleup/deploy/haproxy.cfg")  # in the machine's overlay only
    machine.run("haproxy", "-D", "-f", "/opt/scaleup/deploy/haproxy.cfg")
    machine.run("systemctl", "start", unit)
    until(lambda: "backup → active" in machine.log(unit), "it is elected", machine)
    assert "10.0.0.100" in machine.run("ip", "-o", "address", "show", "dev", "eth0").stdout
    expected = CAP_NET_ADMIN | CAP_NET_RAW
    assert capabilities(machine, machine.show(unit, "MainPID")) == (expected, expected)
    machine.run("systemctl", "reload", unit)
    until(lambda: "INFO    reloaded" in machine.log(unit), "the reload is done", machine)
    assert "active → " not in machine.log(unit)
    machine.run("systemctl", "stop", unit)
    assert machine.show(unit, "Result") == "success"
    assert "10.0.0.100" not in machine.run("ip", "-o", "address", "show", "dev", "eth0").stdout


@on_a_machine
def test_a_wrong_setting_is_not_tried_again(machine: Machine) -> None:
    unit = "scaleup-web@web2.service"
    file = "/etc/scaleup/cluster.toml"
    machine.run("sed", "-i.good", 's/^root = "site"/root = "nowhere"/', file)
    try:
        assert machine.run("systemctl", "start", unit, check=False).returncode != 0
    finally:
        machine.run("mv", f"{file}.good", file)
    assert machine.show(unit, "ExecMainStatus") == "78"
    assert machine.show(unit, "ActiveState") == "failed"
    assert machine.show(unit, "NRestarts") == "0"
