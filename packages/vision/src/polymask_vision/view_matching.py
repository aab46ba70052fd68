"""Embeddings of the views of a window by several modalities, and how they are matched over a batch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polymask import Mask, distributed
from polymask.protocols import Objective


@dataclass(frozen=True, eq=False)
class Views:
    """What stands for each view of each window, by one modality.

    Args:
        values: float ``[B, V, E]``.
        real: bool ``[B, V]``, False where there is nothing to go by.
    """

    values: Tensor
    real: Tensor


def match_views(objective: Objective, found: Mapping[str, Views]) -> Tensor:
    """A modality with each other one over all pairs of views, and each with itself over pairs of two views.

    Of each two modalities, and of each by itself, the mean over pairs counts; these are summed. A pair is
    scored over the windows that have both of its views, if two have, on all processes together.

    Args:
        objective: scores ``[B, 1, E]`` and ``[B, 1, E]`` under a mask, with other windows as negatives.
        found: by modality, one at least.
    """
    terms = []
    for one, other in itertools.combinations_with_replacement(found.values(), 2):
        views = range(one.real.shape[1])
        pairs = list(itertools.permutations(views, 2) if one is other else itertools.product(views, views))
        if not pairs:
            continue
        both = [one.real[:, [p]] & other.real[:, [q]] for p, q in pairs]
        each = [
            objective(one.values[:, [p]], other.values[:, [q]], Mask(real))
            for (p, q), real in zip(pairs, both, strict=True)
        ]
        windows = distributed.mean(torch.stack([real.sum() for real in both]).float())
        matched = (windows * distributed.processes() > 1.5).float()
        terms.append((torch.stack(each) * matched).sum() / matched.sum().clamp(min=1))
    # a single view by a single modality matches nothing
    return torch.stack(terms).sum() if terms else 0 * next(iter(found.values())).values.sum()
