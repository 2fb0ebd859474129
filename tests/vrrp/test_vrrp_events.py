"""The event stream: the present first, then each change; readers that do not read are not waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from elections import until

from scaleup.errors import StartupError
from scaleup.vrrp.decisions import Condition
from scaleup.vrrp.events import MAX_READERS, STATES, EventStream, Status

ONE = Status(
    iname="VI_1",
    state=STATES[Condition.BACKUP],
    vrid=51,
    base_priority=150,
    effective_priority=90,
    vipset=False,
    adver_int=1.0,
    master_adver_int=0.5,
    last_transition=1_800_000_000.25,
    condition=Condition.BACKUP,
    rule="startup with priority 90",
)
TWO = replace(ONE, iname="VI_2", vrid=52)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vrrp.sock"


@pytest.fixture
async def stream(path: Path) -> AsyncIterator[EventStream]:
    stream = EventStream(path, lambda: [ONE, TWO])
    stream.start()
    yield stream
    stream.stop()


class Reader:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self._read = b""

    async def line(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while b"\n" not in self._read:
                more = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
                if not more:
                    raise EOFError
                self._read += more
        line, _, self._read = self._read.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    async def ends(self) -> bool:
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(20):
                while await asyncio.get_running_loop().sock_recv(self.socket, 65536):
                    pass
        return True


@pytest.fixture
def readers() -> Iterator[list[Reader]]:
    readers: list[Reader] = []
    yield readers
    for reader in readers:
        reader.socket.close()


async def test_the_present_first_and_then_each_change(
    stream: EventStream, path: Path, readers: list[Reader]
) -> None:
    readers += [Reader(path), Reader(path)]
    for reader in readers:
        assert [(await reader.line())["iname"] for _ in range(2)] == ["VI_1", "VI_2"]
    stream.tell(replace(TWO, state=2, condition=Condition.ACTIVE, rule="Active_Down_Timer fired"))
    for reader in readers:
        told = await reader.line()
        assert (told["iname"], told["state"], told["condition"]) == ("VI_2", 2, "active")


async def test_the_fields_are_keepalived_s(stream: EventStream, path: Path, readers: list[Reader]) -> None:
    readers.append(Reader(path))
    assert await readers[0].line() == {
        "iname": "VI_1",
        "state": 1,
        "vrid": 51,
        "base_priority": 150,
        "effective_priority": 90,
        "vipset": False,
        "adver_int": 1.0,
        "master_adver_int": 0.5,
        "last_transition": 1800000000.25,
        "condition": "backup",
        "rule": "startup with priority 90",
    }


def test_every_condition_has_a_number() -> None:
    assert STATES.keys() == set(Condition)


async def test_a_reader_that_does_not_read_is_dropped_and_the_others_hear_all(
    stream: EventStream, path: Path, readers: list[Reader], caplog: pytest.LogCaptureFixture
) -> None:
    slow, quick = Reader(path), Reader(path)
    readers += [slow, quick]
    for _ in range(2):
        await quick.line()
    number = 0
    while "too slow" not in caplog.text:
        number += 1
        assert number < 100_000
        stream.tell(replace(ONE, rule=str(number)))
        assert (await quick.line())["rule"] == str(number)
    assert await slow.ends()
    stream.tell(replace(ONE, rule="last"))
    assert (await quick.line())["rule"] == "last"


async def test_one_that_leaves_or_talks_does_no_harm(
    stream: EventStream, path: Path, readers: list[Reader]
) -> None:
    readers += [Reader(path), Reader(path)]
    for reader in readers:
        for _ in range(2):
            await reader.line()
    readers[0].socket.send(b"what is this?\n")
    readers[1].socket.close()
    await until(lambda: len(stream._readers) == 1)
    stream.tell(ONE)
    assert (await readers[0].line())["iname"] == "VI_1"


async def test_readers_are_bounded(stream: EventStream, path: Path, readers: list[Reader]) -> None:
    readers += [Reader(path) for _ in range(MAX_READERS + 1)]
    assert await readers[-1].ends()
    await readers[-2].line()


async def test_it_is_for_our_user_alone(stream: EventStream, path: Path) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_what_a_dead_process_left_is_replaced(path: Path, readers: list[Reader]) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    stream = EventStream(path, lambda: [ONE])
    stream.start()
    readers.append(Reader(path))
    assert (await readers[0].line())["iname"] == "VI_1"
    stream.stop()
    assert path.name not in os.listdir(path.parent)
    assert await readers[0].ends()


async def test_a_living_one_is_left_alone(stream: EventStream, path: Path, readers: list[Reader]) -> None:
    with pytest.raises(StartupError, match="another process listens there"):
        EventStream(path, list).start()
    readers.append(Reader(path))
    assert (await readers[0].line())["iname"] == "VI_1"


async def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(StartupError, match="no socket"):
        EventStream(path, list).start()
    assert stat.S_ISFIFO(os.stat(path).st_mode)


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        EventStream(tmp_path / "none" / "vrrp.sock", list).start()


async def test_stopping_twice_is_stopping(path: Path) -> None:
    stream = EventStream(path, list)
    stream.start()
    stream.stop()
    stream.stop()


async def test_its_end_leaves_the_socket_of_a_successor_alone(path: Path) -> None:
    stream = EventStream(path, list)
    stream.start()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        stream.stop()
        assert path.name in os.listdir(path.parent)
