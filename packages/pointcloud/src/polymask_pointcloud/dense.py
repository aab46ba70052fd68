"""What an encoder knows of each point: a linear classifier of points, and how much of each class it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polymask import Batch, System, Tokens, UserError
from polymask.data import Samples, collate, evenly, valid_of
from polymask.evaluation.classifiers import linear
from polymask.evaluation.features import Picked, evaluating
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import RAW, TRAINED, UNTRAINED
from polymask.types import Count
from polymask_pointcloud.operations import nearest, point_shape, take
from polymask_pointcloud.tokenizers import UNIT

if TYPE_CHECKING:
    from polymask.run import Run

LABEL = "point_label"
"""Entry of a sample that holds the class of each point, int64 ``[N]``, -1 where it is not known."""

HAND_MADE = "hand-made"
"""The row of what geometry says of a point without learning."""

AROUND = (16, 64)
"""Neighbours whose surface that is of."""

Features = Callable[[Batch], Tensor]
"""Features of each point of a batch, ``[B, N, D]``."""


class Dense:
    """Accuracy and mean intersection over union of a linear classifier of points.

    It is fitted on features of labelled points of training scenes and asked about points of test scenes. A
    point's features are those of the three nearest tokens, weighed by the inverse of their distance (Qi et
    al. 2017, arXiv 1706.02413). Beside the trained encoder stand the same untrained, what is known of a point
    itself (its place, which holds its height, and its features), and that together with how the surface
    around it lies and bends, by the principal axes of its neighbourhoods (Weinmann et al. 2015).

    Args:
        scenes: at most so many of each split, evenly spaced.
        points: labelled points of each scene, drawn at random; all where there are fewer.
        seed: of the draws.
        batch_size: scenes per batch.
    """

    def __init__(
        self, *, scenes: Count | None = 200, points: Count = 200, seed: int = 0, batch_size: Count = 16
    ) -> None:
        if points < 1 or batch_size < 1 or (scenes is not None and scenes < 1):
            raise UserError(
                f"scenes={scenes}, points={points}, batch_size={batch_size}: give 1 or more of each"
            )
        self.scenes, self.points, self.seed, self.batch_size = scenes, points, seed, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        untrained = run.untrained()
        with evaluating(run.system) as one, evaluating(untrained) as two:
            rows = {
                TRAINED: of_encoder(one, run.data.key),
                UNTRAINED: of_encoder(two, run.data.key),
                RAW: of_points(run.data.key),
                HAND_MADE: of_surfaces(run.data.key),
            }
            train, labels = self.collect(rows, run.data.split("train"), run.data.key)
            test, truth = self.collect(rows, run.data.split("test"), run.data.key)
        for name in rows:
            guess = linear(train[name], labels, test[name], seed=self.seed).predicted
            yield Measurement(name, "accuracy", float((guess == truth).double().mean()))
            yield Measurement(name, "mIoU", mean_iou(guess, truth))

    def collect(
        self, rows: Mapping[str, Features], samples: Samples, key: str
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Features of some points of some scenes, float32 ``[n, D]`` by name, and their classes ``[n]``.

        Raises:
            UserError: no point has a label.
        """
        picked = Picked(samples, evenly(len(samples), self.scenes))
        generator = torch.Generator().manual_seed(self.seed)
        features: dict[str, list[Tensor]] = {name: [] for name in rows}
        labels: list[Tensor] = []
        for start in range(0, len(picked), self.batch_size):
            batch = collate([picked[i] for i in range(start, min(start + self.batch_size, len(picked)))])
            if LABEL not in batch:
                raise UserError(
                    f"a dense probe needs a class for each point, and samples of this data have "
                    f"{', '.join(sorted(set(batch) - {'id'}))} alone: use data whose samples have {LABEL!r}"
                )
            known = batch[LABEL] >= 0
            real = valid_of(batch, key)
            known = known if real is None else known & real
            # the same points for every row of the table
            chance = torch.rand(known.shape, generator=generator).masked_fill(~known, 2.0)
            rank = chance.argsort(1).argsort(1)
            chosen = known & (rank < self.points)
            labels.append(batch[LABEL][chosen])
            for name, function in rows.items():
                features[name].append(function(batch).float().cpu()[chosen])
        found = torch.cat(labels)
        if not len(found):
            raise UserError(f"no point of {len(picked)} scenes has a label of 0 or more in {LABEL!r}")
        return {name: torch.cat(parts) for name, parts in features.items()}, found


def of_encoder(system: System, key: str) -> Features:
    """What a system's encoder makes of the unmasked input, at each point."""

    def features(batch: Batch) -> Tensor:
        device = next(system.parameters()).device
        moved = {name: x.to(device) for name, x in batch.items() if not name.startswith(LABEL)}
        return at_points(system.encode(moved), moved[key])

    return features


def of_points(key: str) -> Features:
    """What is known of a point without an encoder."""
    return lambda batch: batch[key]


def of_surfaces(key: str) -> Features:
    """Each point, then by size of neighbourhood its normal without sign and its curvature, 3 + F + 12."""

    def features(batch: Batch) -> Tensor:
        points, real = batch[key], valid_of(batch, key)
        shapes = [point_shape(points[..., :3], k, real) for k in AROUND]
        told = [x for shape in shapes for x in (shape.normal.abs(), shape.curvature)]
        return torch.cat([points, *told], dim=-1)

    return features


def at_points(tokens: Tokens, points: Tensor, k: int = 3) -> Tensor:
    """Features of tokens at points ``[B, N, 3 + F]``, from the k nearest: ``[B, N, D]``.

    Tokens of two axes are as near as they are in those.
    """
    centre = tokens.position * UNIT
    axes = centre.shape[2]
    pad = (0, 3 - axes)
    centre, place = (torch.nn.functional.pad(x[..., :axes].float(), pad) for x in (centre, points[..., :3]))
    distance, index = nearest(place, centre, k, tokens.valid)
    weight = 1 / distance.clamp(min=1e-8)
    weight = weight / weight.sum(-1, keepdim=True)
    return (take(tokens.values.float(), index) * weight[..., None]).sum(2)


def mean_iou(guess: Tensor, truth: Tensor) -> float:
    """Intersection over union of each class that occurs among the true ones, and their mean.

    Args:
        guess: int64 ``[n]``.
        truth: int64 ``[n]``.
    """
    classes = int(torch.maximum(guess.max(), truth.max())) + 1
    both = torch.bincount(truth[guess == truth], minlength=classes).double()
    of_truth = torch.bincount(truth, minlength=classes)
    union = of_truth + torch.bincount(guess, minlength=classes) - both
    return float((both / union)[of_truth > 0].mean())
