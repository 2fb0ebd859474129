"""The tiers can be exchanged: HAProxy and nginx, with the files in deploy/, serve the same stack; and our web tier
serves before an application that is not ours, with HAProxy before it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.running import RunningStack, start_stack, stop_stack
from e2e.serving import ask, assert_serves
from needs import SEARCH_PATH, requires
from web.outside import web

from bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90), requires("haproxy", "nginx")]

ROOT = Path(__file__).parents[2]
PREFIX = "127.0.84"


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    running = start_stack(PREFIX, "--lbs", "1", "--engine", "embedded")
    try:
        yield running
    finally:
        stop_stack(running)


def configuration(name: str, folder: Path) -> Path:
    """The shipped file, with the addresses of this test's stack and its temporary files in `folder`."""
    text = (ROOT / "deploy" / name).read_text()
    text = text.replace("127.0.0.", f"{PREFIX}.").replace("/tmp/scaleup-nginx", f"{folder}/nginx")
    path = folder / name
    path.write_text(text)
    return path


@contextlib.contextmanager
def running(arguments: list[str], url: str) -> Iterator[None]:
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"PATH": SEARCH_PATH}, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 40
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
                break
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()


def test_haproxy_in_place_of_the_load_balancer(stack: RunningStack, tmp_path: Path) -> None:
    host = f"{PREFIX}.101:8080"
    path = configuration("haproxy.cfg", tmp_path)
    with running(["haproxy", "-db", "-f", str(path)], f"http://{host}"):
        assert_serves(host, "web")


def test_nginx_in_place_of_a_web_server(stack: RunningStack, tmp_path: Path) -> None:
    host = f"{PREFIX}.29:8080"
    path = configuration("nginx.conf", tmp_path)
    also = "daemon off;"
    if os.geteuid() == 0:
        also += " user root;"  # else its workers run as nobody, who cannot read a checkout below /root
    with running(["nginx", "-p", str(ROOT), "-c", str(path), "-g", also], f"http://{host}"):
        assert_serves(host, "app")


HAPROXY = """
defaults
    mode {mode}
    timeout connect 5s
    timeout client 10s
    timeout server 10s
listen web
    bind {front}
    server web1 {web} check
"""


@pytest.fixture(scope="module", params=["tcp", "http"])
def before_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HAProxy, relaying or reading HTTP itself; our web tier; an application on Node's own HTTP server."""
    folder = tmp_path_factory.mktemp("before-node")
    node, front = (f"127.0.0.1:{free_port()}" for _ in range(2))
    application = ["node", str(Path(__file__).with_name("an_application.js")), node.partition(":")[2]]
    served = ("--root", str(ROOT / "site"), "--app", f"node1={node}", "--inter", "0.1")
    with running(application, f"http://{node}/readyz"), web(*served) as (_, (host, port)):
        path = folder / "haproxy.cfg"
        path.write_text(HAPROXY.format(mode=request.param, front=front, web=f"{host}:{port}"))
        with running(["haproxy", "-db", "-f", str(path)], f"http://{front}"):
            yield front


@requires("node")
def test_our_web_tier_before_an_application_on_node_and_behind_haproxy(before_node: str) -> None:
    assert_serves(before_node, "node")


@requires("node")
def test_what_node_is_told_and_what_it_sends(before_node: str) -> None:
    """The path byte for byte, a body that is larger than any buffer, and back what Node frames by itself."""
    body = os.urandom(1_000_000)
    path = "/api/echo?x=%2F..%2f;a"
    status, _, told = ask(before_node, "POST", path, body)
    seen = json.loads(told)
    assert (status, seen["bytes"], seen["digest"]) == (200, len(body), hashlib.sha256(body).hexdigest())
    assert seen["url"] == path
    assert seen["headers"]["host"] == before_node
    assert seen["headers"]["x-forwarded-for"] == "127.0.0.1"
    status, _, large = ask(before_node, "GET", "/api/large")
    assert (status, large) == (200, b"".join(bytes([number]) * 10_000 for number in range(100)))
