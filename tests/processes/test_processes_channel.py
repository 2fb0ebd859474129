"""The channel between parent and child, with both ends, or one end and a bare socket, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from processes_harness import DEADLINE_SECONDS, talking, until

from scaleup.processes.channel import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE_BYTES,
    MAX_QUEUED_MESSAGES,
    Channel,
    Message,
)

MAX_BYTES = 1024 * 1024


@dataclass
class End:
    """A channel, and what it has told."""

    channel: Channel
    messages: list[Message]
    closes: list[None] = field(default_factory=list)


def end(sock: socket.socket) -> End:
    messages: list[Message] = []
    closes: list[None] = []
    return End(Channel(sock, messages.append, lambda: closes.append(None)), messages, closes)


@contextlib.contextmanager
def both() -> Iterator[tuple[End, End]]:
    one, other = map(end, Channel.pair())
    with contextlib.closing(one.channel), contextlib.closing(other.channel):
        yield one, other


@contextlib.contextmanager
def with_bare() -> Iterator[tuple[End, socket.socket]]:
    """A channel, and the other end as a socket that nobody reads."""
    one, bare = Channel.pair()
    here = end(one)
    with contextlib.closing(here.channel), bare:
        yield here, bare


@contextlib.contextmanager
def null_device() -> Iterator[int]:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# ----- messages ---------------------------------------------------------------------------------------


async def test_messages_arrive_in_order_and_whole_both_ways() -> None:
    with both() as (one, other):
        one.channel.send("empty")
        one.channel.send("event", event="role", nested={"a": [1, None, "ü\n"]})
        other.channel.send("ready")
        await until(lambda: len(other.messages) == 2 and len(one.messages) == 1)
        event = Message("event", {"event": "role", "nested": {"a": [1, None, "ü\n"]}})
        assert other.messages == [Message("empty"), event]
        assert one.messages == [Message("ready")]


async def test_the_largest_message_passes_and_a_larger_one_is_a_mistake_of_the_sender() -> None:
    overhead = len(json.dumps({"kind": "big", "text": ""}))
    with both() as (one, other):
        one.channel.send("big", text="x" * (MAX_MESSAGE_BYTES - overhead))
        with pytest.raises(ValueError, match="too much"):
            one.channel.send("big", text="x" * (MAX_MESSAGE_BYTES - overhead + 1))
        one.channel.send("next")
        await until(lambda: len(other.messages) == 2)
        assert len(other.messages[0].fields["text"]) == MAX_MESSAGE_BYTES - overhead
        assert other.messages[1] == Message("next")


async def test_a_slow_reader_gets_everything_in_the_end() -> None:
    with with_bare() as (here, bare):
        for number in range(MAX_QUEUED_MESSAGES):
            here.channel.send("n", number=number, padding="x" * 1000)  # more than the kernel's buffer takes
        bare.setblocking(False)
        received: list[int] = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(received) < MAX_QUEUED_MESSAGES:
                with contextlib.suppress(BlockingIOError):
                    received.append(json.loads(bare.recv(MAX_BYTES))["number"])
                    continue
                await asyncio.sleep(0)
        assert received == list(range(MAX_QUEUED_MESSAGES))
        here.channel.send("after")
        assert json.loads(bare.recv(MAX_BYTES)) == {"kind": "after"}  # at once: the queue is empty again
        assert not here.closes


async def test_who_does_not_read_for_too_long_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with with_bare() as (here, _bare), null_device() as null:
        before = open_descriptors()
        sent = 0
        while not here.closes:
            here.channel.send("n", [null], padding="x" * 1000)
            sent += 1
            assert sent < 10 * MAX_QUEUED_MESSAGES, "the queue has no bound"
        assert sent > MAX_QUEUED_MESSAGES
        assert open_descriptors() < before  # our end is closed, with the descriptors that were queued
        here.channel.send("nobody hears this")
        assert len(here.closes) == 1
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "has not read 1001 messages" in record.message


# ----- descriptors ------------------------------------------------------------------------------------


async def test_descriptors_are_duplicates_that_no_other_program_inherits() -> None:
    with both() as (one, other), null_device() as null:
        one.channel.send("two", [null, null])
        await until(lambda: len(other.messages) == 1)
        received = other.messages[0].descriptors
        assert len({null, *received}) == 3
        for descriptor in received:
            assert os.path.samestat(os.fstat(null), os.fstat(descriptor))
            assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            os.close(descriptor)


async def test_a_descriptor_may_be_closed_once_it_was_sent_even_if_it_waits() -> None:
    with with_bare() as (here, bare):
        before = open_descriptors()
        for _ in range(300):
            here.channel.send("padding", padding="x" * 1000)
        reader, writer = os.pipe()
        here.channel.send("pipe", [writer])
        os.close(writer)
        bare.setblocking(False)
        received: list[int] = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not received:
                try:
                    _, received, _, _ = socket.recv_fds(bare, MAX_BYTES, 1)
                except BlockingIOError:
                    await asyncio.sleep(0)
        os.write(received[0], b"x")
        os.close(received[0])
        assert os.read(reader, 2) == b"x"
        assert os.read(reader, 2) == b""  # nobody else holds it: the duplicate was closed
        os.close(reader)
        assert open_descriptors() == before


async def test_as_many_descriptors_as_may_be() -> None:
    with both() as (one, other), null_device() as null:
        one.channel.send("many", [null] * MAX_DESCRIPTORS)
        with pytest.raises(ValueError, match="201 descriptors: too much"):
            one.channel.send("too many", [null] * (MAX_DESCRIPTORS + 1))
        await until(lambda: len(other.messages) == 1)
        assert len(other.messages[0].descriptors) == MAX_DESCRIPTORS
        for descriptor in other.messages[0].descriptors:
            os.close(descriptor)


async def test_descriptors_go_down_to_a_child() -> None:
    reader, writer = os.pipe()
    async with talking() as talker:
        talker.child.send("write", [writer, writer])
        os.close(writer)
        assert (await talker.hear("written")).fields == {"count": 2}
    assert os.read(reader, 100) == b"from the childfrom the child"
    assert os.read(reader, 100) == b""
    os.close(reader)


# ----- the end ----------------------------------------------------------------------------------------


async def test_the_end_is_told_once_after_the_last_words() -> None:
    with both() as (one, other):
        one.channel.send("last words")
        one.channel.close()
        await until(lambda: bool(other.closes))
        assert other.messages == [Message("last words")]
        assert len(other.closes) == 1
        assert not one.closes  # who closes it knows
        one.channel.close()
        one.channel.send("nobody hears this")
        other.channel.send("nor this")


async def test_last_words_are_heard_though_ours_were_not_read() -> None:
    """The kernel then reports ECONNRESET before it gives what is still there."""
    with with_bare() as (here, bare):
        here.channel.send("unread")
        bare.send(b'{"kind": "last words"}')
        bare.close()
        await until(lambda: bool(here.closes))
        assert here.messages == [Message("last words")]


async def test_last_words_are_heard_though_we_spoke_to_the_dead_in_between() -> None:
    """Sending says EPIPE before the loop comes to reading."""
    with with_bare() as (here, bare), null_device() as null:
        here.channel.send("unread")
        bare.send(b'{"kind": "last"}')
        bare.send(b'{"kind": "words"}')
        bare.close()
        here.channel.send("too late", [null])
        here.channel.send("too late", [null])
        assert not here.closes  # not from inside send
        await until(lambda: bool(here.closes))
        assert here.messages == [Message("last"), Message("words")]
        assert len(here.closes) == 1


async def test_the_end_comes_through_while_messages_wait() -> None:
    with with_bare() as (here, bare):
        for _ in range(400):
            here.channel.send("waits", padding="x" * 1000)
        bare.close()
        await until(lambda: bool(here.closes))
        assert len(here.closes) == 1


async def test_what_is_said_while_reading_the_end_is_no_harm() -> None:
    """An owner may answer the last words, or close the channel, from inside its callback."""
    one, bare = Channel.pair()
    heard: list[str] = []

    def on_message(message: Message) -> None:
        heard.append(message.kind)
        channel.send("answer")
        channel.close()

    channel = Channel(one, on_message, lambda: heard.append("closed"))
    with bare:
        bare.send(b'{"kind": "first"}')
        bare.send(b'{"kind": "second"}')
        await until(lambda: bool(heard))
        await asyncio.sleep(0)
        assert heard == ["first"]


async def test_the_remains_are_delivered_on_request() -> None:
    """As when the kernel says first that a child has ended, and its messages are still to be read."""
    with with_bare() as (here, bare):
        here.channel.send("unread")
        for number in range(3):
            bare.send(json.dumps({"kind": "word", "number": number}).encode())
        bare.close()
        here.channel.finish()
        assert [message.fields["number"] for message in here.messages] == [0, 1, 2]


async def test_the_remains_of_who_lives_on_have_an_end_as_well() -> None:
    with with_bare() as (here, bare):
        bare.send(b'{"kind": "word"}')
        here.channel.finish()
        assert here.messages == [Message("word")]
        with pytest.raises(BrokenPipeError):
            bare.send(b"x")
        assert not here.closes
