"""The front page as people use it: with a browser, a keyboard and a mouse."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from e2e.browser import STEP_SECONDS, Page, open_browser, open_page
from e2e.running import RunningStack, start_stack, stop_stack
from needs import requires

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),  # the first of them starts the stack and the browser
    pytest.mark.asyncio(loop_scope="module"),  # one browser for all tests
    requires("chromium"),
]

ROWS = "document.querySelectorAll('#list li').length"


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is looked at, not followed."""

    def redirect_request(self, *_: object) -> None:
        return None


def fetch(url: str, body: object = None) -> tuple[int, str | None]:
    """Status and Location."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=20) as response:
            return response.status, response.headers["Location"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Location"]


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    running = start_stack("127.0.83", "--interval", "0.5", "--engine", "embedded")
    try:
        running.settled()
        yield running
    finally:
        stop_stack(running)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[int]:
    async with open_browser() as port:
        yield port


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: int, stack: RunningStack) -> AsyncIterator[Page]:
    async with open_page(browser, stack.url + "/") as opened:
        await opened.until("document.querySelector('#list').ariaBusy === 'false'")
        assert opened.errors == []
        yield opened


def row(code: str) -> str:
    return f"#list li[data-key^='{code} ']"


def said_by_the_page(page: Page) -> list[str]:
    """Without what the browser's network layer says of each status from 400 on."""
    return [error for error in page.errors if not error.startswith("network:")]


async def shorten(page: Page, url: str, code: str) -> None:
    await page.type("#url", url)
    await page.type("#code", code)
    await page.press("Enter")


async def test_create_follow_delete(page: Page, stack: RunningStack) -> None:
    assert await page.text("#placeholder") == "No links yet. Make the first."
    await shorten(page, "http://example.com/page?x=1", "first")
    await page.until(f"{ROWS} === 1")
    assert await page.text("#message") == f"Created {stack.url}/l/first"
    assert await page.text(row("first") + " .target") == "http://example.com/page?x=1"
    assert await page.text(row("first") + " .clicks") == "0 clicks"

    followed = await asyncio.to_thread(fetch, stack.url + "/l/first")
    assert followed == (302, "http://example.com/page?x=1")
    async with asyncio.timeout(STEP_SECONDS):
        while (
            await page.text(row("first") + " .clicks") != "1 click"
        ):  # it is written when there is time for it
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as who comes back
            await asyncio.sleep(0.5)

    delete = row("first") + " button:last-child"
    await page.click(delete)
    assert await page.text(delete) == "Sure?"
    await page.click(delete)
    await page.until(f"{ROWS} === 0")
    assert (await asyncio.to_thread(fetch, stack.url + "/l/first"))[0] == 404
    assert said_by_the_page(page) == []


async def test_shows_who_served(page: Page) -> None:
    await page.evaluate(
        "const ask = window.fetch; window.servedBy = ''; window.fetch = async (...what) => {"
        "const answer = await ask(...what); servedBy = answer.headers.get('X-Served-By'); return answer }; 0"
    )
    await page.click("#ask")
    caption = "document.querySelector('#caption').textContent"
    await page.until(f"servedBy && {caption}.startsWith(servedBy.replace(', ', ' → ') + ' → database ')")
    assert await page.evaluate("document.querySelectorAll('.tiers .lit').length") == 4
    assert await page.evaluate("document.querySelectorAll('#wires .lit').length") == 3
    assert "embedded" in await page.text("#who-database")
    assert await page.text("#who-client") == "127.0.0.1"


async def test_a_problem_is_told_beside_its_field(page: Page) -> None:
    await shorten(page, "ftp://example.com/", "")
    await page.until("document.querySelector('#url-error').textContent")
    assert await page.text("#url-error") == "url must begin with http://HOST or https://HOST"
    assert await page.evaluate("document.activeElement.id + document.activeElement.ariaInvalid") == "urltrue"
    await shorten(page, "http://example.com/", "not a code")
    await page.until("document.querySelector('#code-error').textContent")
    assert "1 to 32 of" in await page.text("#code-error")
    assert await page.text("#url-error") == ""
    assert await page.evaluate(ROWS) == 0
    assert said_by_the_page(page) == []


async def test_what_users_send_is_text(page: Page, stack: RunningStack) -> None:
    attack = "<img src=x onerror=\"document.title='attacked'\">"
    await shorten(page, "http://example.com/", attack)
    await page.until("document.querySelector('#code-error').textContent")
    await page.type("#code", "")
    await page.type("#url", f"javascript:{attack}")
    await page.press("Enter")
    await page.until("document.querySelector('#url-error').textContent")
    # Nothing like it can be stored, so the page is given an answer that our API would never give.
    link = {"code": attack, "url": attack, "short": "/l/x", "clicks": 0, "created": "2026-01-31T12:00:00Z"}
    answer = json.dumps({"links": [link], "next": None})
    headers = "{headers: {'Content-Type': 'application/json', 'X-Served-By': '<b>web</b>, <i>app</i>'}}"
    await page.evaluate(f"void (window.fetch = async () => new Response({json.dumps(answer)}, {headers}))")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await page.until(f"{ROWS} === 1")
    assert await page.text("#list .target") == attack
    assert (await page.text("#list .short")).endswith("/l/" + attack)
    assert "<b>web</b>, <i>app</i>" in await page.text("#log")
    assert await page.evaluate("document.querySelectorAll('main img, main i').length") == 0
    assert "attacked" not in await page.evaluate("document.title")
    assert said_by_the_page(page) == []


async def test_a_violation_of_the_policy_would_be_seen(page: Page) -> None:
    await page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')")
    async with asyncio.timeout(STEP_SECONDS):
        while not any("Content Security Policy" in error for error in page.errors):  # it comes on its own
            await page.evaluate("new Promise(requestAnimationFrame)")


async def test_an_outage_is_told_and_its_end(page: Page, stack: RunningStack) -> None:
    applications = [(name, stack.row(name)["pid"]) for name in ("app1", "app2")]
    for name, pid in applications:
        os.kill(pid, 9)
        await asyncio.to_thread(stack.wait, lambda _, n=name: stack.row(n)["state"] == "down", 20, "down")
    await page.click("#ask")
    await page.until("document.querySelector('.banner.bad')")
    assert "No application is ready" in await page.text("#banner")
    for name, _ in applications:
        await asyncio.to_thread(stack.command, "start", name)
    await page.until("document.querySelector('.banner.good')")
    assert "answering again, after" in await page.text("#banner")
    assert said_by_the_page(page) == []
