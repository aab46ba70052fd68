"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al. 2021, arXiv 2111.06377).

Drop a random 75 % of the patches, encode only those that are left, and let a small decoder with
one learned mask token predict the pixels of the dropped ones.

    polymask pretrain vision/mae --preset small --data fashion-mnist

The target is each patch normalised by its own mean and variance, as in the paper's recommended
command; ``--target.patch_norm false`` gives raw pixels. Predicting zero then costs (n - 1) / n for
n numbers per patch: learning starts at a loss below 1. For mask tokens inside the encoder, the
paper's ablation, see vision/simmim.

``--decoder cross`` is the decoder of CrossMAE (Fu et al. 2024, arXiv 2401.14391): hidden tokens attend to
the encoding of the visible ones and not to one another, so that a share of them can be predicted at a time.
``--decode_share 0.333`` is as published (0.25 of all tokens, of which 0.75 are hidden); previews show all.

Under a masking of several families, as core/tube-blocks is, each sample is encoded once with a mask of each,
and their losses are averaged: with tubelets of video the teacher of SALT (arXiv 2509.24317), "V-Pixel".

Shapes: B samples, N tokens, M of them predicted, T target width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, functional
from polymask.nn.decoders import decoder_of
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Share, Whole

DECODED = -1
"""Stream of the draw of what is decoded, and those below; those of masks are 0 and above."""


class MAE(System):
    """Masked autoencoder on any tokens.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the visible tokens alone.
        target: what to predict of each hidden token.
        masking: what to hide.
        objective: how a prediction is scored, over hidden tokens.
        score: evidence per token for maskings that go by score; None for those that do not.
        decoder: ``"self"``, blocks over all tokens (MAE), or ``"cross"``, from hidden tokens to visible ones.
        decode_share: share of the hidden tokens that are predicted at each step, drawn at random; below 1
            with decoder cross alone.
        weigh_layers: let each block of decoder cross attend to a learned sum of the encoder's input and the
            outputs of all its blocks (CrossMAE), in place of its output; needs an encoder that has blocks.
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
        decoder: Literal["self", "cross"] = "self",
        decode_share: Share = 1.0,
        weigh_layers: bool = False,
        decoder_dim: Count = 512,
        decoder_depth: Whole = 8,
        decoder_heads: Count = 16,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.decode_share, self.weigh_layers = decode_share, weigh_layers
        self.families = getattr(masking, "families", 1)
        size = {"dim": decoder_dim, "depth": decoder_depth, "heads": decoder_heads}
        self.decoder: Any = decoder_of(
            decoder, encoder, tokenizer, target.dim, share=decode_share, weigh=weigh_layers, **size
        )
        if weigh_layers:
            known: Any = encoder
            why = "the decoder reads what goes into the encoder's last norm"
            self.unused = functional.unused_parameters(self, known.norm, why)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        target = Tokens(self.target(batch, tokens), tokens.position)
        losses = []
        for family in range(self.families):
            mask = self.draw(tokens, batch, step, family)
            asked = functional.some_hidden(mask, self.decode_share, batch, step, DECODED - family)
            prediction_BMT = self.predict(tokens, mask, asked)
            hidden = asked.invert().keep(target)
            losses.append(functional.masked_loss(self.objective, prediction_BMT, hidden))
        return {"reconstruction": losses[0] if self.families == 1 else torch.stack(losses).mean()}

    def predict(self, tokens: Tokens, mask: Mask, asked: Mask | None = None) -> Tensor:
        """Predictions ``[B, M, T]`` at the hidden tokens, or at some of them, from the visible ones."""
        encode = functional.encode_states if self.weigh_layers else functional.encode_tokens
        encoded: Any = encode(self.encoder, mask.keep(tokens))
        prediction_BMT: Tensor = self.decoder(encoded, mask, tokens.position, asked)
        return prediction_BMT

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = functional.at_hidden(self.predict(tokens, mask), mask)
        return Preview(functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT))
