"""MaskGIT: Masked Generative Image Transformer (Chang et al. 2022, arXiv 2202.04200).

Hide a share of an image's codes that is drawn anew for each sample, from nearly none to all, and predict them
from the others. Then generate: draw all codes at once, keep those that are most probable, and draw the others
anew given these, fewer at a time at first and more later.

    polymask recipe vision/maskgit --data fashion-mnist
    polymask pretrain vision/maskgit --preset small --data fashion-mnist

The recipe fits codes to patches by k-means and trains with them; the paper's tokenizer is a VQGAN. The presets
``small`` and ``tiny`` have random codes, which need no data, and whose pictures show nothing. Guessing by
frequency costs the entropy of the codes, at most ln K of K. ``--conditional true`` learns from labels.

Numbers of tokens are rounded up, as the paper has it; the release rounds down in generation (``rounding``), and
its configuration names a least ratio of 0.5 in training that the paper lacks. The paper's transformer is BERT's,
whose dropout of 0.1 vision/vit lacks. Labels are embedded and added to all tokens; in the paper they are a
token of their own.

Shapes: B samples, N tokens, D width, K codes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError
from polymask.blocks import initialise
from polymask.protocols import Encoder, Masking, Objective, Tokenizer
from polymask.types import Count, Fact


class MaskGIT(System):
    """Masked modelling of codes, with a ratio drawn for each sample, which can generate.

    Args:
        tokenizer: makes codes, numbers from a vocabulary.
        encoder: encodes the whole sequence; one with an embedding matrix, to which the head is tied.
        masking: what to hide (paper: random tokens, their share by a cosine of a uniform number).
        objective: how a prediction is scored over hidden tokens (paper: cross-entropy, smoothed by 0.1).
        conditional: tell the encoder the label of each sample, to generate by label; -1 is none.
        classes: number of classes, from the data.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        conditional: bool = False,
        classes: Fact[Count] = 10,
    ) -> None:
        super().__init__()
        codes, table = tokenizer.provides.get("vocabulary"), getattr(encoder, "weight", None)
        if codes is None:
            raise UserError(
                f"maskgit predicts codes, and {type(tokenizer).__name__} makes none: choose a tokenizer of codes "
                "(--tokenizer vision/code-patches)"
            )
        if table is None or encoder.out_dim != table.shape[1]:
            raise UserError(
                f"maskgit predicts codes by their embedding, and {type(encoder).__name__} has none: choose "
                "--encoder vision/vit"
            )
        self.tokenizer, self.encoder = tokenizer, encoder
        self.masking, self.objective = masking, objective
        self.codes, self.supervised = codes, conditional
        self.label = nn.Embedding(classes + 1, encoder.dim) if conditional else None
        dim = encoder.dim
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(codes))
        initialise(self.head)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        return {"codes": self.objective(self.predict(tokens, mask, batch), tokens.ids, mask)}

    def predict(self, tokens: Tokens, mask: Mask, batch: Batch) -> Tensor:
        """Logits ``[B, N, K]`` at all tokens, from those that are visible."""
        z_BND = self.encoder(self.embed(tokens, mask, batch), tokens.position, tokens.valid)
        return self.classify(z_BND[:, self.encoder.prefix :])

    def embed(self, tokens: Tokens, mask: Mask, batch: Batch) -> Tensor:
        """What the encoder adds positions to, ``[B, N, D]``."""
        x_BND = mask.fill(self.encoder.embed(tokens.values), self.mask_token)
        if self.label is None:
            return x_BND
        label_B = batch["label"] if "label" in batch else x_BND.new_full((len(x_BND),), -1, dtype=torch.int64)
        # the last row is that of no label
        return x_BND + self.label(label_B % self.label.num_embeddings)[:, None].to(x_BND.dtype)

    def classify(self, z_BND: Tensor) -> Tensor:
        """The encoder's output at tokens to logits ``[B, N, K]``."""
        table: Any = self.encoder
        return F.linear(self.head(z_BND), table.weight[: self.codes], self.bias)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is None:
            return Preview()
        mask, none = self.draw(tokens, batch, step), tokens.values.new_tensor(-1)
        likeliest_BN1 = self.predict(tokens, mask, batch).argmax(-1, keepdim=True)
        return Preview(
            {
                "original": batch[self.tokenizer.key],
                "its codes": inverse(tokens.values),
                "visible": inverse(mask.fill(tokens.values, none)),
                "hidden predicted (the likeliest code)": inverse(mask.fill(tokens.values, likeliest_BN1)),
            }
        )
