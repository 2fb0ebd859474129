import re
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from scaleup.config import Flag, TierSettings, load
from scaleup.errors import ConfigurationError
from scaleup.net.addresses import Endpoint
from scaleup.upstream.healthcheck import HealthCheck, Statuses, Tls
from scaleup.upstream.server import CheckOptions
from scaleup.upstream.server_settings import Servers, ServerSettings
from scaleup.upstream.settings import UpstreamSettings

servers: TypeAdapter[tuple[ServerSettings, ...]] = TypeAdapter(Servers)


class Tier(UpstreamSettings, TierSettings):
    """A tier with servers, as lb and web are."""

    tier: ClassVar[str] = "lb"
    server: Annotated[Servers, Flag("SERVER", "servers")] = ()


def server(value: Any) -> ServerSettings:
    return ServerSettings.model_validate(value)


def test_a_server_in_one_line() -> None:
    parsed = server("web1=10.0.0.21:8080,weight=2,maxconn=100")
    assert (parsed.name, parsed.address) == ("web1", Endpoint("10.0.0.21", 8080))
    assert (parsed.weight, parsed.maxconn) == (2, 100)


def test_a_server_as_a_table() -> None:
    table = {"name": "web1", "address": "10.0.0.21:8080", "weight": 2, "maxconn": 100}
    assert server(table) == server("web1=10.0.0.21:8080,weight=2,maxconn=100")


@pytest.mark.parametrize("value", ["10.0.0.21:8080", {"address": "10.0.0.21:8080"}, " 10.0.0.21:8080 "])
def test_a_server_without_a_name_is_called_by_its_address(value: Any) -> None:
    parsed = server(value)
    assert (parsed.name, parsed.weight, parsed.maxconn) == ("10.0.0.21:8080", 1, 0)


def test_one_address_has_one_default_name_however_it_is_written() -> None:
    """`source` hashes the name: nodes that write it differently must still choose alike."""
    assert server("10.0.0.21:08080").name == server("10.0.0.21:8080").name


def test_spaces_around_the_parts_do_not_matter() -> None:
    assert server("web1 = 10.0.0.21:8080 , weight = 2") == server("web1=10.0.0.21:8080,weight=2")


@pytest.mark.parametrize(
    "line",
    [
        "web1=10.0.0.21:8080,weight=2,maxconn=100",
        "10.0.0.21:80,backup,slowstart=30.0",
        "[::1]:80",
        "db.example:80,weight=0",
        "a=[::1]:80",
        "10.0.0.21:80,disabled,no-check",
        "10.0.0.21:80,addr=10.0.0.5,port=81,inter=1.0,fastinter=0.5,downinter=9.0,rise=3,fall=4",
    ],
)
def test_what_is_written_is_what_is_shown(line: str) -> None:
    assert server(line).model_dump() == str(server(line)) == line


names = st.text("AZaz09._:-", min_size=1, max_size=20)


@given(names, st.integers(1, 65535), st.integers(0, 256), st.integers(0, 1_000_000))
def test_the_shown_line_reads_back(name: str, port: int, weight: int, maxconn: int) -> None:
    table = {"name": name, "address": f"10.0.0.1:{port}", "weight": weight, "maxconn": maxconn}
    assert server(str(server(table))) == server(table)


@given(st.text(max_size=40))
def test_any_line_is_a_server_or_a_fault(line: str) -> None:
    try:
        server(line)
    except ValidationError:
        return


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("web1=10.0.0.21", "has no port: write HOST:PORT"),
        ("10.0.0.21:0", "cannot be connected to: write the server's own address and port"),
        (":8080", "cannot be connected to"),
        ("web 1=10.0.0.21:80", "'web 1' is not a server name: use only letters, digits"),
        ("10.0.0.21:80,weight=257", "weight is '257': write a whole number from 0 to 256"),
        ("10.0.0.21:80,weight=-1", "weight is '-1': write a whole number from 0 to 256"),
        ("10.0.0.21:80,maxconn=many", "maxconn is 'many': write a whole number from 0 to 1000000"),
        ("10.0.0.21:80,weight", "'weight' in '10.0.0.21:80,weight' has no value"),
        ("10.0.0.21:80,", "has no value"),
        ("10.0.0.21:80,weight=1,weight=2", "weight stands twice"),
        ("10.0.0.21:80,name=a,address=b:1", "address stands twice"),
        ("10.0.0.21:80,wieght=2", "a server has no 'wieght'; did you mean \"weight\"?"),
        (
            "10.0.0.21:80,colour=2",
            "a server has no 'colour', only address, name, weight, maxconn, backup, disabled, slowstart, check, "
            "addr, port, inter, fastinter, downinter, rise, fall",
        ),
        ("10.0.0.21:80,slowstart=30s", "slowstart is '30s': write seconds from 0 to 3600, without a unit"),
        ("10.0.0.21:80,slowstart=-1", "slowstart is '-1': write seconds"),
        ("10.0.0.21:80,slowstart=nan", "slowstart is 'nan': write seconds"),
        ("10.0.0.21:80,backup,backup", "backup stands twice"),
        ("10.0.0.21:80,check,no-check", "check stands twice"),
        ("10.0.0.21:80,addr=db1", "addr is 'db1': write the IP address that is to be checked"),
        ("10.0.0.21:80,port=0", "port is '0': write a whole number from 1 to 65535"),
        ("10.0.0.21:80,inter=2s", "inter is '2s': write seconds from 0.01 to 3600, without a unit"),
        ("10.0.0.21:80,fall=0", "fall is '0': write a whole number from 1 to 100"),
        ({"name": "web1"}, "a server needs an address: write for example web1="),
        (5, "a server needs an address: write for example web1="),
        ({"address": 5}, 'write "HOST:PORT", not 5'),
    ],
)
def test_errors_say_what_to_write(value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        server(value)
    [fault] = caught.value.errors()
    assert message in fault["msg"]


@pytest.mark.parametrize("lines", [["10.0.0.1:80", "10.0.0.1:80"], ["a=10.0.0.1:80", "a=10.0.0.2:80"]])
def test_two_servers_of_one_name_are_a_fault(lines: list[str]) -> None:
    with pytest.raises(ValidationError, match=r"two servers are called .* give one of them another name"):
        servers.validate_python(lines)


def test_one_address_may_serve_under_two_names() -> None:
    assert [one.name for one in servers.validate_python(["a=10.0.0.1:80", "b=10.0.0.1:80"])] == ["a", "b"]


def test_a_server_for_a_pool() -> None:
    made = server("web1=10.0.0.21:8080,weight=2,maxconn=100").server()
    assert (made.name, made.endpoint, made.weight) == ("web1", Endpoint("10.0.0.21", 8080), 2)
    assert (made.maxconn, made.up, made.sessions) == (100, True, 0)
    assert (made.backup, made.slowstart, made.admin) == (False, 0.0, "ready")
    spare = server("10.0.0.29:8080,backup,slowstart=30").server()
    assert (spare.backup, spare.slowstart) == (True, 30.0)
    assert (spare.admin, spare.live.checked, spare.options) == ("ready", True, CheckOptions())
    other = server(
        "10.0.0.21:80,no-check,disabled,addr=10.0.0.5,port=81,inter=1,fastinter=.5,downinter=9,rise=3,fall=4"
    )
    made = other.server()
    assert (made.admin, made.live.checked, made.live) == ("maint", False, other.live)
    assert made.options == CheckOptions(1.0, 0.5, 9.0, 3, 4, "10.0.0.5", 81)


def test_the_defaults_are_haproxys() -> None:
    defaults = UpstreamSettings()
    assert (defaults.balance, defaults.health_check) == ("roundrobin", HealthCheck("tcp"))
    assert (defaults.inter, defaults.rise, defaults.fall, defaults.check_timeout) == (2.0, 2, 3, 2.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fast", "choose one of roundrobin, leastconn, first, random, source, or MODULE:CLASS"),
        ("json:loads", "write a subclass of scaleup.upstream.algorithm.Algorithm"),
    ],
)
def test_a_balance_that_cannot_be_says_what_can(name: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        UpstreamSettings(balance=name)


def test_a_tier_has_them_as_flags() -> None:
    argv = "--server web1=10.0.0.21:8080,weight=2 --server 10.0.0.22:8080 --balance leastconn"
    argv += " --health-check http:/healthz --inter 0.5 --fastinter 0.2 --rise 1 --fall 2 --check-timeout 0.3"
    loaded = load(Tier, argv.split(), {}).settings
    assert [str(one) for one in loaded.server] == ["web1=10.0.0.21:8080,weight=2", "10.0.0.22:8080"]
    assert (loaded.balance, loaded.health_check) == ("leastconn", HealthCheck("http", "/healthz"))
    assert (loaded.fastinter, loaded.downinter) == (0.2, None)
    assert (loaded.inter, loaded.rise, loaded.fall, loaded.check_timeout) == (0.5, 1, 2, 0.3)


def test_all_of_a_check_as_flags() -> None:
    argv = "--health-check http:/x --check-method HEAD --check-host www.example:81 --check-expect 200-204,5xx"
    argv += " --check-ssl --check-sni sni.example --check-verify required"
    check = load(Tier, argv.split(), {}).settings.check
    assert check == HealthCheck(
        *("http", "/x"),
        method="HEAD",
        host="www.example:81",
        expect=Statuses(((200, 204), (500, 599))),
        tls=Tls("sni.example", verify=True),
    )
    assert load(Tier, [], {}).settings.check == HealthCheck("tcp", expect=Statuses(((200, 299), (300, 399))))


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        ("--check-method FETCH", "--check-method: Input should be"),
        ("--check-host a/b", "'a/b' is not a Host: write a name or an address"),
        ("--check-host a:b", "'b' in 'a:b' is not a port"),
        ("--check-expect fine", "'fine' is not a status"),
        ("--check-sni a:443", "'a:443' has a port: write only a"),
    ],
)
def test_what_cannot_be_said_of_a_check(argv: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(fault)):
        load(Tier, argv.split(), {})


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"check_ssl": True, "health_check": "mysql:a"}, "--check-ssl is for tcp and http"),
        ({"check_verify": "required"}, "--check-verify required needs --check-ssl"),
        ({"check_ssl": True, "check_ca_file": "/etc/hosts"}, "--check-ca-file needs --check-verify required"),
        (
            {"check_ssl": True, "check_verify": "required", "check_ca_file": "/nonexistent.pem"},
            "--check-ca-file /nonexistent.pem: No such file or directory",
        ),
        (
            {"check_ssl": True, "check_verify": "required", "check_ca_file": "/etc/hosts"},
            "--check-ca-file /etc/hosts: it is not a file of certificates (PEM)",
        ),
    ],
)
def test_what_does_not_go_together(said: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        UpstreamSettings.model_validate(said).refuse_contradictions()


def test_faults_come_all_at_once_each_with_its_option() -> None:
    argv = "--server 10.0.0.21 --balance fast --health-check ping --inter 0 --rise 0 --fall x"
    with pytest.raises(ConfigurationError) as caught:
        load(Tier, argv.split(), {})
    said = str(caught.value).splitlines()
    for option in ("--server", "--balance", "--health-check", "--inter", "--rise", "--fall"):
        assert any(line.startswith(f"{option}: ") for line in said)


def test_the_settings_print_as_they_are_written() -> None:
    printed = Tier.model_validate({"server": ["a=10.0.0.1:80"], "health_check": "http:/x"}).table()
    assert printed["server"] == ["a=10.0.0.1:80"]
    assert printed["health_check"] == "http:/x"
