"""Secrets in files: a password is the first line of one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


@cache  # once for a process: a pipe, as of `--password-file <(pass show db)`, can be read only once
def read_secret(path: Path) -> str:
    """The first line of the file. Raises OSError, UnicodeDecodeError."""
    return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")


def _readable(path: Path | None) -> Path | None:
    if path is not None:
        try:
            read_secret(path)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("is not UTF-8") from None
    return path


SecretFile = Annotated[Path | None, AfterValidator(_readable)]
"""A file that `read_secret` can read, or None."""
