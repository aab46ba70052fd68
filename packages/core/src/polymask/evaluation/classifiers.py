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

SELECT = 5000
"""Training samples that it is chosen on at most."""


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


def linear(train: Tensor, labels: Tensor, test: Tensor, *, seed: int = 0) -> Answers:
    """What :func:`fit_linear` says of test samples, float32 ``[m, D]``."""
    fitted = fit_linear(train, labels, seed=seed)
    return Answers(fitted.predict(test), fitted.strength, fitted.converged)


@dataclass(frozen=True, eq=False)
class Linear:
    """A fitted classifier.

    Args:
        classes: int64 ``[C]``, those of the training samples, in ascending order.
        mean: of each feature, ``[D]``.
        scale: what standardises it, ``[D]``.
        span: ``[n, D]``, directions that the model is in, where there are fewer of them than features.
        model: scikit-learn's; None where there is one class.
        strength: inverse regularisation that was chosen.
        converged: False when the optimiser gave up.
    """

    classes: Tensor
    mean: Tensor
    scale: Tensor
    span: np.ndarray | None
    model: Any
    strength: float | None = None
    converged: bool = True

    def scores(self, features: Tensor) -> Tensor:
        """Logits of the classes, affine in the features: ``[..., D]`` to ``[..., C]``."""
        shape = features.shape[:-1]
        if self.model is None:
            return torch.zeros(*shape, 1)
        found = torch.from_numpy(self.model.decision_function(self._standardised(features.flatten(0, -2))))
        found = torch.stack([torch.zeros_like(found), found], dim=1) if found.dim() == 1 else found
        return found.view(*shape, -1)

    def predict(self, features: Tensor) -> Tensor:
        """Classes of samples ``[m, D]``: int64 ``[m]``."""
        if self.model is None:
            return self.classes.expand(len(features)).clone()
        return torch.from_numpy(self.model.predict(self._standardised(features)).astype(np.int64))

    def _standardised(self, features: Tensor) -> np.ndarray:
        x: np.ndarray = ((features - self.mean) * self.scale).numpy()
        return x if self.span is None else x @ self.span.T


def fit_linear(train: Tensor, labels: Tensor, *, seed: int = 0) -> Linear:
    """Multinomial logistic regression on standardised features.

    The regularisation is chosen on a fifth of (at most :data:`SELECT`) training samples, of few on each
    fifth in turn, from the same candidates whatever the features; then all training samples are fitted.

    Args:
        train: float32 ``[n, D]``.
        labels: int64 ``[n]``.
        seed: of the validation split.
    """
    mean, scale = _standard(train)
    x, y = ((train - mean) * scale).numpy(), labels.numpy()
    classes, span = torch.unique(labels), None
    if len(classes) == 1:
        return Linear(classes, mean, scale, span, None)
    if x.shape[1] > len(x):
        # The weights that solve this lie in the span of the training samples: the same model in n numbers.
        _, _, span = np.linalg.svd(x, full_matrices=False)
        x = x @ span.T
    strength = _choose(x, y, seed)
    model = _regression(C=strength)
    return Linear(classes, mean, scale, span, model, strength, converged=_fit(model, x, y))


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted linear regression.

    Args:
        mean: of each feature, ``[D]``.
        scale: what standardises it, ``[D]``.
        model: scikit-learn's.
    """

    mean: Tensor
    scale: Tensor
    model: Any

    def scores(self, features: Tensor) -> Tensor:
        """Values, affine in the features: ``[..., D]`` to ``[..., 1]``."""
        x = ((features - self.mean) * self.scale).flatten(0, -2).double().numpy()
        return torch.from_numpy(self.model.predict(x)).view(*features.shape[:-1], 1)


def fit_ridge(train: Tensor, values: Tensor, groups: Tensor) -> Ridge:
    """Linear regression on standardised features, with the penalty that does best on held-out groups.

    Args:
        train: float32 ``[n, D]``.
        values: ``[n]``.
        groups: int64 ``[n]``; those of one group, as pixels of an image, are held out together.
    """
    from sklearn.linear_model import Ridge as Model
    from sklearn.model_selection import GridSearchCV, GroupKFold

    mean, scale = _standard(train)
    x, y = ((train - mean) * scale).double().numpy(), values.double().numpy()
    folds = min(FOLDS, len(torch.unique(groups)))
    if folds == 1:
        return Ridge(mean, scale, Model(alpha=float(len(x))).fit(x, y))
    candidates = {"alpha": [len(x) / 100 / strength for strength in STRENGTHS]}
    found = GridSearchCV(Model(), candidates, cv=GroupKFold(folds), scoring="neg_mean_squared_error")
    return Ridge(mean, scale, found.fit(x, y, groups=groups.numpy()).best_estimator_)


def _standard(train: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = train.mean(dim=0), train.std(dim=0, unbiased=False)
    # A feature that never varies says nothing, and dividing by its rounding error would shout.
    return mean, torch.where(std > 1e-6 * std.max().clamp(min=1e-12), 1 / std, 0.0)


def _choose(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """The strength that does best on held-out training samples; the stronger of equals."""
    order = np.random.default_rng(seed).permutation(len(y))[:SELECT]
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
