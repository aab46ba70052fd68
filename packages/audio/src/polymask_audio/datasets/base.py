"""The data set of audio: what a reader found, cut to one rate and length."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import (
    FileDataset,
    LazySamples,
    Samples,
    Skipped,
    Split,
    SplitName,
    Splits,
    read_some,
    span,
)
from polymask.types import Count, NotNegative, Positive
from polymask_audio.datasets.cut import Cut
from polymask_audio.datasets.recordings import SILENCE, Recordings
from polymask_audio.display import Sound
from polymask_audio.features import Mel

BANDS = 64
"""Of the spectrograms drawn."""

LONGEST = 30.0
"""Seconds that recordings are cut to where nothing is said."""

LOOK = 64
"""How many recordings are read to say what they are like."""

PICTURE = (128, 320)
"""Height and width of a drawing."""

RANGE = 14.0
"""How far below the loudest a picture goes, in logarithms of energy; about 60 dB."""

HIDDEN = (0.16, 0.45, 0.60)


class AudioDataset(FileDataset[Recordings]):
    """What a reader of audio found, as samples ``{"audio": float32 [T]}``, mono, in [-1, 1].

    Augmented, long recordings are cut anywhere, not in their middle. With ``speech``, a sample also has
    ``"speech"``, bool: whether its class is speech.

    Args:
        found: what the reader found.
        rate: samples per second to resample to.
        seconds: cut longer recordings to this length, anywhere in training and in the middle otherwise; by
            default to 30 s, which is said where it cuts any.
        min_seconds: skip shorter recordings.
        pad: add silence after recordings shorter than ``seconds``, so that all are equally long.
        speech: classes that are speech, for systems that treat it apart (``audio/spear``); by default those
            of the data set where known.
        noise: add white noise to test recordings, weaker than these by this many decibels.
        limit: maximum number of recordings per split.
    """

    key, what = "audio", "recordings"

    def __init__(
        self,
        found: Splits[Recordings],
        /,
        *,
        rate: Count = 16000,
        seconds: Positive | None = None,
        min_seconds: NotNegative = 0.0,
        pad: bool = False,
        speech: tuple[str, ...] | None = None,
        noise: float | None = None,
        limit: Count | None = None,
    ) -> None:
        cut = Cut(rate=rate, seconds=seconds, min_seconds=min_seconds, pad=pad)
        if seconds is None and (long := sum(_longer(split) for split in (found.train, found.test))):
            warnings.warn(
                f"{long} of {len(found.train) + len(found.test)} recordings are longer than {LONGEST:g} s "
                "and are cut to that, since attention grows with the square of the length: "
                "give --data.seconds for another length",
                stacklevel=2,
            )
            cut = Cut(rate=rate, seconds=max(LONGEST, min_seconds), min_seconds=min_seconds)
        skipped = list(found.skipped)
        train, test = (_long_enough(split, min_seconds, skipped) for split in (found.train, found.test))
        super().__init__(replace(found, train=train, test=test, skipped=skipped), limit=limit)
        self.cut = cut
        self.noise = noise
        speech = found.suggested.get("speech") if speech is None else speech
        self.speech = None if speech is None else _among(speech, found.classes)
        if not any(len(split) for split in self.splits.values()):
            raise UserError(f"no recording is {min_seconds} s long or longer: choose a smaller min_seconds")
        lengths = {n for name in self.splits for n in self.lengths(name).tolist()}
        self.provides: dict[str, Any] = {
            "rate": rate,
            "samples": len(self.splits["train"]),
            "seconds": cut.seconds if lengths == {cut.most} else None,
            "preparation": {"rate": rate, "seconds": cut.seconds, "pad": pad},
        }

    def read(self, source: Recordings, number: int, augment: bool) -> dict[str, Tensor]:
        rate = int(source.rates[number])
        window = self.cut.window(int(source.frames[number]), rate, augment)
        return {self.key: self.cut(source.read(number, *window), rate)}

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        samples = super().split(name, augment=augment)
        assert isinstance(samples, LazySamples)
        noise = self.noise if name == "test" else None
        tell = functools.partial(_read, samples.read, self._speech_of(name), noise)
        return LazySamples(samples.split, tell, self.what, random=samples.random)

    def _speech_of(self, name: SplitName) -> Tensor | None:
        """Which recordings of a split are speech, bool by their number in the source; None for no word."""
        split = self.splits[name]
        if self.speech is None or split.labels is None:
            return None
        found = torch.zeros(len(split.source), dtype=torch.bool)
        # a class that is not known is no speech
        found[split.index] = self.speech[split.labels] & (split.labels >= 0)
        return found

    def lengths(self, name: SplitName) -> Tensor:
        """int64 ``[n]``, samples of each recording, by the headers of the files."""
        source, index = self.splits[name].source, self.splits[name].index
        return self.cut.lengths(source.frames[index], source.rates[index])

    def describe(self) -> dict[str, str]:
        """Rate, length, level, and share clipped or silent, of what a system gets; reads a few recordings."""
        train, rate = self.splits["train"], self.cut.rate
        rates, seconds = train.source.rates[train.index], self.lengths("train") / rate
        if not len(train):
            return {"rate": f"{rate:,} Hz"}
        some, bad = read_some(train, LOOK, functools.partial(self.read, augment=False))
        sounds = [sample[self.key] for sample in some]
        files = "" if (rates == rate).all() else f", of files of {span(rates, 5)} Hz"
        lines = {
            "rate": f"{rate:,} Hz{files}",
            "length": f"{span(seconds, 5)} s, {seconds.sum() / 60:,.3g} min in all",
        }
        if sounds:
            level = 20 * torch.stack([x.square().mean().sqrt() for x in sounds]).clamp(min=SILENCE).log10()
            silent = sum(bool(x.abs().max() <= SILENCE) for x in sounds)
            x, sample = torch.cat(sounds).abs(), f"in a sample of {len(sounds)}"
            lines["level"] = f"{span(level.round(decimals=1), 5)} dB, full scale being 0, {sample}"
            lines["clipped"] = f"{(x >= 1 - SILENCE).float().mean():.1%} of the values, {sample}"
            lines["silent"] = f"{silent / len(sounds):.1%} of the recordings, {sample}"
        return lines | bad

    def to_image(self, x: Tensor) -> Tensor:
        """The log-mel spectrogram of audio ``[T]``, or one that is given as ``[frames, mels]``.

        Returns:
            ``[mels, frames]`` in [0, 1], high frequencies on top.
        """
        if x.dim() == 1:
            mel: Tensor = _mel(self.cut.rate)({self.key: x[None].cpu()})[0][0][0]
            return ((mel - mel.max()) / RANGE + 1).clamp(0, 1).T.flip(0)
        low, high = x.min(), x.max()
        return ((x - low) / (high - low).clamp(min=1e-12)).float().T.flip(0)

    def media(self, sample: Mapping[str, Tensor]) -> dict[str, Sound]:
        """The audio, to play."""
        return {"sound": Sound(sample[self.key], self.cut.rate)}

    def render(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """A spectrogram ``[3, H, W]``, hidden tokens in colour; their first axis is time, to the right."""
        picture = self.to_image(sample[self.key])
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


def _longer(split: Split[Recordings]) -> int:
    """How many recordings are longer than :data:`LONGEST`."""
    frames, rates = split.source.frames[split.index], split.source.rates[split.index]
    return int((frames > LONGEST * rates).sum())


def _long_enough(split: Split[Recordings], least: float, skipped: Skipped) -> Split[Recordings]:
    source, index = split.source, split.index
    seconds = source.frames[index] / source.rates[index]
    short = seconds < least
    for place in torch.nonzero(short)[:, 0].tolist():
        why = f"{float(seconds[place]):.3g} s long, shorter than min_seconds={least}"
        skipped.append((source.name(int(index[place])), why))
    return split.at(~short)


def _read(
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
    """Audio ``[T]`` with white noise, always the same for one name, kept within [-1, 1]."""
    seed = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=7).digest())
    noise = torch.randn(len(sound), generator=torch.Generator().manual_seed(seed))
    return (sound + noise * sound.square().mean().sqrt() * 10 ** (-decibels / 20)).clamp(-1, 1)


@functools.lru_cache(maxsize=4)
def _mel(rate: int) -> Mel:
    return Mel(rate, BANDS)
