"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al. 2021, arXiv 2111.06377).

Drop a random 75 % of the patches, encode only those that are left, and let a small decoder with
one learned mask token regress the pixels of the dropped ones.

    polymask pretrain vision/mae --preset small --data fashion

Shapes: B samples, N tokens, K of them visible, M hidden, D encoder width, T target width, P axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymask import Batch, Mask, Request, Step, System, Tokens, UserError
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask_vision.decoders import LightDecoder


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

    presets = {
        "paper": {
            "encoder.dim": 768,
            "encoder.depth": 12,
            "encoder.heads": 12,
            "target.patch_norm": True,
            "epochs": 800,
            "warmup_epochs": 40,
            "batch_size": 4096,
            "base_lr": 1.5e-4,
            "betas": (0.9, 0.95),
            "weight_decay": 0.05,
            "data.augment": "crop-flip",
        },
        "small": {
            "tokenizer.patch_size": 4,
            "encoder.dim": 128,
            "encoder.depth": 4,
            "encoder.heads": 4,
            "target.patch_norm": True,
            "decoder_dim": 64,
            "decoder_depth": 1,
            "decoder_heads": 4,
            "steps": 1000,
            "warmup_steps": 100,
            "batch_size": 256,
            "base_lr": 1e-3,
            "betas": (0.9, 0.95),
            "weight_decay": 0.05,
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
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
    ) -> None:
        super().__init__()
        if encoder.needs_grid:
            raise UserError(
                f"mae leaves hidden tokens out, and {type(encoder).__name__} encodes whole grids only: "
                "use vision/vit here, or simmim with this encoder"
            )
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.decoder = LightDecoder(
            in_dim=encoder.out_dim,
            out_dim=target.dim,
            prefix=encoder.prefix,
            grid=tokenizer.provides.get("grid"),
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
        )

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BMT = self.predict(tokens, mask)
        target_BMT = mask.invert().keep(self.target(batch, tokens))
        return {"reconstruction": self.objective(prediction_BMT, target_BMT)}

    def draw(self, tokens: Tokens, batch: Batch, step: Step) -> Mask:
        """One mask per sample."""
        score = None if self.score is None else self.score(batch, tokens)[..., 0]
        return self.masking(Request.of(tokens, batch, step, score=score))

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Predictions ``[B, M, T]`` at the hidden tokens, from the visible ones."""
        seen = mask.keep(tokens)
        encoded = self.encoder(self.encoder.embed(seen.values), seen.position, seen.valid)
        return self.decoder(encoded, mask, tokens.position)

    def encode(self, batch: Batch) -> Tokens:
        tokens = self.tokenizer(batch)
        x = self.encoder(self.encoder.embed(tokens.values), tokens.position, tokens.valid)
        r = self.encoder.prefix
        return Tokens(x[:, r:], tokens.position, tokens.grid, valid=tokens.valid, prefix=x[:, :r] if r else None)

    @torch.no_grad()
    def pictures(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        hidden = mask.invert()
        guess = hidden.restore(self.predict(tokens, mask), self.target(batch, tokens))
        values, note = self.target.invert(guess, tokens)
        picture = self.tokenizer.inverse
        return {
            "original": picture(tokens.values),
            "what the encoder sees": picture(mask.fill(tokens.values, tokens.values.new_zeros(1))),
            f"hidden patches predicted ({note})": picture(hidden.fill(values, tokens.values)),
        }

    def masks(self, batch: Batch, step: Step) -> dict[str, Mask]:
        return {"mask": self.draw(self.tokenizer(batch), batch, step)}
