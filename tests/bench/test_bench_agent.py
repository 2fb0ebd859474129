"""CPU time of processes, here and from another host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import agent
from bench.running import BenchError, local_clocks, remote_clocks, spent

BUSY = "import sys\nfor _ in range({count}): pass\nprint('done', flush=True)\nsys.stdin.read()"


@contextmanager
def busy(count: int, prefix: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that has counted so far, and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", prefix + BUSY.format(count=count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def serving(processes: dict[str, list[int]]) -> Iterator[tuple[str, int]]:
    with agent.serve("127.0.0.1", 0, processes) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_the_clock_of_this_process_is_the_one_that_time_knows() -> None:
    before = time.process_time_ns()
    measured = agent.cpu_nanoseconds(os.getpid())
    assert before <= measured <= time.process_time_ns()


def test_who_worked_more_has_more() -> None:
    with busy(0) as idle, busy(3_000_000) as worked:
        assert agent.cpu_nanoseconds(worked.pid) > agent.cpu_nanoseconds(idle.pid)


def test_descendants_count() -> None:
    with busy(0, "import os\nif os.fork() == 0:\n    os.read(0, 1)\n    os._exit(0)\n") as parent:
        clocks = agent.cpu_of_tree(parent.pid)
        assert parent.pid in clocks
        assert len(clocks) == 2


def test_a_process_that_has_ended_has_no_clock() -> None:
    with busy(0) as process:
        pass
    with pytest.raises(ProcessLookupError, match="has ended"):
        agent.cpu_of_tree(process.pid)
    with pytest.raises(BenchError, match="while it was measured"):
        local_clocks([process.pid])


def test_what_was_spent_is_the_difference_and_new_processes_count_whole() -> None:
    assert spent({"1": 1_000_000_000}, {"1": 1_500_000_000, "2": 250_000_000}) == 0.75


def test_time_that_was_lost_with_a_process_is_no_measurement() -> None:
    with pytest.raises(BenchError, match="process 2 ended"):
        spent({"1": 0, "2": 0}, {"1": 1})


def test_the_agent_answers_for_the_processes_that_it_was_given() -> None:
    with busy(0) as process, serving({"scaleup": [process.pid]}) as address:
        clocks = remote_clocks([address], "scaleup")
        assert [name.split()[-1] for name in clocks] == [str(process.pid)]
        with pytest.raises(BenchError, match="no --agent knows 'haproxy'"):
            remote_clocks([address], "haproxy")


def test_the_agent_says_that_a_process_has_ended() -> None:
    with busy(0) as process:
        pass
    with serving({"scaleup": [process.pid]}) as (host, port):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{host}:{port}/", timeout=10)
        with caught.value as answer:
            assert (answer.code, json.load(answer)) == (503, {"error": f"process {process.pid} has ended"})
        with pytest.raises(BenchError, match="Service Unavailable"):
            remote_clocks([(host, port)], "scaleup")


def test_the_agent_stands_alone(tmp_path: Path) -> None:
    """Copied to another host, with nothing else."""
    copy = tmp_path / "agent.py"
    copy.write_bytes(Path(agent.__file__).read_bytes())
    flags = ["--listen", "127.0.0.1:0", "--process", f"me={os.getpid()}"]
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(copy), *flags], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        try:
            assert remote_clocks([("127.0.0.1", port)], "me")
        finally:
            process.terminate()


def test_a_process_that_is_none_is_refused_at_the_start() -> None:
    done = subprocess.run(
        [sys.executable, agent.__file__, "--process", "scaleup=x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'scaleup=x': write NAME=PID" in done.stderr
