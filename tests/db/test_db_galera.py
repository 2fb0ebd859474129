"""Three nodes that agree on each commit: they share everything, also through deaths and restarts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pymysql
import pytest
from database_servers import DatabaseServer, Sql, database
from needs import requires
from test_db_processes import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), requires("mariadbd", "mariadb", "rsync")]

THREE = ("--galera", "3")
TABLE = "CREATE TABLE IF NOT EXISTS notes (id INT NOT NULL PRIMARY KEY)"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(pymysql.err.MySQLError, OSError, ValueError):  # it is just starting
            if condition():
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ids(server: Sql) -> list[object]:
    with server.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION wsrep_sync_wait = 1")
        cursor.execute("SELECT id FROM notes ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


def is_ready(node: Sql, size: int) -> bool:
    status = dict(node.execute("SHOW GLOBAL STATUS LIKE 'wsrep%'"))
    return (status["wsrep_ready"], status["wsrep_cluster_size"]) == ("ON", str(size))


def all_ready(server: DatabaseServer) -> None:
    for node in server.nodes:
        until(lambda node=node: is_ready(node, len(server.nodes)))


def test_a_single_server_becomes_a_cluster_which_outlives_any_node(data: Path) -> None:
    """Any node writes; the one that began is killed, and comes back with what it missed."""
    kept = ["--data", str(data)]
    with database("mariadb", arguments=kept) as server:
        server.execute(TABLE)
        server.execute("INSERT INTO notes VALUES (0)")
    with database("mariadb", arguments=[*kept, *THREE]) as server:
        assert len(server.nodes) == 3
        all_ready(server)
        for number, node in enumerate(server.nodes, 1):
            node.execute("INSERT INTO notes VALUES (%s)", number)
        assert [ids(node) for node in server.nodes] == [[0, 1, 2, 3]] * 3
        victim, other = server.nodes[0], server.nodes[1]
        killed = victim.server_pid()
        os.kill(killed, signal.SIGKILL)
        until(lambda: is_ready(other, 2))
        other.execute("INSERT INTO notes VALUES (4)")
        until(lambda: victim.server_pid() != killed and is_ready(victim, 3))
        assert ids(victim) == [0, 1, 2, 3, 4]
        pids = [node.server_pid() for node in server.nodes]
        assert server.stop() == 0
        assert not any(map(psutil.pid_exists, pids))
    code, said = run("--listen", "127.0.0.1:0", *kept)
    assert code == 78
    assert "say --galera 3, or remove such directories" in said


@pytest.mark.soak
def test_all_stopped_and_all_killed(data: Path) -> None:
    """They begin again with all they had: by the one that ended last, or the one that has got furthest."""
    kept = ["--data", str(data), *THREE]
    with database("mariadb", arguments=kept) as server:
        server.execute(TABLE)
        server.nodes[1].execute("INSERT INTO notes VALUES (0)")
    with database("mariadb", arguments=kept) as server:
        all_ready(server)
        server.nodes[2].execute("INSERT INTO notes VALUES (1)")
        assert [ids(node) for node in server.nodes] == [[0, 1]] * 3
        pids = [node.server_pid() for node in server.nodes]
        server.process.kill()
        server.process.wait()
        server.log.close()
        until(lambda: not any(map(psutil.pid_exists, pids)))
    with database("mariadb", arguments=kept) as server:
        assert "all nodes had crashed" in server.said
        all_ready(server)
        assert [ids(node) for node in server.nodes] == [[0, 1]] * 3
        for node in server.nodes:
            os.kill(node.server_pid(), signal.SIGKILL)
        assert server.process.wait(60) == 1
        assert "no node of the cluster is left" in server.log.read()
        server.log.close()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--galera", "1"], "from 2 to 9 nodes"),
        (["--galera", "3", "--replicas", "1"], "no --replicas beside them"),
        (["--galera", "3", "--engine", "embedded"], "--engine embedded has none of it"),
    ],
)
def test_what_makes_no_cluster(arguments: list[str], reason: str) -> None:
    code, said = run(*arguments)
    assert code == 78
    assert reason in said
