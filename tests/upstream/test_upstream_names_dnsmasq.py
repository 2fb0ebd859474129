"""Looking names up at a name server of somebody else's: dnsmasq."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import SEARCH_PATH, requires

from bench.ports import free_port
from scaleup.net.addresses import Endpoint
from scaleup.upstream.names import DENIED_TTL_SECONDS, Answer, Resolver, Unanswered

pytestmark = requires("dnsmasq")

HOST = "127.0.53.20"
MANY = [f"10.0.{number}.1" for number in range(200)]


@pytest.fixture(scope="module")
def dnsmasq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """It knows `internal`, and nobody to ask for the rest."""
    hosts: Path = tmp_path_factory.mktemp("dnsmasq") / "hosts"
    hosts.write_text("".join(f"{address} many.internal\n" for address in MANY))
    hosts.parent.chmod(0o755)
    port = free_port(HOST)
    command = ["dnsmasq", "--keep-in-foreground", f"--port={port}", f"--listen-address={HOST}", "--pid-file="]
    command += ["--bind-interfaces", "--no-resolv", "--no-hosts", "--local=/internal/", "--local-ttl=7"]
    command += ["--conf-file=/dev/null", f"--user={getpass.getuser()}", "--log-facility=-"]
    command += [f"--addn-hosts={hosts}", "--host-record=web.internal,10.0.0.1,fd00::1"]
    command += ["--host-record=web.internal,10.0.0.2", "--host-record=six.internal,fd00::6"]
    command += ["--cname=alias.internal,web.internal"]
    command += [
        "--srv-host=_http._tcp.internal,web.internal,8080",
        "--srv-host=_http._tcp.internal,six.internal,81",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"PATH": SEARCH_PATH}) as process:
        try:
            assert process.stderr is not None
            assert any("read" in line for line in process.stderr), "dnsmasq did not start"
            yield Endpoint(HOST, port)
        finally:
            process.kill()


def at(*hosts: str, port: int = 80) -> frozenset[Endpoint]:
    return frozenset(Endpoint(host, port) for host in hosts)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("web.internal", Answer(at("10.0.0.1", "10.0.0.2"), 7)),
        ("alias.internal", Answer(at("10.0.0.1", "10.0.0.2"), 7)),
        ("six.internal", Answer(at("fd00::6"), 7)),
        ("many.internal", Answer(at(*MANY), 7)),
        ("none.internal", Answer(frozenset(), DENIED_TTL_SECONDS)),
    ],
)
async def test_names(dnsmasq: Endpoint, name: str, answer: Answer) -> None:
    """Of `many`, the answer takes TCP."""
    assert await Resolver([dnsmasq]).look_up(Endpoint(name, 80)) == answer


async def test_services(dnsmasq: Endpoint) -> None:
    answer = await Resolver([dnsmasq]).look_up(Endpoint("_http._tcp.internal", 0))
    assert answer.endpoints == at("10.0.0.1", "10.0.0.2", port=8080) | at("fd00::6", port=81)


async def test_what_it_refuses_is_no_answer(dnsmasq: Endpoint) -> None:
    with pytest.raises(Unanswered, match="says REFUSED"):
        await Resolver([dnsmasq]).look_up(Endpoint("web.example", 80))
