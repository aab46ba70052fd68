"""What a tokenizer makes and an encoder returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of token sequences.

    Args:
        values: ``[B, N, D]`` content: patch pixels, frames, points of a group, features.
        position: ``[B, N, P]`` where each token lies, in token units along each of P axes.
        grid: lengths of the axes when the N tokens fill a grid in row-major order, else None.
        ids: ``[B, N]`` int64 vocabulary ids of discrete tokens, else None.
        valid: ``[B, N]`` bool, False on padding; None when every token is real.
        prefix: ``[B, R, D]`` tokens of no place (class, registers), else None.
    """

    values: Tensor
    position: Tensor
    grid: tuple[int, ...] | None = None
    ids: Tensor | None = None
    valid: Tensor | None = None
    prefix: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """``(B, N)``."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def real(self) -> Tensor:
        """Which tokens are no padding, bool ``[B, N]``."""
        if self.valid is not None:
            return self.valid
        return torch.ones(self.shape, dtype=torch.bool, device=self.values.device)

    def pool(self, how: str = "mean") -> Tensor:
        """One vector per sample, ``[B, D]``.

        Args:
            how: ``"mean"`` over real tokens, or ``"prefix"``, the first prefix token.

        Raises:
            ValueError: ``"prefix"`` where the encoder has none.
        """
        if how == "prefix":
            if self.prefix is None:
                raise ValueError("pool='prefix': this encoder has no class token; use pool='mean'")
            return self.prefix[:, 0]
        if how != "mean":
            raise ValueError(f"pool={how!r}: choose 'mean' or 'prefix'")
        if self.valid is None:
            return self.values.mean(dim=1)
        kept = torch.where(self.valid[..., None], self.values, 0.0)
        return kept.sum(dim=1) / self.valid.sum(dim=1, keepdim=True).clamp(min=1)
