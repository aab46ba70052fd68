"""What embeds tokens in the place of timm's patch convolution."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class TokenEmbed(nn.Module):
    """The same weights as a linear map of one token, or, where tokens are ids, a table."""

    def __init__(
        self,
        img_size: Any = None,
        patch_size: Any = None,
        in_chans: Any = None,
        embed_dim: int = 768,
        norm_layer: Any = None,
        *,
        in_dim: int,
        grid: tuple[int, ...],
        vocabulary: int | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        self.grid_size, self.num_patches = grid, math.prod(grid)
        self.patch_size = (1, 1)
        self.proj: nn.Module = nn.Linear(in_dim, embed_dim)
        if vocabulary is not None:
            self.proj = nn.Embedding(vocabulary, embed_dim)
            nn.init.trunc_normal_(self.proj.weight, std=0.02)
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.proj(x if isinstance(self.proj, nn.Linear) else x[..., 0]))
        return embedded
