"""885 spoken words that come with this package."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from polymask_audio.datasets.cut import Cut
from polymask_audio.datasets.recordings import Recordings
from polymask_audio.datasets.voices import GROUPS, Label, Spoken, Voices

FILE, INDEX = "words.ogg", "words.csv"


class Words(Voices):
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
        rate: samples per second to resample to.
        seconds: cut longer recordings to so many; by default they are kept whole.
        min_seconds: skip shorter recordings.
        pad: add silence after shorter recordings than ``seconds``.
        limit: at most so many recordings of each split.
        noise: decibels by which white noise is weaker than the recordings to test on, which it is added to;
            by default there is none.
    """

    def __init__(
        self,
        *,
        label: Label = "speaker",
        groups: Sequence[str] = GROUPS,
        test_voice: str = "fr",
        test: float = 0.2,
        rate: int = 16000,
        seconds: float | None = None,
        min_seconds: float = 0.0,
        pad: bool = False,
        limit: int | None = None,
        noise: float | None = None,
    ) -> None:
        folder = files("polymask_audio").joinpath("samples/words")
        with folder.joinpath(INDEX).open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        starts, frames = (torch.tensor([int(row[key]) for row in rows]) for key in ("start", "samples"))
        super().__init__(
            Recordings(
                Path(str(folder)),
                [FILE] * len(rows),
                frames,
                rates=torch.full_like(frames, 8000),
                starts=starts,
                names=[f"{row['voice']}/{row['name']}" for row in rows],
            ),
            [Spoken(row["voice"], row["name"]) for row in rows],
            Cut(rate=rate, seconds=seconds, min_seconds=min_seconds, pad=pad),
            label=label,
            groups=groups,
            test_voice=test_voice,
            test=test,
            skipped=[],
            limit=limit,
            noise=noise,
        )
