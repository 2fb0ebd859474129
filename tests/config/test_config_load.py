"""From argv, the environment and the file to settings: who wins, and what is said when something is wrong.

The tier of these tests is made up; test_config_tiers.py asks the same of the real ones.
"""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import AfterValidator, BaseModel, Field, SecretStr
from pydantic_core import PydanticCustomError

from scaleup.config import (
    EndpointField,
    EnvironmentOnly,
    FileOnly,
    Flag,
    NetworkField,
    Seconds,
    TierSettings,
    load,
)
from scaleup.config.model import option_name
from scaleup.errors import ConfigurationError
from scaleup.net.addresses import Endpoint


def no_password(text: str) -> str:
    if "hunter2" in text:
        raise PydanticCustomError("secret", "it has a password in it")
    return text


class Limits(BaseModel, extra="forbid"):
    rate: int = 1
    burst: int = 2


class Shop(TierSettings):
    """A tier that is made up for these tests. It sells 100 % of nothing."""

    tier: ClassVar[str] = "web"
    examples: ClassVar[str] = "  python -m scaleup.web --listen :80"

    listen: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT", "traffic")] = Field(
        (Endpoint("0.0.0.0", 8080),), min_length=1, description="answer here"
    )
    trusted: Annotated[tuple[NetworkField, ...], Flag("NETWORK", "traffic")] = Field((), description="100 %")
    wait: Annotated[Seconds, Flag("SECONDS")] = 5.0
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    greet: bool = False
    motto: str = ""
    place: Annotated[str, AfterValidator(no_password)] = ""
    password: Annotated[SecretStr, EnvironmentOnly(), Field(min_length=3)] = SecretStr("none")


class Nested(Shop):
    limits: Limits = Limits()


class Branch(BaseModel):
    city: str
    staff: Annotated[int, Field(ge=1)] = 1


class Chain(Shop):
    branch: Annotated[tuple[Branch, ...], FileOnly()] = ()


class Bare(TierSettings):
    """Has settings that nobody has a default for."""

    tier: ClassVar[str] = "web"
    listen: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT")]
    password: Annotated[SecretStr, EnvironmentOnly()]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(*argv: str, env: dict[str, str] | None = None, toml: str | None = None) -> Shop:
    if toml is not None:
        Path("cluster.toml").write_bytes(toml.encode())
        argv = ("--config", "cluster.toml", *argv)
    return load(Shop, argv, env or {}).settings


def faults(*argv: str, env: dict[str, str] | None = None, toml: str | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        settings(*argv, env=env, toml=toml)
    assert caught.value.exit_code == 78
    return str(caught.value).splitlines()


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The last line that a wrong command line is answered with."""
    with pytest.raises(SystemExit) as caught:
        settings(*argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    return str(err.splitlines()[-1].removeprefix("python -m scaleup.web: error: "))


# ----- who wins ---------------------------------------------------------------------------------------


def test_flags_win_over_variables_over_the_node_over_the_tier_over_defaults() -> None:
    everywhere = [(50, "--wait"), (40, "SCALEUP_WEB_WAIT"), (30, "cluster.toml:4"), (20, "cluster.toml:2")]
    for present in itertools.product([True, False], repeat=4):
        flag, variable, node, tier = present
        lines = ["[web]", "wait = 20" if tier else "", "[web.node.web1]", "wait = 30" if node else ""]
        Path("cluster.toml").write_text("\n".join(lines))
        argv = ["--config", "cluster.toml", "--node", "web1", *(["--wait", "50"] if flag else [])]
        loaded = load(Shop, argv, {"SCALEUP_WEB_WAIT": "40"} if variable else {})
        winner = next(itertools.compress(everywhere, present), (5, "default"))
        assert (loaded.settings.wait, loaded.origins["wait"]) == winner


def test_a_stronger_list_replaces_a_weaker_one() -> None:
    toml = '[web]\nlisten = ["10.0.0.1:1", "10.0.0.1:2"]\n'
    assert settings(toml=toml).listen == (Endpoint("10.0.0.1", 1), Endpoint("10.0.0.1", 2))
    assert settings("--listen", ":3", toml=toml).listen == (Endpoint("0.0.0.0", 3),)


def test_a_flag_is_repeated_and_a_variable_is_split_at_white_space() -> None:
    two = (Endpoint("0.0.0.0", 1), Endpoint("::1", 2))
    assert settings("--listen", ":1", "--listen", "[::1]:2").listen == two
    assert settings(env={"SCALEUP_WEB_LISTEN": " :1 \n [::1]:2 "}).listen == two


@pytest.mark.parametrize(
    ("argv", "env", "toml", "expected"),
    [
        (["--greet"], {}, None, True),
        (["--no-greet"], {"SCALEUP_WEB_GREET": "yes"}, None, False),
        ([], {"SCALEUP_WEB_GREET": "yes"}, None, True),
        ([], {"SCALEUP_WEB_GREET": "0"}, "[web]\ngreet = true", False),
        ([], {}, "[web]\ngreet = true", True),
    ],
)
def test_yes_and_no(argv: list[str], env: dict[str, str], toml: str | None, expected: bool) -> None:
    assert settings(*argv, env=env, toml=toml).greet is expected


def test_the_file_can_be_named_by_a_variable() -> None:
    Path("a.toml").write_text("[web]\nworkers = 3\n")
    assert settings(env={"SCALEUP_CONFIG": "a.toml"}).workers == 3
    assert settings(env={"SCALEUP_CONFIG": ""}).workers == 1
    assert settings(env={"SCALEUP_CONFIG": "a.toml"}, toml="[web]\nworkers = 4\n").workers == 4  # --config


def test_the_node_can_be_named_by_a_variable() -> None:
    toml = "[web.node.web1]\nworkers = 3\n[web.node.web2]\nworkers = 4\n"
    assert settings(env={"SCALEUP_WEB_NODE": "web2"}, toml=toml).workers == 4
    assert settings("--node", "web1", env={"SCALEUP_WEB_NODE": "web2"}, toml=toml).workers == 3


def test_a_process_is_called_by_its_node_or_its_tier() -> None:
    assert settings().name == "web"
    assert settings("--node", "web1").name == "web1"


def test_other_tiers_and_other_nodes_are_not_our_business() -> None:
    toml = "[lb]\nnonsense = 1\n[web.node.web2]\nnonsense = 1\n[web.node.web1]\nworkers = 2\n"
    assert settings("--node", "web1", env={"SCALEUP_LB_NONSENSE": "1"}, toml=toml).workers == 2


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings().workers = 2  # type: ignore[misc]


# ----- what is wrong ----------------------------------------------------------------------------------


def test_every_fault_at_once_each_with_its_origin() -> None:
    toml = """\
    [lbb]
    [web]
    lisen = [":1"]
    wait = -1
    listen = [
      "10.0.0.1:80",
      "10.0.0.2",
      80,
    ]

    [web.node.web1]
    workers = 65
    greeet = 1
    motto = 5
    """
    env = {"SCALEUP_WEB_WAITT": "1", "SCALEUP_WEB_GREET": "perhaps", "HOME": "/"}
    said = faults("--node", "web1", "--trusted", "10.0.0.0/8", "--trusted", "x", env=env, toml=toml)
    assert said == [
        'SCALEUP_WEB_WAITT: no such setting; did you mean "SCALEUP_WEB_WAIT"?',
        'cluster.toml:13: web.node.web1.greeet: no such key; did you mean "greet"?',
        'cluster.toml:3: web.lisen: no such key; did you mean "listen"?',
        'cluster.toml:1: [lbb]: no such tier; did you mean "lb"?',
        "cluster.toml:7: listen: '10.0.0.2' has no port: write HOST:PORT, for example 10.0.0.1:8080",
        'cluster.toml:8: listen: write "HOST:PORT", not 80',
        "--trusted: 'x' is not a network: write for example 10.0.0.0/8",
        "cluster.toml:4: wait: Input should be greater than 0 (given: -1)",
        "cluster.toml:12: workers: Input should be less than or equal to 64 (given: 65)",
        "SCALEUP_WEB_GREET: greet: Input should be a valid boolean, unable to interpret input (given: 'perhaps')",
        "cluster.toml:14: motto: Input should be a valid string (given: 5)",
    ]


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("[web]\n\nlimits.rate = 'x'", 3),
        ("[web.limits]\n# here\nrate = 'x'", 3),
        ("[web]\nlimits = { burst = 1, rate = 'x' }", 2),
        ("web.limits.burst = 1\nweb.limits.rate = 'x'", 2),
        ("[web]\r\nlimits.burst = 1\r\nlimits.rate = 'x'\r\n", 3),
    ],
    ids=["dotted key", "table", "inline table", "dotted to the root", "CRLF"],
)
def test_a_fault_inside_a_value_has_its_own_line(toml: str, line: int) -> None:
    Path("cluster.toml").write_bytes(toml.encode())
    with pytest.raises(ConfigurationError) as caught:
        load(Nested, ["--config", "cluster.toml"], {})
    said = "limits: Input should be a valid integer, unable to parse string as an integer (given: 'x')"
    assert str(caught.value) == f"cluster.toml:{line}: {said}"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[web]\nlisten = ":80"', "cluster.toml:2: listen: write a list, [\":80\"] (given: ':80')"),
        ("[web]\nwait = true", "cluster.toml:2: wait: this is not a yes-or-no setting (given: True)"),
        ("[web]\nwait = inf", "cluster.toml:2: wait: Input should be a finite number (given: inf)"),
        ("[web]\nwait = nan", "cluster.toml:2: wait: Input should be a finite number (given: nan)"),
        (
            "[web]\nworkers = 1.5",
            "cluster.toml:2: workers: Input should be a valid integer, got a number with a fractional part"
            " (given: 1.5)",
        ),
        (
            "[web]\nlisten = []",
            "cluster.toml:2: listen: Tuple should have at least 1 item after validation, not 0 (given: [])",
        ),
        ("web = 5", "cluster.toml:1: web: write a table, [web]"),
        ("[[web]]", "cluster.toml:1: web: write a table, [web]"),
        ("[web]\nnode = 'web1'", "cluster.toml:2: write a table for each node, [web.node.NAME]"),
        ("[web.node]\nweb1 = 5", "cluster.toml:2: web.node.web1: write a table, [web.node.web1]"),
        ("[web.node.web1]\nnode = 'x'", "cluster.toml:2: web.node.web1.node: no such key"),
        ("[wbe]", 'cluster.toml:1: [wbe]: no such tier; did you mean "web"?'),
        ("zzz = 1", "cluster.toml:1: [zzz]: no such tier"),
    ],
)
def test_what_a_file_can_have_wrong(toml: str, said: str) -> None:
    node = ["--node", "web1"] if "web1" in toml and "[web]" not in toml else []
    assert faults(*node, toml=toml) == [said]


NODES = "[web.node.web1]\n[web.node.web2]\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "which node is this? Say --node; the file has web1, web2"),
        (["--node", "wbe1"], 'no table [web.node.wbe1]; the file has web1, web2; did you mean "web1"?'),
        (["--node", "zzz"], "no table [web.node.zzz]; the file has web1, web2"),
    ],
)
def test_a_file_with_nodes_wants_to_know_which_one(argv: list[str], said: str) -> None:
    assert faults(*argv, toml=NODES) == [f"cluster.toml:1: {said}"]


@pytest.mark.parametrize("node", ["a b", "a.b", "a/b", "ä", "a\n", "n" * 64])
def test_a_node_name_is_good_for_file_names_and_headers(node: str) -> None:
    [said] = faults("--node", node)
    assert said.startswith("--node: String should ")


def test_a_file_that_is_missing_is_one_fault() -> None:
    assert faults("--config", "no.toml") == [
        "no.toml: cannot be read: No such file or directory; see --config"
    ]
    assert faults(env={"SCALEUP_CONFIG": "no.toml"})[0].startswith("no.toml: cannot be read: ")


def test_what_is_missing_is_said_with_the_ways_to_say_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(Bare, [], {})
    assert str(caught.value).splitlines() == [
        "listen is not set: say --listen, SCALEUP_WEB_LISTEN or the key 'listen' of [web]",
        "password is not set: say SCALEUP_WEB_PASSWORD",
    ]


def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_error(capsys, "--lisen", ":1") == 'no such option: --lisen; did you mean "--listen"?'
    assert usage_error(capsys, "--lisen=:1") == 'no such option: --lisen; did you mean "--listen"?'
    assert usage_error(capsys, "--zzz") == "no such option: --zzz"
    assert usage_error(capsys, "--list", ":1").startswith("no such option: --list;")  # no abbreviations
    assert usage_error(capsys, "--listen") == "argument --listen: expected one argument"


# ----- secrets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--password", "hunter2"], ["--password=hunter2"]])
def test_a_secret_is_not_taken_from_argv(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    said = usage_error(capsys, *argv)
    assert said.startswith("--password: ")
    assert said.endswith("SCALEUP_WEB_PASSWORD")
    assert "hunter2" not in said


def test_a_secret_comes_from_the_environment_and_is_shown_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    env = {"SCALEUP_WEB_PASSWORD": "hunter2"}
    loaded = settings(env=env)
    assert loaded.password.get_secret_value() == "hunter2"
    with pytest.raises(SystemExit):
        settings("--print-config", env=env)
    printed = capsys.readouterr().out
    assert "# password is set by SCALEUP_WEB_PASSWORD and not shown\n" in printed
    assert "hunter2" not in f"{loaded!r} {loaded} {loaded.table()} {printed}"


def test_a_secret_may_come_from_the_file() -> None:
    assert settings(toml="[web]\npassword = 'hunter2'").password.get_secret_value() == "hunter2"


def test_a_secret_is_not_repeated_in_a_fault() -> None:
    assert faults(env={"SCALEUP_WEB_PASSWORD": "hu"}) == [
        "SCALEUP_WEB_PASSWORD: password: Value should have at least 3 items after validation, not 2"
    ]
    said = [*faults("--place", "hunter2"), *faults(toml="[web]\nplace = 'hunter2'")]
    assert said == [
        "--place: it has a password in it",
        "cluster.toml:2: place: it has a password in it",
    ]


# ----- --check, --print-config, --help, --version -----------------------------------------------------


def test_check_says_yes_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        settings("--check", "--node", "web7")
    assert caught.value.code == 0
    assert capsys.readouterr().out == "web7: the configuration is valid\n"


def test_check_says_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(faults("--check", "--wait", "x", "--workers", "0")) == 2
    assert capsys.readouterr().out == ""


def printed(capsys: pytest.CaptureFixture[str], *argv: str, **more: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        settings("--print-config", *argv, **more)
    assert caught.value.code == 0
    return capsys.readouterr().out


FULL = [
    *(
        "--node",
        "web1",
        "--listen",
        "[::1]:1",
        "--listen",
        "name:2",
        "--trusted",
        "10.1.2.3/8",
        "--wait",
        "0.25",
    ),
    *("--greet", "--motto", 'a "b" \\ # \' \n ü \u2028', "--admin", ":9000", "--log-file", "a b"),
]


def test_print_config_reads_back_to_the_same_settings(capsys: pytest.CaptureFixture[str]) -> None:
    toml = printed(capsys, *FULL)
    again = settings("--node", "web1", toml=toml)
    assert again == settings(*FULL)
    assert list(tomllib.loads(toml)["web"]["node"]) == ["web1"]
    assert settings(toml=printed(capsys)) == settings()


def test_print_config_shows_the_origin_of_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    env = {"SCALEUP_WEB_WORKERS": "4"}
    lines = printed(capsys, "--listen", ":1", env=env, toml="[web]\nwait = 2\n").splitlines()
    assert lines[0] == "[web]"
    assert 'listen = ["0.0.0.0:1"] # --listen' in lines
    assert "workers = 4 # SCALEUP_WEB_WORKERS" in lines
    assert "wait = 2.0 # cluster.toml:2" in lines
    assert 'motto = "" # default' in lines
    assert "# admin is not set" in lines


@pytest.mark.parametrize("columns", [60, 200])
def test_help_explains_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as caught:
        settings("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert (
        max(map(len, text.splitlines())) <= columns + 40
    )  # what must not be broken: a long option, an example
    for field in set(Shop.model_fields) - {"password"}:
        assert option_name(field) in text
    assert "--no-greet" in text
    assert "--password" not in text
    assert "(default: 0.0.0.0:8080)" in " ".join(text.split())
    assert "100 % of nothing" in text
    assert "python -m scaleup.web --listen :80" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        settings("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("scaleup 0.")


# ----- through JSON, as children get them -------------------------------------------------------------


def test_settings_go_through_a_table() -> None:
    before = settings(*FULL)
    assert Shop.model_validate(before.table()) == before


# ----- lists of tables --------------------------------------------------------------------------------

BRANCHES = '[web]\n[[web.branch]]\ncity = "Ulm"\n[[web.branch]]\ncity = "Köln"\nstaff = 0\n'


def test_a_list_of_tables_comes_from_the_file_and_is_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cluster.toml").write_text(BRANCHES.replace("0", "3"))
    argv = ["--config", "cluster.toml"]
    assert load(Chain, argv, {}).settings.branch == (Branch(city="Ulm"), Branch(city="Köln", staff=3))
    with pytest.raises(SystemExit):
        load(Chain, [*argv, "--print-config"], {})
    Path("cluster.toml").write_text(capsys.readouterr().out)
    assert load(Chain, argv, {}).settings.branch[1].staff == 3


def test_a_fault_in_one_of_several_tables_has_its_line() -> None:
    Path("cluster.toml").write_text(BRANCHES)
    with pytest.raises(ConfigurationError, match=r"cluster\.toml:6: branch: .*greater than or equal to 1"):
        load(Chain, ["--config", "cluster.toml"], {})


def test_a_list_of_tables_has_neither_flag_nor_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(Chain, ["--branch", "Ulm"], {})
    assert "write it in the file (--config), as [[web.branch]]" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="no such setting"):
        load(Chain, [], {"SCALEUP_WEB_BRANCH": "Ulm"})
