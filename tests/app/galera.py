"""A Galera cluster of real MariaDB nodes on this machine. Root starts it, and it runs as `mysql`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pymysql
from database_servers import PASSWORD

from bench.ports import free_port
from scaleup.net.addresses import Endpoint

START_SECONDS = 60.0
LOOK_SECONDS = 0.05
PROVIDER = "/usr/lib/galera/libgalera_smm.so"
PROMPT = (
    "evs.suspect_timeout=PT3S;evs.inactive_timeout=PT8S;evs.keepalive_period=PT0.5S;"
    "evs.inactive_check_period=PT0.5S;evs.install_timeout=PT8S"
)
"""A node that has died is given up after 3 s, where 5 s are the default. Less, and a busy machine is a dead one."""


class Node:
    """`start` it, and it is ready when `is_ready`."""

    def __init__(self, number: int, folder: Path, endpoint: Endpoint, group: int, transfer: int) -> None:
        self.number, self._folder, self.endpoint = number, folder / f"node{number}", endpoint
        self.group = f"127.0.0.1:{group}"
        self._group, self._transfer = group, transfer
        self.process: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        self._folder.mkdir()
        shutil.chown(self._folder, "mysql")
        script = ["mariadb-install-db", "--no-defaults", f"--datadir={self._folder}", "--user=mysql"]
        subprocess.run([*script, "--skip-test-db", "--skip-name-resolve"], check=True, capture_output=True)

    def start(self, members: str) -> None:
        """`members`: those to join, of the group; empty: it begins one."""
        provider = (
            f"base_port={self._group};gmcast.listen_addr=tcp://{self.group};ist.recv_addr=127.0.0.1:{free_port()};"
            f"gcache.size=16M;pc.recovery=no;{PROMPT}"
        )
        init = self._folder / "init.sql"
        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        init.write_text(
            "CREATE DATABASE IF NOT EXISTS scaleup CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;\n"
            f"CREATE OR REPLACE USER scaleup@'%' IDENTIFIED BY '{quoted}';\n"
            "GRANT ALL ON scaleup.* TO scaleup@'%';\nGRANT PROCESS, RELOAD ON *.* TO scaleup@'%';\n"
        )
        shutil.chown(init, "mysql")
        command = [
            *("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={self._folder}", "--socket=s.sock"),
            *(f"--port={self.endpoint.port}", f"--bind-address={self.endpoint.host}", "--skip-name-resolve"),
            *("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--performance-schema=off"),
            *(
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-doublewrite=0",
                "--aria-pagecache-buffer-size=1M",
            ),
            *("--innodb-autoinc-lock-mode=2", "--binlog-format=ROW", "--wsrep-on=ON"),
            *(
                f"--wsrep-provider={PROVIDER}",
                "--wsrep-cluster-name=test",
                f"--wsrep-node-name=n{self.number}",
            ),
            *(f"--wsrep-node-address={self.group}", f"--wsrep-cluster-address=gcomm://{members}"),
            *("--wsrep-sst-method=rsync", f"--wsrep-sst-receive-address=127.0.0.1:{self._transfer}"),
            f"--wsrep-provider-options={provider}",
            *(() if members else ("--wsrep-new-cluster", f"--init-file={init}")),
        ]
        with open(self._folder.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def may_begin(self) -> None:
        """Though others may have been ahead when it ended: so says who knows that they are gone."""
        state = self._folder / "grastate.dat"
        state.write_text(state.read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))

    def status(self) -> dict[str, str]:
        """Of wsrep; empty when it cannot be asked."""
        try:
            connection = pymysql.connect(
                host=self.endpoint.host,
                port=self.endpoint.port,
                user="scaleup",
                password=PASSWORD.encode(),
                ssl_disabled=True,
                connect_timeout=2,
                read_timeout=2,
            )
        except (pymysql.err.Error, OSError):
            return {}
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'wsrep%'")
            return dict(cursor.fetchall())

    def await_ready(self, size: int) -> None:
        """In a cluster of so many."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            status = self.status()
            if status.get("wsrep_ready") == "ON" and status.get("wsrep_cluster_size") == str(size):
                return
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self._folder.with_suffix(".log").read_text()[-5000:])
            time.sleep(LOOK_SECONDS)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)
            if number == signal.SIGKILL:
                self.process.wait(20)


@contextlib.contextmanager
def cluster(size: int = 3) -> Iterator[list[Node]]:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        folder.chmod(0o755)
        nodes = [
            Node(number, folder, Endpoint("127.0.0.1", free_port()), free_port(), free_port())
            for number in range(1, size + 1)
        ]
        try:
            for node in nodes:
                node.install()
            nodes[0].start("")
            nodes[0].await_ready(1)
            for count, node in enumerate(nodes[1:], 2):
                node.start(nodes[0].group)
                node.await_ready(count)
            yield nodes
        finally:
            for node in nodes:
                node.kill()
