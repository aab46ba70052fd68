"""What every data set of sound is made of: recordings, their two splits, how they are cut."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import Samples, Split
from polymask_audio.datasets.cut import Cut
from polymask_audio.datasets.recordings import Portion, Skipped, Unreadable
from polymask_audio.features import Mel

BANDS = 64
"""Of the spectrograms drawn."""

PICTURE = (128, 320)
"""Height and width of a drawing."""

RANGE = 14.0
"""How far below the loudest a picture goes, in logarithms of energy; about 60 dB."""

HIDDEN = (0.16, 0.45, 0.60)
_IN_A_ROW = 100


class AudioDataset:
    """A data set of sound; subclasses are constructors that find the recordings.

    A sample is ``{"audio": float32 [T]}``, mono, in [-1, 1]; with ``speech`` it says too, as a bool, whether
    it is.

    Args:
        train: what to train on.
        test: what to hold out.
        cut: rate and length.
        classes: names of the classes, or None.
        skipped: what was left out when the recordings were found, with the reason.
        limit: at most so many recordings of each split.
        speech: classes that are speech; None for no word about it.
        noise: decibels by which white noise is weaker than the recordings of the test split that it is
            added to; None for none.
    """

    key = "audio"

    def __init__(
        self,
        train: Portion,
        test: Portion,
        cut: Cut,
        *,
        classes: Sequence[str] | None = None,
        skipped: Skipped | None = None,
        limit: int | None = None,
        speech: Sequence[str] | None = None,
        noise: float | None = None,
    ) -> None:
        self._skipped = list(skipped or [])
        whole: dict[Split, Portion] = {"train": train, "test": test}
        self.portions: dict[Split, Portion] = {
            name: self._long_enough(part, cut).take(limit) for name, part in whole.items()
        }
        self.cut, self.classes, self.noise = cut, classes, noise
        self.speech = None if speech is None else _among(speech, classes)
        if not any(len(portion) for portion in self.portions.values()):
            raise UserError(
                f"no recording is {cut.min_seconds} s long or longer: choose a smaller min_seconds"
            )
        lengths = {n for name in self.portions for n in self.lengths(name).tolist()}
        self.provides: dict[str, Any] = {
            "rate": cut.rate,
            "samples": len(self.portions["train"]),
            "seconds": cut.seconds if lengths == {cut.most} else None,
        }

    def split(self, name: Split, *, augment: bool = False) -> Samples:
        """Samples of a split; ``augment`` cuts long recordings anywhere, not in their middle.

        Raises:
            UserError: it is empty.
        """
        portion = self.portions[name]
        if not len(portion):
            raise UserError(
                f"there are no {name} recordings: give more of them, or another share to hold out"
            )
        noise = self.noise if name == "test" else None
        return Cuts(portion, self.cut, augment, self.speech, noise)

    def labels(self, name: Split) -> Tensor | None:
        return self.portions[name].labels

    def lengths(self, name: Split) -> Tensor:
        """int64 ``[n]``, samples of each recording, by the headers of the files."""
        source, index = self.portions[name].source, self.portions[name].index
        return self.cut.lengths(source.frames[index], source.rates[index])

    def picture(self, x: Tensor) -> Tensor:
        """The log-mel spectrogram of sound ``[T]``, or one that is given as ``[frames, mels]``.

        Returns:
            ``[mels, frames]`` in [0, 1], high frequencies on top.
        """
        if x.dim() == 1:
            mel: Tensor = _mel(self.cut.rate)({self.key: x[None].cpu()})[0][0][0]
            return ((mel - mel.max()) / RANGE + 1).clamp(0, 1).T.flip(0)
        low, high = x.min(), x.max()
        return ((x - low) / (high - low).clamp(min=1e-12)).float().T.flip(0)

    def draw(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """A spectrogram ``[3, H, W]``, hidden tokens in colour; their first axis is time, to the right."""
        picture = self.picture(sample[self.key])
        image = F.interpolate(picture[None, None], PICTURE, mode="nearest")[0].expand(3, -1, -1)
        if tokens is None or hidden is None:
            return image.clone()
        place = tokens.position[0].round().long()
        place = place if place.shape[1] > 1 else F.pad(place, (0, 1))
        time, band = place[:, 0], place[:, 1]
        cells = hidden.new_zeros(int(band.max()) + 1, int(time.max()) + 1, dtype=torch.float32)
        cells[band, time] = hidden.float()
        amount = F.interpolate(cells.flip(0)[None, None], PICTURE, mode="nearest")[0]
        return torch.lerp(image, torch.tensor(HIDDEN)[:, None, None].expand_as(image), 0.72 * amount)

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean and standard deviation over time of each band of the log-mel spectrum, ``[B, 2 * bands]``."""
        (mel,), counts = _mel(self.cut.rate).to(batch[self.key].device)(batch)
        frames = torch.arange(mel.shape[1], device=mel.device)
        whole = torch.full((len(mel), 1), mel.shape[1], device=mel.device)
        counts = whole if counts is None else counts[:, None]
        weight = ((frames < counts) / counts)[..., None]
        mean = (weight * mel).sum(1)
        return torch.cat([mean, (weight * (mel - mean[:, None]).square()).sum(1).sqrt()], dim=1)

    @property
    def skipped(self) -> Skipped:
        """Files left out, ``(name, reason)``; grows when reading finds more that are broken."""
        found = [
            (portion.source.name(index), _why(portion, index))
            for portion in self.portions.values()
            for index in portion.index[portion.unreadable].tolist()
        ]
        return self._skipped + found

    def _long_enough(self, portion: Portion, cut: Cut) -> Portion:
        source, index = portion.source, portion.index
        seconds = source.frames[index] / source.rates[index]
        short = seconds < cut.min_seconds
        for place in torch.nonzero(short)[:, 0].tolist():
            why = f"{float(seconds[place]):.3g} s long, shorter than min_seconds={cut.min_seconds}"
            self._skipped.append((source.name(int(index[place])), why))
        labels = None if portion.labels is None else portion.labels[~short]
        return Portion(source, index[~short], labels)


class Cuts:
    """Samples read and cut one by one.

    A recording that cannot be read after all is replaced by the next one of its class, always the same,
    with a warning the first time.

    Args:
        portion: which recordings.
        cut: rate and length.
        augment: cut long ones anywhere.
        speech: bool ``[classes]``, which are speech, or None.
        noise: decibels by which noise is weaker, or None.
    """

    def __init__(
        self,
        portion: Portion,
        cut: Cut,
        augment: bool,
        speech: Tensor | None = None,
        noise: float | None = None,
    ) -> None:
        self.portion, self.cut, self.speech, self.noise = portion, cut, speech, noise
        self.random = augment and cut.seconds is not None

    def __len__(self) -> int:
        return len(self.portion)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source, failed, last = self.portion.source, -1, None
        for place in self._candidates(index % len(self)):
            number = int(self.portion.index[place])
            rate = int(source.rates[number])
            try:
                window = self.cut.window(int(source.frames[number]), rate, self.random)
                sound = source.read(number, *window)
            except Unreadable as error:
                failed, last = (place, error) if last is None else (failed, last)
                continue
            if last is not None and not self.portion.unreadable[failed]:
                self.portion.unreadable[failed] = True
                name = source.name(int(self.portion.index[failed]))
                warnings.warn(f"{name}: {last}; {source.name(number)} stands in for it", stacklevel=2)
            sample = {AudioDataset.key: self.cut(sound, rate)}
            if self.noise is not None:
                sample[AudioDataset.key] = _noisy(sample[AudioDataset.key], self.noise, source.name(number))
            if self.speech is not None and self.portion.labels is not None:
                sample["speech"] = self.speech[self.portion.labels[place]]
            return sample
        raise UserError(f"{_IN_A_ROW} recordings or more in a row cannot be read: {last}")

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        after = (index + torch.arange(1, len(self))) % len(self)
        if self.portion.labels is not None:
            same = self.portion.labels[after] == self.portion.labels[index]
            after = torch.cat([after[same], after[~same]])
        yield from after[:_IN_A_ROW].tolist()


def _among(some: Sequence[str], classes: Sequence[str] | None) -> Tensor:
    """Which classes are among some: bool ``[classes]``."""
    unknown = [name for name in some if name not in (classes or ())]
    if unknown:
        there = ", ".join(classes or ()) or "none"
        raise UserError(f"speech={list(some)}: no class is called {unknown[0]!r}; there are {there}")
    return torch.tensor([name in some for name in classes or ()])


def _noisy(sound: Tensor, decibels: float, name: str) -> Tensor:
    """Sound ``[T]`` with white noise, always the same for one name, kept within [-1, 1]."""
    seed = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=7).digest())
    noise = torch.randn(len(sound), generator=torch.Generator().manual_seed(seed))
    return (sound + noise * sound.square().mean().sqrt() * 10 ** (-decibels / 20)).clamp(-1, 1)


@functools.lru_cache(maxsize=4)
def _mel(rate: int) -> Mel:
    return Mel(rate, BANDS)


def _why(portion: Portion, index: int) -> str:
    try:
        portion.source.read(index, 0, int(portion.source.frames[index]))
    except Unreadable as error:
        return str(error)
    return "could not be read during training"
