"""A small head that reads the states of a language model with learned queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import UserError
from polymask.nn.blocks import CrossBlock


class PerceiverHead(nn.Module):
    """Predicts the embedding of a teacher: queries attend to states and to themselves (OLA-VLM).

    States and queries are brought to the target's width by one linear map; the answer is normed. Flamingo's
    resampler (Alayrac et al. 2022, arXiv 2204.14198) has no biases, this has.

    Args:
        in_dim: width of states and queries.
        out_dim: width of the target.
        heads: attention heads.
        head_dim: width of each.
        mlp_ratio: width of the feed-forward layer over ``out_dim``.
    """

    def __init__(self, in_dim: int, out_dim: int, heads: int, head_dim: int, mlp_ratio: float = 1.0) -> None:
        super().__init__()
        if out_dim < 2:
            raise UserError(
                "a target of one number per patch, and what a head answers is normed over the target's "
                "width: use vision/teacher, or another target of several numbers"
            )
        self.inward, self.outward = nn.Linear(in_dim, out_dim), nn.Linear(out_dim, out_dim)
        self.norm_states = nn.LayerNorm(out_dim)
        self.block = CrossBlock(out_dim, heads, out_dim, mlp_ratio, head_dim)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, queries_BQD: Tensor, states_BKD: Tensor, seen_BK: Tensor) -> Tensor:
        """``[B, Q, in_dim]`` and ``[B, K, in_dim]`` to ``[B, Q, out_dim]``.

        Args:
            queries_BQD: what asks.
            states_BKD: what is asked.
            seen_BK: bool, the states that may be read.
        """
        x, z = self.inward(states_BKD), self.inward(queries_BQD)
        reach = F.pad(seen_BK, (0, z.shape[1]), value=True)[:, None, None, :]
        z = self.block(z, torch.cat([self.norm_states(x), self.block.norm1(z)], dim=1), reach)
        out: Tensor = self.norm(self.outward(z))
        return out
