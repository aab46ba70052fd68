"""MixedAE: Mixed Autoencoder for Self-supervised Visual Representation Learning (Chen et al. 2023).

arXiv 2303.17152.

Where MAE drops patches, put patches of other images in their place, and have the encoder find out
which belong together: each attends only to the few keys it is most drawn to, and a contrast between
the patches of a mixed image checks that these are of its own source. The mixed image is taken apart
again for the decoder of MAE.

    polymask pretrain vision/mixedae --preset small --data fashion-mnist

A step costs the encoder as many tokens as MAE's, in sequences of four images instead of one, and takes
about an eighth longer. Mixing
alone (``--preset naive``, ``small-naive``) is the baseline that the paper finds worse than MAE, since
foreign patches tell the encoder more about what it should guess. ``polymask report`` draws which share
of the keys chosen is of the right source, by block, with and without the segment vectors that give the
source away; chance is (K - 1) / (N - 1).

The body of the paper could not be read. Verified are mixing, attention by source, segment embeddings
and both losses; numbers, where attention is sparse and the form of the losses are unverified. Segment
vectors enter as differences from their mean, which the bias of the patch embedding stands for, so that
leaving them out afterwards is using their mean. The class token attends to and is seen by all.

Shapes: B images in G groups of n, N sites, K of them visible in each image and S = n K in a mixed one,
R tokens of no place, D encoder width, T target width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
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
from polymask.nn.decoders import LightDecoder
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Whole
from polymask_vision.attention import add_bias, keep_top, logits
from polymask_vision.contrast import site_contrast


class MixedAE(System):
    """Masked autoencoder of mixed images, on any tokens.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes mixed images; one that lets its blocks be run, such as vision/vit.
        target: what to predict of each hidden token.
        masking: deals the sites of a group of images out among them, as core/partition.
        objective: how a prediction is scored, over the tokens hidden in each image.
        attention: what patches see: ``"top-k"``, the keys of largest logit; ``"source"``, those of their
            own image, which is told (MixMAE, and an upper bound); ``"plain"``, all.
        neighbours: how many keys top-k keeps, oneself perhaps among them; None for K, an image's share.
        dense_blocks: blocks of plain attention before the others.
        segments: add a learned vector that tells the sources apart.
        contrast: weight of the contrast between patches of different source.
        temperature: of that contrast.
        full: mix each group n times, so that the encoder sees every patch of every image, at n times
            the cost; else once.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        attention: Literal["top-k", "source", "plain"] = "top-k",
        neighbours: Count | None = None,
        dense_blocks: Whole = 1,
        segments: bool = True,
        contrast: float = 0.1,
        temperature: float = 0.25,
        full: bool = False,
        decoder_dim: Count = 512,
        decoder_depth: Whole = 8,
        decoder_heads: Count = 16,
    ) -> None:
        super().__init__()
        if not hasattr(encoder, "begin"):
            raise UserError(
                f"mixedae changes attention from block to block, and {type(encoder).__name__} does not let "
                "it: use vision/vit"
            )
        if not hasattr(masking, "group"):
            raise UserError(
                f"mixedae mixes images whose visible patches fill one, and {type(masking).__name__} does not "
                "deal sites out: use core/partition"
            )
        if attention not in ("top-k", "source", "plain"):
            raise UserError(f"attention={attention!r}: choose 'top-k', 'source' or 'plain'")
        if neighbours is not None and neighbours < 1:
            raise UserError(f"neighbours must be 1 or more, got {neighbours}")
        if contrast < 0 or temperature <= 0:
            raise UserError(f"contrast must be 0 or more, temperature above 0, got {contrast}, {temperature}")
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective = masking, objective
        self.attention, self.neighbours, self.dense_blocks = attention, neighbours, dense_blocks
        self.contrast, self.temperature = contrast, temperature
        self.images = self.least_batch = int(masking.group)
        self.mixtures = self.images if full else 1
        shape = (self.images, encoder.dim)
        self.segment_tokens = nn.Parameter(0.02 * torch.randn(shape)) if segments else None
        self.decoder = LightDecoder.behind(
            encoder, tokenizer, target.dim, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads
        )

    def forward(self, batch: Batch, step: Step) -> Losses:
        batch = self.groups(batch)
        tokens = self.tokenizer(batch)
        target_BNT = self.target(batch, tokens)
        masks = [self.draw(tokens, batch, step, i) for i in range(self.mixtures)]
        terms = [self.score_mixture(tokens, mask, target_BNT) for mask in masks]
        return {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}

    def score_mixture(self, tokens: Tokens, mask: Mask, target_BNT: Tensor) -> dict[str, Tensor]:
        """The losses of one mixture of each group."""
        z_GSD, source_S, _ = self.mix(tokens, mask)
        prediction_BMT = self.unmix(z_GSD, mask, tokens.position)
        losses = {"reconstruction": self.objective(prediction_BMT, mask.invert().keep(target_BNT))}
        if self.contrast:
            apart = site_contrast(z_GSD[:, self.encoder.prefix :], source_S[None], self.temperature)
            losses["contrast"] = self.contrast * apart
        return losses

    def groups(self, batch: Batch) -> Batch:
        """The images that make full groups of n; the last ones are left out where there are too few."""
        ids = sample_ids(batch)
        count = len(ids) - len(ids) % self.images
        if not count:
            raise UserError(
                f"mixedae mixes {self.images} images, and this batch has {len(ids)}: give it more"
            )
        return {key: value[:count] for key, value in (batch | {"id": ids}).items()}

    def mix(
        self, tokens: Tokens, mask: Mask, segments: bool = True
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """The visible patches of each group in one sequence, encoded.

        Returns:
            ``[G, R + S, D]``, image by image (order is nothing to attention); which image of its group
            each patch is from, int64 ``[S]``; and what was added to the logits between patches, by block.
        """
        encoder: Any = self.encoder
        n, r, opened = self.images, encoder.prefix, []
        seen = mask.keep(tokens)
        k = seen.values.shape[1]
        source_S = torch.arange(n, device=seen.values.device).repeat_interleave(k)
        values, position = (x.reshape(-1, n * k, x.shape[-1]) for x in (seen.values, seen.position))
        x_GSD = encoder.embed(values)
        if segments and self.segment_tokens is not None:
            apart = self.segment_tokens - self.segment_tokens.mean(dim=0)
            x_GSD = x_GSD + apart[source_S].to(x_GSD.dtype)
        x_GSD, bias = encoder.begin(x_GSD, position)
        for depth, block in enumerate(encoder.blocks):
            sparse = None if depth < self.dense_blocks else self._sparse(block, x_GSD, bias, source_S)
            opened.append(sparse)
            both = bias if sparse is None else add_bias(bias, F.pad(sparse, (r, 0, r, 0)))
            x_GSD = block(x_GSD, attn_mask=both)
        return encoder.norm(x_GSD), source_S, opened

    def _sparse(self, block: Any, x_GSD: Tensor, bias: Tensor | None, source_S: Tensor) -> Tensor | None:
        """0 where a patch sees a patch and minus infinity where not, ``[G, heads, S, S]``; None: all."""
        if self.attention == "plain":
            return None
        if self.attention == "source":
            other = source_S[:, None] != source_S
            return torch.zeros_like(other, dtype=x_GSD.dtype).masked_fill(other, -torch.inf)[None, None]
        with torch.no_grad():
            found = logits(block, x_GSD)
            found = found if bias is None else add_bias(bias, found)
        r, count = self.encoder.prefix, self.neighbours or len(source_S) // self.images
        return keep_top(found[..., r:, r:], min(count, len(source_S)))

    def unmix(self, z_GSD: Tensor, mask: Mask, position: Tensor) -> Tensor:
        """Predictions ``[B, M, T]`` where each image is hidden, from its own part of the mixed one."""
        n, r = self.images, self.encoder.prefix
        lead = z_GSD[:, :r].repeat_interleave(n, dim=0)
        own = z_GSD[:, r:].reshape(len(lead), -1, z_GSD.shape[-1])
        prediction_BMT: Tensor = self.decoder(torch.cat([lead, own], dim=1), mask, position)
        return prediction_BMT

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        batch = self.groups(batch)
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = functional.at_hidden(
            self.unmix(self.mix(tokens, mask)[0], mask, tokens.position), mask
        )
        media = functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT)
        if "visible" in media:
            visible = media["visible"]
            mixed = visible.view(-1, self.images, *visible.shape[1:]).sum(1)
            original = {"original": media["original"], "mixed": mixed.repeat_interleave(self.images, 0)}
            media = {**original, **media}
        return Preview(media, self.sources(tokens, mask))

    def sources(self, tokens: Tokens, mask: Mask) -> dict[str, Tensor]:
        """Share of the keys chosen, oneself left out, that are of the same image: NaN in dense blocks."""
        lines: dict[str, Tensor] = {}
        if self.attention != "top-k":
            return lines
        for name in ("",) if self.segment_tokens is None else ("", " without segments"):
            _, source_S, opened = self.mix(tokens, mask, segments=not name)
            same = source_S[:, None] == source_S
            other = ~torch.eye(len(source_S), dtype=torch.bool, device=same.device)
            chosen = [None if x is None else (x == 0) & other for x in opened]
            share = [torch.nan if x is None else float((x & same).sum() / x.sum()) for x in chosen]
            chance = float((same & other).sum() / other.sum())
            lines[f"Keys of the same image{name}, by chance {chance:.2f}"] = torch.tensor([torch.nan, *share])
        return lines

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        tokens = self.tokenizer(batch)
        drawn = [self.draw(tokens, batch, step, stream) for stream in range(self.mixtures)]
        return {
            f"mixture {i}" if len(drawn) > 1 else "mask": MaskView(mask, tokens)
            for i, mask in enumerate(drawn, 1)
        }
