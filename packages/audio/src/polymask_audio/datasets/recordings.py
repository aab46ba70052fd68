"""Recordings by number, and how one is read."""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from polymask.data import BadSample

ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""Files taken for audio."""

SILENCE = 2.0**-15
"""Nothing louder than the last bit of 16 is silence."""

FASTEST = 768_000
"""Samples per second that no recording exceeds; a damaged header does, and is no rate to resample from."""

LOUDEST = 4.0
"""Full scale is 1; peaks of lossy coding exceed it, integers stored as floats by far."""

_CUT = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""What libsndfile logs of WAV, AIFF, AU, W64 and RF64 that claim more bytes than they hold."""

_STREAM = 0x7FFF0000
"""Sizes from here on are what is written to a pipe, where the length is not known yet."""


_PAGE = 65_307
"""Bytes of a page of Ogg, at most."""


@dataclass(frozen=True)
class Header:
    """Length in samples, and samples per second."""

    frames: int
    rate: int


class Recordings:
    """Stretches of audio files, each read when it is asked for.

    Args:
        root: the folder that ``files`` are relative to.
        files: which file each lies in.
        frames: int64 ``[n]``, how many samples it has at its own rate.
        rates: int64 ``[n]``, samples per second.
        starts: int64 ``[n]``, where in its file it begins; 0 by default.
        names: what to call each; the files by default.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str] | npt.NDArray[np.str_],
        frames: Tensor,
        rates: Tensor,
        starts: Tensor | None = None,
        names: Sequence[str] | npt.NDArray[np.str_] | None = None,
    ) -> None:
        self.root, self.frames, self.rates = root, frames, rates
        self.starts = torch.zeros_like(frames) if starts is None else starts
        # arrays, since worker processes would copy every page of a long list by counting its references
        self._files = np.array(files, dtype=str)
        self._names = self._files if names is None else np.array(names, dtype=str)

    def __len__(self) -> int:
        return len(self._files)

    def take(self, index: Sequence[int]) -> Recordings:
        """Some of them."""
        at = torch.tensor(index, dtype=torch.int64)
        files, names = self._files[at.numpy()], self._names[at.numpy()]
        return Recordings(self.root, files, self.frames[at], self.rates[at], self.starts[at], names)

    def name(self, index: int) -> str:
        """What to call it in messages, and in the rule that splits train from test."""
        return str(self._names[index])

    def read(self, index: int, start: int, count: int) -> Tensor:
        """``count`` samples from ``start`` on, mono, float32 ``[T]``; fewer where the file ends.

        Raises:
            BadSample: the file is gone, broken or empty there.
        """
        return read(self.root / str(self._files[index]), int(self.starts[index]) + start, count)


def look(path: str | Path | io.BytesIO) -> Header:
    """What a file holds, from its header and its beginning, up to the first sound in it.

    Raises:
        BadSample: it is empty, silent from end to end, broken, truncated, of an absurd rate, no audio, or
            what :func:`mono` refuses.
    """
    try:
        if not (len(path.getbuffer()) if isinstance(path, io.BytesIO) else os.path.getsize(path)):
            raise BadSample("empty file")
        with soundfile.SoundFile(path) as file:
            if not 1 <= file.samplerate <= FASTEST:
                raise BadSample(f"says {file.samplerate:,} Hz, and no recording is above {FASTEST:,} Hz")
            if not file.frames:
                raise BadSample("no samples in it")
            for claimed, there in _CUT.findall(file.extra_info):
                if int(there) < int(claimed) < _STREAM:
                    raise BadSample(f"truncated: says {int(claimed):,} bytes, and holds {int(there):,}")
            if not _pages_are_whole(path):
                raise BadSample("truncated: ends within a page of Ogg")
            if not _has_its_end(file):
                raise BadSample(f"truncated: says {file.frames:,} samples, and ends before the last")
            cancels = False
            for block in file.blocks(file.samplerate, dtype="float32", always_2d=True):
                if np.abs(mono(block)).max(initial=0) > SILENCE:
                    return Header(file.frames, file.samplerate)
                cancels = cancels or np.abs(block).max(initial=0) > SILENCE
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise BadSample(reason(error)) from error
    raise BadSample("its channels cancel each other" if cancels else "silent from end to end")


def _has_its_end(file: soundfile.SoundFile) -> bool:
    """Whether a file holds its last sample, and not in its header alone, as cut FLAC and MP3 do."""
    try:
        file.seek(file.frames - 1)
        there = len(file.read(1)) == 1
        file.seek(0)
    except soundfile.LibsndfileError:
        return False
    return there


def _pages_are_whole(path: str | Path | io.BytesIO) -> bool:
    """Whether a file in Ogg, which says nowhere how long it is, ends where its last page does."""
    with io.BytesIO(path.getvalue()) if isinstance(path, io.BytesIO) else Path(path).open("rb") as file:
        if file.read(4) != b"OggS":
            return True
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * _PAGE))
        end = file.read()
    page = end[end.rfind(b"OggS\0") :]
    return len(page) > 26 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def read(path: Path | io.BytesIO, start: int, count: int) -> Tensor:
    """A stretch of a file, its channels averaged, float32 ``[T]``.

    Raises:
        BadSample: the file is gone, broken or empty there, or what :func:`mono` refuses.
    """
    try:
        values, _ = soundfile.read(path, count, start, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise BadSample(reason(error)) from error
    if not len(values):
        raise BadSample(f"ends before sample {start}")
    return torch.from_numpy(mono(values))


def mono(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean of the channels ``[T, C]``, ``[T]``.

    Raises:
        BadSample: NaN or infinity, or numbers far beyond full scale, which clipping would leave as noise.
    """
    peak = np.abs(values).max(initial=0)
    if not np.isfinite(peak):
        raise BadSample("holds numbers that are not finite")
    if peak > LOUDEST:
        raise BadSample(f"reaches {peak:.4g}, and full scale is 1: divide it by what full scale is in it")
    # many times faster than a mean over the few numbers of each row
    total: npt.NDArray[np.float32] = functools.reduce(np.add, values.T)
    return total / np.float32(values.shape[1])


def reason(error: Exception) -> str:
    """An error in few words, without the path that libsndfile puts in front."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, soundfile.LibsndfileError):
        return str(error.error_string).rstrip(".")
    return str(error) or type(error).__name__


def write_tone(path: Path, pitch: float, *, seconds: float, rate: int) -> None:
    """A file of a tone, with its folders; for examples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * time), rate)
