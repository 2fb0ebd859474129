"""`python -m scaleup.app` as a process: how it starts, what it says when it cannot, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from database_servers import PASSWORD, DatabaseServer

from bench.ports import free_port

pytestmark = pytest.mark.slow


def start(*arguments: str, password: str = PASSWORD) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scaleup.app", "--node", "app2", *arguments],
        env={**os.environ, "SCALEUP_APP_DATABASE_PASSWORD": password},
        stderr=subprocess.PIPE,
        text=True,
    )


def fails(*arguments: str, password: str = PASSWORD) -> tuple[int, str]:
    process = start(*arguments, password=password)
    try:
        _, said = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert "Traceback" not in said
    return process.returncode, said


def url(server: DatabaseServer) -> str:
    return f"mysql://scaleup@{server.endpoint}/scaleup"


def test_it_serves_and_ends(server: DatabaseServer) -> None:
    port = free_port()
    process = start("--listen", f"127.0.0.1:{port}", "--database", url(server), "--drain", "0.2")
    assert process.stderr is not None
    assert f"listening on 127.0.0.1:{port}" in process.stderr.readline()
    assert "version 1" in process.stderr.readline()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/whoami", timeout=20) as response:
        assert json.load(response)["application"] == {"name": "app2", "pid": process.pid}
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "Traceback" not in said


def test_a_wrong_password_is_one_clear_line(server: DatabaseServer) -> None:
    code, said = fails("--listen", "127.0.0.1:0", "--database", url(server), password="wrong")
    assert code == 1
    (line,) = [line for line in said.splitlines() if "ERROR" in line]
    for word in (
        "'scaleup'",
        str(server.endpoint),
        "--database-password-file",
        "SCALEUP_APP_DATABASE_PASSWORD",
    ):
        assert word in line


def test_a_newer_schema_is_one_clear_line(server: DatabaseServer) -> None:
    server.empty()
    server.execute("CREATE TABLE schema_migrations (version INT NOT NULL PRIMARY KEY)")
    server.execute("INSERT INTO schema_migrations (version) VALUES (99)")
    code, said = fails("--listen", "127.0.0.1:0", "--database", url(server))
    server.empty()
    assert code == 1
    assert "version 99, newer than this program" in said


def test_a_port_in_use(server: DatabaseServer) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        code, said = fails("--listen", endpoint, "--database", url(server))
    assert code == 1
    assert f"--listen {endpoint}: Address already in use" in said


def test_a_wrong_setting() -> None:
    code, said = fails("--database", "mysql://u:geheim@h/d")
    assert code == 78
    assert "--database-password-file" in said
    assert "geheim" not in said
