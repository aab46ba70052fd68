"""Blocks of neighbours in a cloud."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask import Request, UserError
from polymask.maskings._choose import check_ratio, unique_keys
from polymask.maskings.ranking import Ranking


class Neighbours(Ranking):
    """Hide the tokens nearest to randomly chosen ones, exactly the given share of each sample.

    With one block this is the block masking of Point-BERT (Yu et al. 2022, arXiv 2111.14819). With more, each
    token goes by its nearest block, so that blocks grow alike. Tokens inside a cloud are hidden more often
    than those at its edge.

    Args:
        ratio: share of tokens to hide, in (0, 1).
        blocks: how many.
    """

    def __init__(self, *, ratio: float = 0.6, blocks: int = 1) -> None:
        if blocks < 1:
            raise UserError(f"blocks must be 1 or more, got {blocks}")
        self.ratio, self.blocks = check_ratio(ratio), blocks

    def rank(self, request: Request) -> Tensor:
        """Tokens by their distance to the nearest chosen one."""
        position = request.position
        if position is None:
            raise UserError("neighbours need to know where tokens lie: this tokenizer gives no positions")
        if self.blocks > request.sites:
            raise UserError(f"{self.blocks} blocks of {request.sites} tokens: choose fewer")
        bits = request.step.bits(request.ids, request.sites, request.stream)
        keys = unique_keys(bits)
        if request.valid is not None:
            keys = torch.where(request.valid, keys, -1)
        chosen = keys.topk(self.blocks, dim=1).indices
        place = position.detach().double()
        centre = place.gather(1, chosen[..., None].expand(-1, -1, place.shape[2]))
        squared = (place[:, :, None] - centre[:, None]).square().sum(-1)
        if request.valid is not None:  # a row of fewer tokens than blocks
            squared = squared.masked_fill(~request.valid.gather(1, chosen)[:, None], torch.inf)
        return unique_keys(bits, -squared.amin(2))
