"""The run directory: ours alone, and gone at the end."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from scaleup.errors import StartupError
from scaleup.stack.rundir import RunDir
from scaleup.stack.settings import UpSettings

SETTINGS = UpSettings()


def test_made_and_removed(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "new" / "run")
    secrets = run_dir.open(SETTINGS)
    run_dir.write_pid("web1", 42)
    assert (run_dir.path / "pids" / "web1.pid").read_text() == "42\n"
    for path in (secrets.vrrp_key, secrets.database_password, secrets.certificate_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(secrets.vrrp_key.read_text()) == len(secrets.database_password.read_text()) == 64
    assert secrets.vrrp_key.read_text() != secrets.database_password.read_text()
    run_dir.close()
    assert not run_dir.path.exists()


def test_data_of_somebody_else_are_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("mine")
    with pytest.raises(StartupError, match="other things in it"):
        RunDir(tmp_path).open(SETTINGS)
    assert (tmp_path / "data" / "thesis.tex").exists()


@pytest.mark.parametrize("left_over", [False, True])
def test_somebody_s_directory_is_left_as_it_is(tmp_path: Path, left_over: bool) -> None:
    """`--run-dir .` must not close a project to others, nor put secrets into it."""
    tmp_path.chmod(0o755)
    (tmp_path / "diary.txt").write_text("mine")
    if left_over:
        (tmp_path / "vrrp.key").write_text("of a killed run, when this was still allowed")
    with pytest.raises(StartupError, match="other things in it"):
        RunDir(tmp_path).open(SETTINGS)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert "database.password" not in {path.name for path in tmp_path.iterdir()}


def test_what_was_put_in_meanwhile_stays(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.open(SETTINGS)
    (run_dir.path / "diary.txt").write_text("mine")
    run_dir.close()
    assert [path.name for path in run_dir.path.iterdir()] == ["diary.txt"]


def test_what_a_crash_left_is_replaced(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "run").open(SETTINGS)
    key = first.vrrp_key.read_text()
    again = RunDir(tmp_path / "run")
    assert again.open(SETTINGS).vrrp_key.read_text() != key
    again.close()
    assert not again.path.exists()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StartupError, match="run"):
        RunDir(tmp_path / "run").open(SETTINGS)


def test_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(StartupError, match="others may write"):
        RunDir(tmp_path / "run").open(SETTINGS)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(StartupError, match="not a directory of ours"):
        RunDir(tmp_path / "run").open(SETTINGS)


def test_the_data_directory_may_be_a_link_that_stays(tmp_path: Path) -> None:
    """Nothing behind a link inside the run directory is removed."""
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "links").write_text("rows")
    run_dir = RunDir(tmp_path / "run")
    files = run_dir.open(SETTINGS)
    files.data.symlink_to(keep)
    run_dir.close()
    assert (keep / "links").read_text() == "rows"
