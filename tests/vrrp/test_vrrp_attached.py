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
from typing import Any

import psutil
import pytest
from elections import Peer, free_port, until

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound
from scaleup.processes import Child, Message
from scaleup.vrrp.metrics import ROLES

VIP, SELF, PEER = "127.0.63.100", "127.0.63.1", "127.0.63.2"
INTERVAL = 0.05


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Bound to the virtual address; the test keeps it when all others that hold it are dead."""
    with bound(Endpoint(VIP, 0), "--listen", reuse_port=True) as finder:
        where = Endpoint(*finder.getsockname())
    with bound(where, "--listen", reuse_port=True) as sock:
        yield sock


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def peer(port: int) -> AsyncIterator[Peer]:
    with contextlib.closing(Peer(PEER, port, to=SELF)) as peer:
        yield peer


def election(port: int) -> dict[str, Any]:
    return {
        "vip": [VIP],
        "source": SELF,
        "peer": [PEER],
        "vrrp_port": port,
        "interval": INTERVAL,
        "auth": "none",
    }


def listens(sock: socket.socket) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(sock.getsockname()) == 0


class Attached:
    """The process as a child of the test."""

    def __init__(self, sockets: list[socket.socket], port: int) -> None:
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
            election=election(port),
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
    await attached.child.stop(5)


async def test_it_owns_the_address_and_tells_its_node(
    attached: Attached, listener: socket.socket, peer: Peer
) -> None:
    await until(lambda: attached.roles == ["backup", "active"])
    assert attached.messages[0].fields["rule"] == "startup with priority 100"
    assert "ready" in [message.kind for message in attached.messages]
    assert listens(listener)

    attached.child.send("fault", reason="no worker accepts")
    await peer.hears(0)
    assert not listens(listener)
    attached.child.send("recover")
    await until(lambda: attached.roles == ["backup", "active", "fault", "backup", "active"])
    assert listens(listener)

    assert await attached.child.stop(5) == 0
    await peer.hears(0)
    assert not listens(listener)


@pytest.mark.slow
async def test_it_tells_its_counters_every_second(attached: Attached, peer: Peer) -> None:
    await until(lambda: len(attached.said("statistics")) >= 3)
    first, *_, last = attached.said("statistics")
    assert first["role"] in ROLES
    assert last["role"] == "active"
    assert last["transitions"] == {"active": 1, "backup": 1, "fault": 0}
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


def test_it_is_not_started_by_hand() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scaleup.vrrp.attached"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == "scaleup: this process is started by its node, not by hand; see README.md\n"
