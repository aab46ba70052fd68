"""Sound as tokens.

A sample is ``float32 [T]``, mono, at any rate. A token sees the samples of its own windows and no
others, so neither padding nor other samples of the batch reach it. Padding counts as silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import length_key
from polymask.nn.positions import coordinates
from polymask.types import Count, Fact, Positive
from polymask_audio.windows import Mel, Sound, in_samples, standardised


class Waveform(Sound):
    """Windows of raw samples, 20 ms apart.

    A window is as long as what one output of wav2vec 2.0's convolutions sees (Baevski et al. 2020,
    arXiv 2006.11477): 25 ms, of which 5 ms are the next token's too. So the convolutions can be run on
    each token by itself, as an encoder's ``embed`` must (``audio/transformer``), to the result that
    they have on the whole recording. What does not fill a window at the end is left out.

    Args:
        rate: samples per second.
        window_ms: length of a window.
        hop_ms: from one window to the next.
        standardise: bring every recording to mean 0 and variance 1, as the published large models of wav2vec
            2.0 and HuBERT expect.
        seconds: the length of every sample, which gives tokens a grid; None for samples of any length.
    """

    def __init__(
        self,
        *,
        rate: Fact[Count] = 16000,
        window_ms: float = 25.0,
        hop_ms: float = 20.0,
        standardise: bool = False,
        seconds: Fact[Positive | None] = None,
    ) -> None:
        window, hop = in_samples(window_ms, rate), in_samples(hop_ms, rate)
        super().__init__(rate=rate, window=window, hop=hop, seconds=seconds)
        self.standardise = standardise
        self.grid = None if self.steps is None else (self.steps,)

    @property
    def provides(self) -> dict[str, Any]:
        """``in_dim``, ``grid``, ``rate``, ``window_size``, ``hop``, ``standardise``.

        And ``raw``: values are samples.
        """
        return {
            "in_dim": self.window,
            "grid": self.grid,
            "rate": self.rate,
            "window_size": self.window,
            "hop": self.hop,
            "standardise": self.standardise,
            "raw": True,
        }

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["audio"]`` float ``[B, T]`` to tokens ``[B, N, window]``."""
        audio = self.read(batch)
        if self.standardise:
            audio = standardised(audio, batch.get(length_key(self.key)))
        values = audio.unfold(1, self.window, self.hop)
        n = values.shape[1]
        position = torch.arange(n, dtype=torch.float32, device=values.device)[:, None].expand(
            values.shape[0], -1, -1
        )
        return Tokens(values, position, self.grid, valid=self.valid(batch, n))


class MelFrames(Mel):
    """Log-mel spectra, one token each.

    Power of Hann windows in triangular filters, equally spaced on the mel scale from 20 Hz to half the
    rate; natural logarithm; standardised by ``mean`` and ``std`` (defaults: spoken prompts in [-1, 1]).

    Args:
        rate: samples per second.
        mels: filters.
        window_ms: length of a window.
        hop_ms: from one window to the next.
        mean: subtracted from a log energy.
        std: then divided by.
        seconds: the length of every sample, which gives tokens a grid; None for samples of any length.
    """

    def __init__(
        self,
        *,
        rate: Fact[Count] = 16000,
        mels: Count = 80,
        window_ms: float = 25.0,
        hop_ms: float = 20.0,
        mean: float = -5.1,
        std: Positive = 5.4,
        seconds: Fact[Positive | None] = None,
    ) -> None:
        super().__init__(
            rate=rate,
            window_ms=window_ms,
            hop_ms=hop_ms,
            seconds=seconds,
            side=1,
            mels=mels,
            mean=mean,
            std=std,
        )
        self.width, self.grid = mels, None if self.steps is None else (self.steps,)

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["audio"]`` float ``[B, T]`` to tokens ``[B, N, mels]``."""
        values = self.spectra(batch)
        n = values.shape[1]
        position = torch.arange(n, dtype=torch.float32, device=values.device)[:, None].expand(
            values.shape[0], -1, -1
        )
        return Tokens(values, position, self.grid, valid=self.valid(batch, n))

    def inverse(self, values: Tensor) -> Tensor:
        """Tokens ``[B, N, mels]`` as a standardised log-mel spectrogram ``[B, N, mels]``, what they are."""
        return values


class MelPatches(Mel):
    """Square patches of a log-mel spectrogram, in time and frequency.

    Tokens follow each other in time, those of one time from low to high frequency; a token is
    ``patch_size * patch_size`` numbers in the order time, frequency. What does not fill a patch at the
    end is left out, and a patch is padding if any of its spectra is. Spectra as in
    :class:`MelFrames`; OpenBEATs and its ancestors have Kaldi's (pre-emphasis, another window), in
    units of two standard deviations.

    Args:
        rate: samples per second.
        mels: filters.
        patch_size: side of a patch; must divide ``mels``.
        window_ms: length of a window.
        hop_ms: from one window to the next.
        mean: subtracted from a log energy.
        std: then divided by.
        seconds: the length of every sample, which gives tokens a grid (time, frequency); None for
            samples of any length.
    """

    def __init__(
        self,
        *,
        rate: Fact[Count] = 16000,
        mels: Count = 128,
        patch_size: Count = 16,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        mean: float = -5.1,
        std: Positive = 5.4,
        seconds: Fact[Positive | None] = None,
    ) -> None:
        if patch_size < 1 or mels % patch_size:
            raise UserError(
                f"patches of {patch_size} do not tile {mels} mel filters: choose a --tokenizer.patch_size "
                "that divides them, or another number of --tokenizer.mels"
            )
        super().__init__(
            rate=rate,
            window_ms=window_ms,
            hop_ms=hop_ms,
            seconds=seconds,
            side=patch_size,
            mels=mels,
            mean=mean,
            std=std,
        )
        self.patch_size, self.bands, self.width = patch_size, mels // patch_size, patch_size**2
        self.grid = None if self.steps is None else (self.steps, self.bands)

    @property
    def provides(self) -> dict[str, Any]:
        """As of :class:`MelFrames`, and ``patch_size``."""
        return {**super().provides, "patch_size": self.patch_size}

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["audio"]`` float ``[B, T]`` to tokens ``[B, N, p * p]``, N = times x mels / p."""
        spectra, p = self.spectra(batch), self.patch_size
        b, steps = spectra.shape[0], spectra.shape[1] // p
        patches = spectra[:, : steps * p].reshape(b, steps, p, self.bands, p).transpose(2, 3)
        position = coordinates((steps, self.bands)).to(spectra.device).expand(b, -1, -1)
        valid = self.valid(batch, steps)
        valid = None if valid is None else valid.repeat_interleave(self.bands, dim=1)
        return Tokens(patches.reshape(b, -1, p * p), position, self.grid, valid=valid)

    def inverse(self, values: Tensor) -> Tensor:
        """Tokens ``[B, N, p * p]`` to the standardised log-mel spectrogram ``[B, times * p, mels]``."""
        b, p = values.shape[0], self.patch_size
        patches = values.reshape(b, -1, self.bands, p, p).transpose(2, 3)
        return patches.reshape(b, -1, self.mels)
