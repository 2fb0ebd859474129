"""A MariaDB of the test's own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.ports import free_port


@contextlib.contextmanager
def mariadb_server(host: str, *sql: str) -> Iterator[int]:
    """It listens on `host`; yields the port. `sql` is executed first; three errors of a host, and it is refused."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        port = free_port(host)
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        own = [f"--tmpdir={name}"]  # a server that starts removes others' temporary tables from /tmp
        as_root = ["--user=root"] * (os.getuid() == 0)
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--skip-test-db", f"--datadir={data}", *own, *as_root],
            check=True,
            capture_output=True,
            timeout=50,
        )
        (folder / "init.sql").write_text("\n".join(sql))
        command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={folder}/s", *own, *as_root]
        command += [f"--port={port}", f"--bind-address={host}", f"--init-file={folder}/init.sql"]
        command += ["--max-connect-errors=3", "--skip-name-resolve"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                assert any("ready for connections" in line for line in server.stderr), (
                    "mariadbd did not start"
                )
                yield port
            finally:
                server.kill()
