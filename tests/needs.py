"""Programs that a test needs: `@requires("mariadbd")`."""

from __future__ import annotations

import os
import shutil

import pytest

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def requires(*programs: str) -> pytest.MarkDecorator:
    """Skip without these programs, saying which; under CI (where all are installed) fail instead."""
    missing = [program for program in programs if shutil.which(program, path=SEARCH_PATH) is None]
    skip = bool(missing) and "CI" not in os.environ
    return pytest.mark.skipif(skip, reason=f"needs {', '.join(missing)}; `make test` as root installs it")
