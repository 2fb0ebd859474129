"""What holds for all tests: `--soak`, and that none leaves a descriptor open."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping

import pytest
from hypothesis import settings
from loops import LOOPS
from needs import missing

settings.register_profile("ours", deadline=None)  # a busy machine is no failure
settings.register_profile("check", parent=settings.get_profile("ours"), max_examples=40)
settings.load_profile("ours")

ON_BOTH_LOOPS = ("upstream", "web", "lb", "net", "processes")
"""Folders whose asyncio tests run on both loops, because what they test touches sockets on either."""

ON_UVLOOP = ("app", "db")
"""Folders whose tests run on the loop of production only."""

ON_UVLOOP_FIRST = ("upstream", "web", "lb", "net")
"""Those of them that are uvloop's in production: `make check` leaves the other loop to `make test`."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    folder = item.path.parent.name
    if folder in ON_BOTH_LOOPS and not item.get_closest_marker(
        "alone"
    ):  # that looks at processes, with their own
        return LOOPS
    loop = "uvloop" if folder in ON_UVLOOP else "asyncio"
    return {loop: LOOPS[loop]}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long matrices, and only those")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what `requires` says, and the tests on the other loop.

    `soak` tests run only with --soak, which is no skip: another suite.
    """
    for item in items:
        if item.get_closest_marker("needs"):
            item.add_marker("slow")
            if (programs := missing(item)) and "CI" not in os.environ:
                reason = f"needs {', '.join(programs)}; `make test` as root installs it"
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.path.parent.name in ON_UVLOOP_FIRST and re.search(r"[\[-]asyncio[\]-]", item.name):
            item.add_marker("other_loop")
    wanted = [item for item in items if bool(item.get_closest_marker("soak")) == config.getoption("--soak")]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


def open_descriptors() -> dict[int, str]:
    """The descriptors of this process and what they refer to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one that listdir itself had open
    return found


@pytest.fixture(autouse=True)
def _leaves_no_socket_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a socket, a pipe or an eventfd open has found a leak, or is one."""
    before = open_descriptors()
    yield
    if request.node.get_closest_marker("keeps_connections"):
        return
    after = open_descriptors()
    left = {
        number: what
        for number, what in after.items()
        if before.get(number) != what and what.startswith(("socket:", "pipe:", "anon_inode:[eventfd]"))
    }
    assert not left, f"descriptors left open: {left}"
