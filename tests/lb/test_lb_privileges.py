"""--user and --group: the workers become somebody who may do less, once all is open; the node does not."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from nodes import WORKER, eventually
from servers import Client, EchoServer
from test_lb_node import Start, servers, start, web1

from bench.lan import may_make_namespaces
from scaleup.errors import StartupError
from scaleup.lb.settings import LbSettings
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound
from scaleup.processes import privileges

__all__ = ["start", "web1"]  # fixtures

HOST = "127.0.67.1"
AS_ROOT = pytest.mark.skipif(
    not may_make_namespaces(), reason="becoming somebody else and mounting need root"
)


@pytest.fixture
def python() -> Iterator[list[str]]:
    """This Python, at a place where anybody can read it; root's own may stand in a home that nobody may enter.

    The mount is seen by that process and its children only, and goes with them.
    """
    with tempfile.TemporaryDirectory(prefix="scaleup-test-") as name:
        here = Path(name)
        here.chmod(0o755)
        program = here / Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve())
        packages = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), *site.getsitepackages()])
        script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        as_this = ("env", f"PYTHONHOME={here}", f"PYTHONPATH={packages}", str(program))
        yield ["unshare", "--mount", "sh", "-c", script, "sh", sys.base_prefix, str(here), *as_this]


def privileged_port() -> int:
    """A free one."""
    for port in range(1023, 512, -1):
        with contextlib.suppress(Exception), bound(Endpoint(HOST, port), "--listen"):
            return port
    raise AssertionError("no port below 1024 is free")


def status(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.slow
@AS_ROOT
def test_workers_have_no_privilege_and_a_reload_opens_what_takes_some(
    start: Start, web1: EchoServer, python: list[str], tmp_path: Path
) -> None:
    first, second = privileged_port(), 0
    file = tmp_path / "cluster.toml"
    text = (
        f'[lb]\nlisten = ["{HOST}:{first}"]\nserver = ["web1={web1.address}"]\nuser = "nobody"\nworkers = 1\n'
    )
    file.write_text(text)
    node = start("--config", str(file), python=python).ready()
    nobody = pwd.getpwnam("nobody")

    def is_humble(worker: psutil.Process) -> None:
        said = status(worker)
        assert set(said["Uid"].split()) == {str(nobody.pw_uid)}
        assert set(said["Gid"].split()) == {str(nobody.pw_gid)}
        assert said["Groups"] in ("", str(nobody.pw_gid))
        assert int(said["CapEff"], 16) == int(said["CapPrm"], 16) == 0
        assert said["NoNewPrivs"] == "1"

    is_humble(node.child(WORKER))
    assert psutil.Process(node.process.pid).uids().real == 0
    with Client((HOST, first)) as client:
        assert client.greeting() == "web1"
        client.echo(b"12345")

    second = privileged_port()
    file.write_text(text.replace(str(first), str(second)))
    known = len(node.log)
    node.process.send_signal(signal.SIGHUP)
    node.says("reloaded", after=known)
    with Client((HOST, second)) as client:
        assert client.greeting() == "web1"
    eventually(lambda: len(node.children(WORKER)) == 1)
    is_humble(node.child(WORKER))
    node.child(WORKER).kill()
    another = node.replacement(WORKER)
    eventually(lambda: status(another)["NoNewPrivs"] == "1")  # which is the last of it
    is_humble(another)


@pytest.mark.slow
@AS_ROOT
def test_a_log_that_the_user_could_not_open_again_is_said_at_the_start(
    start: Start, web1: EchoServer, python: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "lb.log"
    arguments = ("--listen", f"{HOST}:0", *servers(web1), "--user", "nobody", "--log-file", str(log))
    node = start(*arguments, python=python)
    assert node.process.wait(20) == 1
    assert "--user nobody may not write to it" in log.read_text()


def test_who_is_not_known_is_said_with_the_settings() -> None:
    for key, said in (
        ("user", "there is no user nobody-at-all"),
        ("group", "there is no group nobody-at-all"),
    ):
        with pytest.raises(ValueError, match=said):
            LbSettings.model_validate(
                {"listen": ["127.0.0.1:0"], "server": ["127.0.0.1:1"], key: "nobody-at-all"}
            )


def test_whoever_may_not_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "initgroups", refused)
    with pytest.raises(StartupError, match=r"--user nobody, .*start as root"):
        privileges.drop("nobody", None, log_file=None)


AS_SYSTEMD_STARTS_IT = """
import ctypes, os, struct
from pathlib import Path
from scaleup.processes import privileges

libc = ctypes.CDLL(None)
libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sets = [1 << 12] * 3  # CAP_NET_ADMIN: effective, permitted, inheritable
libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *sets, 0, 0, 0))
libc.prctl(47, 2, 12, 0, 0)  # PR_CAP_AMBIENT_RAISE
print(Path("/proc/self/status").read_text())
privileges.drop(None, None, log_file="/none")
print(Path("/proc/self/status").read_text())
"""


@AS_ROOT
def test_what_the_service_manager_gave_to_all_is_given_up_whoever_is_asked_for() -> None:
    """User= and AmbientCapabilities= of the unit, without --user."""
    said = subprocess.run(
        [sys.executable, "-c", AS_SYSTEMD_STARTS_IT], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    sets = {
        key: [int(line.partition(":")[2], 16) for line in said if line.startswith(key)]
        for key in ("CapEff", "CapPrm", "CapInh", "CapAmb")
    }
    assert sets == {key: [1 << 12, 0] for key in sets}
    assert [line.split()[1] for line in said if line.startswith("NoNewPrivs")] == ["0", "1"]
    assert {line for line in said if line.startswith("Uid")} == {"Uid:\t65534\t65534\t65534\t65534"}
