"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al. 2021, arXiv 2111.06377).

Drop a random 75 % of the patches, encode only those that are left, and let a small decoder with
one learned mask token predict the pixels of the dropped ones.

    polymask pretrain vision/mae --preset small --data fashion-mnist

The target is each patch normalised by its own mean and variance, as in the paper's recommended
command; ``--target.patch_norm false`` gives raw pixels. Predicting zero then costs (n - 1) / n for
n numbers per patch: learning starts at a loss below 1. For mask tokens inside the encoder, the
paper's ablation, see vision/simmim.

Shapes: B samples, N tokens, M of them hidden, T target width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, functional
from polymask.decoders import LightDecoder
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Whole


class MAE(System):
    """Masked autoencoder on any tokens.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the visible tokens alone.
        target: what to predict of each hidden token.
        masking: what to hide.
        objective: how a prediction is scored, over hidden tokens.
        score: evidence per token for maskings that go by score; None for those that do not.
        decoder_dim: width of the decoder (paper: 512).
        decoder_depth: blocks of the decoder (paper: 8).
        decoder_heads: attention heads of the decoder (paper: 16).
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
        score: Target | None = None,
        decoder_dim: Count = 512,
        decoder_depth: Whole = 8,
        decoder_heads: Count = 16,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        size = {"dim": decoder_dim, "depth": decoder_depth, "heads": decoder_heads}
        self.decoder = LightDecoder.behind(encoder, tokenizer, target.dim, **size)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        prediction_BMT = self.predict(tokens, mask)
        return {"reconstruction": functional.masked_loss(self.objective, prediction_BMT, hidden)}

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Predictions ``[B, M, T]`` at the hidden tokens, from the visible ones."""
        encoded = functional.encode_visible(self.encoder, tokens, mask)
        prediction_BMT: Tensor = self.decoder(encoded, mask, tokens.position)
        return prediction_BMT

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = functional.at_hidden(self.predict(tokens, mask), mask)
        return Preview(functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT))
