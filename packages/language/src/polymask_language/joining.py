"""A query, or a set of words, and a document in one sequence: ``start query end document end``."""

from __future__ import annotations

import torch
from torch import Tensor


def join(
    query: Tensor,
    document: Tensor,
    word: Tensor,
    valid: Tensor | None,
    *,
    start_id: int,
    end_id: int,
    pad_id: int,
    length: int,
) -> dict[str, Tensor]:
    """Queries before documents. What is too long is cut at the end of the document.

    Args:
        query: int64 ``[B, Q]``, -1 where there is nothing; beyond half the length it is cut.
        document: int64 ``[B, N]``, with or without start and end.
        word: int64 ``[B, N]``, the word of the document that each token is of.
        valid: bool ``[B, N]``, False on padding.
        start_id: id that leads a sequence.
        end_id: id behind the query and behind the document.
        pad_id: id of padding.
        length: most tokens of a row.

    Returns:
        A batch, all int64: ``text`` ``[B, T]``, padded; ``text_length`` ``[B]``; ``word`` ``[B, T]``, the
        number of each token's word in its row; ``segment`` ``[B, T]``, 0 up to the first end, then 1.
    """
    asked = (query >= 0) & ((query >= 0).cumsum(1) <= length // 2)
    content = (document != start_id) & (document != end_id)
    content = content if valid is None else content & valid
    content = content & (content.cumsum(1) <= length - 3 - asked.sum(1, keepdim=True))
    one = document.new_ones(len(document), 1)
    ids = torch.cat([one * start_id, query, one * end_id, document, one * end_id], dim=1)
    real = torch.cat([one > 0, asked, one > 0, content, one > 0], dim=1)
    lead = query.shape[1] + 2
    place = torch.arange(real.shape[1], device=ids.device).expand_as(real)
    words = torch.cat([place[:, :lead], lead + word, lead + place[:, -1:]], dim=1)
    # a stable sort moves what is real to the front, in its order
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
    count = real.sum(1)
    inside = torch.arange(order.shape[1], device=ids.device) < count[:, None]
    return {
        "text": torch.where(inside, ids.gather(1, order), pad_id),
        "text_length": count,
        "word": words.gather(1, order),
        "segment": (order >= lead).long(),
    }
