"""Supervised training of an encoder: what pre-training without labels is compared with, and a teacher.

A linear classifier on the mean of the encoder's tokens, trained together with it on the labels of the data by
cross-entropy. Nothing is masked. Samples without a label do not count.

    polymask pretrain vision/supervised --preset small --data fashion-mnist

Guessing by the frequencies of K classes that are equally frequent costs ln K.

Shapes: B samples, D encoder width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Step, System, UserError
from polymask.protocols import Encoder, Tokenizer
from polymask.types import Count, Fact, Share


class Supervised(System):
    """An encoder with a linear classifier, trained on labels.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes all tokens.
        classes: number of classes, from the data.
        pool: what is classified: the ``"mean"`` over tokens, or ``"prefix"``, the class token.
        label_smoothing: probability that is spread evenly over all classes, in [0, 1).
    """

    supervised = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        classes: Fact[Count] = 10,
        pool: Literal["mean", "prefix"] = "mean",
        label_smoothing: Share = 0.0,
    ) -> None:
        super().__init__()
        if pool not in ("mean", "prefix"):
            raise UserError(f"pool={pool!r}: choose 'mean' or 'prefix'")
        if pool == "prefix" and not encoder.prefix:
            raise UserError("pool='prefix': this encoder has no class token; use pool='mean'")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.tokenizer, self.encoder = tokenizer, encoder
        self.pool, self.label_smoothing = pool, label_smoothing
        self.head = nn.Linear(encoder.out_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, step: Step) -> Losses:
        label_B = batch["label"]
        loss_B = F.cross_entropy(
            self.classify(batch).float(),
            label_B.clamp(min=0),
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return {"classification": Mask(label_B >= 0).mean(loss_B)}

    def classify(self, batch: Batch) -> Tensor:
        """Logits ``[B, classes]``."""
        logits: Tensor = self.head(self.encode(batch).pool(self.pool))
        return logits

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        label_B = batch["label"]
        right_B = (self.classify(batch).argmax(dim=1) == label_B).float()
        return {"training_accuracy": Mask(label_B >= 0).mean(right_B)}
