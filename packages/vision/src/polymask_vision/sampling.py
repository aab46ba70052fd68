"""Images out of noise, by DDIM, from a system that predicts the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polymask import Batch, Generation, Mask, Step, Tokens, UserError, sample_ids
from polymask.mask import require_over
from polymask.nn.diffusion import ddim_states
from polymask.types import Count, NotNegative, Share
from polymask_vision.either import nothing_hidden

START = -5
"""Stream of the noise to begin with; those of the steps are below."""
FRAMES = 16


class Denoising:
    """The sampler of a system that predicts noise: mixed into its class.

    The system has ``tokenizer`` with an inverse, ``signal`` (levels by time), ``bounds`` (see
    :func:`bounds_of`), ``label`` (a table of classes or None), ``told`` and ``predict`` as vision/umd has.
    """

    tokenizer: Any
    clean_share: float
    signal: Tensor
    bounds: Tensor | None
    label: Any
    told: Any
    predict: Any

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        step: Step,
        mask: Mask | None = None,
        *,
        steps: Count = 125,
        eta: Share = 1.0,
        guidance: NotNegative = 2.0,
    ) -> Generation:
        """Images from noise, by DDIM; visible tokens are set to what they are at each step.

        Args:
            batch: ids, shapes, and labels of a system that is told these.
            step: the source of chance.
            mask: over tokens, what to generate; None for everything.
            steps: denoising steps.
            eta: noise that is added again at each step, from 0, none, to 1, as much as DDPM adds.
            guidance: weight of the prediction with the class against that without it: 0 ignores the class, 1
                takes it as it is; counts only where classes are told.

        Raises:
            UserError: the system learned from clean images alone.
        """
        if self.clean_share == 1:
            raise UserError("umd generates if it learns to remove noise: train it with --clean_share below 1")
        tokens = self.tokenizer(batch)
        require_over(tokens, mask)
        whole, known_BNC = nothing_hidden(tokens), tokens.values

        def noise_at(x_BNC: Tensor, time: int) -> Tensor:
            return self.noise_in(replace(tokens, values=x_BNC), whole, batch, time, guidance)

        def settle(clean_BNC: Tensor) -> Tensor:
            clean_BNC = self.bounded(clean_BNC)
            return clean_BNC if mask is None else mask.fill(known_BNC, clean_BNC)

        start_BNC = self.normal(tokens, batch, step, START)
        states = ddim_states(
            start_BNC,
            noise_at,
            self.signal,
            steps,
            lambda k: self.normal(tokens, batch, step, START - 1 - k),
            eta=eta,
            settle=settle,
        )
        shown = {round(k * steps / FRAMES) for k in range(FRAMES + 1)}
        frames = [self.content(x_BNC) for k, x_BNC in enumerate(states) if k in shown]
        return Generation(frames[-1], frames)

    def noise_in(self, x: Tokens, whole: Mask, batch: Batch, time: int, guidance: float) -> Tensor:
        """The noise ``[B, N, C]`` predicted in images at one time, nothing hidden."""
        time_B = torch.full_like(sample_ids(batch), time)
        noise_BNC: Tensor = self.predict(x, whole, self.told(batch, None, time_B))[1].float()
        if self.label is None or guidance == 1:
            return noise_BNC
        blind = {key: value for key, value in batch.items() if key != "label"}
        _, free_BNC = self.predict(x, whole, self.told(blind, None, time_B))
        return torch.lerp(free_BNC.float(), noise_BNC, guidance)

    def bounded(self, values_BNC: Tensor) -> Tensor:
        """Kept between black and white, where the data says what these are."""
        if self.bounds is None:
            return values_BNC
        return torch.maximum(torch.minimum(values_BNC, self.bounds[1]), self.bounds[0])

    def content(self, values_BNC: Tensor) -> Batch:
        """Tokens as an entry of a batch."""
        tokenizer: Any = self.tokenizer
        return {tokenizer.key: tokenizer.inverse(values_BNC)}

    def normal(self, tokens: Tokens, batch: Batch, step: Step, stream: int) -> Tensor:
        """Noise in the shape of the tokens."""
        values = tokens.values
        return step.normal(sample_ids(batch), values[0].numel(), stream).view_as(values)


def bounds_of(mean: Sequence[float] | None, std: Sequence[float] | None, width: int) -> Tensor | None:
    """Black and white in the numbers of a token, ``[2, width]``, or None where the data does not say.

    Args:
        mean: per channel, subtracted from values in [0, 1].
        std: per channel, that they were divided by.
        width: numbers per token, the channel the last axis.
    """
    if mean is None or std is None:
        return None
    ends = [[(end - m) / s for m, s in zip(mean, std, strict=True)] for end in (0, 1)]
    return torch.tensor(ends).repeat(1, width // len(mean))
