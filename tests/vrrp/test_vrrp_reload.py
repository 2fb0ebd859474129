"""SIGHUP, on hosts of their own: what stays the same does not blink, what differs changes, what fails is put back.

Two hosts, two virtual routers: `www` prefers the first host, `mail` the second, so both serve (active-active). The
kernel's own record of addresses (`ip monitor`) says whether one was away, the metrics whether a role changed.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lan import ADMIN, DEVICE, Host, Lan, lan_marks, metrics, until

pytestmark = lan_marks()
WWW, MAIL = "10.77.0.100", "10.77.0.101"
FILE = """
[vrrp]
interface = "{device}"
interval = 0.3
admin = "{admin}"
event_socket = "{folder}/events"

[[vrrp.router]]
name = "www"
vrid = 51
vip = ["{www}/24"]
priority = {a}

[[vrrp.router]]
name = "mail"
vrid = 52
vip = ["{mail}/24"]
priority = {b}
"""


class Node:
    """`python -m scaleup.vrrp` with a file that can be written anew."""

    def __init__(self, host: Host, folder: Path, a: int, b: int) -> None:
        self.host, self.folder = host, folder / host.name
        self.folder.mkdir()
        self.file, self.log = self.folder / "cluster.toml", self.folder / "log"
        self.text = FILE.format(device=DEVICE, admin=ADMIN, folder=self.folder, www=WWW, mail=MAIL, a=a, b=b)
        self.file.write_text(self.text)
        self.process = host.python("-m", "scaleup.vrrp", "--config", str(self.file), log=self.log)
        until(lambda: self.log_has("initialize → backup", 2), "it takes part")

    def said(self, text: str) -> bool:
        return self.log_has(text, 1)

    def log_has(self, text: str, times: int) -> bool:
        return self.log.exists() and self.log.read_text().count(text) >= times

    def reload(self, text: str, answer: str = "reloaded") -> None:
        """Have it read `text`, and wait for the answer."""
        self.file.write_text(text)
        before = self.log.read_text().count(f" {answer}\n")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.log.read_text().count(f" {answer}\n") > before, f"the log says {answer}")

    def metrics(self) -> dict[tuple[str, str], float]:
        return metrics(self.host)

    def transitions(self, router: str) -> dict[str, float]:
        return transitions(self.metrics(), router)

    def status(self, *options: str) -> str:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "scaleup.vrrp",
                "status",
                "--event-socket",
                f"{self.folder}/events",
                *options,
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout


def transitions(samples: dict[tuple[str, str], float], router: str) -> dict[str, float]:
    return {
        labels: value
        for (name, labels), value in samples.items()
        if name == "transitions_total" and f"/{router}/" in labels
    }


class Monitor:
    """What the kernel of a host says of its addresses."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._log = folder / "monitor"
        host.start("ip", "-o", "monitor", "address", log=self._log)
        self._host = host
        self._mark = 0

    def removed(self) -> set[str]:
        """Since the last time. An address that is put on and taken off shows that nothing is missed."""
        self._mark += 1
        mark = f"10.99.0.{self._mark}"

        def marked() -> bool:
            self._host.ip("addr", "add", f"{mark}/32", "dev", DEVICE)
            self._host.ip("addr", "del", f"{mark}/32", "dev", DEVICE)
            return self._log.exists() and mark in self._log.read_text()

        until(marked, "ip monitor is there")
        lines = self._log.read_text().splitlines()
        last = next(number for number, line in enumerate(lines) if mark in line)
        before = f"10.99.0.{self._mark - 1}/"
        first = max((number for number, line in enumerate(lines) if before in line), default=0)
        return {
            address
            for line in lines[first : last + 1]
            for address in (WWW, MAIL)
            if line.startswith("Deleted") and address in line
        }


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("a", "b") as lan:
        yield lan


@pytest.fixture
def pair(lan: Lan, tmp_path: Path) -> tuple[Node, Node]:
    a, b = Node(lan.host("a"), tmp_path, 150, 100), Node(lan.host("b"), tmp_path, 100, 150)
    until(lambda: a.host.has(WWW) and b.host.has(MAIL), "each has its own")
    until(lambda: not a.host.has(MAIL) and not b.host.has(WWW), "and no other")
    return a, b


def test_the_same_again_is_nothing_and_a_priority_changes_in_place(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    a, b = pair
    monitor = Monitor(a.host, tmp_path)
    monitor.removed()
    of = {name: [node.transitions(name) for node in pair] for name in ("www", "mail")}
    for priority in (150, 200, 101, 254):
        a.reload(a.text.replace("priority = 150", f"priority = {priority}"))
        metrics = a.metrics()
        assert metrics["priority", "www"] == metrics["effective_priority", "www"] == priority
        sent = metrics["advertisements_sent_total", "www"]
        until(
            lambda sent=sent: a.metrics()["advertisements_sent_total", "www"] > sent, "it goes on advertising"
        )
    assert {name: [node.transitions(name) for node in pair] for name in of} == of
    assert monitor.removed() == set()
    a.reload(a.text.replace("priority = 150", "priority = 50"))
    until(lambda: b.host.has(WWW) and not a.host.has(WWW), "b is worth more now")
    assert [node.transitions("mail") for node in pair] == of["mail"]


def test_another_vrid_is_another_router_and_the_other_one_goes_on(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    a, b = pair
    mail = [node.transitions("mail") for node in pair]
    b.reload(b.text.replace(FILE[FILE.index('name = "mail"') :], ""))
    monitor = Monitor(b.host, tmp_path)
    monitor.removed()
    a.reload(a.text.replace("vrid = 51", "vrid = 61"))
    until(lambda: b.log_has("Skew_Time after priority 0 was heard", 1), "b was told")
    until(lambda: a.metrics()["router_info", f"www/{DEVICE}/61"] == 1, "a has the new one")
    b.reload(b.text.replace("vrid = 51", "vrid = 61"))
    until(lambda: a.host.has(WWW) and not b.host.has(WWW), "they agree again")
    assert [node.transitions("mail") for node in pair] == mail
    assert monitor.removed() == {WWW}


def test_routers_come_and_go(pair: tuple[Node, Node]) -> None:
    a, b = pair
    only_mail = a.text.replace(a.text[a.text.index("[[vrrp.router]]") : a.text.rindex("[[vrrp.router]]")], "")
    a.reload(only_mail)
    until(lambda: b.host.has(WWW) and not a.host.has(WWW), "b has both")
    assert {labels for name, labels in a.metrics() if name == "priority"} == {"mail"}
    assert [it["iname"] for it in json.loads(a.status("--json"))] == ["mail"]
    a.reload(a.text)
    until(lambda: a.host.has(WWW) and not b.host.has(WWW), "a has its own again")
    assert [it["iname"] for it in json.loads(a.status("--json"))] == ["www", "mail"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("interval = 0.3", "interval = 0.123", "hundredths of a second"),
        ("vrid = 52", "vrid = 51", "both are VRID 51"),
        ("[[vrrp.router]]", "[[vrrp.router", "cluster.toml"),
        ("9112", "9113", "a restart is needed for --admin"),
    ],
)
def test_a_bad_file_changes_nothing(
    pair: tuple[Node, Node], tmp_path: Path, old: str, new: str, said: str
) -> None:
    a, _ = pair
    monitor = Monitor(a.host, tmp_path)
    monitor.removed()
    before = [node.transitions(name) for node in pair for name in ("www", "mail")]
    a.reload(a.text.replace(old, new), "not reloaded: nothing was changed")
    assert a.said(said)
    assert [node.transitions(name) for node in pair for name in ("www", "mail")] == before
    assert monitor.removed() == set()
    a.reload(a.text)


def test_what_cannot_be_opened_is_put_back_as_it_was(pair: tuple[Node, Node]) -> None:
    a, b = pair
    a.reload(
        a.text.replace("vrid = 51", 'vrid = 51\ninterface = "nowhere"'), "not reloaded: nothing was changed"
    )
    assert a.said("nowhere")
    assert a.said("put back as they were, after a farewell: www")
    until(lambda: a.host.has(WWW) and not b.host.has(WWW), "a has its own again")


def test_what_is_put_back_does_not_speak_from_an_address_that_another_router_has(
    lan: Lan, tmp_path: Path
) -> None:
    """The kernel lists the newest link-local address first."""
    node = Node(lan.host("a"), tmp_path, 150, 150)
    six = node.text.replace(f"{WWW}/24", "fe80::100/64").replace(f"{MAIL}/24", "fe80::101/64")
    node.reload(six)
    until(lambda: {"fe80::100", "fe80::101"} <= node.host.addresses(), "it has both")
    broken = six.replace("vrid = 51", 'vrid = 51\ninterface = "nowhere"')
    node.reload(broken, "not reloaded: nothing was changed")
    said = [line for line in node.log.read_text().splitlines() if "VRID 51: advertising on" in line]
    assert [line.split(" from ")[1].split()[0] for line in said] == ["10.77.0.1", "fe80::1", "fe80::1"]


def test_without_a_descriptor_left_what_was_there_is_put_back(pair: tuple[Node, Node]) -> None:
    a, b = pair
    pid = a.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    in_use = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + 1, hard))
    third = '\n[[vrrp.router]]\nname = "third"\nvrid = 53\nvip = ["10.77.0.102/24"]\n'
    a.reload(a.text.replace("vrid = 51", "vrid = 61") + third, "not reloaded: nothing was changed")
    assert a.said("Too many open files")
    assert not a.said("an error of ours")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: a.host.has(WWW) and not b.host.has(WWW), "a has its own again")


def test_another_key_when_the_file_of_the_old_one_is_gone(pair: tuple[Node, Node], tmp_path: Path) -> None:
    before = [node.transitions(name) for node in pair for name in ("www", "mail")]
    for mode in ("receive-only", "permissive", "enforce"):
        for node in pair:
            key = tmp_path / f"{node.host.name}-{mode}.key"
            key.write_text("ab" * 32)
            key.chmod(0o600)
            auth = f'interval = 0.3\nauth = "hmac:{key}"\nauth_mode = "{mode}"'
            node.reload(node.text.replace("interval = 0.3", auth))
            key.unlink()
    assert [node.transitions(name) for node in pair for name in ("www", "mail")] == before


def test_a_sync_group_moves_together(pair: tuple[Node, Node], lan: Lan) -> None:
    a, b = pair
    group = '\n[[vrrp.group]]\nname = "both"\nrouters = ["www", "mail"]\n'
    for node, mine in ((a, 150), (b, 100)):
        text = node.text.replace("priority = 150", f"priority = {mine}").replace(
            "priority = 100", f"priority = {mine}"
        )
        node.reload(text + group)
    until(
        lambda: {WWW, MAIL} <= a.host.addresses() and not b.host.has(WWW) and not b.host.has(MAIL),
        "a has both",
    )
    lan.unplug(a.host)
    until(
        lambda: {WWW, MAIL} <= b.host.addresses() and not a.host.has(WWW) and not a.host.has(MAIL),
        "b has both",
    )


@pytest.mark.parametrize("family", [4, 6])
def test_an_interface_that_is_removed_and_made_anew(pair: tuple[Node, Node], lan: Lan, family: int) -> None:
    """Twice; the routers stay, with what they have counted, and nothing is left behind."""
    a, b = pair
    www = WWW if family == 4 else "fe80::100"
    for node in pair:
        node.text = node.text.replace(f"{WWW}/24", f"{www}/{24 if family == 4 else 64}")
        node.reload(node.text)
    until(lambda: a.host.has(www) and not b.host.has(www), "a has its own")
    descriptors = Path(f"/proc/{a.process.pid}/fd")
    in_use = len(list(descriptors.iterdir()))
    for _ in range(2):
        lan.disconnect(a.host)
        until(lambda: b.host.has(www) and b.host.has(MAIL), "b has both")
        assert {it["condition"] for it in json.loads(a.status("--json"))} == {"fault"}
        lan.connect(a.host)
        until(lambda: a.host.has(www) and not b.host.has(www), "a has its own again")
        until(lambda: b.host.has(MAIL) and not a.host.has(MAIL), "and no other")
    until(lambda: len(list(descriptors.iterdir())) == in_use, "no descriptor is left open")
    became_active = [count for labels, count in a.transitions("www").items() if "/active" in labels]
    assert sum(became_active) == 3
    assert "ERROR" not in a.log.read_text()


def test_status_shows_each(pair: tuple[Node, Node]) -> None:
    a, _ = pair
    lines = a.status().splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["router", "VRID", "state", "priority"],
        ["www", "51", "active", "150"],
        ["mail", "52", "backup", "100"],
    ]
    told: list[dict[str, Any]] = json.loads(a.status("--json"))
    assert [(it["iname"], it["state"], it["vipset"]) for it in told] == [("www", 2, True), ("mail", 1, False)]
    gone = subprocess.run(
        [sys.executable, "-m", "scaleup.vrrp", "status", "--event-socket", str(a.folder / "no")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (gone.returncode, gone.stderr) == (
        1,
        f"scaleup: --event-socket {a.folder}/no: No such file or directory\n",
    )


def test_the_owner_of_the_addresses_announces_what_is_its_own(lan: Lan, tmp_path: Path) -> None:
    """Priority 255, RFC 9568 §1.7: never added, never removed; without it, a fault."""
    host, log = lan.host("a"), tmp_path / "log"
    arguments = ["-m", "scaleup.vrrp", "--interface", DEVICE, "--vip", f"{host.ipv4}/24", "--priority", "255"]
    process = host.python(*arguments, "--interval", "0.1", log=log)
    until(lambda: "initialize → active" in log.read_text(), "it is Active from the start (§6.4.1)")
    host.ip("addr", "del", f"{host.ipv4}/24", "dev", DEVICE)
    until(lambda: "is gone, and priority 255 says" in log.read_text(), "it is at fault")
    host.ip("addr", "add", f"{host.ipv4}/24", "dev", DEVICE)
    until(lambda: log.read_text().count("initialize → active") == 2, "it is Active again")
    process.terminate()
    assert process.wait(20) == 0
    assert host.has(host.ipv4)
    refused = host.python(*arguments[:-3], "10.77.0.9/24", "--priority", "255", log=tmp_path / "refused")
    assert refused.wait(40) == 1
    assert "10.77.0.9 is not an address of this host" in (tmp_path / "refused").read_text()


def test_what_is_the_host_s_own_is_never_taken_off(lan: Lan, tmp_path: Path) -> None:
    """Neither at the start nor when 255 becomes 200: the host would be cut off."""
    host, file, log = lan.host("a"), tmp_path / "cluster.toml", tmp_path / "log"
    text = f"""
[vrrp]
interface = "{DEVICE}"
interval = 0.3

[[vrrp.router]]
name = "own"
vrid = 51
vip = ["{host.ipv4}/24"]
priority = 255

[[vrrp.router]]
name = "other"
vrid = 52
vip = ["{MAIL}/24"]
"""
    file.write_text(text)
    process = host.python("-m", "scaleup.vrrp", "--config", str(file), log=log)
    until(lambda: "own (VRID 51): initialize → active" in log.read_text(), "it owns its address")
    until(lambda: host.has(MAIL), "the other router speaks from it")
    file.write_text(text.replace("priority = 255", "priority = 200"))
    process.send_signal(signal.SIGHUP)
    until(lambda: "not reloaded" in log.read_text(), "it refuses")
    assert "that is the one address that this host has there" in log.read_text()
    assert host.has(host.ipv4)
    until(lambda: log.read_text().count("own (VRID 51): initialize → active") == 2, "it is put back")
    assert host.has(host.ipv4)


def test_a_new_check_and_another_key_move_nothing(pair: tuple[Node, Node], tmp_path: Path) -> None:
    """Key files are exchanged, the old one is gone, and there is more than one reload after that."""
    a, b = pair
    peers = {a: b.host.ipv4, b: a.host.ipv4}
    for node, peer in peers.items():
        (node.folder / "old").write_bytes(b"o" * 32)
        (node.folder / "new").write_bytes(b"n" * 32)
        unicast = f'peer = ["{peer}"]\nauth = "hmac:{node.folder}/old"\nauth_mode = "permissive"\n'
        node.text = node.text.replace("interval = 0.3\n", f"interval = 0.3\n{unicast}")
        node.reload(node.text)
    until(lambda: a.host.has(WWW) and b.host.has(MAIL), "each has its own")
    until(lambda: not a.host.has(MAIL) and not b.host.has(WWW), "and no other")
    before = [node.transitions(name) for node in pair for name in ("www", "mail")]
    for node in pair:
        node.text = node.text.replace("permissive", "receive-only")
        node.reload(node.text)
    for node in pair:
        node.text = (
            node.text.replace("/old", "/new") + '\n[[vrrp.track]]\nname = "well"\nscript = "/bin/true"\n'
        )
        node.reload(node.text)
        (node.folder / "old").unlink()
        node.reload(node.text)
    for mode in ("permissive", "enforce"):
        for node in pair:
            node.reload(node.text.replace("receive-only", mode))
    until(lambda: all(("check_up", "well") in node.metrics() for node in pair), "the check has passed")
    heard = a.metrics()["advertisements_received_total", "mail"]
    until(lambda: a.metrics()["advertisements_received_total", "mail"] > heard, "they believe each other")
    assert [node.transitions(name) for node in pair for name in ("www", "mail")] == before


def test_scripts_of_the_new_file_hear_of_what_the_reload_does(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    a, _ = pair
    told = tmp_path / "told"
    script = tmp_path / "tell"
    script.write_text(f'#!/bin/sh\necho "$2 $3" >> {told}\n')
    script.chmod(0o755)
    a.reload(
        a.text.replace("vrid = 51", "vrid = 61").replace(
            "interval = 0.3\n", f'interval = 0.3\nnotify = "{script}"\n'
        )
    )
    until(
        lambda: told.exists() and told.read_text().splitlines() == ["www BACKUP", "www MASTER"],
        "they were told",
    )


def test_scripts_run_in_order_whatever_reloads_and_ends_meanwhile(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    a, _ = pair
    told = tmp_path / "told"
    script = tmp_path / "tell"
    script.write_text(f'#!/bin/sh\nsleep 0.3; echo "$2 $3" >> {told}\n')
    script.chmod(0o755)
    with_script = a.text.replace("interval = 0.3\n", f'interval = 0.3\nnotify = "{script}"\n')
    for vrid in (61, 62, 63):
        # Another time-out is another helper, too.
        text = with_script.replace("vrid = 51", f"vrid = {vrid}\nnotify_timeout = {vrid}")
        a.reload(text)
    a.process.terminate()
    a.process.wait(40)
    said = [line for line in told.read_text().splitlines() if line.startswith("www") and "MASTER" not in line]
    assert said == ["www BACKUP", "www STOP"] * 3


@pytest.mark.alone  # at most an Active_Down_Interval of 0.3 s may pass
def test_one_that_stays_does_not_notice_how_many_go(lan: Lan, tmp_path: Path) -> None:
    """To close what each had took 13 ms once: two Active_Down_Intervals in all."""
    host = lan.host("a")
    file, log = tmp_path / "cluster.toml", tmp_path / "log"
    head = f'[vrrp]\ninterface = "{DEVICE}"\ninterval = 0.1\nadmin = "{ADMIN}"\n'
    routers = [
        f'[[vrrp.router]]\nname = "r{n}"\nvrid = {n}\nvip = ["203.0.113.{n}/24"]\n' for n in range(1, 61)
    ]
    file.write_text(head + "".join(routers))
    process = host.python("-m", "scaleup.vrrp", "--config", str(file), log=log)
    until(lambda: len(host.addresses()) > len(routers), "it has them all")
    known = transitions(metrics(host), "r1")
    file.write_text(head + routers[0])
    process.send_signal(signal.SIGHUP)
    until(lambda: " reloaded\n" in log.read_text(), "it has reloaded")
    heard = metrics(host)["advertisements_sent_total", "r1"]
    until(lambda: metrics(host)["advertisements_sent_total", "r1"] > heard, "it goes on")
    assert transitions(metrics(host), "r1") == known
    assert host.has("203.0.113.1")
    assert not host.has("203.0.113.2")
