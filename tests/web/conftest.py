"""Every asyncio test of this folder runs on both loops, the standard library's and uvloop."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

uvloop.new_event_loop().close()  # libuv opens a pipe for the whole process; that is no test's leak


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
