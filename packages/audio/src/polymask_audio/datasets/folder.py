"""A folder of audio files."""

from __future__ import annotations

from pathlib import Path

import torch

from polymask.data import Splits
from polymask.data.folders import read_folder
from polymask.types import Share
from polymask_audio.datasets.recordings import ENDINGS, Header, Recordings, look, write_tone


def folder(*, source: str, test: Share = 0.1) -> Splits[Recordings]:
    """Audio files at any depth of a folder: wav, flac, ogg, opus, mp3; any rate, mono or more channels.

    Where every file lies in a subfolder, the subfolders right below the folder are the classes; where one
    lies in the folder itself, there are no labels. A subfolder ``train`` holds the training recordings,
    beside it ``test``, ``val``, ``valid`` or ``validation`` those to test on; without, a fixed share of each
    class is held out. Links are followed, hidden files and folders ignored.

    Files that are empty, silent, broken or no audio are skipped and listed in ``skipped``. Damage further
    on in a file does not stop training: another recording of the class stands in.

    Args:
        source: the folder (``folder:PATH``).
        test: share of each class to hold out where there is no folder for it.
    """
    found = read_folder(source, ENDINGS, "audio files", look, again=lambda known: Header(**known))
    frames = torch.tensor([header.frames for header in found.looks], dtype=torch.int64)
    rates = torch.tensor([header.rate for header in found.looks], dtype=torch.int64)
    return found.splits(Recordings(found.root, found.names, frames, rates), test)


def example_source(folder: Path) -> str:
    """Two classes of tones of several lengths and rates."""
    for i in range(12):
        path = folder / ("low", "high")[i % 2] / f"{i}.wav"
        write_tone(path, 200 + 300 * (i % 2), seconds=0.3 + 0.02 * i, rate=(8000, 22050)[i % 3 > 0])
    return str(folder)
