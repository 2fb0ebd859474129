"""Lines that leave a process without waiting: what a stalled reader, a full disk or a restarted syslog costs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes_harness import until

from scaleup.net.addresses import Endpoint
from scaleup.processes.outlet import BUFFER_BYTES, CLOSE_SECONDS, Outlet
from scaleup.processes.sinks import SYSLOG_BYTES, Descriptor, LogFile, Sink, Syslog

LINE = b"x" * 99 + b"\n"


def notice(count: int) -> bytes:
    return b"%d lines are missing\n" % count


class Script:
    """A sink that does as it is told, a step for each write: how many bytes it takes, or an error.

    Without a step it takes all. A real sink fails when it likes, and not at each byte of a line.
    """

    chunk_bytes = 400

    def __init__(self, *steps: int | OSError) -> None:
        self.steps = list(steps)
        self.written = b""

    def write(self, data: bytes) -> int:
        step = self.steps.pop(0) if self.steps else len(data)
        if isinstance(step, OSError):
            raise step
        self.written += data[:step]
        return min(step, len(data))

    def wait(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


class Pipe:
    """A pipe that nobody reads, unless told; its writing end is blocking, as an inherited stderr is."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def read(self) -> bytes:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.reading, 1 << 20):
                data += piece
        return data

    def close(self) -> None:
        for fd in (self.reading, self.writing):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with contextlib.closing(Pipe()) as made:
        yield made


@contextlib.contextmanager
def opened(sink: Sink) -> Iterator[Outlet]:
    outlet = Outlet(sink, notice)
    try:
        yield outlet
    finally:
        outlet.close()


# ----- what is written --------------------------------------------------------------------------------


def test_a_line_is_there_at_once(pipe: Pipe) -> None:
    """Also that of a process which is killed next."""
    with opened(Descriptor(pipe.writing)) as outlet:
        outlet.put(b"one\n")
        assert pipe.read() == b"one\n"


def test_stderr_stays_as_it_was_for_those_who_share_it(pipe: Pipe) -> None:
    with opened(Descriptor(pipe.writing)) as outlet:
        outlet.put(LINE)
        assert os.get_blocking(pipe.writing)
    os.write(pipe.writing, b"still open\n")


def test_gathered_lines_are_written_together(pipe: Pipe) -> None:
    with opened(Descriptor(pipe.writing)) as outlet:
        for number in range(3):
            outlet.gather(b"%d\n" % number)
        assert pipe.read() == b""
        outlet.flush()
        assert pipe.read() == b"0\n1\n2\n"


def test_the_order_is_that_in_which_lines_came(pipe: Pipe) -> None:
    with opened(Descriptor(pipe.writing)) as outlet:
        outlet.gather(b"gathered\n")
        outlet.put(b"put\n")
        assert pipe.read() == b"gathered\nput\n"


# ----- a reader that stalls ---------------------------------------------------------------------------


def fill(outlet: Outlet) -> int:
    """Put lines until some were dropped; how many were kept. Nobody reads: this must not wait."""
    put = 0
    while not outlet.dropped:
        outlet.put(b"%098d\n" % put)
        put += 1
    return put - 1


def test_a_stalled_reader_costs_lines_and_no_time(pipe: Pipe) -> None:
    outlet = Outlet(Descriptor(pipe.writing), notice)
    kept = fill(outlet)
    assert kept * 99 > BUFFER_BYTES  # what waits, and what the pipe holds
    for _ in range(1000):
        outlet.put(LINE)
    assert outlet.dropped == 1001
    started = time.monotonic()
    outlet.close()
    assert CLOSE_SECONDS <= time.monotonic() - started < CLOSE_SECONDS + 5.0


@pytest.mark.timeout(30)
async def test_when_the_lines_flow_again_one_says_how_many_are_missing(pipe: Pipe) -> None:
    with opened(Descriptor(pipe.writing)) as outlet:
        kept = fill(outlet)
        outlet.put(b"dropped, too\n" + bytes(200))
        read = b""

        def has_all() -> bool:
            nonlocal read
            read += pipe.read()
            return read.endswith(notice(2))

        await until(has_all)
        assert read == b"".join(b"%098d\n" % number for number in range(kept)) + notice(2)
        outlet.put(b"after\n")
        assert pipe.read() == b"after\n"


async def test_a_flood_of_gathered_lines_leaves_room_for_the_others(pipe: Pipe) -> None:
    with opened(Descriptor(pipe.writing)) as outlet:
        while not outlet.dropped:
            outlet.gather(LINE)
        before = outlet.dropped
        outlet.put(b"why\n")
        assert outlet.dropped == before
        read = b""

        def has_all() -> bool:
            nonlocal read
            read += pipe.read()
            return read.endswith(b"why\n" + notice(before))

        await until(has_all)


def test_a_reader_that_comes_back_before_the_end_gets_everything(
    pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.processes.outlet.CLOSE_SECONDS", 30.0)  # it may take a while to start
    outlet = Outlet(Descriptor(pipe.writing), notice)
    count = BUFFER_BYTES // 2 // len(LINE)
    for _ in range(count):
        outlet.put(LINE)
    os.close(pipe.writing)
    os.set_blocking(pipe.reading, True)
    with (tmp_path / "read").open("wb") as read, subprocess.Popen(["cat"], stdin=pipe.reading, stdout=read):
        outlet.close()
    assert (tmp_path / "read").read_bytes() == count * LINE
    assert outlet.dropped == 0


def test_a_stopped_terminal_holds_nobody_up() -> None:
    ours, theirs = pty.openpty()
    try:
        outlet = Outlet(Descriptor(theirs), notice)
        for _ in range(2 * BUFFER_BYTES // len(LINE)):  # as after Ctrl-S: nothing is taken
            outlet.put(LINE)
        assert outlet.dropped > 0
        outlet.sink.close()
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_stalled_socket_as_journald_gives_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outlet = Outlet(Descriptor(theirs.fileno()), notice)
        fill(outlet)
        assert theirs.getblocking()
        outlet.sink.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can open a pipe that is another user's")
def test_a_pipe_of_another_user_cannot_be_opened_again_and_is_asked(pipe: Pipe) -> None:
    os.seteuid(65534)
    try:
        sink = Descriptor(pipe.writing)
    finally:
        os.seteuid(0)
    assert os.get_blocking(sink._fd)
    outlet = Outlet(sink, notice)
    kept = fill(outlet)
    assert kept * 99 > BUFFER_BYTES
    sink.close()


# ----- what cannot be written -------------------------------------------------------------------------


def test_a_full_disk_costs_lines_and_says_so_when_there_is_room(tmp_path: Path) -> None:
    """RLIMIT_FSIZE fails as a full disk does: a write takes a part, the next one nothing."""
    path = tmp_path / "log"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with opened(LogFile(path)) as outlet:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1050, old[1]))
            for _ in range(20):
                outlet.put(LINE)
            assert outlet.dropped == 10
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            outlet.put(b"room\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == 10 * LINE + 50 * b"x" + b"\nroom\n" + notice(10)


def test_a_full_disk_for_real() -> None:
    with opened(LogFile(Path("/dev/full"))) as outlet:
        outlet.put(LINE)
        outlet.put(LINE)
        assert outlet.dropped == 2


def test_gathered_lines_try_again_after_an_error() -> None:
    sink = Script(OSError(28, "No space left on device"))
    with opened(sink) as outlet:
        outlet.gather(b"lost\n")
        outlet.flush()
        assert outlet.dropped == 1
        outlet.gather(b"written\n")
        outlet.flush()
        assert sink.written == b"written\n" + notice(1)


def test_a_reader_that_is_gone(pipe: Pipe) -> None:
    with opened(Descriptor(pipe.writing)) as outlet:
        os.close(pipe.reading)
        outlet.put(LINE)
        assert outlet.dropped == 1


def test_after_the_end_lines_are_lost_and_no_stranger_gets_them(pipe: Pipe, tmp_path: Path) -> None:
    outlet = Outlet(LogFile(tmp_path / "log"), notice)
    outlet.close()
    with (tmp_path / "another").open("wb") as another:  # which gets the number of the log's descriptor
        outlet.put(LINE)
        another.flush()
    assert (tmp_path / "another").read_bytes() == b""
    outlet.close()


steps = st.lists(
    st.one_of(st.integers(1, 500), st.sampled_from([BlockingIOError(), OSError(28, "full")])), max_size=30
)


@given(steps, st.lists(st.integers(1, 300), max_size=40))
def test_whatever_a_sink_does_lines_stay_whole_in_order_and_counted(
    steps: list[int | OSError], sizes: list[int]
) -> None:
    sink = Script(*steps)
    outlet = Outlet(sink, notice)
    lines = [b"%d:%s\n" % (number, b"x" * size) for number, size in enumerate(sizes)]
    for line in lines:
        outlet.put(line)
    outlet.close()
    written = sink.written.splitlines(keepends=True)
    whole = [line for line in written if line in lines]
    assert whole == [line for line in lines if line in whole]
    told = sum(int(line.split()[0]) for line in written if line.endswith(b"are missing\n"))
    assert told <= outlet.dropped
    if outlet.dropped == 0:
        assert written == lines
    assert len(whole) + outlet.dropped >= len(lines)
    for line in written:
        assert (
            line in lines
            or line.endswith(b"missing\n")
            or any(x.startswith(line.rstrip(b"\n")) for x in lines)
        )


# ----- syslog -----------------------------------------------------------------------------------------


def receiver(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.setblocking(False)
    return sock


def test_syslog_gets_a_datagram_for_each_line(tmp_path: Path) -> None:
    with receiver(tmp_path / "log") as daemon, opened(Syslog(tmp_path / "log")) as outlet:
        outlet.put(b"one\n")
        outlet.put(b"x" * 2 * SYSLOG_BYTES + b"\n")
        assert daemon.recv(65536) == b"one"
        assert daemon.recv(65536) == b"x" * SYSLOG_BYTES


def test_syslog_that_is_restarted_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with receiver(path), opened(Syslog(path)) as outlet:
        outlet.put(b"one\n")
        path.unlink()
        outlet.put(b"two\n")  # the old one still gets it
        with receiver(path) as daemon:
            pass
        path.unlink()
        with receiver(path) as daemon:
            outlet.sink._socket.connect(str(path))  # type: ignore[attr-defined]
            outlet.put(b"three\n")
            assert daemon.recv(100) == b"three"
        outlet.put(b"four\n")  # nobody is there
        assert outlet.dropped == 1
        path.unlink()
        with receiver(path) as daemon:
            outlet.put(b"five\n")
            assert [daemon.recv(100), daemon.recv(100)] == [b"five", notice(1).rstrip()]


def test_syslog_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with receiver(tmp_path / "log") as daemon:
        outlet = Outlet(Syslog(tmp_path / "log"), notice)
        kept = fill(outlet)
        assert kept * 99 > BUFFER_BYTES
        assert daemon.recv(100).startswith(b"000")
        outlet.sink.close()


def test_syslog_by_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(10.0)
        with opened(Syslog(Endpoint(*daemon.getsockname()))) as outlet:
            outlet.put(b"one\n")
            assert daemon.recv(100) == b"one"


def test_a_pipe_is_not_made_larger_behind_its_owners_back(pipe: Pipe) -> None:
    before = fcntl.fcntl(pipe.writing, fcntl.F_GETPIPE_SZ)
    with opened(Descriptor(pipe.writing)):
        assert fcntl.fcntl(pipe.writing, fcntl.F_GETPIPE_SZ) == before
