"""What the peers are told: the same, as far as each can be told it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import SEARCH_PATH, requires

from bench import peers
from bench.peers import Command, Plan
from bench.record import OURS
from bench.running import Peer, find


def plan(folder: Path, **changes: object) -> Plan:
    servers = tuple(f"127.0.0.{number}:9000" for number in range(1, 4))
    settings = {"listen": ("127.0.9.1:80", "127.0.9.2:80"), "servers": servers, "maxconn": 500, "workers": 2}
    return Plan(folder=folder, **{**settings, **changes})  # type: ignore[arg-type]


COMMANDS: dict[str, Callable[[Plan], Command]] = {
    "scaleup": lambda plan: peers.scaleup(plan, "python"),
    "haproxy": lambda plan: peers.haproxy(plan, "haproxy"),
    "nginx": lambda plan: peers.nginx_stream(plan, "nginx", "", as_root=False),
    "streams": lambda plan: peers.streams(plan, "python"),
}


@pytest.mark.parametrize("name", peers.NAMES)
def test_everybody_has_all_addresses_and_all_servers(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name](plan(tmp_path))
    told = " ".join([*command.argv, *command.files.values()])
    for address in (*plan(tmp_path).listen, *plan(tmp_path).servers):
        assert told.count(address) == 1


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("scaleup", "--workers 2"),
        ("scaleup", "--maxconn 500"),
        ("haproxy", "nbthread 2"),
        ("haproxy", "maxconn 500"),
        ("haproxy", "option splice-auto"),
        ("nginx", "worker_processes 2;"),
        ("streams", "--workers 2"),
    ],
)
def test_everybody_has_as_many_workers_and_its_best(name: str, setting: str, tmp_path: Path) -> None:
    command = COMMANDS[name](plan(tmp_path))
    assert setting in " ".join([*command.argv, *command.files.values()])


def test_haproxy_logs_only_when_that_is_measured(tmp_path: Path) -> None:
    without = peers.haproxy(plan(tmp_path), "haproxy").files["haproxy.cfg"]
    logging = peers.haproxy(plan(tmp_path, log=True), "haproxy").files["haproxy.cfg"]
    assert "log" not in without
    assert "option tcplog" in logging


@pytest.mark.parametrize("name", peers.WEB_NAMES)
def test_a_web_server_serves_files_or_forwards_everything(name: str, tmp_path: Path) -> None:
    def told(plan: Plan) -> str:
        command = peers.scaleup_web(plan, "python") if name == OURS else peers.nginx_web(plan, "nginx", False)
        return " ".join([*command.argv, *command.files.values()])

    static, forward = told(plan(tmp_path, root=Path("/files"))), told(plan(tmp_path))
    assert ("/files" in static, "/files" in forward) == (True, False)
    for server in plan(tmp_path).servers:
        assert (static.count(server), forward.count(server)) == (0, 1)


@pytest.mark.parametrize("descriptors", [4096, 20_000, 1_048_576])
def test_the_descriptors_of_a_process_are_enough_for_everybody(descriptors: int) -> None:
    """HAProxy with splicing wants 2.5 for a connection, and one for each server's check."""
    maxconn = peers.maxconn(descriptors)
    assert maxconn > 1000
    assert 2.5 * maxconn + peers.SERVERS + 15 < descriptors


@pytest.mark.parametrize(
    ("said", "module"),
    [
        ("configure arguments: --with-stream --with-debug", ""),
        ("configure arguments: --modules-path=/m --with-stream=dynamic", "/m/ngx_stream_module.so"),
        ("configure arguments: --with-stream=dynamic", None),
        ("configure arguments: --with-stream_ssl_module", None),
    ],
)
def test_where_the_stream_module_of_nginx_is(said: str, module: str | None) -> None:
    assert peers.nginx_module(said) == module


def test_who_is_not_installed_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.running.SEARCH_PATH", "/nonexistent")
    assert find("haproxy") == "haproxy is not installed (Debian: apt-get install haproxy)"


def test_the_control_is_ours() -> None:
    ours, again = find("scaleup"), find("scaleup again")
    assert isinstance(ours, Peer)
    assert isinstance(again, Peer)
    assert again.version == ours.version


@requires("haproxy")
@pytest.mark.parametrize("log", [False, True])
def test_haproxy_takes_its_configuration_without_a_warning(tmp_path: Path, log: bool) -> None:
    program = shutil.which("haproxy", path=SEARCH_PATH)
    assert program
    command = peers.haproxy(plan(tmp_path, log=log), program)
    (tmp_path / "haproxy.cfg").write_text(command.files["haproxy.cfg"])
    checked = subprocess.run(
        [program, "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


@requires("nginx")
@pytest.mark.parametrize("root", [None, Path("/")])
def test_nginx_takes_its_configuration_as_a_web_server(tmp_path: Path, root: Path | None) -> None:
    program = shutil.which("nginx", path=SEARCH_PATH)
    assert program
    command = peers.nginx_web(plan(tmp_path, root=root), program, os.geteuid() == 0)
    (tmp_path / "nginx.conf").write_text(command.files["nginx.conf"])
    checked = subprocess.run([*command.argv, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@requires("nginx")
def test_nginx_takes_the_configuration_of_the_server_behind(tmp_path: Path) -> None:
    program = shutil.which("nginx", path=SEARCH_PATH)
    assert program
    command = peers.nginx_http(("127.0.9.1:8000",), tmp_path, 500, program, os.geteuid() == 0)
    (tmp_path / "nginx.conf").write_text(command.files["nginx.conf"])
    checked = subprocess.run([*command.argv, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
