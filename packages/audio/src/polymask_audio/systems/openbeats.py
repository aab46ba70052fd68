"""OpenBEATs: a fully open-source general-purpose audio encoder (Bharadwaj et al. 2025, arXiv 2507.14129).

Drop three quarters of the patches of a spectrogram, encode those that are left, and tell for each
dropped one which acoustic token it is; then distil the encoder into the tokenizer of the next round.

    polymask pretrain audio/openbeats --preset small --data prompts
    polymask recipe audio/openbeats --data prompts --rounds 2

The tokens of the first round are codes nearest to a frozen random projection, as in BEATs (Chen et al.
2022, arXiv 2212.09058). What makes those of later rounds is audio/openbeats-tokenizer. Chance costs
ln K of K tokens; label smoothing alone costs 1.02 of K = 1,024.

The predictor is given the place of every patch it is asked about. In the released code place comes from
relative bias alone, and with that off, the default of its classes, all hidden patches of a sample get
one answer. Encoder and predictor are plain Transformers with fixed positions in the whole grid here;
published are DeepNorm, gated relative bias and a convolution over the visible patches, whose distances
are ranks among those, not places.

``forward`` compiles as one graph with sounds of one length (``--data.seconds``); of several, how many
patches are left is asked of the device. The tokenizer's does with any.

Shapes: B samples, N tokens, M of them hidden, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymask import Batch, Mask, Step, System, Tokens, functional
from polymask.decoders import LightDecoder
from polymask.protocols import Encoder, Masking, Objective, Media, Target, Tokenizer
from polymask.recipes import Stage, beside
from polymask_audio.display import compare


class OpenBEATs(System):
    """Masked token prediction from the visible patches alone.

    Args:
        tokenizer: cuts sound into patches.
        encoder: encodes the visible patches alone.
        target: which of ``target.dim`` acoustic tokens each patch is, int64 ``[B, N]``.
        masking: what to hide (paper: 75 % of patches, each alike).
        objective: how logits are scored at hidden patches (paper: cross-entropy, smoothed by 0.1).
        predictor_dim: width of the label predictor (paper: 768).
        predictor_depth: its blocks (paper: 3).
        predictor_heads: its attention heads (paper: 12).
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Base. The batch is published in frames (420,000 of frames and tokens), not in clips, and the
        # learning rate is not among what could be read: both are of BEATs' order
        "paper": {
            "tokenizer.mels": 128,
            "tokenizer.patch_size": 16,
            "encoder.dim": 768,
            "encoder.depth": 12,
            "encoder.heads": 12,
            "masking.ratio": 0.75,
            "predictor_dim": 768,
            "predictor_depth": 3,
            "predictor_heads": 12,
            "steps": 400_000,
            "warmup_steps": 32_000,
            "batch_size": 256,
            "lr": 5e-4,
            "betas": (0.9, 0.98),
            "weight_decay": 0.01,
            "clip": 1.0,
        },
        # seconds of sound, minutes on two cores
        "small": {
            "tokenizer.mels": 64,
            "tokenizer.patch_size": 8,
            "encoder.dim": 128,
            "encoder.depth": 4,
            "encoder.heads": 4,
            "predictor_dim": 64,
            "predictor_depth": 2,
            "predictor_heads": 4,
            "steps": 2000,
            "batch_size": 32,
            "lr": 1e-3,
            "betas": (0.9, 0.98),
            "weight_decay": 0.01,
            "clip": 1.0,
        },
        # what the conformance suite builds
        "tiny": {
            "encoder.dim": 32,
            "encoder.depth": 2,
            "encoder.heads": 2,
            "predictor_dim": 32,
            "predictor_depth": 2,
            "predictor_heads": 2,
            "steps": 10,
            "batch_size": 8,
        },
    }

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        predictor_dim: int = 768,
        predictor_depth: int = 3,
        predictor_heads: int = 12,
    ) -> None:
        super().__init__()
        functional.require_subset_encoder("openbeats", encoder)
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective = masking, objective
        self.predictor = LightDecoder.behind(
            encoder, tokenizer, target.dim, dim=predictor_dim, depth=predictor_depth, heads=predictor_heads
        )

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        logits_BMK = self.predict(tokens, mask)
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        return {"tokens": functional.masked_loss(self.objective, logits_BMK, hidden)}

    def draw(self, tokens: Tokens, batch: Batch, step: Step) -> Mask:
        """One mask per sample."""
        mask = functional.draw_mask(self.masking, tokens, batch, step)
        return functional.require_hard_mask("openbeats", self.masking, mask)

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Logits ``[B, M, K]`` at the hidden patches, from the visible ones."""
        logits_BMK: Tensor = self.predictor(functional.encode_visible(self.encoder, tokens, mask), mask, tokens.position)
        return logits_BMK

    @property
    def stack(self) -> LightDecoder:
        return self.predictor

    def encode(self, batch: Batch) -> Tokens:
        return functional.encode(self.tokenizer, self.encoder, batch)

    @torch.no_grad()
    def pictures(self, batch: Batch, step: Step) -> dict[str, Tensor | Sequence[Media]]:
        tokens = self.tokenizer(batch)
        mask, true = self.draw(tokens, batch, step), self.target(batch, tokens)
        guess = mask.invert().restore(self.predict(tokens, mask).argmax(-1)[..., None], true.new_zeros(1))
        seen = functional.reconstruction(self.tokenizer, self.target, tokens, mask, tokens.values)
        return {**seen, **compare(true, guess[..., 0], mask, tokens, self.target.dim)}

    def masks(self, batch: Batch, step: Step) -> dict[str, Mask]:
        return {"mask": self.draw(self.tokenizer(batch), batch, step)}


def openbeats(stage: Stage, /, *, rounds: int = 2, preset: str = "small") -> None:
    """Encoder and tokenizer in turns: the encoder of one round teaches the tokenizer of the next.

    Args:
        stage: trains a run.
        rounds: encoders to train; the paper's recipe has two, of which the first predicts random codes.
        preset: of all stages.
    """
    target: dict[str, Any] = {"name": "audio/random-projection"}
    for turn in range(rounds):
        encoder = stage(f"encoder-{turn}", "audio/openbeats", preset=preset, target=target)
        if turn + 1 < rounds:
            teacher = {"name": "audio/teacher", "run": beside(encoder.folder.name)}
            tokenizer = stage(
                f"tokenizer-{turn + 1}", "audio/openbeats-tokenizer", preset=preset, target=teacher
            )
            target = {"name": "audio/distilled", "run": beside(tokenizer.folder.name)}
