"""HuBERT: masked prediction of hidden units (Hsu et al. 2021, arXiv 2106.07447).

With exchangeable targets, as Chen et al. 2024 (arXiv 2409.10788) study them.

Mask spans of frames with one learned vector, run the whole sequence through a Transformer, and predict
the cluster of every masked frame: the logit is the cosine between its projection and a learned
embedding of the cluster, over a temperature.

    polymask pretrain audio/hubert --preset small --data prompts

The target is pluggable: clusters of MFCCs in the first iteration, of a layer of the previous model in the
second. A target of several streams (layers, or stages of a residual quantiser) has one head per stream, and
the loss is their mean; summed, as in the released code, J streams would weigh J times as much against the
feature penalty. Guessing by label frequency costs the entropy of the labels, at most ln K of K clusters; more
clusters raise it, so losses of different targets do not compare. The study does not publish how layers and
stages are weighted; here streams weigh alike.

Against the released code: the penalty on features counts real frames only, and masks come from
audio/hubert-span, which trims rows to one count only with ``--masking.trim true``.

Shapes: B samples, N tokens, D encoder width, C channels of the convolutions, J streams, K clusters.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError, functional
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, NotNegative
from polymask_audio import units
from polymask_audio.display import compare, silence


class HuBERT(System):
    """Masked prediction of clusters.

    Args:
        tokenizer: cuts sound into frames (paper: audio/waveform).
        encoder: encodes the whole sequence.
        target: which of ``target.dim`` classes each frame is, int64 ``[B, N]``, or ``[B, N, J]`` of a
            target whose ``streams`` is J.
        masking: what to hide.
        objective: how logits are scored, over hidden frames and over visible ones.
        code_dim: width of the space in which frames and cluster embeddings are compared.
        temperature: cosines are divided by it.
        masked_weight: of the loss at hidden frames.
        unmasked_weight: of the loss at visible ones.
        feature_penalty: weight of the mean square of what the encoder's convolutions give.
        feature_gradient: factor on the gradient that reaches these convolutions.
        layer: block whose output ``encode`` gives, from 1; None for the encoder's output.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        code_dim: Count = 256,
        temperature: float = 0.1,
        masked_weight: float = 1.0,
        unmasked_weight: float = 0.0,
        feature_penalty: NotNegative = 10.0,
        feature_gradient: NotNegative = 0.1,
        layer: int | None = None,
    ) -> None:
        super().__init__()
        if encoder.downsample > 1:
            raise UserError(
                f"hubert predicts a class for every token, and {type(encoder).__name__} gives one output for "
                "several: use an encoder that does not downsample"
            )
        if (
            not temperature > 0
            or min(masked_weight, unmasked_weight) < 0
            or masked_weight + unmasked_weight == 0
        ):
            raise UserError(
                "hubert needs a temperature above 0 and weights of 0 or more, one of them above 0; got "
                f"{temperature}, {masked_weight} and {unmasked_weight}"
            )
        if layer is not None and not 1 <= layer <= (depth := functional.depth(encoder)):
            raise UserError(f"layer {layer}: {type(encoder).__name__} lets read layers 1 to {depth}")
        self.tokenizer, self.target, self.masking = tokenizer, target, masking
        self.encoder: Any = encoder
        self.objective = objective
        self.temperature, self.layer = temperature, layer
        self.masked_weight, self.unmasked_weight = masked_weight, unmasked_weight
        self.feature_penalty, self.feature_gradient = feature_penalty, feature_gradient
        self.streams = units.streams_of(target)
        self.mask_token = nn.Parameter(torch.rand(encoder.dim))
        self.proj = nn.Linear(encoder.out_dim, self.streams * code_dim)
        self.codes = nn.Parameter(torch.rand(self.streams, target.dim, code_dim))
        nn.init.normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        x_BND, penalty = self.embed(tokens)
        encoded = self.encoder(mask.fill(x_BND, self.mask_token), tokens.position, tokens.valid)
        logits_BNJK = self.logits(encoded)
        labels_BNJ = units.read("hubert", self.target, batch, tokens)
        losses = {}
        if self.masked_weight:
            losses["hidden"] = self.masked_weight * self.objective(logits_BNJK, labels_BNJ, mask)
        if self.unmasked_weight:
            losses["visible"] = self.unmasked_weight * self.objective(logits_BNJK, labels_BNJ, mask.invert())
        if penalty is not None and self.feature_penalty:
            losses["features"] = self.feature_penalty * penalty
        return losses

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        return functional.require_hard_mask("hubert", self.masking, super().draw(tokens, batch, step, stream))

    def embed(self, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        """Embedded tokens ``[B, N, D]``, and the mean square of features where convolutions make them."""
        if getattr(self.encoder, "extractor", None) is None:
            return self.encoder.embed(tokens.values), None
        features_BNC = self.encoder.extract(tokens.values)
        still_BNC = features_BNC.detach()
        # the value of the features to the last bit, a tenth of their gradient, that of the penalty too
        features_BNC = still_BNC + self.feature_gradient * (features_BNC - still_BNC)
        square_BN = features_BNC.float().square().mean(-1)
        real_BN = torch.ones_like(square_BN, dtype=torch.bool) if tokens.valid is None else tokens.valid
        return self.encoder.project(features_BNC), Mask(real_BN).mean(square_BN)

    def logits(self, encoded: Tensor) -> Tensor:
        """The encoder's output to float32 ``[B, N, J, K]``, cosines over the temperature."""
        z = self.proj(encoded[:, self.encoder.prefix :]).unflatten(-1, (self.streams, -1))
        with torch.autocast(z.device.type, enabled=False):
            z, codes = F.normalize(z.float(), dim=-1), F.normalize(self.codes.float(), dim=-1)
            return torch.einsum("bnjc,jkc->bnjk", z, codes) / self.temperature

    def encode(self, batch: Batch, layer: int | None = None) -> Tokens:
        """Features of the unmasked input: of a block, by default that of the option ``layer``."""
        layer = self.layer if layer is None else layer
        if layer is None:
            return functional.encode(self.tokenizer, self.encoder, batch)
        tokens = self.tokenizer(batch)
        states = functional.layers(self.encoder, tokens)
        return functional.as_tokens(self.encoder, states[layer - 1], tokens)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        encoded = self.encoder(
            mask.fill(self.embed(tokens)[0], self.mask_token), tokens.position, tokens.valid
        )
        guess, labels = self.logits(encoded).argmax(-1), units.read("hubert", self.target, batch, tokens)
        shown = compare(labels, guess, mask, tokens, self.target.dim)
        return Preview({**silence(self.tokenizer, batch, mask), **shown})
