"""The event loops that the tests run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop

uvloop.new_event_loop().close()  # libuv opens a pipe for the life of the process: no test's leak

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
