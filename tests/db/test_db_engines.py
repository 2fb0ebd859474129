from __future__ import annotations

from pathlib import Path

import pytest

from scaleup.db import mariadb
from scaleup.db.engines import Choice, choose
from scaleup.errors import ConfigurationError, StartupError

BOTH = {"mariadbd": "/m", "mysqld": "/y"}


def test_auto_takes_the_best_that_is_installed() -> None:
    assert choose("auto", BOTH, []) == Choice("mariadb", "mariadbd is installed", "/m")
    assert choose("auto", {"mysqld": "/y"}, []) == Choice("mysql", "mysqld is installed", "/y")
    assert choose("auto", {}, []) == Choice("embedded", "neither mariadbd nor mysqld is installed")


def test_the_name_of_the_working_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mariadb").mkdir()
    monkeypatch.chdir(tmp_path / "mariadb")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mariadb, "MORE_PATHS", ())
    assert mariadb.installed() == {}


def test_auto_stays_with_the_data() -> None:
    assert choose("auto", BOTH, ["embedded"]) == Choice("embedded", "its data are there")
    assert choose("auto", BOTH, ["mysql"]).engine == "mysql"


def test_data_whose_engine_is_missing_are_not_replaced_by_an_empty_database() -> None:
    with pytest.raises(StartupError, match=r"mariadbd is not installed \(its data are there\)"):
        choose("auto", {}, ["mariadb"])


def test_data_of_two_engines_need_a_word() -> None:
    with pytest.raises(ConfigurationError, match="data of mariadb and embedded: say which"):
        choose("auto", BOTH, ["mariadb", "embedded"])
    assert choose("embedded", BOTH, ["mariadb", "embedded"]).engine == "embedded"


def test_what_was_asked_for_must_be_there() -> None:
    assert choose("mysql", BOTH, []) == Choice("mysql", "asked for", "/y")
    with pytest.raises(StartupError, match=r"mysqld is not installed.*--engine embedded"):
        choose("mysql", {"mariadbd": "/m"}, [])


def test_the_data_of_another_engine_are_not_hidden() -> None:
    with pytest.raises(
        ConfigurationError, match=r"--engine mariadb: the data directory has data of embedded"
    ):
        choose("mariadb", BOTH, ["embedded"])
    assert choose("embedded", BOTH, ["embedded", "mariadb"]).engine == "embedded"
