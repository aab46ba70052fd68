"""Inside the attention of timm's blocks, for systems that change it or learn from it."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Mask

Relation = Literal["raw", "scaled", "attention"]


def queries_keys(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a block's attention multiplies, ``[B, heads, N, D / heads]`` each, before it is scaled.

    Args:
        block: timm's ``Block``.
        x: ``[B, N, D]``, its input.
    """
    attn, (b, n, _) = block.attn, x.shape
    weight, bias = attn.qkv.weight, attn.qkv.bias
    rows = 2 * (len(weight) // 3)
    x = block.norm1(x) if getattr(block, "norm_first", True) else x
    both = F.linear(x, weight[:rows], None if bias is None else bias[:rows])
    q, k = both.view(b, n, 2, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    return attn.q_norm(q), attn.k_norm(k)


def logits(block: Any, x: Tensor) -> Tensor:
    """What a block's attention takes the softmax of, before anything is added: ``[B, heads, N, N]``.

    Args:
        block: timm's ``Block``.
        x: ``[B, N, D]``, its input.
    """
    q, k = queries_keys(block, x)
    found: Tensor = (q * block.attn.scale) @ k.transpose(-2, -1)
    return found


def attention_of(block: Any, x: Tensor, bias: Tensor | None) -> Tensor:
    """The attention of a block of timm, float32 ``[B, heads, N, N]``; arguments are those of its call."""
    found = logits(block, x).float()
    return (found if bias is None else add_bias(bias, found)).softmax(-1)


def through_block(
    block: Any, x: Tensor, bias: Tensor | None, cached: Tensor | None = None, at: Mask | None = None
) -> tuple[Tensor, Tensor]:
    """A block of timm at some tokens, which attend to all: to themselves, and to the others as they were.

    Args:
        block: timm's ``Block``, its norms before or behind the shortcuts.
        x: ``[B, R + S, D]``, its input at prefix tokens and at the tokens that ``at`` shows.
        bias: what attention adds to these queries.
        cached: keys and values ``[B, R + N, 2 D]`` of an earlier pass over all tokens; none in such a pass.
        at: shows the S of N sites that ``x`` is at.

    Returns:
        Its output ``[B, R + S, D]``, and keys and values ``[B, R + N, 2 D]``.
    """
    attn, first = block.attn, getattr(block, "norm_first", True)
    q, kv = attn.qkv(block.norm1(x) if first else x).tensor_split([attn.qkv.out_features // 3], dim=-1)
    if cached is not None and at is not None:
        r = cached.shape[1] - at.sites
        kv = torch.cat([kv[:, :r], at.restore(kv[:, r:], cached[:, r:])], dim=1)
    q, k, v = (y.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for y in (q, *kv.chunk(2, dim=-1)))
    mixed = F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v, attn_mask=bias)
    x = x + block.ls1(attn.proj(mixed.transpose(1, 2).flatten(2)))
    if first:
        return x + block.ls2(block.mlp(block.norm2(x))), kv
    x = block.norm1(x)
    return block.norm2(x + block.ls2(block.mlp(x))), kv


def relation(q: Tensor, k: Tensor, kind: Relation, real: Tensor | None = None) -> Tensor:
    """How each two tokens relate, float32 ``[B, heads, N, N]``.

    Args:
        q: queries, ``[B, heads, N, width]``.
        k: keys, of the same shape.
        kind: the ``"raw"`` product, ``"scaled"`` by the root of the width, or ``"attention"``, its softmax.
        real: bool ``[B, N, N]``, the pairs without padding; None for all.
    """
    with torch.autocast(q.device.type, enabled=False):
        found: Tensor = q.float() @ k.float().transpose(-2, -1)
        if kind == "raw":
            return found
        found = found * q.shape[-1] ** -0.5
        if kind == "scaled":
            return found
        if real is not None:
            found = torch.where(real[:, None], found, torch.finfo(found.dtype).min)
        return found.softmax(-1)


def keep_top(logits_BHQK: Tensor, k: int) -> Tensor:
    """0 at the ``k`` largest logits of each row, exactly, and minus infinity elsewhere; no gradient."""
    with torch.no_grad():
        best = logits_BHQK.topk(k, dim=-1, sorted=False).indices
        return torch.full_like(logits_BHQK, -torch.inf).scatter(-1, best, 0.0)


def add_bias(bias: Tensor | None, more: Tensor) -> Tensor:
    """One attention bias on top of another.

    Args:
        bias: bool, float or None, as the blocks of an encoder take it.
        more: float, of the full batch.
    """
    if bias is None:
        return more
    if bias.dtype == torch.bool:
        return torch.where(bias, more, -torch.inf)
    return more + bias.to(more.dtype)


class Gate(nn.Module):
    """How far each site is open as a key, log(sigmoid) of one linear map of its state.

    Args:
        dim: width of the states.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, 2.0)  # open to 0.88

    def forward(self, z_BND: Tensor) -> Tensor:
        """``[B, N, D]`` to the logarithm of gates in (0, 1), float32 ``[B, N]``."""
        logit: Tensor = self.linear(F.layer_norm(z_BND, z_BND.shape[-1:]))
        return F.logsigmoid(logit[..., 0].float())


def gate_bias(gate: nn.Module, pairs_BQK: Tensor, prefix: int, x: Tensor) -> Tensor:
    """What attention adds so that some queries see some keys through a gate.

    The logarithm of a gate added to a logit multiplies the attention by the gate and scales the row back
    to one, in any kernel.

    Args:
        gate: from the states of the keys to the logarithm of their gates.
        pairs_BQK: bool ``[B, R + N, R + N]``, which query sees which key through its gate.
        prefix: R, leading tokens without a gate.
        x: ``[B, R + N, D]``, the input of the block.

    Returns:
        ``[B, 1, R + N, R + N]``, of the dtype of ``x``.
    """
    log_gate_BK = F.pad(gate(x[:, prefix:]), (prefix, 0))
    return torch.where(pairs_BQK[:, None], log_gate_BK[:, None, None, :], 0.0).to(x.dtype)
