"""The data directory: one process at a time, temporary ones removed, if need be by the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scaleup.db.directory import DataDirectory
from scaleup.errors import StartupError


@pytest.fixture(autouse=True)
def _temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_temporary_directory_goes_with_its_process() -> None:
    directory = DataDirectory.open(None)
    (directory.path / "file").touch()
    assert directory.path.stat().st_mode & 0o777 == 0o700
    directory.close()
    assert not directory.path.exists()


def test_a_given_directory_stays(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "a" / "b")
    (directory.path / "file").touch()
    directory.close()
    assert (tmp_path / "a" / "b" / "file").exists()
    DataDirectory.open(tmp_path / "a" / "b").close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "data")
    with pytest.raises(StartupError, match=r"--data .*data: another scaleup.db uses it"):
        DataDirectory.open(tmp_path / "data")
    directory.close()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = "from scaleup.db.directory import DataDirectory as D; d = D.open(None); print(d.path); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        DataDirectory.open(None).close()
        assert left.exists()  # it lives
        process.send_signal(signal.SIGKILL)
    DataDirectory.open(None).close()
    assert not left.exists()


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "scaleup-db-without-lock").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lock").touch()
    DataDirectory.open(None).close()
    assert {path.name for path in tmp_path.iterdir()} == {"scaleup-db-without-lock", "other"}


def test_what_strangers_put_there_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "lock").touch()
    (tmp_path / "scaleup-db-trap").mkdir()
    (tmp_path / "scaleup-db-trap" / "lock").symlink_to(tmp_path / "precious" / "lock")
    (tmp_path / "scaleup-db-link").symlink_to(tmp_path / "precious")
    DataDirectory.open(None).close()
    names = {"precious", "scaleup-db-trap", "scaleup-db-link"}
    assert {path.name for path in tmp_path.iterdir()} == names
    with pytest.raises(StartupError, match=r"--data .*: "):
        DataDirectory.open(tmp_path / "scaleup-db-trap")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_another_user_left_is_theirs(tmp_path: Path) -> None:
    for name, owner in (("scaleup-db-theirs", 65534), ("scaleup-db-ours", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        os.chown(tmp_path / name, 65534, 65534)
        os.chown(tmp_path / name / "lock", owner, owner)
    DataDirectory.open(None).close()
    assert [path.name for path in tmp_path.iterdir()] == ["scaleup-db-theirs"]


def test_a_directory_of_other_things_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StartupError, match="other things in it"):
        DataDirectory.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"--data .*file: "):
        DataDirectory.open(tmp_path / "file")


def test_the_engines_whose_data_are_there(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "data")
    assert directory.found() == []
    directory.of("embedded").touch()
    directory.of("mariadb").mkdir()
    assert directory.found() == ["mariadb", "embedded"]
    directory.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_directory_that_the_servers_user_cannot_enter(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    directory = DataDirectory.open(tmp_path / "closed" / "data")
    with pytest.raises(
        StartupError, match=r"the user nobody, who may not enter .*; choose another directory"
    ):
        directory.give_to("nobody")
    directory.close()
