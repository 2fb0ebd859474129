"""docs/operating.md: its commands are run, its files are valid, and the names in it exist."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from machine import ROOT, Machine, answers, on_a_machine, unit_of, until
from needs import SEARCH_PATH, requires
from pydantic import BaseModel

from scaleup.lb.settings import BackendTable, FrontendTable, LbSettings
from scaleup.vrrp.settings import VrrpSettings
from scaleup.vrrp.tracking import TrackSettings

OPERATING = ROOT / "docs" / "operating.md"
BALANCER = ROOT / "docs" / "load-balancer.md"
FETCHES = "git "  # from the network


def section(page: Path, title: str) -> str:
    text = page.read_text()
    assert f"\n## {title}\n" in text
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(text: str) -> list[str]:
    """What is indented by four spaces, block by block."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text + "\n", re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in found]


def cells(text: str, column: int) -> list[str]:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [row[column] for row in rows[2:]]


@pytest.mark.alone  # its doctor sees who answers for the address at one moment
@on_a_machine
def test_its_commands_do_what_it_says(machine: Machine) -> None:
    """All of a day's, in their order; `say` is defined by the first of them."""
    until(lambda: answers(machine, "http://10.0.0.100/"), "the cluster serves", machine)
    say, *rest = blocks(section(OPERATING, "Day to day"))
    for block in [*rest, *blocks(section(OPERATING, "When an alert fires"))]:
        if not block.startswith(FETCHES):
            machine.run("bash", "-ec", f"set -o pipefail\n{say}\n{block}")
    until(lambda: answers(machine, "http://10.0.0.100/"), "the cluster serves as before", machine)


@on_a_machine
def test_it_is_installed_as_it_says(machine: Machine) -> None:
    """All but fetching it, which the machine has at /opt from its beginning."""
    lines = "\n".join(blocks(section(OPERATING, "Installing it on hosts"))).splitlines()
    machine.run("bash", "-ec", "\n".join(line for line in lines if not line.startswith(FETCHES)))
    assert machine.run("systemctl", "is-enabled", unit_of("lb")).stdout.strip() == "enabled"
    password = machine.run("stat", "-c", "%U %a %s", "/etc/scaleup/database.password").stdout.split()
    assert password == ["root", "600", "33"]


@on_a_machine
def test_status_asks_the_unit_of_the_election(machine: Machine) -> None:
    machine.run("systemctl", "stop", unit_of("lb"))
    machine.run("systemctl", "start", unit_of("vrrp"))
    command = (
        "cd /opt/scaleup && .venv/bin/python -m scaleup.vrrp status --event-socket /run/scaleup/vrrp.sock"
    )

    def is_at_fault() -> bool:
        return bool(re.search(r"\b51\b.*\bfault\b.*haproxy", machine.run("sh", "-c", command).stdout))

    until(is_at_fault, "it was looked for, and is not there", machine)


@requires("haproxy")
def test_the_two_examples_are_valid(tmp_path: Path) -> None:
    theirs, ours = blocks(section(OPERATING, "HAProxy's words, and ours"))
    (tmp_path / "haproxy.cfg").write_text(theirs + "\n")
    (tmp_path / "cluster.toml").write_text(ours + "\n")
    for command in (
        ["haproxy", "-c", "-f", "haproxy.cfg"],
        [sys.executable, "-m", "scaleup.lb", "--config", "cluster.toml", "--check"],
    ):
        checked = subprocess.run(
            command,
            cwd=tmp_path,
            env={"PATH": SEARCH_PATH, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        said = checked.stdout + checked.stderr
        assert checked.returncode == 0, said
        assert "WARNING" not in said


@pytest.mark.parametrize(
    ("page", "title", "models"),
    [
        (BALANCER, "HAProxy's words, and ours", (LbSettings, FrontendTable, BackendTable)),
        (OPERATING, "keepalived's words, and ours", (VrrpSettings, TrackSettings)),
    ],
)
def test_our_words_are_settings(page: Path, title: str, models: tuple[type[BaseModel], ...]) -> None:
    fields = {field for model in models for field in model.model_fields}
    ours = set(re.findall(r"`([a-z]+_[a-z_]+)`", " ".join(cells(section(page, title), 1))))
    assert len(ours) > 10
    assert ours <= fields


def test_each_alert_says_what_to_do() -> None:
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "deploy" / "alerts.yml").read_text())
    told = re.findall(r"\w+", " ".join(cells(section(OPERATING, "When an alert fires"), 0)))
    assert sorted(told) == sorted(alerts)
