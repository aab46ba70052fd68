"""SimMIM: a Simple Framework for Masked Image Modeling (Xie et al. 2021, arXiv 2111.09886).

Put a learned vector in place of randomly chosen cells of patches after embedding, run the whole
sequence through an ordinary encoder, and regress the raw pixels of the hidden cells with L1
through one linear layer.

    polymask pretrain vision/simmim --preset small --data fashion

Nothing is left out, so windowed and hierarchical encoders work (``--encoder vision/swin``). The
paper's ViT has one relative position bias shared by all blocks; here it has learned absolute
positions, as in the port to transformers.

Shapes: B samples, N tokens, D width, P axes; L = N / r^2 output tokens of an encoder that
downsamples by r along each of two axes; T target width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymask import Batch, Mask, Request, Step, System, Tokens
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer


class SimMIM(System):
    """Masked modelling by substitution, on any tokens and any encoder.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the whole sequence.
        target: what to predict of each hidden token (paper: raw pixels).
        masking: what to hide (paper: 60 % of cells of 32 pixels).
        objective: how a prediction is scored over hidden tokens (paper: L1).
        score: evidence per token for maskings that go by score; None for those that do not.
    """

    presets = {
        "paper": {
            "encoder.dim": 768,
            "encoder.depth": 12,
            "encoder.heads": 12,
            "encoder.layer_scale": 0.1,
            "encoder.drop_path": 0.1,
            "epochs": 800,
            "warmup_epochs": 10,
            "batch_size": 2048,
            "base_lr": 5e-5,
            "betas": (0.9, 0.999),
            "weight_decay": 0.05,
            "clip": 5.0,
            "data.augment": "crop-flip",
        },
        "small": {
            "tokenizer.patch_size": 4,
            "masking.cell": 1,
            "encoder.dim": 128,
            "encoder.depth": 4,
            "encoder.heads": 4,
            "steps": 1000,
            "warmup_steps": 100,
            "batch_size": 256,
            "base_lr": 1e-3,
            "weight_decay": 0.05,
            "clip": 5.0,
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
        score: Target | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(encoder.dim), std=0.02))
        self.head = nn.Linear(encoder.out_dim, encoder.downsample**2 * target.dim)

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = self.predict(tokens, mask)
        target_BNT = self.target(batch, tokens)
        return {"reconstruction": self.objective(prediction_BNT, target_BNT, mask)}

    def draw(self, tokens: Tokens, batch: Batch, step: Step) -> Mask:
        """One mask per sample."""
        score = None if self.score is None else self.score(batch, tokens)[..., 0]
        return self.masking(Request.of(tokens, batch, step, score=score))

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Predictions ``[B, N, T]`` at all tokens; the encoder adds positions after substitution."""
        x_BND = mask.fill(self.encoder.embed(tokens.values), self.mask_token)
        z_BLD = self.encoder(x_BND, tokens.position, tokens.valid)[:, self.encoder.prefix :]
        return unfold(self.head(z_BLD), tokens, self.encoder.downsample)

    def encode(self, batch: Batch) -> Tokens:
        tokens = self.tokenizer(batch)
        x = self.encoder(self.encoder.embed(tokens.values), tokens.position, tokens.valid)
        r, down = self.encoder.prefix, self.encoder.downsample
        prefix = x[:, :r] if r else None
        if down == 1:
            return Tokens(x[:, r:], tokens.position, tokens.grid, valid=tokens.valid, prefix=prefix)
        assert tokens.grid is not None
        grid = tuple(n // down for n in tokens.grid)
        middle = tokens.position.view(-1, grid[0], down, grid[1], down, 2).mean(dim=(2, 4))
        return Tokens(x[:, r:], middle.flatten(1, 2), grid, prefix=prefix)

    @torch.no_grad()
    def pictures(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        values, note = self.target.invert(self.predict(tokens, mask), tokens)
        picture = self.tokenizer.inverse
        return {
            "original": picture(tokens.values),
            "what the encoder sees": picture(mask.fill(tokens.values, tokens.values.new_zeros(1))),
            f"hidden patches predicted ({note})": picture(mask.fill(tokens.values, values)),
        }

    def masks(self, batch: Batch, step: Step) -> dict[str, Mask]:
        return {"mask": self.draw(self.tokenizer(batch), batch, step)}


def unfold(z_BLF: Tensor, tokens: Tokens, down: int) -> Tensor:
    """Coarse outputs, each holding a ``down x down`` block of predictions, at fine tokens.

    Args:
        z_BLF: ``[B, L, down * down * T]`` over the coarse grid.
        tokens: the fine tokens, for their grid.
        down: fine tokens per coarse one along each axis.

    Returns:
        ``[B, N, T]``.
    """
    if down == 1:
        return z_BLF
    assert tokens.grid is not None
    h, w = (n // down for n in tokens.grid)
    z = z_BLF.view(-1, h, w, down, down, z_BLF.shape[-1] // down**2)
    return z.transpose(2, 3).reshape(z.shape[0], h * w * down**2, -1)
