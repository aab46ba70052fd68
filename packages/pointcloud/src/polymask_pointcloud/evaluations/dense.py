"""What an encoder knows of each point: a linear classifier of points, and how much of each class it finds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polymask import Batch, System, Tokens, UserError
from polymask.data import valid_of
from polymask.evaluation import dense
from polymask.evaluation.dense import Features
from polymask.evaluation.features import evaluating, on_device
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


class Dense:
    """Accuracy and mean intersection over union of a linear classifier of points.

    It is fitted on features of labelled points of training scenes and asked about points of test scenes. A
    point's features are those of the three nearest tokens, weighed by the inverse of their distance (Qi et
    al. 2017, arXiv 1706.02413). Beside the trained encoder stand the same untrained, what is known of a point
    itself (its place, which holds its height, and its features), and that together with how the surface
    around it lies and bends, by the principal axes of its neighbourhoods (Weinmann et al. 2015).

    Args:
        scenes: how many of each split, at most, evenly spaced.
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
        key = run.data.key
        probe = dense.Dense(
            truth=partial(truth, key=key),
            spread=lambda values, chosen: values[chosen],
            samples=self.scenes,
            places=self.points,
            test_places=self.points,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        with evaluating(run.system) as one, evaluating(run.untrained()) as two:
            rows = {
                TRAINED: of_encoder(one, key),
                UNTRAINED: of_encoder(two, key),
                RAW: of_points(key),
                HAND_MADE: of_surfaces(key),
            }
            yield from probe.measure(rows, run.data.split("train"), run.data.split("test"), constant=False)


def truth(batch: Batch, key: str) -> Tensor:
    """Classes of the points of a batch, int64 ``[B, N]``, -1 where they are not known and on padding.

    Raises:
        UserError: there are none.
    """
    if LABEL not in batch:
        raise UserError(
            f"a dense probe needs a class for each point, and samples of this data have "
            f"{', '.join(sorted(set(batch) - {'id'}))} alone: use data whose samples have {LABEL!r}"
        )
    real = valid_of(batch, key)
    return batch[LABEL] if real is None else batch[LABEL].masked_fill(~real, -1)


def of_encoder(system: System, key: str) -> Features:
    """What a system's encoder makes of the unmasked input, at each point."""

    def features(batch: Batch) -> Tensor:
        seen = {name: x for name, x in batch.items() if not name.startswith(LABEL)}
        moved = on_device(seen, system)
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
