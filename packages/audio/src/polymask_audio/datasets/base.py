"""What every data set of sound is made of: recordings, their two splits, how they are cut."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import Samples, Split
from polymask.data import Split, FileDataset, LazySamples, Skipped
from polymask_audio.datasets.cut import Cut
from polymask_audio.datasets.recordings import Recordings
from polymask_audio.display import Sound
from polymask_audio.features import Mel

BANDS = 64
"""Of the spectrograms drawn."""

PICTURE = (128, 320)
"""Height and width of a drawing."""

RANGE = 14.0
"""How far below the loudest a picture goes, in logarithms of energy; about 60 dB."""

HIDDEN = (0.16, 0.45, 0.60)


class AudioDataset(FileDataset[Recordings]):
    """A data set of sound; subclasses are constructors that find the recordings.

    A sample is ``{"audio": float32 [T]}``, mono, in [-1, 1]; augmented, long recordings are cut anywhere, not
    in their middle. With ``speech`` it says too, as a bool, whether it is.

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

    key, what = "audio", "recordings"

    def __init__(
        self,
        train: Split[Recordings],
        test: Split[Recordings],
        cut: Cut,
        *,
        classes: Sequence[str] | None = None,
        skipped: Skipped | None = None,
        limit: int | None = None,
        speech: Sequence[str] | None = None,
        noise: float | None = None,
    ) -> None:
        skipped = list(skipped or [])
        train, test = (_long_enough(portion, cut.min_seconds, skipped) for portion in (train, test))
        super().__init__(train, test, classes=classes, skipped=skipped, limit=limit)
        self.cut = cut
        self.noise = noise
        self.speech = None if speech is None else _among(speech, classes)
        if not any(len(portion) for portion in self.splits.values()):
            raise UserError(
                f"no recording is {cut.min_seconds} s long or longer: choose a smaller min_seconds"
            )
        lengths = {n for name in self.splits for n in self.lengths(name).tolist()}
        self.provides: dict[str, Any] = {
            "rate": cut.rate,
            "samples": len(self.splits["train"]),
            "seconds": cut.seconds if lengths == {cut.most} else None,
        }

    def read(self, source: Recordings, number: int, augment: bool) -> dict[str, Tensor]:
        rate = int(source.rates[number])
        window = self.cut.window(int(source.frames[number]), rate, augment)
        return {self.key: self.cut(source.read(number, *window), rate)}

    def split(self, name: Split, *, augment: bool = False) -> Samples:
        readings = super().split(name, augment=augment)
        assert isinstance(readings, LazySamples)
        noise = self.noise if name == "test" else None
        tell = functools.partial(_told, readings.read, self._speech_of(name), noise)
        return LazySamples(readings.portion, tell, self.what, random=readings.random)

    def _speech_of(self, name: Split) -> Tensor | None:
        """Which recordings of a split are speech, bool by their number in the source; None for no word."""
        portion = self.splits[name]
        if self.speech is None or portion.labels is None:
            return None
        found = torch.zeros(len(portion.source), dtype=torch.bool)
        found[portion.index] = self.speech[portion.labels]
        return found

    def lengths(self, name: Split) -> Tensor:
        """int64 ``[n]``, samples of each recording, by the headers of the files."""
        source, index = self.splits[name].source, self.splits[name].index
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

    def present(self, sample: Mapping[str, Tensor]) -> dict[str, Sound]:
        """The sound, to play."""
        return {"sound": Sound(sample[self.key], self.cut.rate)}

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


def _long_enough(portion: Split[Recordings], least: float, skipped: Skipped) -> Split[Recordings]:
    source, index = portion.source, portion.index
    seconds = source.frames[index] / source.rates[index]
    short = seconds < least
    for place in torch.nonzero(short)[:, 0].tolist():
        why = f"{float(seconds[place]):.3g} s long, shorter than min_seconds={least}"
        skipped.append((source.name(int(index[place])), why))
    return portion.at(~short)


def _told(
    read: Callable[[Recordings, int], dict[str, Tensor]],
    speech: Tensor | None,
    noise: float | None,
    source: Recordings,
    number: int,
) -> dict[str, Tensor]:
    """A recording as it is read, with noise added, and with whether it is speech."""
    sample = read(source, number)
    key = AudioDataset.key
    if noise is not None:
        sample[key] = _noisy(sample[key], noise, source.name(number))
    return sample if speech is None else {**sample, "speech": speech[number]}


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
