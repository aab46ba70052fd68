"""How well held-out text is predicted, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from polymask import UserError
from polymask.data import collate, evenly
from polymask.evaluation import Measurement
from polymask.evaluation.features import Picked, evaluating, on_device
from polymask.evaluation.intervals import Z
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.systems.host import implementing
from polymask.types import Count
from polymask_language.capabilities import ScoresTokens
from polymask_language.words import load_statistics

if TYPE_CHECKING:
    from polymask.run import Run


class Perplexity:
    """Perplexity of a causal model, pseudo-perplexity of a masked one, on held-out text.

    The exponential of the mean surprise of a token, given those before it, or given all others: each is
    hidden by itself then (Salazar et al. 2020, arXiv 1910.14659), which takes as many passes as a sequence
    has tokens. The two do not compare with each other, nor across vocabularies. Special tokens do not
    count. The rival knows how often each token occurs in the training data, and no context.

    Args:
        limit: samples at most, evenly spaced.
        stride: hide every so-many-th token at once instead; fewer passes, and a little harder.
        batch_size: samples per batch.
    """

    def __init__(
        self, *, limit: Count | None = 500, stride: Count | None = None, batch_size: Count = 64
    ) -> None:
        if stride is not None and stride < 1:
            raise UserError(f"stride must be 1 or more, got {stride}")
        self.limit, self.stride, self.batch_size = limit, stride, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        language: ScoresTokens | None = implementing(run.system, ScoresTokens)
        if language is None:
            raise UserError(
                f"{run.name} says nothing about single tokens: use a language model, such as "
                "language/mlm or language/meap"
            )
        samples = run.data.split("test")
        picked = Picked(samples, evenly(len(samples), self.limit))
        name = language.perplexity
        shares = log_shares(run.data.provides.get("statistics_file"))
        for row, model in ((TRAINED, run.system), (UNTRAINED, run.untrained())):
            with evaluating(model):
                nats, tokens, rival = self._measure(model, picked, shares)
            yield Measurement(row, name, *interval(nats, tokens))
        if rival is not None:
            yield Measurement("frequency alone", name, *interval(rival, tokens))

    def _measure(
        self, system: Any, samples: Picked, log_share: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Nats and tokens of each sample, and what token frequencies make of it."""
        device = next(system.parameters()).device
        log_share = None if log_share is None else log_share.to(device)
        nats, tokens, rival = [], [], []
        for batch in DataLoader(samples, self.batch_size, collate_fn=collate):
            moved = on_device(batch, system)
            found = system.surprise(moved, self.stride).double()
            counted = ~found.isnan()
            nats.append(torch.where(counted, found, 0).sum(1).cpu())
            tokens.append(counted.sum(1).cpu())
            if log_share is not None:
                ids = system.tokenizer(moved).ids
                rival.append(torch.where(counted, -log_share[ids], 0).sum(1).cpu())
        return torch.cat(nats), torch.cat(tokens), torch.cat(rival) if rival else None


def log_shares(statistics_file: str | None) -> Tensor | None:
    """Logarithm of the share of each token in the training data, float64 ``[vocabulary]``; None if unknown.

    One more of each is counted, so that none is impossible.
    """
    if statistics_file is None:
        return None
    counts = torch.from_numpy(load_statistics(statistics_file)["counts"]).double()
    return ((1 + counts) / (len(counts) + counts.sum())).log()


def interval(nats: Tensor, tokens: Tensor) -> tuple[float, float, float]:
    """Perplexity and the ends of its interval of 95 %, samples being independent.

    Args:
        nats: float64 ``[samples]``, surprise summed over the tokens of each.
        tokens: int64 ``[samples]``.
    """
    total = float(tokens.sum())
    if not total:
        raise UserError("the held-out text has no token that counts: give more of it")
    mean = float(nats.sum()) / total
    # of a ratio of sums, to first order
    error = float((nats - mean * tokens).square().sum()) ** 0.5 / total
    ends = np.clip([mean, mean - Z * error, mean + Z * error], None, math.log(1e300))
    value, low, high = np.exp(ends).tolist()
    return value, low, high
