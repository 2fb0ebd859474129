"""The servers of a node by name, with a name server that is there; nodes as processes at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from name_server import NameServer, name_server
from nodes import Node, eventually
from servers import Backend, Client, EchoServer

from bench.ports import free_port
from scaleup.config import load
from scaleup.errors import ConfigurationError
from scaleup.lb import discovery
from scaleup.lb.servers import Servers
from scaleup.lb.settings import MAX_NAMED_SERVERS, LbSettings
from scaleup.net.addresses import Endpoint
from scaleup.processes.channel import MAX_MESSAGE_BYTES
from scaleup.upstream import name_servers, names

PATIENCE_SECONDS = 20.0
WEB, API = "web.internal", "api.internal"


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with name_server("127.0.53.9") as server:
        server.ttl = 0
        yield server


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers hold a hundredth of the time; they may take as long as ever."""
    monkeypatch.setattr(names, "MIN_TTL_SECONDS", 0.01)
    monkeypatch.setattr(names, "DENIED_TTL_SECONDS", 0.01)
    monkeypatch.setattr(name_servers, "ATTEMPT_SECONDS", 10.0)
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 20.0)
    monkeypatch.setattr(discovery, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(discovery, "FIRST_SECONDS", 20.0)


def wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a name server that gives no answer."""
    monkeypatch.setattr(name_servers, "ATTEMPT_SECONDS", 0.1)
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 0.2)
    monkeypatch.setattr(discovery, "FIRST_SECONDS", 0.5)


class Known:
    """What a node knows: servers by name, and how often its workers were told."""

    def __init__(self, dns: NameServer) -> None:
        self._dns = dns
        self.told = 0
        self.events: list[dict[str, Any]] = []
        self.servers = Servers(self._tell, self._event, asyncio.get_running_loop().time)

    def _tell(self) -> None:
        self.told += 1

    def _event(self, kind: str, **fields: Any) -> None:
        self.events.append(fields)

    async def serve(self, *templates: str, **more: Any) -> LbSettings:
        """By these settings from now on, as after a reload."""
        said = {"listen": [":80"], "server_template": templates, "resolver": [str(self._dns.endpoint)]}
        settings = LbSettings.model_validate({**said, "inter": 3600, **more})
        await self.servers.find(settings)
        await self.servers.rest()
        self.servers.know(settings)
        self.servers.watch(settings, None)
        return settings

    @property
    def addresses(self) -> dict[str, str | None]:
        """Of each server of the only backend."""
        servers = self.servers.backends["lb"].values()
        return {server.name: str(server.endpoint) if server.endpoint else None for server in servers}

    async def become(self, **addresses: str | None) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.addresses != addresses:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def look_up(self, dns: NameServer, times: int = 3) -> None:
        """So often from now on."""
        before = len(dns.asked)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(dns.asked) < before + times:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@pytest.fixture
async def node(dns: NameServer, at_once: None) -> AsyncIterator[Known]:
    known = Known(dns)
    yield known
    await known.servers.rest()


A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


def say(dns: NameServer, *addresses: str, name: str = WEB) -> None:
    dns.say(name, "A", *(address.partition(":")[0] for address in addresses))


async def test_addresses_are_there_from_the_beginning(dns: NameServer, node: Known) -> None:
    say(dns, A, B)
    settings = await node.serve("web 3 web.internal:80,weight=2")
    assert node.addresses == {"web1": A, "web2": B, "web3": None}
    assert node.servers.state(settings) == {
        "up": [True, True, True],
        "live": [
            (0, [A, 2, 0, "ready", True]),
            (1, [B, 2, 0, "ready", True]),
            (2, [None, 2, 0, "ready", True]),
        ],
        "rising": [],
    }


async def test_servers_come_and_go_with_the_answers_and_stay_where_they_are(
    dns: NameServer, node: Known
) -> None:
    """Another order is no news (haproxy #841)."""
    say(dns, A, B)
    await node.serve("web 2 web.internal:80")
    say(dns, B, A)
    await node.look_up(dns)
    assert node.addresses == {"web1": A, "web2": B}
    assert node.told == 0
    say(dns, C, B)
    await node.become(web1=C, web2=B)
    assert node.told == 1
    say(dns, B)
    await node.become(web1=None, web2=B)


async def test_several_servers_said_one_by_one_share_the_addresses(dns: NameServer, node: Known) -> None:
    """As HAProxy without `resolve-opts allow-dup-ip`; another port is another name."""
    say(dns, A, B)
    servers = ["one=web.internal:80", "two=web.internal:80", "three=web.internal:80", "other=web.internal:81"]
    await node.serve(server=servers)
    assert node.addresses == {"one": A, "two": B, "three": None, "other": "10.0.0.1:81"}


async def test_servers_by_address_are_let_alone(dns: NameServer, node: Known) -> None:
    say(dns, A)
    settings = await node.serve("web 1 web.internal:80", server=["fixed=10.0.0.9:80"])
    assert node.addresses == {"fixed": "10.0.0.9:80", "web1": A}
    assert [number for number, _ in node.servers.state(settings)["live"]] == [1]


@pytest.mark.parametrize("mode", ["SERVFAIL", "REFUSED", "silent", "garbage"])
async def test_an_error_empties_nothing_however_long_it_lasts(
    dns: NameServer, node: Known, mode: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """haproxy #1061, #3400. It is said once, and so is the end of it."""
    caplog.set_level(logging.INFO, "scaleup.lb.discovery")
    say(dns, A, B)
    await node.serve("web 2 web.internal:80", hold_nx=0, hold_obsolete=0)
    dns.mode = mode
    with monkeypatch.context() as brief:
        wait_briefly(brief)
        await node.look_up(dns, 6)
        assert node.addresses == {"web1": A, "web2": B}
        say(dns, B, C)
        dns.mode = ""
    await node.become(web1=C, web2=B)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("cannot look up web.internal: ")
    assert said[1] == "web.internal can be looked up again"


async def test_a_name_that_is_gone_is_held_and_then_its_servers_are_free(
    dns: NameServer, node: Known
) -> None:
    say(dns, A, B)
    await node.serve("web 2 web.internal:80", hold_nx=0.3)
    began = asyncio.get_running_loop().time()
    dns.forget(WEB)
    await node.look_up(dns)
    assert node.addresses == {"web1": A, "web2": B} or asyncio.get_running_loop().time() > began + 0.3
    await node.become(web1=None, web2=None)
    assert asyncio.get_running_loop().time() >= began + 0.3
    say(dns, B)
    await node.become(web1=B, web2=None)


async def test_an_obsolete_address_is_held_as_long_as_is_said(dns: NameServer, node: Known) -> None:
    say(dns, A)
    await node.serve("web 1 web.internal:80", hold_obsolete=0.3)
    began = asyncio.get_running_loop().time()
    say(dns, B)
    await node.become(web1=B)
    assert asyncio.get_running_loop().time() >= began + 0.3


async def test_the_hold_ends_between_two_answers(
    dns: NameServer, node: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one would come in an hour."""
    say(dns, A)
    await node.serve("web 1 web.internal:80", hold_nx=0.2)
    monkeypatch.setattr(names, "DENIED_TTL_SECONDS", 3600.0)
    dns.forget(WEB)
    await node.become(web1=None)


async def test_a_name_server_that_is_away_keeps_nobody_from_starting(
    dns: NameServer, node: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_briefly(monkeypatch)
    dns.mode = "silent"
    await node.serve("web 2 web.internal:80")
    assert node.addresses == {"web1": None, "web2": None}
    dns.mode = ""
    say(dns, A, B)
    await node.become(web1=A, web2=B)


async def test_services_bring_their_ports(dns: NameServer, node: Known) -> None:
    """As Consul says them."""
    service = "_http._tcp.web.service.consul"
    dns.say(service, "SRV", "1 1 8080 a.consul.", "1 1 8081 a.consul.")
    dns.say("a.consul", "A", "10.0.0.1")
    await node.serve(f"web 3 {service}")
    assert node.addresses == {"web1": "10.0.0.1:8080", "web2": "10.0.0.1:8081", "web3": None}
    dns.say(service, "SRV", "1 1 8081 a.consul.", "1 1 9000 a.consul.")
    await node.become(web1="10.0.0.1:9000", web2="10.0.0.1:8081", web3=None)


async def test_workers_are_told_once_of_many(
    dns: NameServer, node: Known, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when they were down: then their checks start anew."""
    hosts = [f"10.0.{number}.1" for number in range(100)]
    dns.say(WEB, "A", *hosts)
    await node.serve("web 100 web.internal:80")
    for server in node.servers.backends["lb"].values():
        server.up = False
    dns.say(WEB, "A", *(f"10.1.{number}.1" for number in range(100)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "10.0.0.1:80" in node.addresses.values():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert node.told == 1
    assert all(server.up for server in node.servers.backends["lb"].values())
    history = node.servers.history("lb", "web1")
    assert history.downtime(asyncio.get_running_loop().time()) >= 0


def test_the_most_servers_by_name_fit_one_message() -> None:
    """With the longest addresses, all of them different from what is configured."""
    long = Endpoint("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535)
    entry = [MAX_NAMED_SERVERS, [str(long), 256, 1_000_000, "drain", False]]
    fields = {"up": [False] * MAX_NAMED_SERVERS, "live": [entry] * MAX_NAMED_SERVERS}
    assert len(json.dumps(fields)) < MAX_MESSAGE_BYTES * 0.9


async def test_more_addresses_than_servers_are_told(
    dns: NameServer, node: Known, caplog: pytest.LogCaptureFixture
) -> None:
    say(dns, A, B, C)
    await node.serve("web 1 web.internal:80")
    await node.look_up(dns)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["web.internal: 2 addresses more than servers of lb"]


async def test_a_reload_keeps_addresses_in_their_slots_and_what_is_known_of_them(
    dns: NameServer, node: Known
) -> None:
    say(dns, A, B, C)
    await node.serve("web 3 web.internal:80", hold_nx=30)
    say(dns, B, C)
    await node.become(web1=None, web2=B, web3=C)
    node.servers.backends["lb"]["web2"].up = False
    dns.mode = "SERVFAIL"
    await node.serve("web 4 web.internal:80")
    assert node.addresses == {"web1": None, "web2": B, "web3": C, "web4": None}
    assert [server.up for server in node.servers.backends["lb"].values()] == [True, False, True, True]
    dns.mode = ""
    say(dns, A, B, C)
    await node.become(web1=A, web2=B, web3=C, web4=None)


async def test_a_reload_with_another_name_knows_nothing_of_the_old_one(dns: NameServer, node: Known) -> None:
    say(dns, A)
    say(dns, B, name=API)
    before = await node.serve("web 1 web.internal:80")
    node.servers.backends["lb"]["web1"].up = False
    await node.serve("web 1 api.internal:80")
    assert node.addresses == {"web1": B}
    assert node.servers.backends["lb"]["web1"].up
    await node.serve("api 1 api.internal:80")
    assert node.servers.state(before)["up"] == [None], "old workers hear nothing new of what is gone"


@pytest.mark.parametrize(("source", "address"), [("127.0.0.1", "10.0.0.1:80"), ("::1", "[fd00::1]:80")])
async def test_only_what_can_be_reached_from_the_source(
    dns: NameServer, node: Known, source: str, address: str
) -> None:
    say(dns, A)
    dns.say(WEB, "AAAA", "fd00::1")
    await node.serve("web 2 web.internal:80", source=source)
    assert node.addresses == {"web1": address, "web2": None}


async def test_an_operator_s_address_holds_until_the_slot_gets_another(dns: NameServer, node: Known) -> None:
    say(dns, A)
    await node.serve("web 1 web.internal:80")
    web1 = node.servers.backends["lb"]["web1"]
    node.servers.change("lb", web1, web1.live._replace(endpoint=Endpoint("10.0.0.9", 80)))
    await node.look_up(dns)
    assert node.addresses == {"web1": "10.0.0.9:80"}
    say(dns, B)
    await node.become(web1=B)


async def test_a_server_that_has_got_an_address_is_checked_there(dns: NameServer, node: Known) -> None:
    with contextlib.closing(Backend("127.0.64.9")) as refusing:
        dns.say(WEB, "A", refusing.host)
        await node.serve(f"web 2 {WEB}:{refusing.port}", inter=0.05)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while node.servers.backends["lb"]["web1"].up:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        checker = node.servers.checker("lb")
        assert checker is not None
        assert checker.last(node.servers.backends["lb"]["web2"]) is None, "nobody is there"


# ----- the settings -----------------------------------------------------------------------------------


def fault(*arguments: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(LbSettings, ["--listen", ":80", *arguments], {})
    return str(caught.value)


def test_name_servers_are_said_by_address() -> None:
    arguments = [
        "--listen",
        ":80",
        "--server",
        "web.internal:80",
        "--resolver",
        "10.0.0.53",
        "--resolver",
        "[::1]:8600",
    ]
    settings = load(LbSettings, arguments, {}).settings
    assert settings.resolver == (Endpoint("10.0.0.53", 53), Endpoint("::1", 8600))
    assert LbSettings.model_validate(settings.table()) == settings
    assert "'ns.internal' is no address" in fault("--server", "a:80", "--resolver", "ns.internal")


def test_templates_count_as_servers() -> None:
    settings = load(
        LbSettings, ["--listen", ":80", "--server-template", "web 3 web.internal:80"], {}
    ).settings
    assert [server.name for server in settings.backends[0].servers] == ["web1", "web2", "web3"]
    assert LbSettings.model_validate(settings.table()).backends == settings.backends
    assert "two servers are called 'web2'" in fault(
        "--server", "web2=10.0.0.1:80", "--server-template", "web 3 web.internal:80"
    )


def test_only_so_many_can_be_said_by_name() -> None:
    templates = ["--server-template", f"a {MAX_NAMED_SERVERS} a.internal:80"]
    assert load(LbSettings, ["--listen", ":80", *templates], {})
    assert f"{MAX_NAMED_SERVERS + 1} servers by name" in fault(*templates, "--server", "b.internal:80")


# ----- nodes ------------------------------------------------------------------------------------------

HOST = "127.0.69.11"
HOSTS = ["127.0.69.21", "127.0.69.22", "127.0.69.23"]


@pytest.fixture
def webs() -> Iterator[list[EchoServer]]:
    """Three, at one port of three addresses."""
    port = free_port(HOSTS[0])
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(EchoServer(host, host, port))) for host in HOSTS]


def greetings(address: tuple[str, int]) -> set[str]:
    """Of nine clients, one after another."""
    seen = set()
    for _ in range(9):
        with Client(address) as client:
            seen.add(client.greeting())
    return seen


def is_reset(address: tuple[str, int]) -> bool:
    """Perhaps so soon that the client has not even seen that it was accepted."""
    try:
        with Client(address) as client:
            return client.is_reset()
    except ConnectionResetError:
        return True


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_node_follows_a_name(dns: NameServer, webs: list[EchoServer], tmp_path: Path) -> None:
    """As a headless service of Kubernetes: pods come and go, and so does the name server."""
    where = HOST, free_port(HOST)
    dns.say(WEB, "A", HOSTS[0])
    file = tmp_path / "cluster.toml"

    def write(prefix: str) -> None:
        file.write_text(f"""
            [lb]
            listen = ["{where[0]}:{where[1]}"]
            resolver = ["{dns.endpoint}"]
            server_template = ["{prefix} 1-3 {WEB}:{webs[0].port}"]
            hold_nx = 0
        """)

    write("web")
    with contextlib.closing(Node("lb1", HOST, "--config", str(file), "--workers", "2")) as node:
        node.ready()
        assert greetings(where) == {HOSTS[0]}, "from the first connection on"
        with Client(where) as long:
            assert long.greeting() == HOSTS[0]
            dns.say(WEB, "A", *HOSTS)
            eventually(lambda: greetings(where) == set(HOSTS))
            dns.say(WEB, "A", *HOSTS[1:])
            eventually(lambda: greetings(where) == set(HOSTS[1:]))
            long.echo()
            dns.mode = "SERVFAIL"
            node.says("cannot look up web.internal")
            assert greetings(where) == set(HOSTS[1:])
            write("www")
            node.process.send_signal(signal.SIGHUP)
            node.says("reloaded")
            eventually(lambda: node.metric("lb_server_status", proxy="lb", server="www1", state="UP") == 1)
            assert greetings(where) == set(HOSTS[1:]), "also under other names, by what is known"
            long.echo()
        dns.mode = ""
        dns.forget(WEB)
        eventually(lambda: node.metric("lb_server_status", proxy="lb", server="www1", state="MAINT") == 1)
        assert is_reset(where)
