"""Commands and their answers. GOLDEN holds what HAProxy 2.6 says; test_lb_tools asks it again."""

from __future__ import annotations

import contextlib

import pytest
from desk import Desk
from hypothesis import assume, given
from hypothesis import strategies as st

from scaleup.lb.commands import COMMANDS, answer
from scaleup.net.addresses import Endpoint

GOLDEN = {
    "get weight web/none": "No such server.\n\n",
    "get weight nope/x": "No such backend.\n\n",
    "get weight": "Require 'backend/server'.\n\n",
    "get weight web": "Require 'backend/server'.\n\n",
    "set weight web/web1 10": "\n",
    "get weight web/web1": "10 (initial 2)\n\n",
    "set weight web/web1 50%": "\n",
    "  get   weight  web/web1 ": "1 (initial 2)\n\n",
    "set weight web/web1 100%": "\n",
    "set weight web/web1 300": "Absolute weight can only be between 0 and 256 inclusive.\n\n",
    "set weight web/web1 -1": "Absolute weight can only be between 0 and 256 inclusive.\n\n",
    "set weight web/web1 101%": "Relative weight can only be between 0 and 100% inclusive.\n\n",
    "set weight web/web1": "Require <weight> or <weight%>.\n\n",
    "set weight nope/a 1": "No such backend.\n\n",
    "set server web/web1 state drain": "\n",
    "set server web/web1 state maint": "\n",
    "set server web/web1 state ready": "\n",
    "set server web/web1 state x": "'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n\n",
    "set server web/web1 state": "'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n\n",
    "set server": "Require 'backend/server'.\n\n",
    "set server nope/x state ready": "No such backend.\n\n",
    "set server web/nope state ready": "No such server.\n\n",
    "set server web/web1 weight 5": "\n",
    "set server web/web1 weight": "Require <weight> or <weight%>.\n\n",
    "set server web/web1 addr 127.0.77.24": "IP changed from '127.0.77.21' to '127.0.77.24' "
    "by 'stats socket command'\n\n",
    "set server web/web1 addr 127.0.77.24 port 18081": "no need to change the addr, no need to change the port "
    "by 'stats socket command'\n\n",
    "set server web/web1 addr 127.0.77.24 port 18082": "no need to change the addr, "
    "port changed from '18081' to '18082' by 'stats socket command'\n\n",
    "set server web/web1 addr 127.0.77.21 port 18081": "IP changed from '127.0.77.24' to '127.0.77.21', "
    "port changed from '18082' to '18081' by 'stats socket command'\n\n",
    "set server web/web1 addr x.y.z": "Invalid addr 'x.y.z' by 'stats socket command'\n\n",
    "set server web/web1 addr": "set server <b>/<s> addr requires an address and optionally a port.\n\n",
    "set server web/web1 health down": "\n",
    "set server web/web1 health up": "\n",
    "set maxconn server web/web1 7": "\n",
    "set maxconn server web/nope 7": "No such server.\n\n",
    "set maxconn server web/web1": "Require <maxconn>.\n\n",
    "set maxconn frontend www 100": "\n",
    "set maxconn frontend www": "Integer value expected.\n\n",
    "set maxconn frontend nope 3": "No such frontend.\n\n",
    "set maxconn frontend": "A frontend name is expected.\n\n",
    "set maxconn frontend www -1": "Value out of range.\n\n",
    "disable server web/web1": "\n",
    "enable server web/web1": "\n",
    "disable server": "Require 'backend/server'.\n\n",
    "disable server web/nope": "No such server.\n\n",
    "enable server nope/web1": "No such backend.\n\n",
    "disable health web/web1": "\n",
    "enable health web/web1": "\n",
    "disable health": "Require 'backend/server'.\n\n",
    "enable health web/nope": "No such server.\n\n",
    "shutdown sessions server web/web1": "\n",
    "shutdown sessions server web/nope": "No such server.\n\n",
    "shutdown sessions server": "Require 'backend/server'.\n\n",
    "shutdown session 0x1": "No such session (use 'show sess').\n\n",
    "shutdown session": "Session pointer expected (use 'show sess').\n\n",
    "shutdown session x": "Session pointer expected (use 'show sess').\n\n",
    "shutdown sessions": "Unknown command, but maybe one of the following ones is a better match:\n"
    "  shutdown sessions server <bk>/<srv>     : kill sessions on a server\n"
    "  help [<command>]                        : list matching or all commands\n"
    "  prompt                                  : toggle interactive mode with prompt\n"
    "  quit                                    : disconnect\n\n",
    "clear counters": "\n",
    "clear counters all": "\n",
    "show backend": "# name\nweb\n\n",
    "show stat nope 1 1": "No such proxy.\n\n",
    "show servers state nope": "Can't find backend.\n\n",
    "show servers conn nope": "Can't find backend.\n\n",
    "show sess 0x1": "Session not found.\n\n",
    "show errors nope": "No such proxy.\n\n",
}
"""In this order, to a node with the backend web: web1=127.0.77.21:18081,weight=2 and the frontend www."""

ONE_PROXY = {
    "frontend": [{"name": "www", "listen": [":80"]}],
    "backend": [{"name": "web", "server": ["web1=127.0.77.21:18081,weight=2"]}],
}


async def say(desk: Desk, line: str) -> str:
    return await answer(line, desk.operations)


async def test_the_answers_are_haproxys() -> None:
    with contextlib.closing(Desk(**ONE_PROXY)) as desk:
        for line, said in GOLDEN.items():
            assert await say(desk, line) == said, line


async def test_everything_of_a_server_can_be_changed_and_workers_are_told(desk: Desk) -> None:
    web1 = desk.server("web/web1")
    for line, field, value in (
        ("set server web/web1 state drain", "admin", "drain"),
        ("disable server web/web1", "admin", "maint"),
        ("enable server web/web1", "admin", "ready"),
        ("set server web/web1 weight 25%", "weight", 0),
        ("set weight web/web1 256", "weight", 256),
        ("set server web/web1 maxconn 30", "maxconn", 30),
        ("set maxconn server web/web1 0", "maxconn", 0),
        ("set server web/web1 addr 10.0.0.99 port 8080", "endpoint", Endpoint("10.0.0.99", 8080)),
        ("set server web/web1 addr 2001:db8::1", "endpoint", Endpoint("2001:db8::1", 8080)),
        ("disable health web/web1", "checked", False),
        ("enable health web/web1", "checked", True),
    ):
        before = desk.told
        await say(desk, line)
        assert getattr(web1.live, field) == value, line
        assert desk.told == before + 1, line


async def test_enabling_ends_maintenance_and_not_a_drain(desk: Desk) -> None:
    await say(desk, "set server web/web1 state drain")
    assert await say(desk, "enable server web/web1") == "\n"
    assert desk.server("web/web1").admin == "drain"


async def test_what_is_refused_changes_nothing(desk: Desk) -> None:
    before = desk.server("web/web1").live
    for line in (
        "set server web/web1 addr 10.0.0.99 port 0",
        "set server web/web1 addr 10.0.0.99 port 65536",
        "set server web/web1 addr 10.0.0.99 port",
        "set server web/web1 addr web.example",
        "set server web/web1 maxconn -1",
        "set server web/web1 maxconn many",
        "set server web/web1 weight 1e2",
        "set server web/web1 weight ٣",  # a digit, and not one of ours
        "set server web/web1 health stopping",
        "set maxconn frontend www 0",
        "set server web/web1 fqdn x",
    ):
        assert len(await say(desk, line)) > 3, line
    assert (desk.server("web/web1").live, desk.told) == (before, 0)


async def test_an_address_that_source_cannot_reach_is_refused() -> None:
    with contextlib.closing(Desk(listen=[":80"], server=["web1=10.0.0.21:80"], source="10.0.0.11")) as desk:
        said = await say(desk, "set server lb/web1 addr fd00::1")
        assert said == "fd00::1 cannot be reached from --source 10.0.0.11.\n\n"


async def test_one_without_an_address_gets_one_only_with_its_port(desk: Desk) -> None:
    desk.server("web/web1").change(endpoint=None)
    assert "say its port" in await say(desk, "set server web/web1 addr 10.0.0.21")
    await say(desk, "set server web/web1 addr 10.0.0.21 port 80")
    assert desk.server("web/web1").endpoint == Endpoint("10.0.0.21", 80)


async def test_the_state_names_what_was_configured_by_name() -> None:
    """`srv_fqdn` and `srvrecord`, as in HAProxy; `srv_addr` is where it is now."""
    templates = ["web 1 web.internal:80", "svc 1 _http._tcp.web.consul"]
    with contextlib.closing(
        Desk(listen=[":80"], server=["ip=10.0.0.1:80"], server_template=templates)
    ) as desk:
        desk.server("lb/web1").change(endpoint=Endpoint("10.0.0.21", 80))
        _, names, *lines = (await say(desk, "show servers state")).strip().splitlines()
    fields = [dict(zip(names.removeprefix("# ").split(), line.split(), strict=True)) for line in lines]
    wanted = ("srv_name", "srv_addr", "srv_fqdn", "srvrecord", "srv_port")
    assert [tuple(line[name] for name in wanted) for line in fields] == [
        ("ip", "10.0.0.1", "-", "-", "80"),
        ("web1", "10.0.0.21", "web.internal", "-", "80"),
        ("svc1", "-", "-", "_http._tcp.web.consul", "0"),
    ]


async def test_a_frontends_maxconn_holds_until_the_file_says_something_new(desk: Desk) -> None:
    www = desk.settings.frontends[0]
    await say(desk, "set maxconn frontend www 100")
    assert (desk.limits.maxconn(www), desk.told) == (100, 1)
    assert desk.limits.maxconn(www.model_copy(update={"maxconn": 600})) == 600
    assert ",100," in (await say(desk, "show stat www 1 -1")).splitlines()[1]


@pytest.mark.parametrize(
    ("which", "rows"),
    [
        ("-1 -1 -1", 8),
        ("-1 1 -1", 2),
        ("-1 2 -1", 2),
        ("-1 4 -1", 4),
        ("-1 3 -1", 4),
        ("3 4 2", 1),
        ("web 6 -1", 4),
        ("99 -1 -1", 0),
        ("up", 8),
        ("no-maint", 8),
        ("", 8),
    ],
)
async def test_which_rows(desk: Desk, which: str, rows: int) -> None:
    said = await say(desk, f"show stat {which}")
    assert said.endswith(",\n\n")
    assert len(said.rstrip("\n").splitlines()) == rows + 1


async def test_servers_that_are_out_can_be_left_out(desk: Desk) -> None:
    desk.server("web/web1").up = False
    desk.server("web/web2").change(admin="maint")
    names = [line.split(",")[1] for line in (await say(desk, "show stat web 4 -1 up")).split(",\n")[:-1]]
    assert "spare" in names
    assert not {"web1", "web2"} & set(names)
    names = [line.split(",")[1] for line in (await say(desk, "show stat no-maint")).split(",\n")[:-1]]
    assert "web1" in names
    assert "web2" not in names


async def test_the_state_of_servers_as_in_haproxys_state_file(desk: Desk) -> None:
    await say(desk, "set server web/web1 state maint")
    await say(desk, "set server web/web2 state drain")
    desk.server("db/db1").change(endpoint=None)
    desk.now += 65
    version, names, *lines = (await say(desk, "show servers state")).rstrip("\n").splitlines()
    assert version == "1"
    fields = [dict(zip(names.removeprefix("# ").split(), line.split(), strict=True)) for line in lines]
    wanted = (
        "srv_name",
        "srv_addr",
        "srv_op_state",
        "srv_admin_state",
        "srv_uweight",
        "srv_iweight",
        "srv_port",
    )
    assert [tuple(server[name] for name in wanted) for server in fields] == [
        ("web1", "10.0.0.21", "0", "1", "2", "2", "80"),
        ("web2", "10.0.0.22", "2", "8", "1", "1", "80"),
        ("spare", "10.0.0.29", "2", "0", "1", "1", "80"),
        ("db1", "-", "0", "32", "1", "1", "0"),
    ]
    assert fields[0]["srv_time_since_last_change"] == "65"


async def test_help_lists_every_command_or_those_that_begin_alike(desk: Desk) -> None:
    said = await say(desk, "help")
    assert all(command.line in said for command in COMMANDS.values())
    said = await say(desk, "help show servers")
    assert said.count("\n  ") == 2
    assert (await say(desk, "help nothing like it")).count("\n  ") == len(COMMANDS)


async def test_formats_that_are_not_there_are_refused_rather_than_ignored(desk: Desk) -> None:
    assert "json" in await say(desk, "show stat json")
    assert "typed" in await say(desk, "show info typed")


WORDS = sorted({word for name in COMMANDS for word in name.split()} - {"prompt", "quit", "timeout"})
ARGUMENTS = [
    "web/web1",
    "db/db1",
    "web/",
    "/",
    "www",
    "state",
    "maint",
    "addr",
    "port",
    "10.0.0.1",
    "::1",
    "-1",
]
ARGUMENTS += [
    "weight",
    "50%",
    "256",
    "999999999",
    "health",
    "up",
    "maxconn",
    "all",
    "0x1",
    "web",
    "1",
    "é",
    "\0",
]


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(ARGUMENTS), st.text()), max_size=8))
async def test_whatever_is_said_is_answered_and_what_is_known_stays_sound(words: list[str]) -> None:
    line = " ".join(words).split()
    assume(
        not (line and line[0] in ("quit", "prompt")) and line[:3] != ["set", "timeout", "cli"]
    )  # the socket's
    with contextlib.closing(Desk()) as desk:
        said = await say(desk, " ".join(words))
        assert said.endswith("\n")
        for servers in desk.servers.backends.values():
            for server in servers.values():
                assert 0 <= server.weight <= 256
                assert server.maxconn >= 0
                assert server.endpoint is None or 0 < server.endpoint.port < 65536
        assert len(desk.operations.rows()) == 8
