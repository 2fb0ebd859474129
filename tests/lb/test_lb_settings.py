"""Faults of a load balancer's settings; those of servers and of the election are tested with them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scaleup.config import load
from scaleup.errors import ConfigurationError
from scaleup.lb.generation import for_workers
from scaleup.lb.settings import MAX_ELECTED_SOCKETS, LbSettings
from scaleup.net.addresses import Endpoint
from scaleup.processes.channel import MAX_DESCRIPTORS
from scaleup.upstream.healthcheck import Tls

PLAIN = ["--listen", "10.0.0.1:80", "--server", "10.0.0.21:8080"]
ELECTION = ["--vip", "10.0.0.100/24", "--source", "10.0.0.11", "--peer", "10.0.0.12", "--auth", "none"]


def settings(*arguments: str) -> LbSettings:
    return load(LbSettings, arguments, {}).settings


def fault(*arguments: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        settings(*arguments)
    assert caught.value.exit_code == 78
    return str(caught.value)


def test_the_examples_in_the_help_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key").write_bytes(b"k" * 32)
    lines = LbSettings.examples.replace("\\\n", " ").splitlines()
    commands = [line.split()[3:] for line in lines if "python -m scaleup.lb" in line]
    plain, elected = (settings(*words) for words in commands)
    assert (plain.endpoints, plain.elected) == ((Endpoint("0.0.0.0", 80),), ())
    assert plain.server[1].weight == 2
    assert elected.elected == elected.endpoints == (Endpoint("127.0.0.100", 8080),)


def test_only_what_is_on_a_virtual_address_is_elected() -> None:
    both = settings("--listen", "10.0.0.100:80", *PLAIN, *ELECTION)
    assert both.endpoints == (Endpoint("10.0.0.100", 80), Endpoint("10.0.0.1", 80))
    assert both.elected == (Endpoint("10.0.0.100", 80),)


def test_without_an_election_everything_is_plain() -> None:
    assert settings(*PLAIN).elected == ()


def test_what_a_worker_is_sent_is_read_back() -> None:
    sent = settings("--listen", "10.0.0.100:80", *PLAIN, *ELECTION, "--workers", "3")
    assert LbSettings.model_validate(sent.table()) == sent


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", "10.0.0.21:8080"], "listen is not set: say --listen, SCALEUP_LB_LISTEN"),
        (["--listen", ":80"], "server is not set: say --server"),
        ([*PLAIN, "--listen", "10.0.0.1:80"], "--listen says one address twice"),
        ([*PLAIN, *ELECTION], "--vip 10.0.0.100: no --listen is on it, so there is nothing to own"),
        (
            ["--listen", "10.0.0.100:0", "--server", "10.0.0.21:8080", *ELECTION],
            "--listen 10.0.0.100:0: on a --vip all nodes listen on the same port: say which",
        ),
        ([*PLAIN, "--server", "[fd00::21]:8080", "--source", "10.0.0.11"], "--server [fd00::21]:8080"),
        ([*PLAIN, "--server", "10.0.0.21:8080"], "two servers are called '10.0.0.21:8080'"),
        ([*PLAIN, "--workers", "0"], "--workers: Input should be greater than or equal to 1"),
        ([*PLAIN, "--workers", "65"], "less than or equal to 64"),
        ([*PLAIN, "--maxconn", "0"], "--maxconn: Input should be greater than or equal to 1"),
        ([*PLAIN, "--queue", "-1"], "--queue: Input should be greater than or equal to 0"),
        ([*PLAIN, "--retries", "-1"], "--retries"),
        ([*PLAIN, "--redispatch", "-2"], "--redispatch"),
        ([*PLAIN, "--timeout-connect", "0"], "--timeout-connect"),
        ([*PLAIN, "--timeout-client", "inf"], "--timeout-client"),
        ([*PLAIN, "--timeout-server-fin", "nan"], "--timeout-server-fin"),
        ([*PLAIN, "--balance", "best"], "--balance"),
    ],
)
def test_a_fault_names_the_option_and_the_cure(arguments: list[str], said: str) -> None:
    assert said in fault(*arguments)


def test_a_name_may_be_of_any_family() -> None:
    assert settings(*PLAIN, "--server", "web.example:8080", "--source", "10.0.0.11")


def test_no_more_sockets_than_the_vrrp_process_can_be_handed() -> None:
    listens = [word for port in (80, 443, 8080) for word in ("--listen", f"10.0.0.100:{port}")]
    server = ["--server", "10.0.0.21:8080"]
    assert MAX_ELECTED_SOCKETS <= MAX_DESCRIPTORS
    fits = MAX_ELECTED_SOCKETS // 3
    assert settings(*listens, *server, *ELECTION, "--workers", str(fits))
    assert "say fewer workers" in fault(*listens, *server, *ELECTION, "--workers", str(fits + 1))


def test_the_maxima_fit_the_message_to_a_worker() -> None:
    """The counters' memory, a waker for each worker, and its own listening sockets."""
    assert 1 + 64 + MAX_ELECTED_SOCKETS <= MAX_DESCRIPTORS


# ----- several proxies --------------------------------------------------------------------------------

SEVERAL = """
[lb]
timeout_server = 7
maxconn = 100
[[lb.frontend]]
name = "www"
listen = ["10.0.0.1:80", "10.0.0.100:80"]
backend = "web"
maxconn = 9
[[lb.frontend]]
name = "sql"
listen = ["10.0.0.1:3306"]
backend = "db"
[[lb.backend]]
name = "web"
balance = "leastconn"
server = ["web1=10.0.0.21:8080"]
[[lb.backend]]
name = "db"
timeout_server = 600
server = ["db1=10.0.0.41:3306"]
"""


def from_file(text: str, *arguments: str) -> LbSettings:
    Path("cluster.toml").write_text(text)
    return settings("--config", "cluster.toml", *arguments)


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_folder")
def test_several_proxies_and_what_they_have_in_common() -> None:
    said = from_file(SEVERAL, *ELECTION)
    www, sql = said.frontends
    web, db = said.backends
    assert (www.name, www.backend, www.maxconn) == ("www", "web", 9)
    assert (sql.name, sql.backend, sql.maxconn) == ("sql", "db", 100)
    assert (web.balance, web.timeout_server) == ("leastconn", 7)
    assert (db.balance, db.timeout_server) == ("roundrobin", 600)
    assert said.elected == (Endpoint("10.0.0.100", 80),)
    assert len(said.endpoints) == 3


@pytest.mark.usefixtures("_folder")
def test_what_is_sent_and_printed_leaves_the_defaults_to_lb() -> None:
    said = from_file(SEVERAL)
    again = LbSettings.model_validate(said.table())
    assert again.frontends == said.frontends
    assert again.backends == said.backends
    assert said.table()["frontend"][1] == {"name": "sql", "listen": ["10.0.0.1:3306"], "backend": "db"}


def test_one_proxy_said_by_flags_is_called_lb() -> None:
    (frontend,), (backend,) = settings(*PLAIN).frontends, settings(*PLAIN).backends
    assert frontend.name == frontend.backend == backend.name == "lb"


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'backend = "web"',
            'backend = "wbe"',
            "frontend www: there is no backend 'wbe'; did you mean \"web\"?",
        ),
        ('backend = "db"\n', "", "frontend sql: say its backend, one of web, db"),
        ('name = "sql"', 'name = "www"', "two [[lb.frontend]] are called 'www'"),
        ('name = "db"', 'name = "web"', "two [[lb.backend]] are called 'web'"),
        ('name = "sql"', 'name = "s q l"', "cluster.toml:11: frontend: 's q l' is not a name"),
        ('name = "sql"\n', "", "cluster.toml:10: frontend: Field required"),
        ("10.0.0.1:3306", "10.0.0.1:80", "--listen says one address twice, 10.0.0.1:80"),
        ('listen = ["10.0.0.1:3306"]\n', "", "frontend sql: it has no listen"),
        ('server = ["db1=10.0.0.41:3306"]\n', "", "backend db: it has no server"),
        ("maxconn = 100", 'listen = ["10.0.0.1:81"]', "write one or the other"),
        (
            "timeout_server = 600",
            "timeout_sever = 600",
            "cluster.toml:20: backend: no such key: timeout_sever",
        ),
    ],
)
def test_faults_of_several_proxies(old: str, new: str, said: str) -> None:
    assert old in SEVERAL
    Path("cluster.toml").write_text(SEVERAL.replace(old, new))
    assert said in fault("--config", "cluster.toml")


@pytest.mark.usefixtures("_folder")
def test_the_example_in_the_manual_is_valid() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "load-balancer.md").read_text()
    lines = manual[manual.index("    [lb]\n") : manual.index("`python -m scaleup.lb --config")].splitlines()
    www, sql = from_file("\n".join(line.removeprefix("    ") for line in lines)).frontends
    assert (www.backend, sql.timeout_client) == ("web", 3600)


def test_what_checks_need_is_judged_with_the_defaults_of_all(tmp_path: Path) -> None:
    """`verify` of one backend, and TLS of [lb]; a backend may say the contrary of it, too."""
    file = tmp_path / "cluster.toml"
    tables = """
    [lb]
    check_ssl = true
    [[lb.frontend]]
    name = "www"
    listen = [":80"]
    backend = "web"
    [[lb.backend]]
    name = "web"
    check_verify = "required"
    server = ["10.0.0.21:80"]
    [[lb.backend]]
    name = "db"
    health_check = "mysql"
    server = ["10.0.0.41:3306"]
    """
    file.write_text(tables)
    assert "backend db: --check-ssl is for tcp and http" in fault("--config", str(file))
    file.write_text(tables.replace('"mysql"', '"mysql"\n    check_ssl = false'))
    web, db = settings("--config", str(file)).backends
    assert web.check.tls == Tls(verify=True)
    assert db.check.tls is None


def test_workers_do_not_need_the_files_of_the_checks(tmp_path: Path) -> None:
    """Which may be gone when one is replaced, or readable only for root."""
    authorities = tmp_path / "ca.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    now = datetime.datetime.now(datetime.UTC)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = unsigned.not_valid_before(now).not_valid_after(now).sign(key, hashes.SHA256())
    authorities.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    tls: dict[str, Any] = {"check_ssl": True, "check_verify": "required", "check_ca_file": str(authorities)}
    one: dict[str, Any] = {"listen": [":80"], "server": ["10.0.0.21:80"], **tls}
    several: dict[str, Any] = {
        "frontend": [{"name": "www", "listen": [":80"]}],
        "backend": [{"name": "web", "server": ["10.0.0.21:80"], **tls}],
    }
    written = [for_workers(LbSettings.model_validate(said)) for said in (one, several)]
    authorities.unlink()
    for table in written:
        assert LbSettings.model_validate(table).backends[0].server[0].name == "10.0.0.21:80"
