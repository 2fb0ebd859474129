"""The vrrp process of a load balancer, as a real process: what it does for its node, and when that dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from elections import Peer, free_udp_port, until

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound
from scaleup.processes import Child, Message
from scaleup.vrrp.metrics import ROLES

pytestmark = pytest.mark.slow  # real processes

VIP, SELF, PEER = "127.0.63.100", "127.0.63.1", "127.0.63.2"
INTERVAL = 0.5  # three of them: no pause of a busy machine is taken for a death
STOP_SECONDS = 20.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Whoever signals all processes of a service sends them to this one, too: they are its node's business."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Bound to the virtual address; the test keeps it when all others that hold it are dead."""
    with bound(Endpoint(VIP, 0), "--listen", reuse_port=True) as finder:
        where = Endpoint(*finder.getsockname())
    with bound(where, "--listen", reuse_port=True) as sock:
        yield sock


@pytest.fixture
def port() -> int:
    return free_udp_port()


@pytest.fixture
async def peer(port: int) -> AsyncIterator[Peer]:
    with contextlib.closing(Peer(PEER, port, to=SELF)) as peer:
        yield peer


def election(port: int, auth: str = "none") -> dict[str, Any]:
    return {
        "vip": [VIP],
        "source": SELF,
        "peer": [PEER],
        "vrrp_port": port,
        "interval": INTERVAL,
        "auth": auth,
    }


def listens(sock: socket.socket) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(sock.getsockname()) == 0


class Attached:
    """The process as a child of the test."""

    def __init__(self, sockets: list[socket.socket], port: int, auth: str = "none") -> None:
        self.messages: list[Message] = []
        self.child = Child(
            "vrrp",
            ["scaleup.vrrp.attached", "vrrp"],
            on_message=self.messages.append,
            on_exit=lambda code: None,
        )
        self.child.send(
            "init",
            [sock.fileno() for sock in sockets],
            name="lb1/vrrp",
            log=("text", "info", None),
            election=election(port, auth),
        )

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [message.fields for message in self.messages if message.kind == kind]

    @property
    def roles(self) -> list[str]:
        return [fields["role"] for fields in self.said("role")]


@pytest.fixture
async def attached(listener: socket.socket, port: int, peer: Peer) -> AsyncIterator[Attached]:
    attached = Attached([listener], port)
    yield attached
    await attached.child.stop(STOP_SECONDS)


async def test_it_owns_the_address_and_tells_its_node(
    attached: Attached, listener: socket.socket, peer: Peer
) -> None:
    await until(lambda: attached.roles == ["backup", "active"])
    assert attached.messages[0].fields["rule"] == "startup with priority 100"
    assert "ready" in [message.kind for message in attached.messages]
    assert listens(listener)

    for number in SIGNALS:
        attached.child.signal(number)
    attached.child.send("fault", reason="no worker accepts")
    await peer.hears(0)
    assert not listens(listener)
    attached.child.send("recover")
    await until(lambda: attached.roles == ["backup", "active", "fault", "backup", "active"])
    assert listens(listener)

    assert await attached.child.stop(STOP_SECONDS) == 0
    await peer.hears(0)
    assert not listens(listener)


@pytest.mark.slow
async def test_it_tells_its_counters_every_second(attached: Attached, peer: Peer) -> None:
    def routers() -> list[dict[str, Any]]:
        return [router for said in attached.said("statistics") for router in said["routers"]]

    await until(lambda: len(routers()) >= 3 and routers()[-1]["role"] == "active")
    first, *_, last = routers()
    assert first["role"] in ROLES
    changes = [(role, event, count) for role, event, count in last["transitions"] if count]
    assert changes == [("active", "timer", 1), ("backup", "startup", 1)]
    assert last["sent"] > first["sent"]
    assert last["silence"] == {}


PARENT = """
import asyncio, json, sys
from scaleup.processes import Child

async def main():
    child = Child("vrrp", ["scaleup.vrrp.attached"], on_message=lambda message: None, on_exit=print)
    election = json.loads(sys.argv[2])
    child.send("init", [int(sys.argv[1])], name="vrrp", log=("text", "info", None), election=election)
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


async def test_when_its_node_is_killed_it_gives_the_address_up_and_says_so(
    listener: socket.socket, port: int, peer: Peer
) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 - it does not block for longer than a fork
        [sys.executable, "-c", PARENT, str(listener.fileno()), json.dumps(election(port))],
        pass_fds=[listener.fileno()],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    try:
        child = psutil.Process(int(await asyncio.to_thread(parent.stdout.readline)))
        await peer.hears(100)
        assert listens(listener)

        parent.send_signal(signal.SIGSTOP)  # paused is not dead
        await until(lambda: psutil.Process(parent.pid).status() == psutil.STATUS_STOPPED)
        peer.heard()
        await peer.hears(100)
        assert listens(listener)

        parent.kill()
        await peer.hears(0)
        assert not listens(listener)
        await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


async def test_it_says_what_is_wrong_and_ends_when_its_address_is_not_this_hosts(
    listener: socket.socket, port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((SELF, port))
        attached = Attached([listener], port)
        assert await attached.child.wait() == 1
    said = capfd.readouterr().err
    assert f"--source {SELF}, UDP port {port}: Address already in use" in said
    assert "Traceback" not in said
    assert not listens(listener)


async def test_a_key_that_is_gone_is_said_in_one_line(
    port: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attached = Attached([], port, auth=f"hmac:{tmp_path}/key")
    assert await attached.child.wait() == 78
    assert f"key file {tmp_path}/key: No such file or directory" in capfd.readouterr().err


def test_it_is_not_started_by_hand() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scaleup.vrrp.attached"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == "scaleup: this process is started by its node, not by hand; see README.md\n"


@pytest.mark.slow
def test_the_election_by_itself(port: int, tmp_path: Path) -> None:
    """`python -m scaleup.vrrp`, twice: what keepalived is without addresses."""
    (tmp_path / "key").write_bytes(b"k" * 32)
    common = ["--vip", VIP, "--vrrp-port", str(port), "--interval", str(INTERVAL)]
    common += ["--auth", f"hmac:{tmp_path}/key"]
    with contextlib.ExitStack() as stack:

        def start(node: str, source: str, peer: str, priority: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "scaleup.vrrp", "--node", node, *common),
                        *("--source", source, "--peer", peer, "--priority", priority),
                    ],
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        def says(process: subprocess.Popen[str], text: str) -> None:
            assert process.stderr is not None
            assert any(text in line for line in process.stderr), "it has ended"

        a = start("a", SELF, PEER, "150")
        says(a, "no address is put on an interface")
        says(a, "backup → active: Active_Down_Timer fired, nothing heard (RFC 9568 §6.4.2)")
        b = start("b", PEER, SELF, "100")
        says(b, "initialize → backup: startup with priority 100")
        a.terminate()
        says(a, "active → initialize: stopped")
        says(b, "backup → active: Active_Down_Timer fired, Skew_Time after priority 0 was heard")
        b.terminate()
        assert (a.wait(20), b.wait(20)) == (0, 0)
