"""The tiers can be exchanged: HAProxy and nginx, with the files in deploy/, serve the same stack."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.running import RunningStack, start_stack, stop_stack
from e2e.serving import assert_serves
from needs import SEARCH_PATH, requires

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
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
                break
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
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
