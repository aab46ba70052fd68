"""Built-in data of polymask as files that every library reads, for ``race_references.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from references import LENGTH
from speech_references import RATE

from polymask.data import open_data


def write_text(path: Path) -> None:
    """Definitions of WordNet, one to a line."""
    from polymask_language.datasets.glosses import read_built_in

    texts = [gloss.text for gloss in read_built_in() if len(gloss.text) < LENGTH]
    path.write_text("\n".join(texts[::8]))


def write_pairs(path: Path) -> None:
    """Pairs of definitions, one preferred to the other."""
    from polymask_language.datasets.sentiment import sentiment

    found = sentiment()
    sides = zip(found.prompts, found.responses, found.rejected or (), strict=True)
    rows = (dict(zip(("prompt", "chosen", "rejected"), side, strict=True)) for side in sides)
    path.write_text("\n".join(map(json.dumps, rows)))


def write_sounds(folder: Path) -> None:
    """Spoken words at 16 kHz, each filled up to a second."""
    folder.mkdir()
    words = open_data("audio/words", rate=RATE, seconds=1.0, pad=True).split("train")
    for i in range(len(words)):
        soundfile.write(folder / f"{i:04}.wav", words[i]["audio"].numpy(), RATE)


def write_images(folder: Path) -> None:
    """Images of Fashion-MNIST as PNG."""
    folder.mkdir()
    images: Any = open_data("vision/fashion")
    for i, image in enumerate(images.splits["train"].source.images[:, 0].numpy()):
        Image.fromarray(image).save(folder / f"{i:05}.png")


def write_clouds(folder: Path) -> None:
    """Shapes of a thousand points, as arrays of numpy."""
    folder.mkdir()
    source: Any = open_data("pointcloud/shapes")
    shapes = source.splits["train"]
    for i in shapes.index.tolist():
        np.save(folder / f"{i:04}.npy", shapes.source.read(i).points.astype(np.float32))
