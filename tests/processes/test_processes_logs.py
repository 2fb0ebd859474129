"""Logs: text and JSON, colour, files opened again, and lines that are limited in number."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import logging
import os
import pty
import re
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes_harness import unlogged, until

from scaleup.errors import ConfigurationError
from scaleup.processes import logs
from scaleup.processes.logs import Destination

log = logging.getLogger("scaleup.test")

COLOUR = "\x1b["


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def configured(log_format: str = "text", level: str = "info", file: Path | None = None) -> Iterator[None]:
    with unlogged():
        logs.configure_with("web1", Destination(log_format, level, str(file) if file else None))
        yield


def test_a_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    with configured():
        log.warning("%d things", 3)
    line = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} web1 WARNING 3 things\n", line)


def test_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(level="warning"):
        log.info("no")
        log.warning("yes")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["yes"]
    with configured(level="debug"):
        log.debug("yes")
    assert capsys.readouterr().err.endswith("DEBUG   yes\n")


def test_every_line_of_json_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    with configured("json"):
        log.info('"quoted"\n%s', "ü")
        try:
            raise RuntimeError("a bug")
        except RuntimeError:
            log.exception("failed")
        log.info("with more", extra={"server": "web1"})
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.items() >= {
        ("level", "INFO"),
        ("logger", "scaleup.test"),
        ("message", '"quoted"\nü'),
        ("process", "web1"),
    }
    assert datetime.datetime.strptime(first["time"], "%Y-%m-%dT%H:%M:%S%z").tzinfo is not None
    assert "RuntimeError: a bug" in second["exc_info"]
    assert third["server"] == "web1"


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """stderr is a terminal; what it shows can be read from the descriptor."""
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        try:
            yield ours
        finally:
            os.close(ours)


@pytest.mark.parametrize(
    ("log_format", "environment", "is_coloured"),
    [("text", {}, True), ("text", {"NO_COLOR": "1"}, False), ("json", {}, False)],
)
def test_colour_on_a_terminal(
    log_format: str, environment: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with terminal(monkeypatch) as screen, configured(log_format):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            log.log(level, "shown")
        shown = os.read(screen, 65536).decode()
    assert "shown" in shown
    assert (COLOUR in shown) is is_coloured


def test_no_colour_in_a_pipe_or_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with configured():
        log.error("x")
    assert COLOUR not in capsys.readouterr().err
    with terminal(monkeypatch), configured(file=tmp_path / "log"):
        log.error("x")
    assert COLOUR not in (tmp_path / "log").read_text()


def test_a_file_is_appended_to_and_opened_again_on_request(tmp_path: Path) -> None:
    file, old = tmp_path / "log", tmp_path / "log.1"
    file.write_text("before\n")
    with configured(file=file):
        assert not logs.is_on_stderr()
        log.info("one")
        file.rename(old)
        log.info("two")
        logs.reopen()
        log.info("three")
        logs.reopen()
        log.info("four")
    assert [line.split()[-1] for line in old.read_text().splitlines()] == ["before", "one", "two"]
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["three", "four"]


def test_a_file_that_cannot_be_opened_again_stays(tmp_path: Path) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    with configured(file=folder / "log"):
        folder.rename(moved)
        logs.reopen()
        log.info("afterwards")
    first, second = (moved / "log").read_text().splitlines()
    assert first.endswith(f"{folder / 'log'} cannot be opened again: No such file or directory")
    assert second.endswith("afterwards")


def test_a_file_is_utf_8_and_takes_anything(tmp_path: Path) -> None:
    """A path from the outside may hold bytes that are no UTF-8."""
    file = tmp_path / "log"
    with configured(file=file):
        log.info("ü %s", os.fsdecode(b"\xff"))
    assert file.read_text(encoding="utf-8").endswith("ü \\udcff\n")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        logs.configure_with("web1", Destination(file=str(tmp_path)))
    assert str(caught.value) == f"--log-file {tmp_path}: Is a directory"


def test_where_a_person_looks(tmp_path: Path) -> None:
    with unlogged():
        assert not logs.is_on_stderr()
        logs.configure_with("web1", Destination())
        assert logs.is_on_stderr()


def test_configured_twice_logs_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A child first logs by its parent's name, then by its own."""
    with configured(file=tmp_path / "log"):
        logs.configure_with("web2", Destination())
        log.info("x")
    assert capsys.readouterr().err.endswith("web2 INFO    x\n")
    assert (tmp_path / "log").read_text() == ""


def test_warnings_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # catch_warnings has put its own in its place
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in capsys.readouterr().err


def test_what_outsiders_cause_is_limited_and_counted() -> None:
    stream = io.StringIO()
    logger = logging.Logger("limited")
    logger.addHandler(logging.StreamHandler(stream))
    now = 0.0
    limited = logs.LimitedLog(logger, seconds=5.0, clock=lambda: now)
    for tick in range(12):
        now = float(tick)
        limited.warning("checksum", "a bad checksum")
        if tick == 3:
            limited.warning("length", "a bad length")
    assert stream.getvalue().splitlines() == [
        "a bad checksum",
        "a bad length",
        "a bad checksum (4 more like it before)",
        "a bad checksum (4 more like it before)",
    ]


# ----- syslog, and lines that come by the thousand ----------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "syslog"))
        sock.settimeout(10.0)
        yield sock


def test_syslog_as_haproxy_sends_it(daemon: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    with unlogged():
        logs.configure_with("web1", Destination(syslog=daemon.getsockname()))
        assert not logs.is_on_stderr()
        log.error("%d things", 3)
    line = daemon.recv(1000).decode()
    assert re.fullmatch(
        rf"<131>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d web1\[{os.getpid()}\]: ERROR 3 things", line
    )
    assert capsys.readouterr().err == ""


def test_objects_to_syslog(daemon: socket.socket) -> None:
    with unlogged():
        logs.configure_with("web1", Destination("json", syslog=daemon.getsockname()))
        log.warning("x")
    header, _, rest = daemon.recv(1000).decode().partition("]: ")
    assert header.startswith("<132>")
    assert json.loads(rest)["message"] == "x"


def test_a_syslog_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        logs.configure_with("web1", Destination(syslog=str(tmp_path / "log")))
    assert str(caught.value) == f"--log-syslog {tmp_path}/log: No such file or directory"


def lines_of(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("where", ["file", "syslog"])
async def test_gathered_lines_look_like_the_others(
    log_format: str, where: str, daemon: socket.socket, tmp_path: Path
) -> None:
    file, syslog = str(tmp_path / "log"), daemon.getsockname()
    destination = (
        Destination(log_format, file=file) if where == "file" else Destination(log_format, syslog=syslog)
    )
    with unlogged():
        logs.configure_with("web1", destination)
        lines = logs.gathered("scaleup.test", str, lambda thing: json.dumps({"message": thing}))
        lines.write("x")
        log.info("x")  # takes the other along
    read = [daemon.recv(1000).decode() for _ in range(2)] if where == "syslog" else lines_of(file)
    gathered, ordinary = read
    if log_format == "text":
        assert re.sub(r"\d", "0", gathered).replace(": x", ": INFO x") == re.sub(r"\d", "0", ordinary)
    else:
        mine, theirs = (json.loads(line[line.index("{") :]) for line in read)
        assert mine.keys() == theirs.keys()
        assert {**mine, "time": ""} == {**theirs, "time": ""}


def test_what_is_dropped_is_counted_for_prometheus() -> None:
    with configured(file=Path("/dev/full")):
        log.info("lost")
        assert logs.dropped() == 1


async def test_gathered_lines_are_there_soon_or_when_they_are_many_or_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with configured(file=file):
        lines = logs.gathered("scaleup.test", str, json.dumps)
        lines.write("soon")
        assert lines_of(str(file)) == []
        await until(lambda: len(lines_of(str(file))) == 1)
        for number in range(logs.THINGS_AT_ONCE):
            lines.write(f"many {number}")
        assert len(lines_of(str(file))) == 1 + logs.THINGS_AT_ONCE
        lines.write("end")
    assert lines_of(str(file))[-1].endswith("web1 INFO    end")
