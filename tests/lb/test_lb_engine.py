"""The engine on real sockets: events once, deadlines, and what a descriptor that is reused must not hear."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from plays import connected

from scaleup.lb.engine import ERROR, LAST, READABLE, WRITABLE, Engine
from scaleup.net.sockets import close_with_reset

PATIENCE_SECONDS = 20.0


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(asyncio.get_running_loop())
    yield engine
    engine.close()


@pytest.fixture
async def pair() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    one, other = connected()
    with one, other:
        yield one, other


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not done():  # noqa: ASYNC110 - in the loop's next rounds
            await asyncio.sleep(0)


async def rounds() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_happened_before_is_told(
    engine: Engine, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].send(b"early")
    told: list[int] = []
    engine.watch(pair[0].fileno(), told.append)
    assert told == [], "not from within"
    await until(lambda: told)
    assert told[0] & READABLE
    assert told[0] & WRITABLE


async def test_each_change_is_told_once(engine: Engine, pair: tuple[socket.socket, socket.socket]) -> None:
    told: list[int] = []
    engine.watch(pair[0].fileno(), told.append)
    await until(lambda: told)
    for count in (2, 3):
        pair[1].send(b"x")
        await until(lambda count=count: len(told) >= count)
    await rounds()
    assert len(told) == 3, "though nobody has read"


async def test_a_reset_is_told_though_nobody_reads(
    engine: Engine, pair: tuple[socket.socket, socket.socket]
) -> None:
    told: list[int] = []
    engine.watch(pair[0].fileno(), told.append)
    await until(lambda: told)
    close_with_reset(pair[1])
    await until(lambda: len(told) >= 2)
    assert told[1] & ERROR
    assert told[1] & LAST


async def test_urgent_data_are_announced(engine: Engine, pair: tuple[socket.socket, socket.socket]) -> None:
    """A read stops short of them, and must not be taken for the last."""
    told: list[int] = []
    engine.watch(pair[0].fileno(), told.append)
    await until(lambda: told)
    pair[1].send(b"x", socket.MSG_OOB)
    await until(lambda: len(told) >= 2)
    assert told[1] & LAST


async def test_somebody_else_is_told_from_now_on(
    engine: Engine, pair: tuple[socket.socket, socket.socket]
) -> None:
    before: list[int] = []
    after: list[int] = []
    engine.watch(pair[0].fileno(), before.append)
    await until(lambda: before)
    engine.watch(pair[0].fileno(), after.append)
    pair[1].send(b"x")
    await until(lambda: after)
    assert len(before) == 1


async def test_who_is_replaced_within_a_batch_is_not_told(engine: Engine) -> None:
    """Both have something to read in one batch; the first to be told replaces the other's receiver."""
    with contextlib.ExitStack() as stack:
        pairs = [connected() for _ in range(2)]
        for one, other in pairs:
            stack.enter_context(one)
            stack.enter_context(other)
        heard: list[str] = []

        def receiver(name: str, number: int) -> Callable[[int], None]:
            def told(_: int) -> None:
                heard.append(name)
                engine.watch(pairs[1 - number][0].fileno(), lambda _: heard.append("new"))

            return told

        for number in range(2):
            engine.watch(pairs[number][0].fileno(), receiver(f"old {number}", number))
        await until(lambda: len(heard) >= 2)
        assert heard in (["old 0", "new"], ["old 1", "new"])


async def test_a_descriptor_reused_within_a_batch_hears_nothing_old(engine: Engine) -> None:
    """The first to be told closes the other's socket; a new one gets its number, and none of its events."""
    pairs = [connected() for _ in range(2)]
    heard: list[str] = []
    fresh: list[socket.socket] = []

    def receiver(number: int) -> Callable[[int], None]:
        def told(_: int) -> None:
            heard.append("old")
            victim = pairs[1 - number][0]
            descriptor = victim.fileno()
            engine.forget(descriptor)
            victim.close()
            fresh.append(socket.socket())
            assert fresh[0].fileno() == descriptor
            engine.watch(descriptor, lambda _: heard.append("new"))

        return told

    for number in range(2):
        engine.watch(pairs[number][0].fileno(), receiver(number))
    await until(lambda: heard)
    assert heard == ["old"]
    for sock in [*fresh, *(end for pair in pairs for end in pair)]:
        sock.close()


async def test_an_error_in_one_callback_costs_the_others_nothing(engine: Engine) -> None:
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    with contextlib.ExitStack() as stack:
        told: list[int] = []
        for receiver in (lambda _: 1 / 0, told.append, lambda _: 1 / 0):
            one, _ = map(stack.enter_context, connected())
            engine.watch(one.fileno(), receiver)
        await until(lambda: told and len(errors) == 2)
    assert {type(context["exception"]) for context in errors} == {ZeroDivisionError}


class Alarm:
    """Something with a deadline."""

    def __init__(self, calls: list[str], name: str) -> None:
        self.slot: int | None = None
        self._calls, self._name = calls, name

    def time_up(self) -> None:
        self._calls.append(self._name)


async def test_deadlines_are_met_in_order_and_moved_ones_once(engine: Engine) -> None:
    calls: list[str] = []
    soon, moved, cancelled = (Alarm(calls, name) for name in ("soon", "moved", "cancelled"))
    now = engine.loop.time()
    engine.expect(moved, now + 3600)
    engine.expect(cancelled, now + 0.01)
    engine.expect(soon, now + 0.02)
    engine.expect(cancelled, float("inf"))
    engine.expect(moved, now + 0.05)
    await until(lambda: len(calls) >= 2)
    assert calls == ["soon", "moved"]
    assert engine.loop.time() >= now + 0.05
