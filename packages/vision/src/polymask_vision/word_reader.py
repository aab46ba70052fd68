"""Words that look at an image, to say which words are hidden among them."""

from __future__ import annotations

from torch import Tensor, nn

from polymask import UserError
from polymask.nn.blocks import Block, CrossAttention
from polymask.types import Count, Whole


class WordReader(nn.Module):
    """Words look at the image once, then at each other, and a head says which each is.

    Args:
        dim: width.
        heads: attention heads.
        depth: blocks behind the look at the image.
        vocabulary: how many words there are to choose from.
    """

    def __init__(self, dim: Count, heads: Count, depth: Whole, vocabulary: Count) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"dim {dim} must divide into {heads} heads")
        self.norm_text, self.norm_image, self.norm = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.cross = CrossAttention(dim, heads)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, vocabulary)
        )

    def forward(self, text: Tensor, image: Tensor, real: Tensor) -> Tensor:
        """``[B, N, dim]`` and ``[B, V, dim]`` to ``[B, N, dim]``; padding, False in ``real``, is not read."""
        image = self.norm_image(image)
        x = self.cross(self.norm_text(text), image, image)
        for block in self.blocks:
            x = block(x, attn_mask=real[:, None, None, :])
        out: Tensor = self.norm(x)
        return out
