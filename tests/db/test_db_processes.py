"""`python -m scaleup.db` as a process: its life, its death, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from database_servers import ENGINES, PASSWORD, database, start_database
from needs import requires

from bench.ports import free_port

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "SCALEUP_DB_PASSWORD": PASSWORD}


def run(*arguments: str) -> tuple[int, str]:
    """One that is expected to fail: its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "scaleup.db", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Ended; what nobody has waited for yet has ended, too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("engine", ENGINES)
def test_data_are_kept_where_they_are_to_be_kept(engine: str, data: Path) -> None:
    for expected in (0, 1):
        with database(engine, arguments=["--data", str(data)]) as server:
            server.execute("CREATE TABLE IF NOT EXISTS links (id INT NOT NULL PRIMARY KEY)")
            assert server.execute("SELECT COUNT(*) FROM links") == ((expected,),)
            server.execute(f"INSERT INTO links (id) VALUES ({expected})")
            assert server.stop() == 0
    with database("auto", arguments=["--data", str(data)]) as server:
        assert f"{engine} " in server.said
        assert "its data are there" in server.said


@pytest.mark.parametrize("engine", ENGINES)
def test_committed_data_survive_a_kill(engine: str, data: Path) -> None:
    server = start_database(engine, arguments=["--data", str(data)])
    server.execute("CREATE TABLE links (id INT NOT NULL PRIMARY KEY)")
    server.execute("INSERT INTO links (id) VALUES (1)")
    os.kill(server.server_pid(), signal.SIGKILL)
    server.process.kill()
    server.stop()
    with database(engine, arguments=["--data", str(data)]) as server:
        assert server.execute("SELECT id FROM links") == ((1,),)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_directory_nothing_is_left(engine: str) -> None:
    server = start_database(engine)
    assert Path(server.directory).exists()
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 20
    assert not Path(server.directory).exists()


@requires("mariadbd")
def test_mariadbd_does_not_outlive_a_kill(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(data.parent))  # where nobody else tidies up
    server = start_database("mariadb")
    mariadbd = server.server_pid()
    assert mariadbd != server.process.pid
    server.process.kill()
    server.stop()
    until(lambda: is_gone(mariadbd))
    until(lambda: not port_answers(server.endpoint.port))
    with database("embedded"):  # the next one to start tidies up
        assert not Path(server.directory).exists()


@requires("mariadbd")
def test_when_mariadbd_dies_we_say_so_and_end() -> None:
    server = start_database("mariadb")
    os.kill(server.server_pid(), signal.SIGKILL)
    assert server.process.wait(20) == 1
    assert "mariadbd has ended (code -9)" in server.log.read()
    assert server.stop() == 1
    assert not Path(server.directory).exists()


@requires("mariadbd")
def test_a_mariadbd_that_does_not_end_is_killed() -> None:
    server = start_database("mariadb", arguments=["--drain", "0.3"])
    mariadbd = server.server_pid()
    os.kill(mariadbd, signal.SIGSTOP)
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 20
    assert is_gone(mariadbd)


@requires("mariadbd")
def test_a_stop_while_it_is_still_being_installed() -> None:
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        process = subprocess.Popen(
            [sys.executable, "-m", "scaleup.db", "--engine", "mariadb", "--listen", "127.0.0.1:0"],
            env=ENVIRONMENT | {"TMPDIR": path},
            stderr=subprocess.PIPE,
        )
        until(lambda: any(Path(path).glob("*/mariadb.unfinished")))
        installer = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        until(lambda: all(is_gone(child.pid) for child in installer))
        assert list(Path(path).iterdir()) == []


@requires("mariadbd")
def test_the_password_is_the_one_of_this_start(data: Path) -> None:
    with database("mariadb", arguments=["--data", str(data)]) as server:
        server.stop()
    other = data.parent / "password"
    other.write_text("another")
    with database("mariadb", arguments=["--data", str(data), "--password-file", str(other)]) as server:
        assert server.said  # it has logged in with it, else it would not be ready
        with pytest.raises(Exception, match="Access denied"):
            server.execute("SELECT 1")
    assert not (data / "mariadb" / "init.sql").exists()


@requires("mariadbd")
def test_the_user_may_do_nothing_else() -> None:
    with database("mariadb", arguments=["--database", "my_db", "--user", "u"]) as server:
        import pymysql

        connection = pymysql.connect(
            host="127.0.0.1",
            port=server.endpoint.port,
            user="u",
            password=PASSWORD.encode(),
            ssl_disabled=True,
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("CREATE TABLE my_db.t (a INT)")
            for forbidden in (
                "CREATE DATABASE other",
                "CREATE TABLE myxdb.t (a INT)",
                "SELECT * FROM mysql.user",
                "CREATE USER x",
                "SELECT LOAD_FILE('/etc/passwd') INTO OUTFILE '/tmp/x'",
                "SHUTDOWN",
            ):
                with pytest.raises(pymysql.err.OperationalError):
                    cursor.execute(forbidden)


NOBODY = pwd.getpwnam("nobody")
UNPRIVILEGED = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": [], "cwd": "/"}


def python_for_nobody(environment: dict[str, str]) -> str:
    """Ours may lie in root's home; then Debian's, with our packages."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            command = [python, "-c", "import scaleup.db.settings"]
            subprocess.run(command, env=environment, capture_output=True, check=True, **UNPRIVILEGED)  # type: ignore[call-overload]
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("only root may read this checkout or its Python: clone it elsewhere than below /root")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("engine", ENGINES)
def test_it_works_without_root(engine: str) -> None:
    """With the PATH that an unprivileged user has on Debian."""
    with tempfile.TemporaryDirectory() as path:
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        environment = {
            "TMPDIR": path,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "SCALEUP_DB_PASSWORD": PASSWORD,
        }
        packages = [str(Path(__file__).parents[2]), sysconfig.get_path("purelib")]
        environment["PYTHONPATH"] = os.pathsep.join(packages)
        python = python_for_nobody(environment)
        process = subprocess.Popen(  # type: ignore[call-overload]
            [python, "-m", "scaleup.db", "--engine", engine, "--listen", "127.0.0.1:0"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            **UNPRIVILEGED,
        )
        line = process.stderr.readline()
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert f"{engine} " in line, line + said
        assert process.returncode == 0
        assert list(Path(path).iterdir()) == []


def port_answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_a_port_in_use() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        code, said = run("--engine", "embedded", "--listen", endpoint)
    assert code == 1
    assert f"--listen {endpoint}: Address already in use" in said


def test_a_directory_in_use(data: Path) -> None:
    with database("embedded", arguments=["--data", str(data)]):
        code, said = run("--engine", "embedded", "--listen", f"127.0.0.1:{free_port()}", "--data", str(data))
    assert code == 1
    assert "another scaleup.db uses it" in said


def test_a_file_that_is_no_database(data: Path) -> None:
    data.mkdir()
    (data / "lock").touch()
    (data / "links.sqlite").write_text("x" * 1000)
    code, said = run("--listen", "127.0.0.1:0", "--data", str(data))
    assert code == 1
    assert f"{data}/links.sqlite: file is not a database" in said


@requires("mariadbd")
def test_a_server_that_does_not_start_says_why(data: Path) -> None:
    (data / "mariadb").mkdir(parents=True)
    (data / "lock").touch()
    (data / "mariadb").chmod(0o777)
    code, said = run("--engine", "mariadb", "--listen", "127.0.0.1:0", "--data", str(data))
    assert code == 1
    assert "mariadbd did not start" in said
    assert "[ERROR]" in said
