"""The statistics page of a real node in a real browser: live, without a script, on a phone, and its CSV."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.browser import open_browser, open_page
from needs import requires
from nodes import Node
from servers import Client, EchoServer

from bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.alone, requires("chromium")]

HOST = "127.0.69.11"
STATE = "document.querySelector('#row-web-web1 .state').textContent"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lb.sock"


@pytest.fixture
def listen() -> tuple[str, int]:
    return HOST, free_port(HOST)


@pytest.fixture
def node(tmp_path: Path, path: Path, listen: tuple[str, int]) -> Iterator[Node]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(EchoServer("web1", "127.0.69.21")))
        file = tmp_path / "cluster.toml"
        file.write_text(f"""
            [[lb.frontend]]
            name = "www"
            listen = ["{listen[0]}:{listen[1]}"]
            [[lb.backend]]
            name = "web"
            server = ["web1={server.address}", "web2=127.0.69.22:1", "spare={server.address},backup"]
        """)
        arguments = ("--config", str(file), "--runtime-socket", str(path))
        yield stack.enter_context(contextlib.closing(Node("lb1", HOST, *arguments))).ready()


def say(path: Path, line: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(f"{line}\n".encode())
        with sock.makefile() as answer:
            return answer.read()


async def test_it_changes_as_the_node_does(node: Node, path: Path, listen: tuple[str, int]) -> None:
    async with open_browser() as browser, open_page(browser, f"http://{node.admin}/stats") as page:
        await page.evaluate("window.stayed = true")
        assert await page.evaluate(STATE) in ("UP", "UP 1/3")
        with Client(listen) as client:
            client.greeting()
            said = "document.querySelector('#row-www-FRONTEND [data-label=\"Sessions Cur\"]').textContent"
            await page.until(f"{said} === '1'")
        await asyncio.to_thread(say, path, "set server web/web1 state drain")
        await page.until("document.querySelector('#row-web-web1').className === 'SERVER drain changed'")
        assert await page.evaluate(STATE) == "DRAIN"
        await page.until("document.querySelector('#row-web-web2 .state').textContent === 'DOWN'")
        assert await page.evaluate("window.stayed"), "nothing was loaded anew"
        assert page.errors == [], "nor does the policy forbid anything that it does"


async def test_it_says_when_the_node_does_not_answer(node: Node) -> None:
    async with open_browser() as browser, open_page(browser, f"http://{node.admin}/stats") as page:
        node.process.terminate()
        await page.until("document.getElementById('live').textContent.startsWith('no answer since')")
        assert await page.evaluate(STATE), "what was known last stays"


@pytest.mark.parametrize("width", [1440, 1000, 390])
async def test_it_is_no_wider_than_the_window(node: Node, width: int) -> None:
    async with open_browser() as browser, open_page(browser, f"http://{node.admin}/stats", width) as page:
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.errors == []


async def test_without_a_script_it_is_a_table(node: Node) -> None:
    async with open_browser() as browser, open_page(browser, "about:blank") as page:
        await page.call("Emulation.setScriptExecutionDisabled", value=True)
        await page.call("Page.navigate", url=f"http://{node.admin}/stats")
        async with asyncio.timeout(20):  # `until` would be a script
            while await page.evaluate("document.querySelectorAll('tbody tr').length") != 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await page.text("#live") == "loaded anew every 5 s"


def test_its_csv_is_that_of_the_socket(node: Node, path: Path) -> None:
    status, text = node.get("/stats;csv")
    assert status == 200
    [over_http, at_the_socket] = (
        [(row["# pxname"], row["svname"]) for row in csv.DictReader(io.StringIO(it.rstrip("\n")))]
        for it in (text, say(path, "show stat"))
    )
    assert over_http == at_the_socket
    assert len(over_http) == 5


def test_nothing_can_be_changed_over_http(node: Node) -> None:
    assert node.get("/stats;up=1")[0] == 404
    assert node.get("/stat")[0] == 404
