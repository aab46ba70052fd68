"""CNP: Conditional Neural Processes (Garnelo et al. 2018, arXiv 1807.01613), on tokens.

Encode the visible tokens, average them into one vector, and predict the content of any place from
that vector and the place alone.

    polymask pretrain acme/cnp --preset small --data digits

Half a minute on two cores. The loss starts at 1, what predicting the mean costs, and ends near 0.5.
Where the paper encodes each point by itself, the encoder here may let visible tokens see each
other. Trained on the whole mean, features are best pooled by it.

Shapes: B samples, M hidden tokens, D encoder width, T target width, P axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError, functional
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer


class CNP(System):
    """Predicts every hidden token from one vector.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the visible tokens.
        target: what to predict of each hidden token.
        masking: what to hide.
        objective: how a prediction is scored, over hidden tokens.
        width: width of the decoder's two hidden layers (paper: 128).
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        width: int = 128,
    ) -> None:
        super().__init__()
        grid = tokenizer.provides.get("grid")
        if encoder.needs_grid or grid is None:
            raise UserError("cnp leaves tokens of a grid out: use vision/patches and vision/vit, or the like")
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.span = masking, objective, max(grid)
        self.decoder = nn.Sequential(
            nn.Linear(encoder.out_dim + len(grid), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, target.dim),
        )

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        target_BMT = mask.invert().keep(self.target(batch, tokens))
        return {"prediction": self.objective(self.predict(tokens, mask), target_BMT)}

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Predictions ``[B, M, T]`` at the hidden tokens."""
        seen, place_BMP = mask.keep(tokens), mask.invert().keep(tokens.position) / self.span
        encoded = self.encoder(self.encoder.embed(seen.values), seen.position, seen.valid)
        mean_B1D = encoded[:, self.encoder.prefix :].mean(dim=1, keepdim=True)
        query = torch.cat([mean_B1D.expand(-1, place_BMP.shape[1], -1), place_BMP], dim=-1)
        prediction_BMT: Tensor = self.decoder(query)
        return prediction_BMT

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = functional.at_hidden(self.predict(tokens, mask), mask)
        return Preview(functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT))
