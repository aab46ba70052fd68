"""OpenBEATs: a fully open-source general-purpose audio encoder (Bharadwaj et al. 2025, arXiv 2507.14129).

Drop three quarters of the patches of a spectrogram, encode the others, and predict the acoustic token of
every dropped patch; then distil the encoder into the tokenizer of the next round.

    polymask pretrain audio/openbeats --preset small --data prompts
    polymask recipe audio/openbeats --data prompts --rounds 2

The tokens of the first round are the codes nearest to a frozen random projection, as in BEATs (Chen et al.
2022, arXiv 2212.09058); those of later rounds come from audio/openbeats-tokenizer. Chance costs
ln K of K tokens; label smoothing alone costs 1.02 of K = 1,024.

The predictor gets the position of every patch that it predicts. In the released code position comes from
relative bias alone; without that bias, the default of its classes, all masked patches of a sample get the
same prediction. Encoder and predictor are plain Transformers with fixed positions in the whole grid here;
published are DeepNorm, gated relative bias and a convolution over the visible patches, whose distances
are ranks among those, not places.

``forward`` compiles as one graph if all recordings have one length (``--data.seconds``); otherwise it waits
for the device to count the visible patches. The tokenizer's compiles with any lengths.

Shapes: B samples, N tokens, M of them hidden, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, functional
from polymask.config import relative_to_run
from polymask.nn.decoders import LightDecoder
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.recipes import Stage
from polymask.types import Count
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

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        predictor_dim: Count = 768,
        predictor_depth: int = 3,
        predictor_heads: Count = 12,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective = masking, objective
        self.predictor = LightDecoder.behind(
            encoder, tokenizer, target.dim, dim=predictor_dim, depth=predictor_depth, heads=predictor_heads
        )

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        logits_BMK = self.predict(tokens, mask)
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        return {"tokens": functional.masked_loss(self.objective, logits_BMK, hidden)}

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Logits ``[B, M, K]`` at the hidden patches, from the visible ones."""
        logits_BMK: Tensor = self.predictor(
            functional.encode_visible(self.encoder, tokens, mask), mask, tokens.position
        )
        return logits_BMK

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask, true = self.draw(tokens, batch, step), self.target(batch, tokens)
        guess = mask.invert().restore(self.predict(tokens, mask).argmax(-1)[..., None], true.new_zeros(1))
        seen = functional.reconstruction(self.tokenizer, self.target, tokens, mask, tokens.values)
        return Preview({**seen, **compare(true, guess[..., 0], mask, tokens, self.target.dim)})


def openbeats(stage: Stage, /, *, rounds: Count = 2, preset: str = "small") -> None:
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
            teacher = {"name": "audio/teacher", "run": relative_to_run(encoder.folder.name)}
            tokenizer = stage(
                f"tokenizer-{turn + 1}", "audio/openbeats-tokenizer", preset=preset, target=teacher
            )
            target = {"name": "audio/distilled", "run": relative_to_run(tokenizer.folder.name)}
