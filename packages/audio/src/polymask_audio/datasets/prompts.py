"""Spoken prompts of telephone systems in five languages, and music on hold, from Debian's packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from polymask import UserError
from polymask.data import BadSample, Skipped, Splits
from polymask.data.cache import cache_folder
from polymask.data.debian import unpacked
from polymask.data.folders import look_at
from polymask.types import Positive, Share
from polymask_audio.datasets.recordings import Header, Recordings, look, write_tone
from polymask_audio.datasets.voices import GROUPS, MUSIC, SPEAKERS, Label, Spoken, by_label

PACKAGES = (*(f"asterisk-core-sounds-{voice}-wav" for voice in SPEAKERS), "asterisk-moh-opsound-wav")
_INSTALLED = "usr/share/asterisk"
_COUNTS = {"sounds": 2831, "moh": 5}


def prompts(
    *,
    source: str | None = None,
    label: Label = "language",
    groups: Sequence[str] = GROUPS,
    test_voice: str = "fr",
    test: Share = 0.2,
    clip: Positive = 5.0,
) -> Splits[Recordings]:
    """2,831 prompts in five languages by four speakers, 2.2 hours, and 18 minutes of music, at 8 kHz.

    Recordings of the Asterisk project by Allison Smith (English, Spanish), June Wallack (French), Carlo Flora
    (Italian) and Maxim Topal's Ivrvoice (Russian), and pieces by Paul Shuler, Manolo Camp and Reno Project;
    CC BY-SA 3.0, the Italian and Russian ones CC BY 3.0. English and Spanish are one speaker, so a language
    is a speaker only in part, and the words of three folders are not all alike across languages
    (``polymask_audio.datasets.voices``).

    They are those of Debian's packages, installed, or fetched into the cache with ``apt-get download``
    (112 MB, no root needed).

    Args:
        source: folder that holds the packages' ``sounds`` and ``moh`` (``prompts:FOLDER``).
        label: what the classes are: ``word``, ``language``, ``speaker`` or ``kind`` (speech or music). Music
            is part of the data for ``kind`` only, and samples then say whether they are speech.
        groups: folders of the words: ``digits``, ``letters``, ``phonetic``.
        test_voice: language held out of ``word``, and with it other languages of the same speaker.
        test: share of the prompts, and of the pieces of music, held out otherwise.
        clip: seconds of the clips that music is cut into.
    """
    if clip <= 0:
        raise UserError(f"clips of music take a length in seconds, got clip={clip}")
    if source is not None:
        root = Path(source).expanduser()
        if not _count(root / "sounds"):
            raise UserError(f"{root / 'sounds'} holds no recordings (.wav)")
    else:
        root = unpacked(
            _INSTALLED,
            *PACKAGES,
            cache=cache_folder("prompts"),
            complete=lambda folder: all(_count(folder / name) >= n for name, n in _COUNTS.items()),
            advice="Or give the folder that holds their 'sounds' and 'moh': prompts:FOLDER. The data set "
            "'words' is a built-in part of them.",
        )
    skipped: Skipped = []
    names = sorted(_files(root))
    headers: dict[str, Header] = {}
    for name, header in zip(names, look_at(root, names, look), strict=True):
        if isinstance(header, BadSample):
            skipped.append((name, str(header)))
        else:
            headers[name] = header
    rows = list(_rows(headers, clip))
    recordings = Recordings(
        root,
        [file for file, *_ in rows],
        frames=torch.tensor([length for *_, length in rows], dtype=torch.int64),
        rates=torch.tensor([headers[file].rate for file, *_ in rows], dtype=torch.int64),
        starts=torch.tensor([start for _, _, start, _ in rows], dtype=torch.int64),
    )
    spoken = [one for _, one, *_ in rows]
    return by_label(recordings, spoken, label, groups, test_voice, test, skipped)


def example_source(folder: Path) -> str:
    """Two words and a prompt in two voices, tones of several lengths."""
    for v, voice in enumerate(("en_US_f_Allison", "fr_CA_f_June")):
        for i, name in enumerate(("letters/a", "letters/b", "phonetic/a_p", "hello")):
            path = folder / "sounds" / voice / f"{name}.wav"
            write_tone(path, 200 + 90 * i + 40 * v, seconds=0.3 + 0.05 * i, rate=8000)
    return str(folder)


def _files(root: Path) -> Iterator[str]:
    for folder in _COUNTS:
        for path in (root / folder).rglob("*.wav"):
            yield path.relative_to(root).as_posix()


def _rows(headers: dict[str, Header], clip: float) -> Iterator[tuple[str, Spoken, int, int]]:
    """``(file, what it is, start, samples)``; music in clips, the rest that fills none left out."""
    for file, header in headers.items():
        folder, place, *rest = file.removesuffix(".wav").split("/")
        if folder == "sounds":
            if rest[0] == "silence":  # recordings of nothing, which are not quite silent
                continue
            yield file, Spoken(place.partition("_")[0], "/".join(rest)), 0, header.frames
            continue
        length = round(clip * header.rate)
        for start in range(0, header.frames - length + 1, length):
            yield file, Spoken(MUSIC, place), start, length


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.wav"))
