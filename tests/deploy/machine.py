"""A machine to boot: systemd as process 1 of namespaces of its own, with the units of deploy/ installed.

    with Machine() as machine:
        machine.run("systemctl", "start", "scaleup-web@web1")

Its root is an overlay over this machine's, so nothing that happens in it is left. It has a network of its own in
which `eth0` has every address of deploy/cluster.toml. The project is at /opt/scaleup, as docs/operating.md
installs it, with the Python that runs the tests. It takes root.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil
import pytest
from needs import SEARCH_PATH, requires

from bench.lan import may_make_namespaces

ROOT = Path(__file__).parents[2]
BOOT_SECONDS = 60.0
COMMAND_SECONDS = 60.0
PATIENCE_SECONDS = 40.0
END_SECONDS = 30.0
NODES = {"lb": "lb1", "vrrp": "lb1", "web": "web1", "app": "app1", "db": "db"}
"""By tier, whom of cluster.toml it can be: one of each, on one host."""
ADDRESSES = [f"10.0.0.{last}" for last in (11, 12, 21, 22, 31, 32, 41)]

# Its control groups are below one of their own: it would take this machine's for its own otherwise.
START = r"""
set -e
mount -t cgroup2 cgroup2 /mnt
mkdir "/mnt/$GROUP"
echo $$ > "/mnt/$GROUP/cgroup.procs"
umount /mnt
exec unshare --mount --pid --fork --kill-child --net --uts --ipc --cgroup sh -c "$BOOT"
"""
REMOVE = r"""
mount -t cgroup2 cgroup2 /mnt
find "/mnt/$GROUP" -depth -type d -exec rmdir {} +
"""

BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root /mnt/project /mnt/project-work
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root

mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for folder in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $folder; done
chmod 1777 tmp
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
touch dev/console; mount --bind "$CONSOLE" dev/console
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx

# Only what is named here is started: none of this machine's own services, nothing that sets up a machine.
rm -rf etc/systemd/system usr/lib/systemd/system/*.wants
mkdir -p etc/systemd/system etc/scaleup etc/sysusers.d opt/scaleup opt/python
printf '[Unit]\nWants=systemd-journald.service\n' > etc/systemd/system/test.target
printf '[Unit]\n' > etc/systemd/system/network-online.target
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nRateLimitBurst=0\n' > etc/systemd/journald.conf.d/test.conf
rm -f etc/resolv.conf etc/machine-id; systemd-id128 new > etc/machine-id

# The project, with an environment of its own: services may not look where the Python that runs the tests lives.
# They come from where they are on this machine; what is written to the project is not left either.
mount -t overlay overlay -o "lowerdir=$PROJECT,upperdir=/mnt/project,workdir=/mnt/project-work" opt/scaleup
mount --bind "$BASE" opt/python
mkdir -p opt/scaleup/.venv
mount -t tmpfs -o mode=755 tmpfs opt/scaleup/.venv
mkdir opt/scaleup/.venv/bin opt/scaleup/.venv/lib
mount --bind "$VENV/lib" opt/scaleup/.venv/lib
echo "home = /opt/python/bin" > opt/scaleup/.venv/pyvenv.cfg
ln -s "/opt/python/bin/$PYTHON" opt/scaleup/.venv/bin/python
mkdir -p etc/systemd/system.conf.d
printf '[Manager]\nDefaultEnvironment=LD_LIBRARY_PATH=/opt/python/lib\n' > etc/systemd/system.conf.d/test.conf

cp opt/scaleup/deploy/*.service etc/systemd/system/
cp opt/scaleup/deploy/cluster.toml etc/scaleup/
cp opt/scaleup/deploy/scaleup.sysusers etc/sysusers.d/scaleup.conf
head -c 24 /dev/urandom | base64 > etc/scaleup/database.password
chmod 600 etc/scaleup/database.password

ip link set lo up
ip link add eth0 type veth peer name cable0; ip link set cable0 up
echo 1 > proc/sys/net/ipv4/conf/cable0/arp_ignore  # a cable's end answers for no address
ip link set eth0 up
for address in $ADDRESSES; do ip address add "$address/24" dev eth0; done

pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared /
systemd-sysusers /etc/sysusers.d/scaleup.conf
export container=test
exec /usr/lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=0
"""


class Machine:
    """Booted by `with`; `console` is what systemd has said so far."""

    def __enter__(self) -> Self:
        self.console = b""
        self._group = f"scaleup-test-{os.getpid()}-{time.monotonic_ns()}"
        master, slave = pty.openpty()
        try:
            environment = {
                "PATH": SEARCH_PATH,
                "BOOT": BOOT,
                "GROUP": self._group,
                "CONSOLE": os.ttyname(slave),
                "ADDRESSES": " ".join(ADDRESSES),
                "PROJECT": str(ROOT),
                "BASE": sys.base_prefix,
                "VENV": sys.prefix,
                "PYTHON": f"python{sysconfig.get_python_version()}",
            }
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", START],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=slave,
                stderr=slave,
            )
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(master,), daemon=True)
        self._reader.start()
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command inside, as root; its two outputs are one."""
        entering = ["nsenter", "--target", str(self._pid), "--all", "--root", "--wd"]
        done = subprocess.run(
            [*entering, *command],
            env={"PATH": SEARCH_PATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}\n{self.log()}"
        return done

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def log(self, unit: str | None = None) -> str:
        only = ("--unit", unit) if unit else ()
        return self.run("journalctl", "--no-pager", "--output=cat", "--boot", *only, check=False).stdout

    def close(self) -> None:
        for process in psutil.Process(self._process.pid).children() if self._process.poll() is None else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # process 1 of the namespace: it ends when the kernel has killed all others
        try:
            self._process.wait(END_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
        self._ended.set()
        self._reader.join(10)
        removing = {"PATH": SEARCH_PATH, "GROUP": self._group}
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", REMOVE], env=removing, timeout=END_SECONDS, check=True
        )

    def _boot(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            assert self._process.poll() is None, self.console.decode(errors="replace")
            assert time.monotonic() < deadline, self.console.decode(errors="replace")
            for child in psutil.Process(self._process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.name() == "systemd":
                        self._pid = child.pid
                        if (
                            self.run("systemctl", "is-system-running", check=False).stdout.strip()
                            == "running"
                        ):
                            return
            self._ended.wait(0.05)  # between two looks

    def _read(self, master: int) -> None:
        with os.fdopen(master, "rb", buffering=0) as console:
            while not self._ended.is_set():
                if select.select([console], [], [], 0.1)[0]:
                    try:
                        self.console += console.read(65536)
                    except OSError:  # EIO: nobody has the other end any more
                        return


BOOTED = [
    requires("systemctl", "unshare", "nsenter", "ip", "curl", "mariadbd", "haproxy", "socat"),
    pytest.mark.skipif(not may_make_namespaces(), reason="booting a machine needs root with CAP_SYS_ADMIN"),
    pytest.mark.timeout(240),
]


def on_a_machine(test: Callable[..., None]) -> Callable[..., None]:
    for mark in BOOTED:
        test = mark(test)
    return test


def unit_of(tier: str) -> str:
    return f"scaleup-{tier}@{NODES[tier]}.service"


def until(condition: Callable[[], object], what: str, machine: Machine) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}\n{machine.log()}"


def answers(machine: Machine, url: str) -> bool:
    return machine.run("curl", "-sf", "--max-time", "2", "-o", "/dev/null", url, check=False).returncode == 0
