"""What is wrong with the settings: every fault at once, each with its origin and, where we can, the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from scaleup.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Fault:
    """`origin`: `cluster.toml:12`, `--listen` or `SCALEUP_LB_LISTEN`. `message`: what is wrong with it."""

    origin: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}" if self.origin else self.message


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean "listen"?`, or nothing when no choice is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def configuration_error(faults: Iterable[Fault]) -> ConfigurationError:
    """One error with a line for each fault, without repetitions."""
    return ConfigurationError("\n".join(dict.fromkeys(map(str, faults))))
