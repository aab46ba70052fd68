"""Sounds of a batch mixed into each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polymask import Batch, Step, Tokens, UserError
from polymask.data import length_key, valid_of
from polymask.protocols import Tokenizer, sample_ids

PLACE, CODES = 2, 3
"""Streams of the draws."""

SILENCE = 2.0**-30
"""Mean power of silence: of the last bit of 16."""


class Mixing:
    """Mix the sound of the row before, in the batch, into a stretch of some.

    The other sound keeps its own times. Nothing of it is left where it is shorter.
    Silence is mixed into nothing.

    Args:
        tokenizer: of the sounds.
        chance: of a sound to have another mixed into it.
        stretch: shortest and longest stretch, as shares of the sound.
        snr: lowest and highest ratio of the powers of the two, in decibels.
    """

    def __init__(
        self, tokenizer: Tokenizer, chance: float, stretch: tuple[float, float], snr: tuple[float, float]
    ) -> None:
        if not (0 <= chance <= 1 and 0 <= stretch[0] <= stretch[1] <= 1 and snr[0] <= snr[1]):
            raise UserError(
                "mixing is a chance, stretch two shares of a sound and snr two ratios in decibels, low and "
                f"high; got {chance}, {stretch} and {snr}"
            )
        if "hop" not in tokenizer.provides:
            raise UserError(f"{type(tokenizer).__name__} does not tell where tokens begin: give --mixing 0")
        self.key, self.hop = tokenizer.key, int(tokenizer.provides["hop"])
        self.chance, self.stretch, self.snr = chance, stretch, snr

    def __call__(self, batch: Batch, step: Step) -> Mixture:
        """What is mixed at a step.

        Raises:
            UserError: spectra in the place of sound, which cannot be mixed.
        """
        audio, real = batch[self.key].float(), valid_of(batch, self.key)
        if audio.dim() != 2:
            raise UserError(f"only sounds [B, T] can be mixed, not {list(audio.shape)}: give --mixing 0")
        audio = audio if real is None else torch.where(real, audio, 0.0)
        length = batch.get(length_key(self.key))
        if length is None:
            length = torch.full((len(audio),), audio.shape[1], device=audio.device)
        some, size, place, ratio = step.noise(sample_ids(batch), 4, PLACE).unbind(1)
        size = (length * _between(self.stretch, size)).long()
        begin = (place * (length - size + 1)).long()
        power = audio.square().sum(1) / length
        other = power.roll(1, 0)
        loudness = (power / other.clamp(min=SILENCE)).sqrt() * 10 ** (-_between(self.snr, ratio) / 20)
        # silence made as loud as audio would be no audio, but its codes would count
        gain = torch.where((some < self.chance) & (other > SILENCE), loudness, 0.0)
        at = torch.arange(audio.shape[1], device=audio.device)
        inside = (at >= begin[:, None]) & (at < (begin + size)[:, None])
        mixed = audio + torch.where(inside, gain[:, None] * audio.roll(1, 0), 0.0)
        return Mixture({**batch, self.key: mixed}, begin, begin + size, gain, self.hop)


def _between(ends: tuple[float, float], share: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * share


@dataclass(frozen=True, eq=False)
class Mixture:
    """Mixed sounds.

    Args:
        batch: with them.
        begin: first sample of each stretch, int64 ``[B]``.
        end: the one behind its last.
        gain: of the other sound, float32 ``[B]``; 0 where nothing is mixed.
        hop: samples from one token to the next.
    """

    batch: Batch
    begin: Tensor
    end: Tensor
    gain: Tensor
    hop: int

    def exchange(self, labels: Tensor, tokens: Tokens, step: Step) -> Tensor:
        """Classes ``[B, N, J]``, in the stretch each that of the other sound with chance g^2 / (1 + g^2).

        As released code has it: g is the gain, not the ratio of the two sounds (SPEAR, Yang et al. 2025,
        arXiv 2510.25955).

        Args:
            labels: int64 ``[B, N, J]``, of the sounds alone.
            tokens: that they are of.
            step: the source of chance.
        """
        b, n, j = labels.shape
        at = tokens.position[..., 0] * self.hop
        inside = (at >= self.begin[:, None]) & (at < self.end[:, None])
        if tokens.valid is not None:
            inside = inside & tokens.valid.roll(1, 0)
        chance = (self.gain.square() / (1 + self.gain.square()))[:, None, None]
        noise = step.noise(sample_ids(self.batch), n * j, CODES).view(b, n, j)
        return torch.where(inside[..., None] & (noise < chance), labels.roll(1, 0), labels)
