"""The line about a connection: HAProxy's own reader takes it, and HAProxy's own lines come out of it unchanged."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import struct
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import SEARCH_PATH, requires
from servers import Backend, Client, EchoServer

from bench.ports import free_port
from scaleup.lb.tcplog import STATES, Cause, Finished, Phase, Timers, json_object, line, termination

PATIENCE_SECONDS = 20.0

LINE = re.compile(
    r"(?P<client>\S+):(?P<port>\d+) \[(?P<date>[^]]+)\] (?P<frontend>\S+) (?P<backend>[^/]+)/(?P<server>\S+) "
    r"(?P<queue>-?\d+)/(?P<connect>-?\d+)/(?P<total>\d+) (?P<bytes>\d+) (?P<state>..) "
    r"(?P<act>\d+)/(?P<fe>\d+)/(?P<be>\d+)/(?P<srv>\d+)/(?P<plus>\+?)(?P<retries>\d+) (?P<sq>\d+)/(?P<bq>\d+)"
)


def parsed(text: str) -> Finished:
    match = LINE.fullmatch(text)
    assert match, text
    get = match.group
    return Finished(
        client=get("client"),
        client_port=int(get("port")),
        # Half a millisecond more, since a float may be a little less than what it stands for.
        accepted=datetime.strptime(get("date"), "%d/%b/%Y:%H:%M:%S.%f").timestamp() + 0.0005,
        frontend=get("frontend"),
        backend=get("backend"),
        server=None if get("server") == "<NOSRV>" else get("server"),
        timers=Timers(int(get("queue")), int(get("connect")), int(get("total"))),
        bytes_in=0,
        bytes_out=int(get("bytes")),
        state=get("state"),
        actconn=int(get("act")),
        feconn=int(get("fe")),
        beconn=int(get("be")),
        srv_conn=int(get("srv")),
        retries=int(get("retries")),
        redispatched=get("plus") == "+",
        srv_queue=int(get("sq")),
        backend_queue=int(get("bq")),
        node="lb1",
    )


names = st.from_regex(r"[A-Za-z0-9_.:-]{1,20}", fullmatch=True)
counts = st.integers(0, 2**40)
timers = st.tuples(st.integers(-1, 10**9), st.integers(-1, 10**9), st.integers(0, 10**9)).map(
    lambda it: Timers(*it)
)
connections = st.builds(
    Finished,
    client=st.ip_addresses().map(str),
    client_port=st.integers(0, 65535),
    accepted=st.integers(0, 4 * 10**12).map(lambda ms: ms / 1000 + 0.0005),
    frontend=names,
    backend=names,
    server=st.none() | names,
    timers=timers,
    bytes_in=counts,
    bytes_out=counts,
    state=st.sampled_from(sorted(STATES)),
    actconn=counts,
    feconn=counts,
    beconn=counts,
    srv_conn=counts,
    retries=counts,
    redispatched=st.booleans(),
    srv_queue=counts,
    backend_queue=counts,
    node=names,
)

EXAMPLE = Finished(
    client="10.0.1.2",
    client_port=33313,
    accepted=datetime(2009, 2, 6, 12, 12, 51, 443_500).timestamp(),
    frontend="fnt",
    backend="bck",
    server="srv1",
    timers=Timers(0, 0, 5007),
    bytes_in=17,
    bytes_out=212,
    state="--",
    actconn=0,
    feconn=0,
    beconn=0,
    srv_conn=0,
    retries=3,
    redispatched=False,
    srv_queue=0,
    backend_queue=0,
    node="lb1",
)


# ----- the formats ------------------------------------------------------------------------------------


def test_the_line_of_haproxys_manual() -> None:
    expected = "10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt bck/srv1 0/0/5007 212 -- 0/0/0/0/3 0/0"
    assert line(EXAMPLE) == expected


def test_without_a_server_and_after_a_redispatch() -> None:
    none = EXAMPLE._replace(
        server=None, timers=Timers(-1, -1, 12), bytes_out=0, state="SC", redispatched=True
    )
    assert line(none).split()[2:] == ["fnt", "bck/<NOSRV>", "-1/-1/12", "0", "SC", "0/0/0/0/+3", "0/0"]


@given(connections)
def test_the_line_says_it_all(it: Finished) -> None:
    again = parsed(line(it))
    assert line(again) == line(it)
    assert again._replace(accepted=0, bytes_in=0, node="") == it._replace(accepted=0, bytes_in=0, node="")


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(connections, texts, texts, texts)
def test_the_object_says_the_same_whatever_the_names_are(
    it: Finished, server: str, frontend: str, node: str
) -> None:
    it = it._replace(server=server, frontend=frontend, node=node)
    text = json_object(it)
    assert "\n" not in text
    said = json.loads(text)
    queue, connect, total = it.timers
    assert said.pop("accept_date") == said_date(it.accepted)
    assert said.pop("termination_state") == it.state
    assert [said.pop(key) for key in ("queue_ms", "connect_ms", "total_ms")] == [
        None if queue < 0 else queue,
        None if connect < 0 else connect,
        total,
    ]
    rest = it._asdict()
    for key in ("accepted", "timers", "state"):
        del rest[key]
    assert said == rest


def said_date(accepted: float) -> str:
    second, ms = divmod(int(accepted * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{ms:03d}Z"


def test_no_server_is_null() -> None:
    assert json.loads(json_object(EXAMPLE._replace(server=None)))["server"] is None


# ----- timers and states ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dequeued", "connected", "expected"),
    [
        (None, None, (-1, -1, 5000)),  # no server was up
        (100.2, None, (200, -1, 5000)),  # refused, or the end of the queue
        (100.0, 100.25, (0, 250, 5000)),
        (101.0, 101.5, (1000, 500, 5000)),
    ],
)
def test_timers(dequeued: float | None, connected: float | None, expected: tuple[int, int, int]) -> None:
    assert Timers.of(100.0, dequeued, connected, 105.0001) == expected


@given(st.lists(st.floats(0, 10**6), min_size=4, max_size=4).map(sorted))
def test_the_parts_are_never_more_than_the_whole(times: list[float]) -> None:
    queue, connect, total = Timers.of(*times)
    assert min(queue, connect) >= 0
    assert queue + connect <= total


def test_every_state_is_a_cause_in_a_phase() -> None:
    possible = {cause.value + phase.value for cause in Cause for phase in Phase}
    assert possible >= STATES.keys()
    assert termination(Cause.SERVER_TIMEOUT, Phase.QUEUE) == "sQ"
    with pytest.raises(KeyError):
        termination(Cause.NONE, Phase.QUEUE)


def test_the_documented_states_are_those_that_there_are() -> None:
    text = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
    assert dict(re.findall(r"^\| `(..)` \| (.+) \|$", text, re.MULTILINE)) == STATES


# ----- HAProxy's own lines ----------------------------------------------------------------------------

CONFIGURATION = """
global
    log {log} local0
defaults
    mode tcp
    option tcplog
    log global
    retries 1
    timeout connect 500ms
    timeout client 4s
    timeout server 10s
    timeout queue 500ms
listen echo
    bind 127.0.64.9:{echo}
    server s1 {server} maxconn 1
listen closed
    bind 127.0.64.9:{closed}
    server s1 {refusing}
listen silent
    bind 127.0.64.9:{silent}
    server s1 {mute}
listen empty
    bind 127.0.64.9:{empty}
"""


class HAProxy:
    """A real one, before a server that echoes, one that refuses, one that is silent, and none."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._log = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._log.bind(("127.0.64.9", 0))
        self._log.settimeout(PATIENCE_SECONDS)
        server = stack.enter_context(contextlib.closing(EchoServer("s1")))
        refusing, silent = (stack.enter_context(contextlib.closing(Backend())) for _ in range(2))
        self.ports = {name: free_port("127.0.64.9") for name in ("echo", "closed", "silent", "empty")}
        (folder / "haproxy.cfg").write_text(
            CONFIGURATION.format(
                log="{}:{}".format(*self._log.getsockname()),
                server=server.address,
                refusing=refusing.address,
                mute=silent.silent().address,
                **self.ports,
            )
        )
        program = shutil.which("haproxy", path=SEARCH_PATH)
        assert program
        process = subprocess.Popen([program, "-q", "-db", "-f", str(folder / "haproxy.cfg")])
        stack.callback(process.wait)
        stack.callback(process.kill)
        self._deadline = time.monotonic() + PATIENCE_SECONDS

    def client(self, name: str) -> Client:
        while True:
            try:
                return Client(("127.0.64.9", self.ports[name]))
            except ConnectionRefusedError:
                assert time.monotonic() < self._deadline, "HAProxy does not listen"
                time.sleep(0.01)

    def line(self) -> str:
        """The next line about a connection, without syslog's header."""
        while True:
            text = self._log.recv(4096).decode().rstrip("\n")
            header, _, rest = text.partition("]: ")
            assert re.fullmatch(r"<134>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d haproxy\[\d+", header), text
            if LINE.fullmatch(rest):
                return rest


def reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


@pytest.mark.slow
@requires("haproxy")
def test_haproxys_own_lines_are_written_as_it_writes_them(tmp_path: Path) -> None:
    """In each state that it can be brought to from outside, with its timers and its <NOSRV>."""
    lines = {}
    with contextlib.ExitStack() as stack:
        haproxy = HAProxy(tmp_path, stack)

        def ended() -> str:
            text = haproxy.line()
            lines[parsed(text).state] = text
            return parsed(text).state

        with haproxy.client("closed"):
            assert ended() == "SC"
        with haproxy.client("empty"):
            assert ended() == "SC"
            assert parsed(lines["SC"])[5:7] == (None, Timers(-1, -1, parsed(lines["SC"]).timers.total))
        with haproxy.client("silent"):
            assert ended() == "sC"
        with haproxy.client("echo") as client:
            client.greeting()
            with haproxy.client("echo"):
                assert ended() == "sQ"
            assert ended() == "cD"
        client = haproxy.client("echo")
        client.greeting()
        reset(client)
        assert ended() == "CD"
        with haproxy.client("echo") as client:
            client.greeting()
            client.socket.shutdown(socket.SHUT_WR)
            assert client.socket.recv(1) == b""
        assert ended() == "--"
    for state, text in lines.items():
        assert line(parsed(text)) == text
        assert state in STATES
    queue, connect, _ = parsed(lines["sQ"]).timers
    assert queue >= 500, "a wait in the queue counts, although it ended without a server"
    assert connect == -1
    assert parsed(lines["--"]).bytes_out == 3
