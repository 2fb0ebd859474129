"""What the web tier can be told, and what it says to a slip."""

from pathlib import Path

import pytest

from scaleup.config import load
from scaleup.errors import ConfigurationError
from scaleup.net.addresses import Endpoint
from scaleup.web.settings import WebSettings


def settings(*argv: str) -> WebSettings:
    return load(WebSettings, argv).settings


def test_the_example_of_the_design(tmp_path: Path) -> None:
    told = settings(
        *("--listen", "0.0.0.0:8080", "--root", str(tmp_path)),
        *("--app", "10.0.0.31:3000", "--app", "app2=10.0.0.32:3000,weight=2"),
    )
    assert told.listen == (Endpoint("0.0.0.0", 8080),)
    assert told.root == tmp_path
    assert [(app.name, app.weight) for app in told.app] == [("10.0.0.31:3000", 1), ("app2", 2)]
    assert told.prefix == ("/api/", "/l/")
    assert told.trusted_proxy == ()
    assert str(told.health_check) == "http:/readyz"


def test_one_file_for_the_whole_cluster(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        '[web]\napp = ["10.0.0.31:3000"]\nprefix = ["/api/"]\n[web.node.web2]\nlisten = ["10.0.0.22:8080"]\n'
    )
    told = settings("--config", str(file), "--node", "web2")
    assert told.name == "web2"
    assert told.listen == (Endpoint("10.0.0.22", 8080),)
    assert told.prefix == ("/api/",)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--root", "/nowhere/at/all"), "is not a folder"),
        (("--prefix", "api"), "begins and ends with /"),
        (("--prefix", "/api"), "begins and ends with /"),
        (("--app", "10.0.0.1"), "HOST:PORT"),
        (("--app", "a=10.0.0.1:1", "--app", "a=10.0.0.2:1"), "two servers"),
        (("--listen", "8080"), "HOST:PORT"),
        (("--trusted-proxy", "10.0.0.300"), "is not a network"),
        (("--keepalive", "0"), "--keepalive"),
        (("--max-body", "-1"), "--max-body"),
        (("--content-security-policy", "a\nb"), "one line"),
    ],
)
def test_a_slip_is_told_with_its_cure(argv: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        settings(*argv)
    assert said in str(told.value)
