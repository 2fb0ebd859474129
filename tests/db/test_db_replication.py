"""A primary and replicas of it: they follow, also through deaths and restarts."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pymysql
import pytest
from database_servers import DatabaseServer, Sql, database
from needs import requires
from test_db_processes import run

from bench.ports import free_ports

pytestmark = [pytest.mark.slow, requires("mariadbd", "mariadb")]

TABLE = "CREATE TABLE IF NOT EXISTS notes (id INT NOT NULL PRIMARY KEY)"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            if condition():
                return
        except pymysql.err.MySQLError:  # it is just starting
            pass
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ids(server: Sql) -> list[object]:
    return [row[0] for row in server.execute("SELECT id FROM notes ORDER BY id")]


def write(server: DatabaseServer, number: int) -> None:
    server.execute(TABLE)
    server.execute("INSERT INTO notes VALUES (%s)", number)


def test_replicas_follow_and_take_no_writes() -> None:
    with database("mariadb", arguments=["--replicas", "2"]) as server:
        write(server, 1)
        assert len(server.replicas) == 2
        for replica in server.replicas:
            until(lambda replica=replica: ids(replica) == [1])
            with pytest.raises(pymysql.err.OperationalError, match="read-only"):
                replica.execute("INSERT INTO notes VALUES (2)")
        processes = [psutil.Process(each.server_pid()) for each in (server, *server.replicas)]
        assert server.stop() == 0
        assert not any(process.is_running() for process in processes)


def test_replicas_go_on_where_they_were_and_a_new_one_gets_what_was_there_before(data: Path) -> None:
    """The first number was written when there were none."""
    kept = ["--data", str(data)]
    with database("mariadb", arguments=kept) as server:
        write(server, 1)
    for number in (2, 3):
        with database("mariadb", arguments=[*kept, "--replicas", str(number - 1)]) as server:
            write(server, number)
            for replica in server.replicas:
                until(lambda replica=replica, number=number: ids(replica) == list(range(1, number + 1)))


def test_all_killed_at_once(data: Path) -> None:
    arguments = ["--data", str(data), "--replicas", "1"]
    with database("mariadb", arguments=arguments) as server:
        for number in range(100):
            write(server, number)
        pids = [each.server_pid() for each in (server, *server.replicas)]
        server.process.kill()
        server.process.wait()
        server.log.close()
        until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    with database("mariadb", arguments=arguments) as server:
        write(server, 100)
        until(lambda: ids(server.replicas[0]) == list(range(101)))


def test_a_replica_that_dies_is_started_again_and_a_primary_is_not() -> None:
    with database("mariadb", arguments=["--replicas", "1"]) as server:
        (replica,) = server.replicas
        write(server, 0)
        with server.connection() as connection, connection.cursor() as cursor:
            for number in range(1, 200):
                cursor.execute("INSERT INTO notes VALUES (%s)", (number,))
        until(lambda: len(ids(replica)) == 200)
        for number in (200, 201):  # killed a second time, it is no copy any more
            pid = replica.server_pid()
            os.kill(pid, signal.SIGKILL)
            write(server, number)
            until(lambda number=number: ids(replica) == list(range(number + 1)))
        os.kill(server.server_pid(), signal.SIGKILL)
        assert server.process.wait(40) == 1
        assert "mariadbd has ended" in server.log.read()
        server.log.close()


def test_who_had_replicas_does_not_write_without_them(data: Path) -> None:
    """They would miss it and never know."""
    kept = ["--data", str(data)]
    with database("mariadb", arguments=[*kept, "--replicas", "1"]):
        pass
    code, said = run("--listen", "127.0.0.1:0", *kept)
    assert code == 78
    assert "say --replicas 1, or remove such directories" in said


def test_a_copy_that_did_not_start_begins_where_it_was_copied(data: Path) -> None:
    kept = ["--data", str(data)]
    with database("mariadb", arguments=[*kept, "--replicas", "1"]) as server:
        write(server, 1)
        until(lambda: ids(server.replicas[0]) == [1])
    first, _, third = free_ports(3)
    with socket.create_server(("127.0.0.1", third)):
        code, said = run("--listen", f"127.0.0.1:{first}", *kept, "--replicas", "2")
    assert code == 1, said
    assert f"127.0.0.1:{third}: Address already in use" in said
    with database("mariadb", arguments=[*kept, "--replicas", "2"]) as server:
        write(server, 2)
        for replica in server.replicas:
            until(lambda replica=replica: ids(replica) == [1, 2])


def test_other_engines_have_no_replicas(data: Path) -> None:
    code, said = run("--engine", "embedded", "--replicas", "1")
    assert code == 78
    assert "--replicas: this is MariaDB's" in said


def test_a_port_that_is_taken_is_told(data: Path) -> None:
    first, second = free_ports(2)
    with database("mariadb", port=second) as other:
        code, said = run("--listen", f"127.0.0.1:{first}", "--replicas", "1")
    assert code == 1
    assert f"{other.endpoint}: Address already in use" in said
