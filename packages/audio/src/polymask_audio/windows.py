"""What tokenizers of sound share: windows of samples, and log-mel spectra of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import MelSpectrogram

from polymask import UserError
from polymask.data import length_key, valid_of

LOWEST = 20.0
"""Where mel filters begin, in Hz."""

FLOOR = 1e-6
"""Added to a mel energy before its logarithm: about the power of the last bit of 16."""


class Sound(nn.Module):
    """Counting windows of sound: how many fit into so many samples, and which of them are real.

    Args:
        rate: samples per second.
        window: samples a token sees.
        hop: samples from one token to the next.
        seconds: the length of every sample, which gives tokens a grid; None for samples of any length.
    """

    key = "audio"

    def __init__(self, *, rate: int, window: int, hop: int, seconds: float | None) -> None:
        super().__init__()
        if not 1 <= hop <= window:
            raise UserError(
                f"windows of {window} samples every {hop} at {rate} Hz: a hop is 1 or more and no longer "
                "than its window; choose other lengths in milliseconds, or another rate (--data.rate)"
            )
        self.rate, self.window, self.hop, self.seconds = rate, window, hop, seconds
        self.length = None if seconds is None else round(seconds * rate)
        if self.length is not None and self.length < window:
            raise UserError(f"{seconds} s at {rate} Hz are fewer samples than one token sees, {window}")

    @property
    def steps(self) -> int | None:
        """Tokens along time where every sample is equally long, else None."""
        return None if self.length is None else self.count(self.length)

    def count(self, length: Any) -> Any:
        """Windows that lie wholly within so many samples, a number or int64 ``[B]``; one at least."""
        if isinstance(length, Tensor):
            return ((length - self.window) // self.hop + 1).clamp(min=1)
        return max((length - self.window) // self.hop + 1, 1)

    def read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Sound float32 ``[B, T]`` of one window at least, zero at padding.

        Raises:
            ValueError: another shape, or another length than this tokenizer was made for.
        """
        audio = batch[self.key]
        if audio.dim() != 2 or (self.length is not None and audio.shape[1] != self.length):
            raise ValueError(f"expected sound [B, {self.length or 'T'}], got {list(audio.shape)}")
        real = valid_of(batch, self.key)
        audio = audio.float() if real is None else torch.where(real, audio.float(), 0.0)
        return F.pad(audio, (0, max(self.window - audio.shape[1], 0)))

    def valid(self, batch: Mapping[str, Tensor], n: int) -> Tensor | None:
        """Which of n windows lie wholly within each sample, bool ``[B, n]``; None where none is padded."""
        length = batch.get(length_key(self.key))
        if length is None:
            return None
        real: Tensor = torch.arange(n, device=length.device) < self.count(length)[:, None]
        return real

    def example(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Noise, under a tone, of ``n`` lengths between six and twelve tokens, or of the one length."""
        generator = torch.Generator().manual_seed(seed)
        if self.length is None:
            longest = self.window + 11 * self.hop
            length = longest - torch.arange(n) * 5 % 6 * self.hop - torch.arange(n) % 3
        else:
            longest, length = self.length, torch.full((n,), self.length)
        time = torch.arange(longest) / self.rate
        pitch = self.rate * (0.02 + 0.2 * torch.rand(n, 1, generator=generator))
        noise = torch.randn(n, longest, generator=generator)
        audio = 0.2 * torch.sin(2 * torch.pi * pitch * time) + 0.02 * noise
        audio = audio * (torch.arange(longest) < length[:, None])
        alone = {self.key: audio}
        return alone if self.length is not None else {**alone, length_key(self.key): length}


def in_samples(milliseconds: float, rate: int) -> int:
    """A length of time in samples."""
    return round(milliseconds * rate / 1000)


def standardised(audio: Tensor, length: Tensor | None = None) -> Tensor:
    """Audio ``[B, T]`` of mean 0 and variance 1 over its ``length`` samples, 0 at padding."""
    if length is None:
        length = torch.full((len(audio),), audio.shape[1], device=audio.device)
    real = torch.arange(audio.shape[1], device=audio.device) < length[:, None]
    centred = torch.where(real, audio - (audio * real).sum(1, keepdim=True) / length[:, None], 0.0)
    variance = centred.square().sum(1, keepdim=True) / length[:, None]
    return centred / (variance + 1e-7).sqrt()


def energies(mel: Any, sound: Tensor) -> Tensor:
    """What a ``torchaudio.transforms.MelSpectrogram`` makes of sound ``[B, T]``: ``[B, mels, frames]``.

    In one graph: its own forward asks ``torch.jit`` about options, which breaks that of ``torch.compile``.
    For one that neither centres nor normalises.
    """
    own = mel.spectrogram
    turned = torch.stft(
        F.pad(sound, (own.pad, own.pad)),
        own.n_fft,
        own.hop_length,
        own.win_length,
        own.window,
        center=False,
        return_complex=True,
    )
    found: Tensor = mel.mel_scale(turned.abs().pow(own.power))
    return found


class Mel(Sound):
    """Log-mel spectra of windows, standardised by fixed numbers.

    Where ``batch["audio"]`` is ``[B, frames, mels]``, it is taken for such spectra already.
    """

    def __init__(
        self, *, rate: int, window_ms: float, hop_ms: float, seconds: float | None, side: int, **mel: Any
    ) -> None:
        """``side`` neighbouring spectra make a token; ``mel`` is ``mels``, ``mean`` and ``std``."""
        # even, so that it can stand in the middle of a longer transform
        window, hop = 2 * in_samples(window_ms / 2, rate), in_samples(hop_ms, rate)
        super().__init__(rate=rate, window=window + (side - 1) * hop, hop=side * hop, seconds=seconds)
        self.mels, self.mean, self.std = mel["mels"], mel["mean"], mel["std"]
        lowest = min(LOWEST, rate / 400)
        size = transform_size(rate, window, self.mels, lowest)
        self.mel = MelSpectrogram(
            rate,
            n_fft=size,
            win_length=window,
            hop_length=hop,
            f_min=lowest,
            n_mels=self.mels,
            pad=(size - window) // 2,
            center=False,
        )

    def spectra(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Standardised log-mel spectra ``[B, frames, mels]``, float32."""
        if batch[self.key].dim() == 3:
            return batch[self.key]
        with torch.autocast(batch[self.key].device.type, enabled=False):
            power = energies(self.mel, self.read(batch))
            spectra: Tensor = ((power + FLOOR).log().transpose(1, 2) - self.mean) / self.std
        return spectra

    @property
    def provides(self) -> dict[str, Any]:
        """``in_dim``, ``grid``, ``rate``, ``window_size``, ``hop`` (in samples) and ``mels``."""
        return {
            "in_dim": self.width,
            "grid": self.grid,
            "rate": self.rate,
            "window_size": self.window,
            "hop": self.hop,
            "mels": self.mels,
        }


def transform_size(rate: int, window: int, mels: int, lowest: float) -> int:
    """The smallest power of two that a window fits into and that leaves no mel filter without a bin."""
    size = 1 << max(window - 1, 1).bit_length()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about empty filters, which are looked for here
        while (melscale_fbanks(size // 2 + 1, lowest, rate / 2, mels, rate).amax(0) == 0).any():
            size *= 2
    return size
