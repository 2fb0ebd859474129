"""The access log of the real process: where it goes, what it says, and that nobody waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from needs import requires
from web.outside import (
    ANSWER_SECONDS,
    PATIENCE_SECONDS,
    Address,
    Process,
    answers,
    exchange,
    metrics,
    ready,
    until,
    web,
)
from web.recorder import Recorder

from bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.keeps_connections]

COMBINED = re.compile(
    r'(?P<host>\S+) - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "(?P<request>[^"]*)" '
    r'(?P<status>\d{3}) (?P<sent>\d+) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"'
)
CLOSE = "Connection: close"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").write_text("12345")
    (tmp_path / "root" / "big").write_bytes(bytes(1024 * 1024))
    return tmp_path / "root"


def ask(address: Address, line: str, *fields: str) -> bytes:
    return exchange(address, "\r\n".join([line, "Host: site.test", CLOSE, *fields, "", ""]).encode())


def lines_of(file: Path, count: int) -> list[str]:
    until(lambda: file.exists() and file.read_text().count("\n") >= count, f"{count} lines")
    return file.read_text().splitlines()


def test_the_combined_log_in_a_file_of_its_own(root: Path, tmp_path: Path, application: Recorder) -> None:
    file = tmp_path / "access.log"
    forward = ("--app", f"app1={application.address}", "--health-check", "tcp")
    log = ("--access-log", "combined", "--access-log-file", str(file))
    with web("--root", str(root), *forward, *log) as (process, address):
        ask(address, "GET /a.txt?b=c HTTP/1.1", "User-Agent: x/1", 'Referer: https://y.test/"')
        ask(address, "HEAD /a.txt HTTP/1.1")
        ask(address, "GET /missing HTTP/1.0")
        ask(address, "GET /big HTTP/1.1")
        ask(address, "GET /api/x HTTP/1.1")
        exchange(address, b"nonsense \x01\r\n\r\n")
        found = [COMBINED.fullmatch(line) for line in lines_of(file, 6)]
        assert all(found)
        first, head, missing, big, forwarded, nonsense = (one.groupdict() for one in found if one)
        assert first["request"] == "GET /a.txt?b=c HTTP/1.1"
        assert (first["status"], first["sent"], first["agent"]) == ("200", "5", "x/1")
        assert first["referer"] == r"https://y.test/\x22"
        assert (head["request"], head["sent"], head["agent"]) == ("HEAD /a.txt HTTP/1.1", "0", "-")
        assert (missing["request"], missing["status"]) == ("GET /missing HTTP/1.0", "404")
        assert big["sent"] == str(1024 * 1024)
        assert (forwarded["status"], forwarded["sent"]) == ("200", "5")
        assert (nonsense["request"], nonsense["status"]) == (r"nonsense \x01", "400")
        assert not [line for line in process.log if "a.txt" in line]

        file.rename(tmp_path / "rotated")  # as logrotate does
        process.process.send_signal(signal.SIGUSR2)
        until(file.exists, "it is opened again")
        ask(address, "GET /a.txt HTTP/1.1")
        assert len(lines_of(file, 1)) == 1
        assert len((tmp_path / "rotated").read_text().splitlines()) == 6


@requires("goaccess")
def test_a_parser_of_others_reads_each_line(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    for kind in ("combined", "common"):
        with web("--root", str(root), "--access-log", kind, "--access-log-file", str(file)) as (_, address):
            received = [
                ask(address, "GET /a.txt HTTP/1.1", "User-Agent: x/1", "Referer: https://y.test/"),
                ask(
                    address, "GET /a.txt HTTP/1.1", 'User-Agent: "q" \\ \t', 'Referer: https://y.test/" 200 "'
                ),
                ask(address, "GET /missing?a=%22b%22 HTTP/1.0"),
                ask(address, "GET /big HTTP/1.1"),
            ]
            lines_of(file, 4)
        report = tmp_path / "report.json"
        command = ["goaccess", str(file), f"--log-format={kind.upper()}", "-o", str(report), "--no-progress"]
        subprocess.run([*command, "--no-global-config"], check=True, capture_output=True, timeout=20)
        told = json.loads(report.read_text())
        sent = sum(len(answers(one, "GET")[0].body) for one in received)
        general = told["general"]
        assert (general["valid_requests"], general["failed_requests"], general["bandwidth"]) == (4, 0, sent)
        assert {one["data"]: one["hits"]["count"] for one in told["status_codes"]["data"]} == {
            "2xx Success": 3,
            "4xx Client Errors": 1,
        }
        file.unlink()


def test_a_download_that_is_broken_off_is_a_499_with_what_was_sent(root: Path, tmp_path: Path) -> None:
    file, size = tmp_path / "access.log", 64 * 1024 * 1024
    with (root / "huge").open("wb") as huge:
        huge.truncate(size)
    flags = ("--root", str(root), "--access-log", "combined", "--access-log-file", str(file))
    with web(*flags) as (_, address):
        with socket.create_connection(address, ANSWER_SECONDS) as sock:
            sock.sendall(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        found = COMBINED.fullmatch(lines_of(file, 1)[0])
        assert found is not None
        assert found["status"] == "499"
        assert 0 < int(found["sent"]) < size


def test_objects_say_more_and_go_where_the_log_goes(root: Path, application: Recorder) -> None:
    forward = ("--app", f"app1={application.address}", "--health-check", "tcp")
    flags = ("--root", str(root), *forward, "--access-log", "json", "--log-format", "json")
    with web(*flags) as (process, address):
        ask(address, "GET /api/x HTTP/1.1", "X-Request-Id: given-one")
        line = process.said(r'"request": "GET /api/x HTTP/1.1"').string
    told = json.loads(line)
    assert (told["process"], told["logger"], told["level"]) == ("web1/worker1", "scaleup.web.access", "INFO")
    assert (told["request_id"], told["upstream"], told["upstream_status"]) == ("given-one", "app1", 200)
    assert (told["status"], told["tries"], told["bytes_sent"], told["host"]) == (200, 1, 5, "site.test")
    assert (
        0 <= told["upstream_seconds"] <= told["seconds"] < ANSWER_SECONDS
    )  # uvloop's clock has milliseconds


def test_a_client_that_left_and_an_application_that_is_away(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        flags = ("--app", f"app1=127.0.0.1:{silent.getsockname()[1]}", "--health-check", "tcp")
        more = ("--root", str(root), "--access-log", "json", "--response-timeout", "3", "--tries", "1")
        with web(*flags, *more) as (process, address):
            with socket.create_connection(address, ANSWER_SECONDS) as sock:
                sock.sendall(b"GET /api/left HTTP/1.1\r\nHost: a\r\n\r\n")
                until(lambda: forwarded_to(silent), "the application has it")
            left = json.loads(process.said(r"{.*GET /api/left.*}")[0])
            assert (left["status"], left["upstream"], left["upstream_status"]) == (499, "app1", None)
            assert answers(ask(address, "GET /api/late HTTP/1.1"), "GET")[0].status == 504
            late = json.loads(process.said(r"{.*GET /api/late.*}")[0])
            assert (late["status"], late["upstream"], late["upstream_status"]) == (504, "app1", None)
            assert late["upstream_seconds"] >= 2.9


def forwarded_to(listener: socket.socket) -> bool:
    """Whether a request has come. Health checks connect, too, say nothing, and leave with a reset."""
    listener.settimeout(0.2)
    try:
        sock, _ = listener.accept()
    except TimeoutError:
        return False
    kept.append(sock)
    sock.settimeout(0.2)
    try:
        return b"/api/left" in sock.recv(1000)
    except (TimeoutError, ConnectionResetError):
        return False


kept: list[socket.socket] = []


def test_a_reader_that_stalls_holds_nobody_up(root: Path) -> None:
    """Its pipe is full after 64 KiB, and what we keep after half a MiB; the rest is dropped and counted."""
    port, admin = free_port(), ("127.0.0.1", free_port())
    command = [sys.executable, "-m", "scaleup.web", "--listen", f"127.0.0.1:{port}", "--root", str(root)]
    command += ["--access-log", "combined", "--admin", f"127.0.0.1:{admin[1]}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        ready(admin)
        path = b"GET /a.txt?" + b"x" * 7000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
        slowest = 0.0
        with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as sock:
            for _ in range(150):
                began = time.monotonic()
                sock.sendall(path)
                assert sock.recv(2000).startswith(b"HTTP/1.1 200 ")
                slowest = max(slowest, time.monotonic() - began)
        assert slowest < ANSWER_SECONDS
        until(lambda: metrics(admin).get("scaleup_log_dropped_total", 0) > 0, "drops are counted")
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert process.stderr is not None
        process.stderr.read()
        assert process.wait(PATIENCE_SECONDS) == 0
        process.stderr.close()


def test_syslog_that_stalls_holds_nobody_up(root: Path, tmp_path: Path) -> None:
    """It takes no datagram any more after some ten; what it has not taken is dropped and counted, and each
    answer comes in time.
    """
    admin = ("127.0.0.1", free_port())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        port = free_port()
        command = ["--listen", f"127.0.0.1:{port}", "--root", str(root), "--admin", f"127.0.0.1:{admin[1]}"]
        command += ["--access-log", "combined", "--log-syslog", str(tmp_path / "log")]
        with contextlib.closing(Process("scaleup.web", *command)):
            ready(admin)
            with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as sock:
                for _ in range(300):
                    sock.sendall(b"GET /a.txt?" + b"x" * 4000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert sock.recv(2000).startswith(b"HTTP/1.1 200 ")
            until(lambda: metrics(admin).get("scaleup_log_dropped_total", 0) > 0, "drops are counted")
            syslog.settimeout(ANSWER_SECONDS)
            assert syslog.recv(10000).startswith(b"<")
