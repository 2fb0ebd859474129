"""What holds for the settings of every tier."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scaleup.app.settings import AppSettings
from scaleup.config import TierSettings, load
from scaleup.config.model import flag_of, is_secret, option_name, variable_name
from scaleup.config.sources import TIERS
from scaleup.db.settings import DbSettings
from scaleup.errors import ConfigurationError
from scaleup.lb.settings import LbSettings
from scaleup.stack.settings import UpSettings
from scaleup.vrrp.settings import VrrpSettings
from scaleup.web.settings import WebSettings

ELECTION = ["--vip", "10.0.0.100/24", "--source", "10.0.0.11", "--peer", "10.0.0.12", "--auth", "none"]


@dataclass(frozen=True)
class Tier:
    """`needed`: without these flags the tier does not start. `more`: a flag of every kind that it knows."""

    model: type[TierSettings]
    needed: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)

    @property
    def module(self) -> list[str]:
        return ["scaleup", "up"] if self.model is UpSettings else [f"scaleup.{self.model.tier}"]


COMMON = [
    *("--admin", "127.0.0.1:9000", "--drain", "0.5", "--log-format", "json"),
    *("--log-level", "debug", "--log-file", "x.log"),
]

ALL = [
    Tier(
        LbSettings,
        ["--listen", ":80", "--server", "10.0.0.21:8080"],
        [
            *("--listen", "10.0.0.100:443", "--listen", "[::1]:81", "--workers", "4", "--balance", "source"),
            *("--server", "w2=10.0.0.22:80,weight=2,maxconn=9", "--health-check", "http:/readyz"),
            *(
                "--timeout-client",
                "0.25",
                "--redispatch",
                "-1",
                *ELECTION,
                "--no-preempt",
                "--interval",
                "0.1",
            ),
        ],
    ),
    Tier(
        VrrpSettings, ELECTION, ["--vip", "10.0.0.101", "--priority", "7", "--no-preempt", "--vrrp-port", "9"]
    ),
    Tier(
        WebSettings,
        [],
        [
            *("--listen", ":1", "--listen", "name:2", "--root", ".", "--app", "a1=10.0.0.31:3000,weight=0"),
            *("--prefix", "/x/", "--trusted-proxy", "10.0.0.0/8", "--content-security-policy", ""),
        ],
    ),
    Tier(
        AppSettings,
        [],
        [
            *("--listen", ":1", "--database", "mysql://me@db.example/links", "--access-log"),
            *("--trusted-proxy", "::1/128"),
        ],
    ),
    Tier(DbSettings, [], ["--listen", "127.0.0.1:1", "--engine", "embedded", "--data", "d", "--user", "me"]),
    Tier(
        UpSettings,
        [],
        ["--webs", "3", "--network", "127.0.9.0/24", "--data", "d", "--run-dir", "r", "--engine", "embedded"],
    ),
]

every_tier = pytest.mark.parametrize("tier", ALL, ids=[tier.model.tier for tier in ALL])


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SCALEUP_")]:
        monkeypatch.delenv(name)


def test_these_are_all_tiers() -> None:
    assert {tier.model.tier for tier in ALL} == set(TIERS)


@every_tier
@pytest.mark.parametrize("more", [False, True], ids=["least", "most"])
def test_settings_reach_a_child_as_they_are(tier: Tier, more: bool) -> None:
    """A parent sends them as JSON."""
    argv = [*tier.needed, *([*tier.more, *COMMON] if more else [])]
    settings = load(tier.model, argv, {}).settings
    assert tier.model.model_validate(json.loads(json.dumps(settings.table()))) == settings


@every_tier
@pytest.mark.parametrize("more", [False, True], ids=["least", "most"])
def test_print_config_reads_back(tier: Tier, more: bool, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--node", "n1", *tier.needed, *([*tier.more, *COMMON] if more else [])]
    with pytest.raises(SystemExit) as caught:
        load(tier.model, [*argv, "--print-config"], {})
    assert caught.value.code == 0
    text = capsys.readouterr().out
    Path("cluster.toml").write_text(text)
    again = load(tier.model, ["--node", "n1", "--config", "cluster.toml"], {})
    assert again.settings == load(tier.model, argv, {}).settings
    [(name, values)] = tomllib.loads(text)[tier.model.tier]["node"].items()
    assert name == "n1"
    shown = [line for line in text.splitlines()[1:] if line]
    assert all(" # " in line for line in shown if not line.startswith("# "))  # each with its origin
    missing = set(tier.model.model_fields) - set(values) - {"node"}
    assert {line.split()[1] for line in shown if line.startswith("# ")} | secrets(tier) == missing | secrets(
        tier
    )


def secrets(tier: Tier) -> set[str]:
    return {name for name, info in tier.model.model_fields.items() if is_secret(info)}


@every_tier
def test_who_wins(tier: Tier) -> None:
    """Flags, the environment, the node's table, the tier's table, the default."""
    name = tier.model.tier
    default = load(tier.model, tier.needed, {}).settings.drain
    for present in itertools.product([True, False], repeat=4):
        flag, variable, node, table = present
        lines = [f"[{name}]", "drain = 4" * table, f"[{name}.node.n1]", "drain = 3" * node]
        Path("cluster.toml").write_text("\n".join(lines))
        argv = ["--config", "cluster.toml", "--node", "n1", *tier.needed, *(["--drain", "1"] if flag else [])]
        loaded = load(tier.model, argv, {variable_name(name, "drain"): "2"} if variable else {})
        winner = next(itertools.compress([1, 2, 3, 4], present), default)
        assert loaded.settings.drain == winner, present


@every_tier
def test_the_file_alone_is_enough(tier: Tier, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(tier.model, [*tier.needed, *tier.more, "--print-config"], {})
    Path("cluster.toml").write_text(capsys.readouterr().out)
    with pytest.raises(SystemExit) as caught:
        load(tier.model, ["--config", "cluster.toml", "--check"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{tier.model.tier}: the configuration is valid\n"


@every_tier
def test_a_slip_of_the_finger_is_found_wherever_it_is(tier: Tier, capsys: pytest.CaptureFixture[str]) -> None:
    name = tier.model.tier
    Path("cluster.toml").write_text(f"[{name}]\n\ndrian = 3\n\n[{name}.node.n1]\nlog_levle = 'x'\n")
    variables = {variable_name(name, "log_fromat"): "json"}
    with pytest.raises(ConfigurationError) as caught:
        load(tier.model, [*tier.needed, "--config", "cluster.toml", "--node", "n1"], variables)
    assert sorted(str(caught.value).splitlines()) == [
        f"SCALEUP_{name.upper()}_LOG_FROMAT: no such setting; "
        f'did you mean "SCALEUP_{name.upper()}_LOG_FORMAT"?',
        f'cluster.toml:3: {name}.drian: no such key; did you mean "drain"?',
        f'cluster.toml:6: {name}.node.n1.log_levle: no such key; did you mean "log_level"?',
    ]
    with pytest.raises(SystemExit) as usage:
        load(tier.model, [*tier.needed, "--drian", "3"], {})
    assert usage.value.code == 2
    assert capsys.readouterr().err.endswith('no such option: --drian; did you mean "--drain"?\n')


@every_tier
@pytest.mark.parametrize("columns", [60, 200])
def test_help_mentions_each_option(
    tier: Tier, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as caught:
        load(tier.model, ["--help"], {})
    assert caught.value.code == 0
    text = capsys.readouterr().out
    said = set(re.findall(r"--[a-z][a-z-]*", text))
    options = {option_name(name) for name, info in tier.model.model_fields.items() if flag_of(info)}
    assert options | {"--config", "--check", "--print-config", "--version", "--help"} <= said
    assert not {option_name(name) for name in secrets(tier)} & said
    assert all(
        variable_name(tier.model.tier, name) in text for name in secrets(tier)
    )  # how to say it instead
    for name, info in tier.model.model_fields.items():
        assert info.description or flag_of(info) is None, f"{name} is not explained"


def in_a_terminal(argv: list[str], environment: dict[str, str]) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(argv, stdout=theirs, stderr=theirs, env={**os.environ, **environment})
    os.close(theirs)
    printed = b""
    try:
        while chunk := os.read(ours, 65536):
            printed += chunk
    except OSError:
        pass  # EIO: all of the other side is closed
    finally:
        os.close(ours)
        process.wait(30)
    return printed.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|38|9[0-7])[;m]")


def test_help_is_in_colour_on_a_terminal_unless_it_is_not_wanted() -> None:
    command = [sys.executable, "-m", "scaleup.db", "--help"]
    terminal = {"TERM": "xterm-256color", "NO_COLOR": "", "COLUMNS": "80"}
    assert COLOUR.search(in_a_terminal(command, terminal))
    assert not COLOUR.search(in_a_terminal(command, {**terminal, "NO_COLOR": "1"}))


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_every_tier_is_a_program_that_checks_and_says_why_not() -> None:
    """All at once: each takes the time of an interpreter to start."""
    started = [
        (tier, expected, _start(tier, *argv))
        for tier in ALL
        for expected, argv in (
            (0, [*tier.needed, "--check"]),
            (78, [*tier.needed, "--check", "--drain", "-1"]),
        )
    ]
    for tier, expected, process in started:
        out, err = process.communicate(timeout=100)
        assert process.returncode == expected, (tier, out, err)
        if expected == 0:
            assert (out, err) == (f"{tier.model.tier}: the configuration is valid\n", "")
        else:
            said = "scaleup: --drain: Input should be greater than or equal to 0 (given: '-1')\n"
            assert (out, err) == ("", said)


def _start(tier: Tier, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *tier.module, *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("model", "option"),
    [(WebSettings, "--root"), (WebSettings, "--log-file"), (UpSettings, "--run-dir"), (UpSettings, "--data")],
)
def test_an_unset_variable_of_a_shell_is_not_the_current_directory(
    model: type[TierSettings], option: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}: it is empty"):
        load(model, [option, ""], {})


def test_check_opens_the_log_file_that_it_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--log-file: it cannot be written"):
        load(WebSettings, ["--check", "--log-file", str(tmp_path / "nosuch" / "log")], {})


def test_a_log_goes_to_one_place(tmp_path: Path) -> None:
    flags = ["--log-syslog", "/dev/log"]
    with pytest.raises(ConfigurationError, match="--log-file and --log-syslog: a log goes to one place"):
        load(WebSettings, [*flags, "--log-file", str(tmp_path / "log")], {})
    with pytest.raises(ConfigurationError, match=r"--log-syslog: .* is no place for a log"):
        load(WebSettings, ["--log-syslog", "logs.example.org"], {})
