"""Programs that a test needs: `@requires("mariadbd")`."""

from __future__ import annotations

import os
import shutil

import pytest

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def requires(*programs: str) -> pytest.MarkDecorator:
    """Such a test is slow. Without the programs it is skipped, saying which; under CI it runs, and fails."""
    return pytest.mark.needs(*programs)


def missing(item: pytest.Item) -> list[str]:
    """The programs that a test needs and this machine has not."""
    programs = {program for mark in item.iter_markers("needs") for program in mark.args}
    return sorted(program for program in programs if not _is_there(program))


def _is_there(program: str) -> bool:
    """A program, or with a slash a file: a module of one."""
    return os.path.exists(program) if "/" in program else bool(shutil.which(program, path=SEARCH_PATH))
