"""Golden transcripts: each story of `scaleup.sim.stories`, word by word, as transcripts/NAME.txt has it.

When a change of the code changes a story, read the difference, be able to explain it, and write them anew:

    SCALEUP_WRITE_TRANSCRIPTS=1 pytest tests/sim/test_sim_stories.py
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from scaleup.sim import STORIES, play

TRANSCRIPTS = Path(__file__).parent / "transcripts"
WRITE = bool(os.environ.get("SCALEUP_WRITE_TRANSCRIPTS"))


@pytest.mark.parametrize("name", STORIES)
def test_the_story_is_as_it_was(name: str) -> None:
    told = f"{STORIES[name]}\n\n{play(STORIES[name], Random(0)).log}\n"
    path = TRANSCRIPTS / f"{name}.txt"
    if WRITE:
        path.write_text(told, encoding="utf-8")
    assert told == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STORIES)
def test_nothing_in_it_is_left_to_chance(name: str) -> None:
    assert str(play(STORIES[name], Random(1)).log) == str(play(STORIES[name], Random(2)).log)


def test_every_transcript_belongs_to_a_story() -> None:
    assert {path.stem for path in TRANSCRIPTS.iterdir()} == set(STORIES)
