"""The two classifiers of a probe. Neither sees a test label."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = tuple(10.0**k for k in range(-4, 3))
"""Inverse regularisation strengths a linear probe chooses from (scikit-learn's C)."""

MOST = 1000
"""Iterations after which a linear probe that has not converged gives up."""

FOLDS = 5
"""A linear probe chooses its strength on one of so many parts of the training samples, or on each in turn."""

FEW = 1000
"""Training samples up to which it is each in turn: so few answers to one part would be a lottery."""


@dataclass(frozen=True)
class Answers:
    """What a classifier said.

    Args:
        predicted: int64 ``[m]`` class of each test sample.
        strength: inverse regularisation that was chosen, where there is a choice.
        converged: False when the optimiser gave up.
    """

    predicted: Tensor
    strength: float | None = None
    converged: bool = True


def knn(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
    at_once: int = 2**24,
) -> Answers:
    """Nearest neighbours by cosine similarity s, votes weighted by exp(s / temperature).

    The weighting of Wu et al. 2018 (arXiv 1805.01978) and DINO (Caron et al. 2021).

    Args:
        train: float32 ``[n, D]``.
        labels: int64 ``[n]``, from 0.
        test: float32 ``[m, D]``.
        neighbours: votes per test sample; all of ``train`` where that is fewer.
        temperature: smaller lets the nearest decide.
        at_once: similarities in memory at a time.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    k = min(neighbours, len(train))
    classes = int(labels.max()) + 1
    predicted = []
    for part in torch.split(test, max(1, at_once // len(train))):
        similarity, nearest = (part @ train.T).topk(k, dim=1)
        # exp((s - 1) / t) instead of exp(s / t): the same votes without large numbers
        weight = ((similarity - 1) / temperature).exp()
        votes = torch.zeros(len(part), classes).scatter_add_(1, labels[nearest], weight)
        predicted.append(votes.argmax(dim=1))
    return Answers(torch.cat(predicted))


def linear(train: Tensor, labels: Tensor, test: Tensor, *, seed: int = 0, select: int = 5000) -> Answers:
    """Multinomial logistic regression on standardised features.

    The regularisation is chosen on a fifth of (at most ``select``) training samples, of few samples on each
    fifth in turn, from the same candidates whatever the features; then all training samples are fitted.

    Args:
        train: float32 ``[n, D]``.
        labels: int64 ``[n]``.
        test: float32 ``[m, D]``.
        seed: of the validation split.
        select: training samples used to choose the regularisation.
    """
    mean, std = train.mean(dim=0), train.std(dim=0, unbiased=False)
    # A feature that never varies says nothing, and dividing by its rounding error would shout.
    scale = torch.where(std > 1e-6 * std.max().clamp(min=1e-12), 1 / std, 0.0)
    x, y, z = ((train - mean) * scale).numpy(), labels.numpy(), ((test - mean) * scale).numpy()
    if len(np.unique(y)) == 1:
        return Answers(torch.full((len(z),), int(y[0])))
    if x.shape[1] > len(x):
        # The weights that solve this lie in the span of the training samples: the same model in n numbers.
        _, _, span = np.linalg.svd(x, full_matrices=False)
        x, z = x @ span.T, z @ span.T
    strength = _choose(x, y, seed, select)
    model = _regression(C=strength)
    converged = _fit(model, x, y)
    return Answers(torch.from_numpy(model.predict(z).astype(np.int64)), strength, converged)


def _choose(x: np.ndarray, y: np.ndarray, seed: int, select: int) -> float:
    """The strength that does best on held-out training samples; the stronger of equals."""
    order = np.random.default_rng(seed).permutation(len(y))[:select]
    part = _stratified(y[order])
    splits = [
        (order[part != k], order[part == k])
        for k in range(FOLDS if len(order) <= FEW else 1)
        if (part == k).any() and len(np.unique(y[order[part != k]])) > 1
    ]
    if not splits:
        return 1.0
    best, chosen, worse = -1.0, STRENGTHS[0], 0
    # each fit begins where the last ended, and no further than the comparison needs
    models = [_regression(warm_start=True, tol=1e-3) for _ in splits]
    for strength in STRENGTHS:
        score = 0.0
        for model, (fit, check) in zip(models, splits, strict=True):
            _fit(model.set_params(C=strength), x[fit], y[fit])
            score += float((model.predict(x[check]) == y[check]).sum())
        if score > best:
            best, chosen, worse = score, strength, 0
        elif score < best:  # not where it says one class of all samples still
            worse += 1
        # the weaker the regularisation the longer a fit takes, and past the best it only gets worse
        if worse == 2:
            break
    return chosen


def _stratified(y: np.ndarray) -> np.ndarray:
    """The part of each sample, int ``[n]`` below ``FOLDS``, every class in turn through all parts.

    A sample that is the only one of its class is -1, never held out.
    """
    part = np.full(len(y), -1)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        if len(members) > 1:
            part[members] = np.arange(len(members)) % FOLDS
    return part


def _regression(**options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=MOST, **options)


def _fit(model: Any, x: np.ndarray, y: np.ndarray) -> bool:
    """Fit a model; False when the optimiser gave up."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x, y)
    return not any(issubclass(w.category, ConvergenceWarning) for w in caught)
