"""885 spoken words that come with this package."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from polymask.data import Splits
from polymask.types import Share
from polymask_audio.datasets.recordings import Recordings
from polymask_audio.datasets.voices import GROUPS, Label, Spoken, by_label

FILE, INDEX = "words.ogg", "words.csv"


def words(
    *,
    label: Label = "speaker",
    groups: Sequence[str] = GROUPS,
    test_voice: str = "fr",
    test: Share = 0.2,
) -> Splits[Recordings]:
    """Numbers, letters and the phonetic alphabet, each said by five voices: 12 minutes at 8 kHz, built in.

    A part of ``prompts``: 177 words in English, Spanish, French, Italian and Russian by four speakers,
    compressed. English and Spanish are one speaker.

    Args:
        label: what the classes are: ``word`` (tested on a voice that training lacks), ``language`` or
            ``speaker`` (tested on words that training lacks).
        groups: folders of the words of ``word``: ``letters`` and ``phonetic`` sound alike in most of the
            five languages, ``digits`` are translated.
        test_voice: language held out of ``word``, and with it other languages of the same speaker.
        test: share of the words held out otherwise.
    """
    folder = files("polymask_audio").joinpath("samples/words")
    with folder.joinpath(INDEX).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    starts, frames = (torch.tensor([int(row[key]) for row in rows]) for key in ("start", "samples"))
    recordings = Recordings(
        Path(str(folder)),
        [FILE] * len(rows),
        frames,
        rates=torch.full_like(frames, 8000),
        starts=starts,
        names=[f"{row['voice']}/{row['name']}" for row in rows],
    )
    spoken = [Spoken(row["voice"], row["name"]) for row in rows]
    return by_label(recordings, spoken, label, groups, test_voice, test, skipped=[])
