from __future__ import annotations

from pathlib import Path

import pytest

from scaleup.app.settings import AppSettings
from scaleup.config import load
from scaleup.errors import ConfigurationError
from scaleup.net.addresses import Endpoint


def settings(*flags: str, **environment: str) -> AppSettings:
    return load(AppSettings, flags, environment).settings


def test_where_the_database_is() -> None:
    address = settings("--database", "mysql://u@10.0.0.41/d").database
    assert (address.user, address.endpoint, address.database) == ("u", Endpoint("10.0.0.41", 3306), "d")


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="SCALEUP_APP_DATABASE_PASSWORD") as caught:
        settings("--database", "mysql://u:geheim@h/d")
    assert "geheim" not in str(caught.value)


def test_the_password_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    assert settings().password() == ""
    assert settings(SCALEUP_APP_DATABASE_PASSWORD="s").password() == "s"
    (tmp_path / "file").write_text("from a file\n")
    assert settings("--database-password-file", str(tmp_path / "file")).password() == "from a file"
    with pytest.raises(ConfigurationError, match=r"--database-password-file.*No such file"):
        settings("--database-password-file", str(tmp_path / "nosuch"))


def test_secrets_are_no_flags() -> None:
    with pytest.raises(SystemExit):
        settings("--database-password", "s")


def test_whom_we_trust() -> None:
    assert len(settings().trusted_proxy) == 7
    assert [str(network) for network in settings("--trusted-proxy", "192.0.2.0/24").trusted_proxy] == [
        "192.0.2.0/24"
    ]
    with pytest.raises(ConfigurationError, match="--trusted-proxy"):
        settings("--trusted-proxy", "x")
