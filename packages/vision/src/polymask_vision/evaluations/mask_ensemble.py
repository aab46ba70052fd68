"""What a network of layers says of its tasks in one pass, of a random subset of layers, and of many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask import Batch, Mask, Step, UserError
from polymask.data import evenly
from polymask.evaluation import dense
from polymask.evaluation.features import batches, evaluating, on_device
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.protocols import sample_ids
from polymask.types import Count, NotNegative
from polymask_vision.systems.phg_mae import ENSEMBLE

if TYPE_CHECKING:
    from polymask.run import Run

ALL, ONE, ALONE, CONSTANT = "all layers", "one random subset", "image alone", "most frequent class, or mean"
"""Rows of single passes, and of what looks at no image."""

AGAIN = 1_000_000
"""First stream of the masks of jittered images."""

Answers = Callable[[Batch, Step, int], dict[str, Tensor]]
"""What is said of each task, ``[B, C, H, W]``, with masks of streams from a number on."""


class MaskEnsemble:
    """Tasks of a run of vision/phg-mae, told with nothing hidden, with random subsets, and by their ensemble.

    The row of the trained system is the ensemble, the others are single passes. Of tasks of classes the
    accuracy and the mean intersection over union of pixels, of values R2 and the root of the mean squared
    error (of standardised values). An ensemble is at least as good as the mean of its members in squared
    error and log-loss by convexity; what counts is the pass in which nothing is hidden.

    Consistency is the share of pixels of which the same is said of an image whose values have a little noise
    added, under other masks: a stand-in for the next frame of a video. Of values it is the root of the mean
    squared difference. Intervals are over test images.

    Args:
        passes: masks in an ensemble.
        jitter: standard deviation of the noise, in that of the values of a layer.
        images: maximum number of test images, evenly spaced.
        seed: of masks and noise.
        batch_size: images per batch.
    """

    def __init__(
        self,
        *,
        passes: Count = 20,
        jitter: NotNegative = 0.1,
        images: Count | None = 500,
        seed: int = 0,
        batch_size: Count = 16,
    ) -> None:
        self.passes, self.jitter, self.images = passes, jitter, images
        self.seed, self.batch_size = seed, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        if not hasattr(run.system, "ensemble"):
            raise UserError(
                f"{type(run.system).__name__} has no masks over layers whose answers could be averaged: give "
                "a run of vision/phg-mae"
            )
        samples = run.data.split("test")
        index = evenly(len(samples), self.images)
        kept: dict[tuple[str, str], list[Tensor]] = {}
        alike: dict[tuple[str, str], list[float]] = {}
        with evaluating(run.system) as one, evaluating(run.untrained()) as two:
            layers: Any = one.tokenizer
            rows = {**self._rows(one), UNTRAINED: self._rows(two)[ALL]}
            usual = usual_of(run.data.split("train"), layers, self.batch_size)
            step = Step(0, 1, self.seed)
            for batch in batches(samples, index, batch_size=self.batch_size):
                seen = on_device(batch, one)
                again = self._jittered(seen, layers, step)
                for row, answers in rows.items():
                    first, second = answers(seen, step, ENSEMBLE), answers(again, step, AGAIN)
                    for name in layers.tasks:
                        kept.setdefault((row, name), []).extend(told(layers, seen, name, first[name]))
                        near = _alike(first[name], second[name], name in layers.class_layers)
                        alike.setdefault((row, name), []).extend(near)
                for name in layers.tasks:
                    ids = seen["id"]
                    same = usual[name].to(ids.device)[:, None, None].expand(len(ids), -1, *layers.size)
                    kept.setdefault((CONSTANT, name), []).extend(told(layers, seen, name, same))
        for name in layers.tasks:
            classes = name in layers.class_layers
            for row in (*rows, CONSTANT):
                if not kept[row, name]:
                    raise UserError(f"{name} is known of no pixel of {len(index)} test images")
                for found in dense.scored(row, kept[row, name], not classes, None):
                    yield dataclasses.replace(found, metric=f"{name} {found.metric}")
                if (row, name) in alike:
                    if classes:
                        yield Measurement.share(row, f"{name} consistency", alike[row, name])
                    else:
                        yield Measurement.mean(row, f"{name} difference", alike[row, name])

    def _rows(self, system: Any) -> dict[str, Answers]:
        rows: dict[str, Answers] = {
            TRAINED: lambda batch, step, stream: system.ensemble(batch, step, self.passes, stream),
            ALL: lambda batch, step, stream: system.answer(batch),
            ONE: lambda batch, step, stream: system.ensemble(batch, step, 1, stream),
        }
        if len(system.tokenizer.inputs) > 1:
            rows[ALONE] = lambda batch, step, stream: system.answer(
                batch, alone(system.tokenizer.given(batch))
            )
        return rows

    def _jittered(self, batch: Batch, layers: Any, step: Step) -> Batch:
        """A batch with noise added to the values of its inputs."""
        changed = dict(batch)
        for number, name in enumerate(layers.inputs):
            if name in batch and name not in layers.class_layers:
                x = batch[name]
                noise = step.normal(sample_ids(batch), x[0].numel(), AGAIN + number).view_as(x)
                changed[name] = x + self.jitter * noise
        return changed


def alone(given: Tensor) -> Mask:
    """A mask that hides all inputs ``[B, I]`` but the first, which is the image."""
    hidden = given.clone()
    hidden[:, 0] = False
    return Mask(hidden, None, given)


def usual_of(samples: Any, layers: Any, batch_size: int) -> dict[str, Tensor]:
    """The most frequent class of each task in training samples, as one number each, or the mean, ``[C]``."""
    total: dict[str, Tensor] = {}
    for batch in batches(samples, evenly(len(samples), 500), batch_size=batch_size):
        for name in layers.tasks:
            values, known = layers.read(batch, name)
            sums = torch.where(known[:, None], values, 0.0).double().sum((0, 2, 3))
            counted = torch.cat([sums, known.sum()[None].double()])
            total[name] = total[name] + counted if name in total else counted
    found = {}
    for name, sums in total.items():
        mean = sums[:-1] / sums[-1].clamp(min=1)
        found[name] = (mean == mean.max()).float() if name in layers.class_layers else mean.float()
    return found


def told(layers: Any, batch: Batch, name: str, answer: Tensor) -> list[Tensor]:
    """What each sample of which a task is known adds to the scores of an answer ``[B, C, H, W]``."""
    truth, known = (x.cpu() for x in layers.read(batch, name))
    answer, classes = answer.cpu(), name in layers.class_layers
    if classes:
        answer, truth = answer.argmax(1, keepdim=True), truth.argmax(1, keepdim=True)
    measure = dense.counts if classes else dense.errors
    return [
        measure(one[:, there].flatten(), other[:, there].flatten())
        for one, other, there in zip(answer, truth, known, strict=True)
        if there.any()
    ]


def _alike(first: Tensor, second: Tensor, classes: bool) -> list[float]:
    """Of each sample, the share of pixels of which both say the same; of values how far they are apart."""
    if classes:
        same: list[float] = (first.argmax(1) == second.argmax(1)).float().mean((1, 2)).tolist()
        return same
    apart: list[float] = (first - second).square().mean((1, 2, 3)).sqrt().tolist()
    return apart
