"""Programs of others as the test's children."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from needs import SEARCH_PATH

PATIENCE_SECONDS = 20.0


@contextlib.contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """Until the block ends."""
    process = subprocess.Popen(argv, env={**os.environ, "PATH": SEARCH_PATH}, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()
