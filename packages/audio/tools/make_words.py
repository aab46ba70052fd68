"""Makes the words that come with the package, out of all prompts.

    python packages/audio/tools/make_words.py [FOLDER]

The recordings in ``digits``, ``letters`` and ``phonetic`` whose names all five voices have, one after the
other in one file of Ogg Vorbis at 8 kHz, and where each lies in it: what ``polymask_audio.datasets.words``
reads. FOLDER holds the packages' ``sounds`` and ``moh``; by default they are fetched.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import soundfile

from polymask_audio.datasets.prompts import prompts
from polymask_audio.datasets.voices import SPEAKERS
from polymask_audio.datasets.words import FILE, INDEX

OUT = Path(__file__).parents[1] / "src/polymask_audio/samples/words"
GROUPS = ("digits", "letters", "phonetic")
RATE = 8000
COMPRESSION = 0.55
"""From 0, best, to 1, smallest; this one has about 24 dB of signal to error."""


def main() -> None:
    """Write the sound and its index."""
    source = prompts(source=sys.argv[1] if len(sys.argv) > 1 else None).train.source
    places = [source.name(i) for i in range(len(source))]
    spoken: dict[str, dict[str, int]] = {voice: {} for voice in SPEAKERS}
    for i, place in enumerate(places):
        _, voice, name = place.removesuffix(".wav").split("/", 2)
        spoken[voice.partition("_")[0]][name] = i
    common = set.intersection(*(set(names) for names in spoken.values()))
    words = sorted(name for name in common if name.startswith(tuple(f"{g}/" for g in GROUPS)))
    with (
        soundfile.SoundFile(
            OUT / FILE, "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=COMPRESSION
        ) as sound,
        (OUT / INDEX).open("w", encoding="utf-8", newline="") as index,
    ):
        table = csv.writer(index, lineterminator="\n")
        table.writerow(["voice", "name", "start", "samples"])
        start = 0
        for voice, names in spoken.items():
            for word in words:
                values = source.read(names[word], 0, int(source.frames[names[word]])).numpy()
                sound.write(values.astype(np.float32))
                table.writerow([voice, word, start, len(values)])
                start += len(values)
    print(f"{len(words)} words, {start / RATE / 60:.1f} minutes, {(OUT / FILE).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
