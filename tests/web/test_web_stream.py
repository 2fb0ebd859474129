"""Waits with a deadline, and what two connections do to each other's bytes."""

import asyncio

import pytest

from scaleup.web.stream import Stream, Wait


async def test_a_wait_ends_when_it_is_woken_or_at_its_deadline() -> None:
    loop = asyncio.get_running_loop()
    wait = Wait(loop)
    loop.call_later(0.01, wait.wake)
    await wait.until(loop.time() + 5)
    began = loop.time()
    with pytest.raises(TimeoutError):
        await wait.until(began + 0.02)
    assert loop.time() - began >= 0.019
    loop.call_later(0.05, wait.wake)
    await wait.until(loop.time() + 5)  # the timer of before, which was nearer, is not this one's
    wait.end()


async def test_an_earlier_deadline_than_before_counts() -> None:
    loop = asyncio.get_running_loop()
    wait = Wait(loop)
    loop.call_later(0.01, wait.wake)
    await wait.until(loop.time() + 60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await wait.until(loop.time() + 0.02)
    wait.end()


async def test_who_is_cancelled_takes_nothing_from_who_waits_next() -> None:
    """The body of a request is given up, and at once somebody else waits for the same client."""
    loop = asyncio.get_running_loop()
    wait = Wait(loop)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(wait.until(loop.time() + 60))
        await asyncio.sleep(0)
        first.cancel()
        loop.call_later(0.02, wait.wake)
        async with asyncio.timeout(5):
            await wait.until(loop.time() + 60)
    assert first.cancelled()
    wait.end()


class Heard(asyncio.Transport):
    """Remembers what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.parametrize("before", [b"", b"first"])
async def test_what_is_written_after_some_was_taken_back_is_sent_by_itself(before: bytes) -> None:
    stream, heard = Stream(asyncio.get_running_loop()), Heard()
    stream.connection_made(heard)
    if before:
        stream.write(before)
    written = stream.written
    if before:
        stream.write(b"taken back")
    assert stream.take_back(written)
    assert stream.has_unsent == bool(before)
    stream.write(b"second")
    await asyncio.sleep(0)
    assert heard.data == before + b"second"
    assert not stream.has_unsent
