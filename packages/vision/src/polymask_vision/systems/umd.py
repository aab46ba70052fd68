"""UMD: Unified Auto-Encoding with Masked Diffusion (Hansen-Estruch et al. 2024, arXiv 2406.17688).

Half of the images are clean and 75 % masked, the other half are noised and 37.5 % masked. One network, told
how much noise there is, predicts clean pixels of hidden patches and the noise of visible ones.

    polymask pretrain vision/umd --preset small --data fashion-mnist
    polymask generate RUN

Which half an image is of, and its time, come from its id and the step: they do not depend on the batch. Time
0 is clean; times 1 to 1,000 have noise. Losses are means over images. Predicting 0 costs 1 for noise, and the
mean square of hidden pixels for these.

Special cases: ``--clean_share 1`` is a masked autoencoder, with ``--encoder vision/vit`` that of vision/mae
bit for bit; ``--clean_share 0 --noisy_masking null`` is DiT with a second head for clean pixels;
``--clean_share 0 --noisy_masking.ratio 0.5`` is MaskDiT. Features are those of the clean image, nothing
hidden, at time 0.

To generate better, go on without masks, as published (there by class, ``--labelled true``)::

    polymask pretrain vision/umd --preset small --init RUN --noisy_masking null --clean_share 0.05

Differences: one class token, since the four of the release begin equal and stay equal; positions are fixed in
the decoder, and in the encoder unless ``--encoder.positions learned``; no class is a vector of zeros; data is
normalised by its mean and deviation, not to [-1, 1].

Shapes: B samples, N tokens, K visible, C numbers per token, T target width, D encoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from polymask import (
    Batch,
    Losses,
    Mask,
    MaskView,
    Preview,
    Step,
    System,
    Tokens,
    UserError,
    functional,
    sample_ids,
)
from polymask.nn.decoders import decoder_of
from polymask.nn.diffusion import Noising, add_noise, clean_of, signal_levels
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Fact, Share
from polymask_vision.dit import DiT, ModulatedDecoder
from polymask_vision.either import EitherMask, nothing_hidden
from polymask_vision.sampling import Denoising, bounds_of

CLEAN, NOISY = 0, 1
"""Streams of the masks of the two parts."""
PART, TIME, NOISE, DROP = -1, -2, -3, -4
"""Streams of all else; those of the sampler are below."""


class UMD(Denoising, System):
    """Masked autoencoder and diffusion model in one.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the visible tokens, told the time: vision/dit; any other if all images are clean.
        target: what to predict of hidden tokens.
        masking: what to hide of clean images.
        objective: loss of a prediction at each token; it must have ``sites``.
        noisy_masking: what to hide of noised images; null for nothing.
        score: evidence per token for maskings that go by score; null for those that do not.
        clean_share: share of images that are clean.
        times: levels of noise.
        noising: how noise grows with time: ``"cosine"``, for pixels, or ``"linear"``, for latents.
        decoder_depth: blocks of the decoder (paper: 4).
        decoder_heads: attention heads of the decoder.
        labelled: tell the network the class of an image, for generation by class.
        label_dropout: share of images whose class is not told.
        classes: number of classes, from the data.
        mean: mean per channel that was subtracted from values in [0, 1], from the data.
        std: standard deviation per channel that values were divided by, from the data. With both, what is
            generated is kept in that range.
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        noisy_masking: Masking | None = None,
        score: Target | None = None,
        clean_share: Share = 0.5,
        times: Count = 1000,
        noising: Noising = "cosine",
        decoder_depth: Count = 4,
        decoder_heads: Count = 12,
        labelled: bool = False,
        label_dropout: Share = 0.1,
        classes: Fact[Count] = 10,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, DiT) and (clean_share < 1 or labelled):
            raise UserError(
                f"umd tells its encoder the noise of its input, and {type(encoder).__name__} cannot be told: "
                "use vision/dit, or --clean_share 1 for a masked autoencoder"
            )
        if not hasattr(tokenizer, "inverse"):
            raise UserError(
                f"umd makes images of tokens, and {type(tokenizer).__name__} has no inverse: use "
                "vision/patches"
            )
        if not hasattr(objective, "sites"):
            raise UserError(
                f"umd scores each image, and {type(objective).__name__} gives one number for all: use "
                "core/mse, core/l1 or another objective that has `sites`"
            )
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.objective: Any = objective
        self.masking, self.noisy_masking, self.score = masking, noisy_masking, score
        self.clean_share, self.times, self.label_dropout = clean_share, times, label_dropout
        self.supervised = labelled
        grid, width = tokenizer.provides.get("grid"), tokenizer.provides["in_dim"]
        self.decoder: Any
        if isinstance(encoder, DiT):
            self.decoder = ModulatedDecoder(
                encoder,
                grid=grid,
                out_dim=target.dim + width * (clean_share < 1),
                depth=decoder_depth,
                heads=decoder_heads,
            )
        else:
            size = {"dim": encoder.out_dim, "depth": decoder_depth, "heads": decoder_heads}
            self.decoder = decoder_of("self", encoder, tokenizer, target.dim, share=1.0, weigh=False, **size)
        self.label = nn.Embedding(classes, encoder.dim) if labelled else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)
        self.register_buffer("signal", signal_levels(times, noising), persistent=False)
        self.register_buffer("bounds", bounds_of(mean, std, width), persistent=False)
        self.signal: Tensor

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        target_BNT = self.target(batch, tokens)
        if self.clean_share == 1:
            clean = self.draw(tokens, batch, step)
            hidden = clean.invert().keep(Tokens(target_BNT, tokens.position))
            prediction_BMT = self.reconstruct(tokens, clean, self.told(batch, step))
            return {"clean": functional.masked_loss(self.objective, prediction_BMT, hidden)}
        noisy_B, time_B = self.part(batch, step)
        noise_BNC = self.normal(tokens, batch, step, NOISE)
        x = replace(tokens, values=add_noise(tokens.values, noise_BNC, self.signal[time_B]))
        mask: Any = self.draw_noisy(tokens, batch, step)
        if self.clean_share:
            mask = EitherMask(noisy_B, self.draw(tokens, batch, step), mask)
        predicted_BNT, guess_BNC = self.predict(x, mask, self.told(batch, step, time_B))
        asked_BN, visible_BN = mask.hidden, ~mask.hidden & tokens.real
        if self.noisy_masking is None:  # everything is visible, and both are asked for everywhere
            asked_BN = asked_BN | (noisy_B[:, None] & tokens.real)
        clean_B = _means(self.objective.sites(predicted_BNT, target_BNT), asked_BN)
        noise_B = _means((guess_BNC.float() - noise_BNC).square().mean(-1), visible_BN)
        losses = {
            "hidden": torch.where(noisy_B, clean_B / 2, 0).mean(),
            "noise": torch.where(noisy_B, noise_B / 2, 0).mean(),
        }
        if self.clean_share == 0:
            return losses
        return {"clean": torch.where(noisy_B, 0, clean_B).mean(), **losses}

    def part(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Which images are noised, bool ``[B]``, and the time of each, int64 ``[B]``, 0 for clean ones."""
        ids = sample_ids(batch)
        noisy_B = step.noise(ids, 1, PART)[:, 0] >= self.clean_share
        time_B = 1 + (step.noise(ids, 1, TIME)[:, 0] * self.times).long()
        return noisy_B, torch.where(noisy_B, time_B, 0)

    def draw_noisy(self, tokens: Tokens, batch: Batch, step: Step) -> Mask:
        """The masks that noised images have."""
        if self.noisy_masking is None:
            return nothing_hidden(tokens)
        mask = functional.draw_mask(self.noisy_masking, tokens, batch, step, self.score, NOISY)
        return functional.require_hard_mask("umd", self.noisy_masking, mask)

    def told(self, batch: Batch, step: Step | None = None, time_B: Tensor | None = None) -> Tensor | None:
        """What the network is told of images, ``[B, D]``: their time, 0 by default, and their class if known.

        With a step some classes are not told. None for encoders that cannot be told.
        """
        if not isinstance(self.encoder, DiT):
            return None
        ids, class_BD = sample_ids(batch), None
        if self.label is not None and "label" in batch:
            known_B = batch["label"] >= 0
            if step is not None:
                known_B = known_B & (step.noise(ids, 1, DROP)[:, 0] >= self.label_dropout)
            class_BD = torch.where(known_B[:, None], self.label(batch["label"].clamp(min=0)), 0)
        return self.encoder.condition(torch.zeros_like(ids) if time_B is None else time_B, class_BD)

    def encoded(self, tokens: Tokens, mask: Any, told_BD: Tensor | None) -> Tensor:
        """The visible tokens, encoded: ``[B, prefix + K, D]``."""
        seen: Tokens = mask.keep(tokens)
        given = () if told_BD is None else (told_BD,)
        return self.encoder(self.encoder.embed(seen.values), seen.position, seen.valid, *given)

    def predict(self, tokens: Tokens, mask: Any, told_BD: Tensor | None) -> tuple[Tensor, Tensor]:
        """The target ``[B, N, T]`` and the noise ``[B, N, C]`` of all tokens, from the visible ones."""
        encoded = self.encoded(tokens, mask, told_BD)
        both_BNO: Tensor = self.decoder(encoded, mask, tokens.position, told_BD)
        return both_BNO[..., : self.target.dim], both_BNO[..., self.target.dim :]

    def reconstruct(self, tokens: Tokens, mask: Mask, told_BD: Tensor | None) -> Tensor:
        """Predictions of the target ``[B, M, T]`` at hidden tokens, of clean images."""
        if told_BD is None:
            out: Tensor = self.decoder(self.encoded(tokens, mask, None), mask, tokens.position)
            return out
        predicted_BNT, _ = self.predict(tokens, mask, told_BD)
        return mask.invert().keep(Tokens(predicted_BNT, tokens.position)).values

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        tokens, views = self.tokenizer(batch), {}
        if self.clean_share > 0:
            views["clean"] = MaskView(self.draw(tokens, batch, step), tokens)
        if self.clean_share < 1 and self.noisy_masking is not None:
            views["noised"] = MaskView(self.draw_noisy(tokens, batch, step), tokens)
        return views

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens, media = self.tokenizer(batch), dict[str, Any]()
        if self.clean_share > 0:
            mask = self.draw(tokens, batch, step)
            guess_BNT = functional.at_hidden(self.reconstruct(tokens, mask, self.told(batch)), mask)
            media |= functional.reconstruction(self.tokenizer, self.target, tokens, mask, guess_BNT)
        if self.clean_share == 1:
            return Preview(media)
        ids, mask = sample_ids(batch), self.draw_noisy(tokens, batch, step)
        time_B = torch.linspace(1, self.times, len(ids) + 2, device=ids.device)[1:-1].long()
        noise_BNC = self.normal(tokens, batch, step, NOISE)
        x = replace(tokens, values=add_noise(tokens.values, noise_BNC, self.signal[time_B]))
        guess_BNT, noise_BNC = self.predict(x, mask, self.told(batch, None, time_B))
        made_BNC = self.bounded(clean_of(x.values, noise_BNC.float(), self.signal[time_B]))
        invert: Any = getattr(self.target, "invert", None)
        if invert is not None:
            made_BNC = mask.fill(made_BNC, invert(guess_BNT, tokens)[0])
        black = x.values.new_zeros(1)
        shown = {
            "noised, more from left to right": x.values,
            "what is visible of it": mask.fill(x.values, black),
            "noise removed, hidden predicted" if invert else "noise removed where visible": made_BNC
            if invert
            else mask.fill(made_BNC, black),
        }
        for caption, values_BNC in shown.items():
            media[caption] = self.content(values_BNC)[self.tokenizer.key]
        return Preview(media)


def _means(loss_BN: Tensor, asked_BN: Tensor) -> Tensor:
    """The mean of each sample over the tokens asked for, ``[B]``; 0 where there are none."""
    return torch.where(asked_BN, loss_BN, 0).sum(1) / asked_BN.sum(1).clamp(min=1)
