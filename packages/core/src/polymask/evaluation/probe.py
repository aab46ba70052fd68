"""Probes: kNN and a linear classifier on frozen features, beside the same encoder untrained.

Training and test features come from the same function of the same unmasked input, in eval mode
and float32, and every row sees the same training samples and candidates for regularisation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask.config import resolve_path
from polymask.data import Dataset
from polymask.errors import UserError
from polymask.evaluation.classifiers import Answers, knn, linear
from polymask.evaluation.features import (
    Extractor,
    Known,
    encoder_features,
    evaluating,
    extract,
    layer_features,
    raw_of,
)
from polymask.evaluation.intervals import accuracy_interval, difference_interval
from polymask.evaluation.result import METHODS, PROBE, RAW, TRAINED, UNTRAINED, ProbeResult, ProbeRow
from polymask.files import require_writable, write_json
from polymask.supervision import checked

if TYPE_CHECKING:
    from polymask.run import Run


def probe(
    run: Run | str | Path,
    *,
    neighbours: int = 20,
    labels_per_class: int | None = None,
    draws: int = 5,
    pool: str = "mean",
    limit: int | None = 10_000,
    raw: bool = True,
    layers: bool = False,
    seed: int = 0,
    batch_size: int = 256,
    workers: int = 0,
    data: Dataset | None = None,
    known: Known | None = None,
) -> ProbeResult:
    """Probe a run's encoder, the same encoder untrained, and the raw input; write ``probe.json``.

    Args:
        run: a run or its folder.
        neighbours: votes of the nearest-neighbour classifier.
        labels_per_class: train on so few labels per class; None for all.
        draws: how often those few are drawn anew (unused without ``labels_per_class``).
        pool: ``"mean"`` over tokens or ``"prefix"``, the class token.
        limit: most training samples to use, drawn at random; None for all.
        raw: whether to probe the raw input too, see :func:`polymask.evaluation.features.raw_of`.
        layers: whether to probe every block of the pre-trained encoder too.
        seed: of the draws.
        batch_size: samples per batch.
        workers: processes that read samples.
        data: probe on other data than the run's, and write nothing.
        known: features of samples of such data that this run was probed on before, see
            :func:`polymask.evaluation.features.extract`.

    Raises:
        UserError: no labels, fewer labels than asked for, or a diverged run.
    """
    from polymask.run import Run
    from polymask.training.trainer import plan_of

    trained, own = Run.open(run) if isinstance(run, str | Path) else run, data is None
    if own:
        require_writable(trained.folder)
    data = trained.data if data is None else data
    train_labels, test_labels = labels_of(data)
    _warn_unseen(data, train_labels, test_labels)
    picks = draw(train_labels, labels_per_class, draws, limit, seed)
    test_index = torch.nonzero(test_labels >= 0)[:, 0]
    with evaluating(trained.system) as one, evaluating(trained.untrained()) as two:
        rows: dict[str, Extractor] = {
            TRAINED: encoder_features(one, pool),
            UNTRAINED: encoder_features(two, pool),
        }
        if layers:
            rows |= layer_features(one, pool)
        if raw and (descriptor := raw_of(data)) is not None:
            rows[RAW] = descriptor
        union = torch.unique(torch.cat(picks))
        train, test = (
            extract(rows, samples, index, batch_size=batch_size, workers=workers, known=known)
            for samples, index in (
                (data.split("train"), union.tolist()),
                (data.split("test"), test_index.tolist()),
            )
        )
    result = evaluate(
        {name: (train[name], test[name]) for name in rows},
        train_labels[union],
        test_labels[test_index],
        picks=[torch.searchsorted(union, pick) for pick in picks],
        neighbours=neighbours,
        seed=seed,
        settings={
            "step": trained.step,
            "steps": plan_of(trained).total if own else None,
            "init": resolve_path(trained.training.init, trained.folder),
            "neighbours": neighbours,
            "labels_per_class": labels_per_class,
            "draws": len(picks),
            "pool": pool,
            "limit": limit,
            "seed": seed,
        },
    )
    if own:
        write_json(trained.folder / PROBE, result.to_json())
    return result


def evaluate(
    features: Mapping[str, tuple[Tensor, Tensor]],
    train_labels: Tensor,
    test_labels: Tensor,
    *,
    picks: Sequence[Tensor] | None = None,
    neighbours: int = 20,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> ProbeResult:
    """Probe ready-made features.

    Args:
        features: float32 ``([n, D], [m, D])`` of training and test samples, by name.
        train_labels: int64 ``[n]``.
        test_labels: int64 ``[m]``.
        picks: training samples of each draw, int64 indices; one draw of all by default.
        neighbours: votes of the nearest-neighbour classifier.
        seed: of the linear probe's validation split.
        settings: kept with the result.
    """
    picks = [torch.arange(len(train_labels))] if picks is None else picks
    rows, correct = [], {}
    for name, (train, test) in features.items():
        for method in METHODS:
            answers = [
                _classify(method, train[pick], train_labels[pick], test, neighbours, seed) for pick in picks
            ]
            right = torch.stack([a.predicted == test_labels for a in answers])
            kept = tuple("".join(map(str, row)) for row in right.int().tolist())
            rows.append(
                ProbeRow(name, method, train.shape[1], accuracy_interval(right), _note(answers), kept)
            )
            correct[name, method] = right
    first, *others = features
    return ProbeResult(
        rows=rows,
        differences={
            (name, method): difference_interval(correct[first, method], correct[name, method])
            for name in others
            for method in METHODS
        },
        train=len(picks[0]),
        test=len(test_labels),
        chance=float(test_labels.bincount().max() / len(test_labels)),
        settings=dict(settings or {}),
    )


def labelled(data: Dataset) -> bool:
    """Whether a probe is possible: both splits have labels."""
    try:
        labels_of(data)
    except UserError:
        return False
    return True


def labels_of(data: Dataset, what: str = "a probe") -> tuple[Tensor, Tensor]:
    """Labels of both splits, int64 each, -1 where a sample has none.

    Args:
        data: with or without labels.
        what: needs them, for messages.

    Raises:
        UserError: a split has no label at all.
    """
    train, test = data.labels("train"), data.labels("test")
    if train is None or test is None:
        raise UserError(
            f"{what} needs labels, and this data has no labels: give data that has a class to each sample, "
            "as files in one folder per class have. polymask list evaluations names what else can be measured"
        )
    for name, labels in (("training", train), ("test", test)):
        if not len(labels):
            raise UserError(
                f"{what} needs {name} samples, and there are none: a class of one sample holds none out, "
                "and neither does --data.test 0"
            )
        if not (labels >= 0).any():
            raise UserError(f"{what} needs labels, and no {name} sample has one")
    return checked(train, data, "train"), checked(test, data, "test")


def _warn_unseen(data: Dataset, train: Tensor, test: Tensor) -> None:
    """Say which classes are to be tested that none of the training samples has."""
    unseen = sorted(set(test.tolist()) - set(train.tolist()) - {-1})
    if unseen:
        names = [str(data.classes[label] if data.classes else label) for label in unseen]
        count = int(torch.isin(test, torch.tensor(unseen)).sum())
        warnings.warn(
            f"{count:,} of {int((test >= 0).sum()):,} test samples are of classes without a training sample "
            f"({', '.join(names[:5])}{', ...' * (len(names) > 5)}): no probe can get them right",
            stacklevel=3,
        )


def draw(
    labels: Tensor, labels_per_class: int | None, draws: int, limit: int | None, seed: int
) -> list[Tensor]:
    """Training samples of each draw, as sorted indices of labelled samples.

    Raises:
        UserError: a class has fewer samples than asked for.
    """
    generator = torch.Generator().manual_seed(seed)

    def some(members: Tensor, n: int | None) -> Tensor:
        return members[torch.randperm(len(members), generator=generator)[:n]]

    if labels_per_class is None:
        return [some(torch.nonzero(labels >= 0)[:, 0], limit).sort().values]
    members = [torch.nonzero(labels == label)[:, 0] for label in torch.unique(labels[labels >= 0])]
    fewest = min(len(m) for m in members)
    if not 0 < labels_per_class <= fewest:
        raise UserError(
            f"labels_per_class={labels_per_class}: choose 1 to {fewest}, the size of the smallest class"
        )
    return [torch.cat([some(m, labels_per_class) for m in members]).sort().values for _ in range(draws)]


def _classify(
    method: str, train: Tensor, labels: Tensor, test: Tensor, neighbours: int, seed: int
) -> Answers:
    if method == "kNN":
        return knn(train, labels, test, neighbours=neighbours)
    return linear(train, labels, test, seed=seed)


def _note(answers: Sequence[Answers]) -> str:
    strengths = sorted({a.strength for a in answers if a.strength is not None})
    failed = sum(not a.converged for a in answers)
    notes = ["C = " + " or ".join(f"{c:g}" for c in strengths)] if strengths else []
    if failed:
        notes.append(f"{failed} of {len(answers)} fits did not converge")
    return "; ".join(notes)
