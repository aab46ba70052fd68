"""SimMIM: a Simple Framework for Masked Image Modeling (Xie et al. 2021, arXiv 2111.09886).

Put a learned vector in place of randomly chosen cells of patches after embedding, run the whole
sequence through an ordinary encoder, and regress the raw pixels of the hidden cells with L1
through one linear layer.

    polymask pretrain vision/simmim --preset small --data fashion-mnist

Nothing is left out, so windowed and hierarchical encoders work: ``--preset paper-swin``, or
``--encoder vision/swin``. The paper's ViT knows position from one relative bias that all blocks
share (``--encoder.positions relative``, as the preset ``paper`` has it); the default is learned
positions, as in the port to transformers. The head's numbers are in the order of the tokens (row,
column, channel) where the paper's PixelShuffle has the channel first: the same layer, its rows in
another order. Initial values are MAE's for the ViT, Swin's own for Swin.

Shapes: B samples, N tokens, D width, P axes; L = N / r^P output tokens of an encoder that
downsamples by r along each axis; T target width, F = r^P T.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, functional
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer


class SimMIM(System):
    """Masked modelling by substitution, on any tokens and any encoder.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the whole sequence.
        target: what to predict of each hidden token (paper: raw pixels).
        masking: what to hide (paper: 60 % of cells of 32 pixels, rounded up).
        objective: how a prediction is scored over hidden tokens (paper: L1).
        score: evidence per token for maskings that go by score; None for those that do not.
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
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(encoder.dim), std=0.02))
        axes = len(tokenizer.provides.get("grid") or ())
        self.head = nn.Linear(encoder.out_dim, encoder.downsample**axes * target.dim)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = self.predict(tokens, mask)
        return {"reconstruction": self.objective(prediction_BNT, self.target(batch, tokens), mask)}

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Predictions ``[B, N, T]`` at all tokens; the encoder adds positions after substitution."""
        x_BND = mask.fill(self.encoder.embed(tokens.values), self.mask_token)
        z_BLD = self.encoder(x_BND, tokens.position, tokens.valid)[:, self.encoder.prefix :]
        return functional.unfold(self.head(z_BLD), tokens.grid, self.encoder.downsample)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = self.predict(tokens, mask)
        return Preview(functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT))
