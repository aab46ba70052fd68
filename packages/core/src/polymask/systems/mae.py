"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al. 2021, arXiv 2111.06377).

Drop a random 75 % of the patches, encode only those that are left, and let a small decoder with
one learned mask token regress the pixels of the dropped ones.

    polymask pretrain vision/mae --preset small --data fashion-mnist

The target is each patch normalised by its own mean and variance, as in the paper's recommended
command; ``--target.patch_norm false`` gives raw pixels. Predicting zero then costs (n - 1) / n for
n numbers per patch, so a loss below 1 is where learning starts. Mask tokens inside the encoder, the
paper's ablation, are what vision/simmim does.

Shapes: B samples, N tokens, K of them visible, M hidden, D encoder width, T target width, P axes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask import pieces
from polymask.decoders import LightDecoder
from polymask.mask import Mask
from polymask.protocols import Batch, Encoder, Masking, Objective, System, Target, Tokenizer
from polymask.step import Step
from polymask.tokens import Tokens
from polymask.trunk import Trunk


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

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        score: Target | None = None,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
    ) -> None:
        super().__init__()
        pieces.confirm_leaves_out("mae", encoder)
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.decoder = LightDecoder.behind(
            encoder, tokenizer, target.dim, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads
        )

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        return self.account(batch, tokens, mask, self.predict(tokens, mask))

    def draw(self, tokens: Tokens, batch: Batch, step: Step) -> Mask:
        """One mask per sample."""
        mask = pieces.draw(self.masking, tokens, batch, step, self.score)
        return pieces.confirm_hard("mae", self.masking, mask)

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Predictions ``[B, M, T]`` at the hidden tokens, from the visible ones."""
        prediction_BMT: Tensor = self.decoder(pieces.see(self.encoder, tokens, mask), mask, tokens.position)
        return prediction_BMT

    def account(self, batch: Batch, tokens: Tokens, mask: Mask, prediction_BMT: Tensor) -> dict[str, Tensor]:
        """The loss of a prediction at the hidden tokens."""
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        return {"reconstruction": pieces.account(self.objective, prediction_BMT, hidden)}

    @property
    def stack(self) -> LightDecoder:
        return self.decoder

    def trunk(self, batch: Batch, step: Step) -> Trunk:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        embedded, x, bias = self.decoder.begin(pieces.see(self.encoder, tokens, mask), mask, tokens.position)

        def answer(x: Tensor) -> Tensor:
            return self.decoder.answer(x, mask, tokens.position)

        return Trunk(
            mask=mask,
            embedded=embedded,
            x=x,
            bias=bias,
            prefix=self.decoder.prefix,
            blocks=tuple(self.decoder.blocks),
            losses=lambda x: self.account(batch, tokens, mask, answer(x)),
            pictures=lambda x: self.show(tokens, mask, answer(x)),
        )

    def encode(self, batch: Batch) -> Tokens:
        return pieces.encode(self.tokenizer, self.encoder, batch)

    @torch.no_grad()
    def pictures(self, batch: Batch, step: Step) -> dict[str, Any]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        return self.show(tokens, mask, self.predict(tokens, mask))

    def show(self, tokens: Tokens, mask: Mask, prediction_BMT: Tensor) -> dict[str, Any]:
        """Pictures of a prediction at the hidden tokens."""
        prediction_BNT = mask.invert().restore(prediction_BMT, prediction_BMT.new_zeros(1))
        return pieces.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT)

    def masks(self, batch: Batch, step: Step) -> dict[str, Mask]:
        return {"mask": self.draw(self.tokenizer(batch), batch, step)}
