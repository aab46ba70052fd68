"""What a Transformer does from block to block: how far and how alike its tokens look, how features spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Tokens
from polymask.protocols import Batch, Encoder
from polymask.training.collapse import spread_and_rank
from polymask_vision.attention import attention_of
from polymask_vision.networks import Network

Lines = dict[str, Tensor]
"""By title float32 ``[1 + blocks]``, first of the embedding; NaN where there is no number."""

SPAN = "Attention span, in patches"
INFORMATION = "Normalised mutual information of queries and keys"
RANK = "Effective rank of the features of patches"


@torch.no_grad()
def lines_by_depth(encoder: Encoder, tokens: Tokens) -> Lines:
    """Attention span, mutual information and effective rank of an encoder that sees all of some tokens.

    What goes to the class token does not count. The span is Dosovitskiy et al.'s (2020, arXiv 2010.11929).
    The rank is that of all patches of the batch together: the flatter their singular values, the higher.

    Returns:
        Lines of a preview; nothing where the encoder does not let its blocks be run.
    """
    own: Any = encoder
    if not hasattr(own, "begin"):
        return {}
    x, bias = own.begin(own.embed(tokens.values), tokens.position, tokens.valid)
    rows = [_row(tokens, own.prefix, x, None)]
    for block in own.blocks:
        attention = attention_of(block, x, bias)
        x = block(x, attn_mask=bias)
        rows.append(_row(tokens, own.prefix, x, attention))
    return _lines(rows)


@torch.no_grad()
def network_lines(network: Network, batch: Batch, tokens: Tokens) -> Lines:
    """The same of a frozen network; its embedding has no rank here."""
    found = network(batch, tokens, attention=range(1, len(network.blocks) + 1))
    pairs = zip(found.blocks, found.attention, strict=True)
    return _lines([(float("nan"),) * 3, *(_row(tokens, network.prefix, x, paid) for x, paid in pairs)])


def side_by_side(lines: Mapping[str, Lines]) -> dict[str, dict[str, Tensor]]:
    """Lines of several networks, by their names, as lines of one chart for each title."""
    length = max((len(line) for found in lines.values() for line in found.values()), default=0)
    charts: dict[str, dict[str, Tensor]] = {}
    for name, found in lines.items():
        for title, line in found.items():
            padded = F.pad(line, (0, length - len(line)), value=float("nan"))
            charts.setdefault(title, {})[name] = padded
    return charts


def attention_span(attention: Tensor, position: Tensor, real: Tensor) -> Tensor:
    """Mean distance from a token to those that it attends to, weighted by attention.

    Args:
        attention: ``[B, heads, N, N]``; rows need not add up to 1.
        position: ``[B, N, P]``.
        real: bool ``[B, N]``, the queries that count.

    Returns:
        Scalar in units of ``position``, a mean over queries of the mean head.
    """
    paid_BNN = attention.mean(1)
    distance_BNN = torch.cdist(position.float(), position.float())
    return ((paid_BNN * distance_BNN).sum(-1) / paid_BNN.sum(-1))[real].mean()


def mutual_information(attention: Tensor, real: Tensor) -> Tensor:
    """How much a query tells about the key that it attends to: ``I(q; k) / sqrt(H(q) H(k))``.

    Queries are equally likely. 0 where all attend alike, 1 where each attends to a key of its own
    (Park et al. 2023, arXiv 2305.00729).

    Args:
        attention: ``[B, heads, N, N]``; rows need not add up to 1.
        real: bool ``[B, N]``, the queries that count.

    Returns:
        Scalar in [0, 1], a mean over heads and samples; 0 where all attend to one key, or there is one query.
    """
    query_B1N1 = (real / real.sum(-1, keepdim=True))[:, None, :, None]
    row = attention / attention.sum(-1, keepdim=True)
    key_BHN = (query_B1N1 * row).sum(2)
    of_key = torch.special.entr(key_BHN).sum(-1)
    given_query = (query_B1N1[..., 0] * torch.special.entr(row).sum(-1)).sum(-1)
    of_query = real.sum(-1)[:, None].float().log()
    scale = (of_query * of_key).sqrt()
    known = scale > 1e-6
    return torch.where(known, (of_key - given_query) / scale.where(known, 1.0), 0.0).mean()


def _row(tokens: Tokens, prefix: int, x: Tensor, attention: Tensor | None) -> tuple[float, float, float]:
    real, rank = tokens.real, spread_and_rank(x[:, prefix:][tokens.real])[1]
    if attention is None:
        return float("nan"), float("nan"), rank
    among = attention[:, :, prefix:, prefix:]
    span, information = attention_span(among, tokens.position, real), mutual_information(among, real)
    return float(span), float(information), rank


def _lines(rows: list[tuple[float, float, float]]) -> Lines:
    columns = zip(*rows, strict=True)
    return {title: torch.tensor(c) for title, c in zip((SPAN, INFORMATION, RANK), columns, strict=True)}
