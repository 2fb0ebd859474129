"""Headless Chromium, driven like a person would: real key strokes and mouse clicks over the DevTools protocol.

async with open_page("http://127.0.0.1:8080/") as page:
    await page.type("#url", "http://example.com/")
    await page.press("Enter")
    await page.until("document.querySelectorAll('#list li').length === 1")
    assert page.errors == []
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from scaleup.processes.tasks import Tasks

START_SECONDS = 60.0  # from a cold disk
STEP_SECONDS = 30.0

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--disable-breakpad", "--no-proxy-server", "--remote-debugging-port=0"),
)


class Page:
    """One tab. `errors`: what the console said of errors, exceptions and the content security policy."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: list[str] = []

    async def read(self) -> None:
        """Take what the browser says, until it closes the connection."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                if not (answer := self._answers.pop(said["id"])).done():
                    answer.set_result(said)
            elif (error := _error_in(said["method"], said["params"])) is not None:
                self.errors.append(error)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(STEP_SECONDS):
            await self._socket.send_json({"id": number, "method": method, "params": parameters})
            said = await answer
        assert "error" not in said, f"{method}: {said['error']}"
        result: dict[str, Any] = said["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise's, once it is fulfilled."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until the expression is true. Its value."""
        look = f"const value = {expression}; value ? resolve(value) : setTimeout(look, 10)"
        try:
            return await self.evaluate(
                f"new Promise(resolve => {{ const look = () => {{ {look} }}; look() }})"
            )
        except TimeoutError:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(
                f"not within {STEP_SECONDS} s: {expression}\n{text}\n{self.errors}"
            ) from None

    async def text(self, selector: str) -> str:
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))

    async def click(self, selector: str) -> None:
        element = f"document.querySelector({json.dumps(selector)})"
        await self.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = await self.evaluate(f"{element}.getBoundingClientRect().toJSON()")
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    async def type(self, selector: str, text: str) -> None:
        """Replace what stands in the field."""
        await self.click(selector)
        await self.evaluate("document.activeElement.select()")
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


def _error_in(method: str, parameters: dict[str, Any]) -> str | None:
    """What an event of the protocol tells of an error, if it does."""
    if method == "Runtime.exceptionThrown":
        return f"exception: {parameters['exceptionDetails']}"
    if method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
        return f"console: {parameters['args']}"
    if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
        return f"{parameters['entry']['source']}: {parameters['entry']['text']}"
    return None


@asynccontextmanager
async def open_browser() -> AsyncIterator[int]:
    """A browser, that is gone afterwards with every process and file of it. Yields its DevTools' port."""
    with tempfile.TemporaryDirectory(prefix="scaleup-chromium-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *("chromium", *_OPTIONS, f"--user-data-dir={folder}/profile"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": folder, "TMPDIR": folder},
            start_new_session=True,  # a group of its own, that can be ended as one
        )
        assert process.stderr is not None
        tasks = Tasks()
        try:
            async with asyncio.timeout(START_SECONDS):
                port = await _port_in(process.stderr)
            tasks.spawn(_discard(process.stderr), name="stderr")  # or the pipe fills, and the browser waits
            yield port
        finally:
            await tasks.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            async with asyncio.timeout(STEP_SECONDS):
                await _discard(process.stderr)
                await process.wait()


@asynccontextmanager
async def open_page(port: int, url: str, width: int = 1280) -> AsyncIterator[Page]:
    """A new tab of the browser whose DevTools are at `port`; the page has been loaded. `width`: pixels."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", trust_env=False) as session:
        async with session.put("/json/new?about:blank") as response:
            target = await response.json()
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page, tasks = Page(socket), Tasks()
            tasks.spawn(page.read(), name="browser")
            try:
                for domain in ("Runtime", "Log", "Page"):
                    await page.call(f"{domain}.enable")
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
                await page.call("Emulation.setDeviceMetricsOverride", **size)
                assert "errorText" not in (await page.call("Page.navigate", url=url)), url
                await page.until("document.readyState === 'complete'")
                yield page
            finally:
                await page.call("Page.close")
                await tasks.cancel()


async def _port_in(stderr: asyncio.StreamReader) -> int:
    said = []
    async for line in stderr:
        if found := re.search(rb"DevTools listening on ws://[^/]*:(\d+)/", line):
            return int(found[1])
        said.append(line.decode(errors="replace"))
    raise AssertionError("Chromium did not start:\n" + "".join(said))


async def _discard(stream: asyncio.StreamReader) -> None:
    """Until the last process that has the other end is gone."""
    while await stream.read(4096):
        pass
