"""What a Transformer does from block to block: how far it looks, over how many directions features spread."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask import Tokens
from polymask.protocols import Encoder
from polymask.training.collapse import spread_and_rank
from polymask_vision.attention import attention_of


@torch.no_grad()
def lines_by_depth(encoder: Encoder, tokens: Tokens) -> dict[str, Tensor]:
    """Attention span and effective rank of an encoder that sees all of some tokens, as lines of a preview.

    The span is the mean distance from a patch to those that it attends to, weighted by attention, over
    patches, heads and samples (Dosovitskiy et al. 2020, arXiv 2010.11929); what goes to the class token does
    not count. The rank is that of all patches of the batch together: the flatter their singular values, the
    higher.

    Returns:
        By title float32 ``[1 + blocks]``, first of the embedding, which has no span; nothing where the
        encoder does not let its blocks be run.
    """
    own: Any = encoder
    if not hasattr(own, "begin"):
        return {}
    r, real = own.prefix, tokens.real
    distance_BNN = torch.cdist(tokens.position.float(), tokens.position.float())
    x, bias = own.begin(own.embed(tokens.values), tokens.position, tokens.valid)
    spans, ranks = [float("nan")], [spread_and_rank(x[:, r:][real])[1]]
    for block in own.blocks:
        paid_BNN = attention_of(block, x, bias).mean(1)[:, r:, r:]
        span_BN = (paid_BNN * distance_BNN).sum(-1) / paid_BNN.sum(-1)
        x = block(x, attn_mask=bias)
        spans.append(float(span_BN[real].mean()))
        ranks.append(spread_and_rank(x[:, r:][real])[1])
    return {
        "Attention span, in patches": torch.tensor(spans),
        "Effective rank of the features of patches": torch.tensor(ranks),
    }
