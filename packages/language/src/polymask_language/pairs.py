"""Chosen and rejected responses of a batch as the rows of one.

A batch of pairs holds a prompt with its chosen response under ``text``, ``response``, ``word`` and so on
(:mod:`polymask_language.tokenizers`), and the same prompt with the rejected one under ``rejected_text``,
``rejected_response``...
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, UserError, sample_ids
from polymask.data import length_key

KEY, REJECTED = "text", "rejected_"


def stack(batch: Batch) -> Batch:
    """Pairs ``[B, ...]`` as rows ``[2 B, ...]``: chosen, then rejected, padded to one length.

    Raises:
        UserError: the batch has no pairs.
    """
    if REJECTED + KEY not in batch or REJECTED + "response" not in batch or "response" not in batch:
        raise UserError(
            "preferences are learned from pairs of responses: use data that has them, such as "
            "language/sentiment, or responses:FILE with prompt, chosen and rejected"
        )
    rejected = {key.removeprefix(REJECTED): x for key, x in batch.items() if key.startswith(REJECTED)}
    sides = [batch, rejected]
    width = max(side[KEY].shape[1] for side in sides)
    rows: Batch = {}
    for key, example in rejected.items():
        if key in batch and example.dim() == 2:
            rows[key] = torch.cat([F.pad(side[key], (0, width - side[key].shape[1])) for side in sides])
    rows[length_key(KEY)] = torch.cat([_lengths(side) for side in sides])
    ids = sample_ids(batch)
    return {**rows, "id": torch.cat([ids, ids])}


def unstack(rows: Batch) -> tuple[Batch, Batch]:
    """The chosen rows, and the rejected ones."""
    n = len(rows["id"]) // 2
    return {key: x[:n] for key, x in rows.items()}, {key: x[n:] for key, x in rows.items()}


def _lengths(side: Batch) -> Tensor:
    """int64 ``[B]``, how much of each row is real."""
    text = side[KEY]
    whole = torch.full((len(text),), text.shape[1], device=text.device)
    return side.get(length_key(KEY), whole)
