"""Inside the attention of timm's blocks, for systems that change it from block to block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def logits(block: Any, x: Tensor) -> Tensor:
    """What a block's attention takes the softmax of, before anything is added: ``[B, heads, N, N]``.

    Args:
        block: timm's ``Block``.
        x: ``[B, N, D]``, its input.
    """
    attn, (b, n, _) = block.attn, x.shape
    weight, bias = attn.qkv.weight, attn.qkv.bias
    rows = 2 * (len(weight) // 3)
    both = F.linear(block.norm1(x), weight[:rows], None if bias is None else bias[:rows])
    q, k = both.view(b, n, 2, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    found: Tensor = (attn.q_norm(q) * attn.scale) @ attn.k_norm(k).transpose(-2, -1)
    return found


def keep_top(logits_BHQK: Tensor, k: int) -> Tensor:
    """0 at the ``k`` largest logits of each row, exactly, and minus infinity elsewhere; no gradient."""
    with torch.no_grad():
        best = logits_BHQK.topk(k, dim=-1, sorted=False).indices
        return torch.full_like(logits_BHQK, -torch.inf).scatter(-1, best, 0.0)
