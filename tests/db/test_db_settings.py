from __future__ import annotations

import os
from pathlib import Path

import pytest

from scaleup.config import load, read_secret
from scaleup.db.settings import DbSettings
from scaleup.errors import ConfigurationError


def settings(*flags: str, **environment: str) -> DbSettings:
    return load(DbSettings, flags, environment).settings


def test_without_a_password_only_on_loopback() -> None:
    assert settings("--listen", "127.0.0.41:3306").user_password() == ""
    assert settings("--listen", "[::1]:3306").user_password() == ""
    for listen in ("0.0.0.0:3306", "10.0.0.41:3306", "[::]:3306"):
        with pytest.raises(ConfigurationError, match="--password-file FILE, or into SCALEUP_DB_PASSWORD"):
            settings("--listen", listen)
        assert settings("--listen", listen, SCALEUP_DB_PASSWORD="s").user_password() == "s"


def test_the_password_is_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geh€im \r\nmore\n", encoding="utf-8")
    assert settings("--password-file", str(file), SCALEUP_DB_PASSWORD="other").user_password() == "geh€im "
    latin = tmp_path / "latin"
    latin.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        settings("--password-file", str(latin))
    with pytest.raises(ConfigurationError, match=r"--password-file.*No such file"):
        settings("--password-file", str(tmp_path / "nosuch"))


def test_the_password_may_come_from_a_pipe_which_can_be_read_once() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"secret\n")
        os.close(writer)
        loaded = settings("--listen", "0.0.0.0:3306", "--password-file", f"/dev/fd/{reader}")
        assert loaded.user_password() == "secret"
    finally:
        os.close(reader)
        read_secret.cache_clear()  # the number will be another file's


def test_the_password_is_no_flag_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        settings("--password", "s")
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        settings("--print-config", SCALEUP_DB_PASSWORD="geheim")
    assert "geheim" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags", [("--user", "a b"), ("--database", "x`y"), ("--user", ""), ("--listen", "db:3306")]
)
def test_what_cannot_be(flags: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=flags[0]):
        settings(*flags)
