"""What is left of a classifier's answers when random parts of images are removed, in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from polymask import Batch, Mask, Step, Tokens, UserError
from polymask.data import evenly
from polymask.evaluation.features import batches, evaluating, on_device
from polymask.evaluation.measurements import Measurement
from polymask.functional import draw_mask
from polymask.maskings import Random
from polymask.systems.host import implementing
from polymask.types import Count, Share
from polymask_vision.systems.layer_masking import leaves_out, without

if TYPE_CHECKING:
    from polymask.run import Run

LEFT_OUT, GREY, MEAN, NOISE = "left out", "grey", "mean colour", "noise"
"""Rows: hidden tokens are left out by the encoder, or others are put in their place."""

Row = Callable[[Tokens, Mask, Tensor], Tokens]
"""Tokens of which a mask hides some; noise ``[B, N, C]`` is at hand."""


@runtime_checkable
class Classifies(Protocol):
    """A system that tells classes of tokens, of those that are valid."""

    def logits(self, tokens: Tokens) -> Tensor:
        """``[B, classes]``."""


class Removal:
    """Accuracy, and the share of answers that stay, as random tokens of each image are removed.

    The measures of layer masking (Balasubramanian and Feizi 2022), at the same masks for all rows: tokens are
    left out, by encoders that can, or painted over with middle grey, with the mean colour of the data, or
    with noise of its mean and deviation. Each figure is the mean over images and, unless it names one, over
    shares.

    Args:
        shares: of the tokens that are removed.
        cell: side of the squares of tokens that are removed together.
        images: maximum number of test images, evenly spaced.
        seed: of masks and noise.
        batch_size: images per batch.
    """

    def __init__(
        self,
        *,
        shares: tuple[Share, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
        cell: Count = 1,
        images: Count | None = 500,
        seed: int = 0,
        batch_size: Count = 32,
    ) -> None:
        self.shares, self.cell, self.images = shares, cell, images
        self.seed, self.batch_size = seed, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        classifier: Classifies | None = implementing(run.system, Classifies)
        if classifier is None:
            raise UserError(
                f"{type(run.system).__name__} classifies no tokens: take a run of vision/supervised or "
                "vision/layer-masking"
            )
        samples, labels = run.data.split("test"), run.data.labels("test")
        index = evenly(len(samples), self.images)
        system: Any = run.system
        rows = _rows(system, run.data.provides)
        right: dict[str, list[Tensor]] = {name: [] for name in rows}
        same: dict[str, list[Tensor]] = {name: [] for name in rows}
        with evaluating(run.system):
            for batch in batches(samples, index, batch_size=self.batch_size):
                label_B = None if labels is None else labels[batch["id"]]
                moved = on_device(batch, run.system)
                before, after = self._answers(classifier, system.tokenizer(moved), moved, rows)
                for name, answer_SB in after.items():
                    same[name].append((answer_SB == before).float())
                    if label_B is not None:
                        right[name].append((answer_SB == label_B)[:, label_B >= 0].float())
        for name in rows:
            for metric, parts in (("accuracy", right[name]), ("unchanged", same[name])):
                if parts:
                    yield from self._scores(name, metric, torch.cat(parts, dim=1))

    def _answers(
        self, classifier: Classifies, tokens: Tokens, batch: Batch, rows: Mapping[str, Row]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The classes of whole images ``[B]``, and by row of what is left at each share ``[shares, B]``."""
        after: dict[str, list[Tensor]] = {name: [] for name in rows}
        step = Step(0, 1, self.seed)
        noise = step.normal(batch["id"], tokens.values[0].numel(), 1).view_as(tokens.values)
        for share in self.shares:
            mask = draw_mask(Random(ratio=share, cell=self.cell), tokens, batch, step)
            for name, row in rows.items():
                after[name].append(classifier.logits(row(tokens, mask, noise)).argmax(1).cpu())
        before = classifier.logits(tokens).argmax(1).cpu()
        return before, {name: torch.stack(parts) for name, parts in after.items()}

    def _scores(self, row: str, metric: str, found_SB: Tensor) -> Iterator[Measurement]:
        yield Measurement.share(row, metric, found_SB.mean(0).tolist())
        for share, found_B in zip(self.shares, found_SB, strict=True):
            yield Measurement.share(row, f"{metric}, {share:.0%} removed", found_B.tolist())


def _rows(system: Any, facts: Mapping[str, Any]) -> dict[str, Row]:
    """What is put in the place of hidden tokens, in units of the data."""
    tokenizer = system.tokenizer
    size, channels = tokenizer.provides["size"], tokenizer.provides["channels"]
    mean, std = facts.get("mean"), facts.get("std")
    if mean is None or std is None:
        raise UserError("removal paints in colours of the data, which do not say how they are normalised")

    def painted(colour_C: Tensor) -> Tensor:
        """The values of a token of one colour, ``[C]``."""
        image = colour_C[:, None, None].expand(channels, *size)[None]
        values: Tensor = tokenizer({tokenizer.key: image}).values[0, 0]
        return values

    grey, middle = painted((0.5 - torch.tensor(mean)) / torch.tensor(std)), painted(torch.zeros(channels))
    rows: dict[str, Row] = {
        GREY: lambda tokens, mask, noise: _filled(tokens, mask, grey.to(noise)),
        MEAN: lambda tokens, mask, noise: _filled(tokens, mask, middle.to(noise)),
        NOISE: lambda tokens, mask, noise: _filled(tokens, mask, noise),
    }
    if leaves_out(system.encoder):
        rows = {LEFT_OUT: lambda tokens, mask, noise: without(tokens, mask), **rows}
    return rows


def _filled(tokens: Tokens, mask: Mask, value: Tensor) -> Tokens:
    return replace(tokens, values=mask.fill(tokens.values, value))
