"""The tether: a foreign program that dies with its parent."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator

import pytest
from processes_harness import Program, Watched, program, watched

from scaleup.processes import tether

PARENT = """if True:
    import subprocess, sys
    from scaleup.processes import tether

    user = sys.argv[1] or None
    child = subprocess.Popen(tether.command(["sh", "-c", "echo $$ $(id -un); exec sleep 60"], user=user))
    child.wait()
    print("ended", child.returncode, flush=True)
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture(params=["", pytest.param("nobody", marks=as_root)], ids=["as we are", "as nobody"])
def family(request: pytest.FixtureRequest) -> Iterator[tuple[Program, Watched, str]]:
    """A parent, its tethered child, and the user that this is."""
    with program("-c", PARENT, request.param) as parent:
        pid, user = parent.line().split()
        with watched(int(pid)) as child:
            assert child.lives()
            assert user == (request.param or pwd.getpwuid(os.geteuid()).pw_name)
            yield parent, child, user


def test_it_dies_when_its_parent_is_killed(family: tuple[Program, Watched, str]) -> None:
    """Also as another user: a change of credentials clears what asks for the signal, if that came first."""
    parent, child, _ = family
    parent.process.kill()
    child.ends()


def test_it_dies_when_its_parent_ends(family: tuple[Program, Watched, str]) -> None:
    parent, child, _ = family
    parent.process.terminate()
    child.ends()


def run(
    *arguments: str,
    parent: int | None = None,
    user: str | None = None,
    groups: list[int] | None = None,
) -> tuple[int, str, str]:
    command = tether.command(arguments, user=user)
    if parent is not None:
        command[3] = str(parent)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=False, extra_groups=groups
    )
    return done.returncode, done.stdout, done.stderr


def test_it_becomes_the_program() -> None:
    code, out, err = run("sh", "-c", 'echo "$0" "$@" $PPID >&2; exit 3', "a b", "c")
    assert (code, out, err) == (3, "", f"a b c {os.getpid()}\n")


def test_it_does_not_start_when_its_parent_has_died_already() -> None:
    """Between the parent's fork and the request for the signal, which then would never come."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        dead.wait()
        assert run("echo", "started", parent=dead.pid) == (1, "", "")


def test_a_program_that_is_not_there() -> None:
    assert run("/no/such/program") == (1, "", "/no/such/program: No such file or directory\n")


def test_a_user_who_is_not_there() -> None:
    assert run("echo", user="no-such-user") == (1, "", "there is no user no-such-user\n")


@as_root
def test_the_user_has_no_more_than_is_its_own() -> None:
    entry = pwd.getpwnam("nobody")
    code, out, _ = run("sh", "-c", "id -u; id -g; id -G; echo $HOME", user="nobody", groups=[0, 4])
    assert code == 0
    assert out.splitlines() == [
        str(entry.pw_uid),
        str(entry.pw_gid),
        " ".join(map(str, os.getgrouplist("nobody", entry.pw_gid))),
        entry.pw_dir,
    ]


def test_only_root_becomes_somebody_else() -> None:
    program = """if True:
        import os
        from scaleup.processes import tether

        if os.geteuid() == 0:
            os.setuid(65534)
        tether._become("root")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (1, b"cannot become the user root: Operation not permitted\n")
