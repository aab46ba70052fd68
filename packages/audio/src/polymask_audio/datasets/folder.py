"""A folder of sound files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from polymask import UserError
from polymask.data import Split, Skipped, class_numbers
from polymask_audio.datasets.base import AudioDataset
from polymask_audio.datasets.cut import Cut
from polymask_audio.datasets.recordings import ENDINGS, Recordings, divide, held_out, look_at, write_tone

_TEST = ("test", "val", "valid", "validation")


class Folder(AudioDataset):
    """Sound files at any depth of a folder: wav, flac, ogg, opus, mp3; any rate, mono or more channels.

    Where every file lies in a subfolder, the subfolders right below the folder are the classes; where one
    lies in the folder itself, there are no labels. A subfolder ``train`` holds the training recordings,
    beside it ``test``, ``val``, ``valid`` or ``validation`` those to test on; without, a fixed share of each
    class is held out. Links are followed, hidden files and folders ignored.

    Files that are empty, silent, broken or no sound are skipped and listed in ``skipped``. Damage further
    on in a file does not stop training: another recording of the class stands in.

    Args:
        source: the folder (``folder:PATH``).
        rate: samples per second to resample to.
        seconds: cut longer recordings to so many, anywhere in training and in the middle otherwise; by
            default they are kept whole.
        min_seconds: skip shorter recordings.
        pad: add silence after shorter recordings than ``seconds``, so that all are equally long.
        test: share of each class to hold out where there is no folder for it.
        limit: at most so many recordings of each split.
        speech: classes that are speech, for systems that treat it apart (``audio/spear``).
        noise: decibels by which white noise is weaker than the recordings to test on, which it is added to.
    """

    def __init__(
        self,
        *,
        source: str,
        rate: int = 16000,
        seconds: float | None = None,
        min_seconds: float = 0.0,
        pad: bool = False,
        test: float = 0.1,
        limit: int | None = None,
        speech: tuple[str, ...] | None = None,
        noise: float | None = None,
    ) -> None:
        root = Path(source).expanduser()
        if not root.is_dir():
            raise UserError(f"folder:{source}: there is no folder {root.absolute()}")
        skipped: Skipped = []
        cut = Cut(rate=rate, seconds=seconds, min_seconds=min_seconds, pad=pad)
        parts = [_find(root, under, skipped) for under in _splits(root)]
        if not len(parts[0][0]):
            raise UserError(_nothing(root, skipped))
        found = [names for _, names in parts]
        classes = None if None in found else sorted({name for names in found for name in names or ()})
        labels = [None if classes is None else class_numbers(names or (), classes) for names in found]
        if len(parts) == 1:
            recordings = parts[0][0]
            names = [recordings.name(i) for i in range(len(recordings))]
            train, held = divide(recordings, labels[0], held_out(names, labels[0], test))
        else:
            train, held = (
                Split(recordings, torch.arange(len(recordings)), label)
                for (recordings, _), label in zip(parts, labels, strict=True)
            )
        super().__init__(
            train, held, cut, classes=classes, skipped=skipped, limit=limit, speech=speech, noise=noise
        )

    @staticmethod
    def example_source(folder: Path) -> str:
        """A stand-in: two classes of tones of several lengths and rates."""
        for i in range(12):
            path = folder / ("low", "high")[i % 2] / f"{i}.wav"
            write_tone(path, 200 + 300 * (i % 2), seconds=0.3 + 0.02 * i, rate=(8000, 22050)[i % 3 > 0])
        return str(folder)


def _find(root: Path, under: str, skipped: Skipped) -> tuple[Recordings, list[str] | None]:
    """The sound files under a folder, and the class of each; None where one lies in no class folder."""
    candidates = []
    for name in sorted(_walk(root, under, skipped)):
        if name.lower().endswith(ENDINGS):
            candidates.append(name)
        else:
            skipped.append((name, "not a sound by its ending"))
    headers = look_at(root, candidates, skipped)
    frames = torch.tensor([header.frames for header in headers.values()], dtype=torch.int64)
    rates = torch.tensor([header.rate for header in headers.values()], dtype=torch.int64)
    depth = len(Path(under).parts)
    parts = [name.split("/") for name in headers]
    classes = None if any(len(p) < depth + 2 for p in parts) else [p[depth] for p in parts]
    return Recordings(root, list(headers), frames, rates), classes


def _splits(root: Path) -> list[str]:
    """Where to look for training recordings and, if that is another place, for those to test on."""
    folders = {p.name.lower(): p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if "train" not in folders:
        return [""]
    return [folders["train"], *[folders[name] for name in _TEST if name in folders][:1]]


def _walk(root: Path, under: str, skipped: Skipped) -> Iterator[str]:
    """Files under a folder, relative to ``root`` with slashes; hidden ones and endless links left out."""

    def failed(error: OSError) -> None:
        skipped.append((os.path.relpath(error.filename, root), error.strerror or str(error)))

    for folder, subfolders, files in os.walk(root / under, followlinks=True, onerror=failed):
        subfolders[:] = [s for s in subfolders if not (s.startswith(".") or _loops(folder, s))]
        place = Path(folder).relative_to(root)
        yield from ((place / name).as_posix() for name in files if not name.startswith("."))


def _loops(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))


def _nothing(root: Path, skipped: Skipped) -> str:
    message = f"no sound files ({', '.join(ENDINGS)}) in {root.absolute()}"
    if skipped:
        message += f"; skipped {len(skipped)} files, first {skipped[0][0]}: {skipped[0][1]}"
    return message
