"""What tokens say of the places of a sample, its points or pixels: a linear classifier, or a regression.

It is fitted on some labelled places of training samples and asked about those of test samples. Intervals are
over test samples: places of one sample are no independent answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask.data import Samples, evenly
from polymask.errors import UserError
from polymask.evaluation.classifiers import Linear, Ridge, fit_linear, fit_ridge
from polymask.evaluation.features import batches, require_finite
from polymask.evaluation.measurements import Measurement
from polymask.protocols import Batch

Features = Callable[[Batch], Tensor]
"""Features of each token of a batch, ``[B, *tokens, D]``."""

Spread = Callable[[Tensor, Tensor], Tensor]
"""Values of tokens ``[B, *tokens, K]`` at chosen places, bool ``[B, *places]``: ``[n, K]``, in their order.

Linear in the values, with weights that sum to 1, so that spreading features and spreading what a linear
classifier makes of them is the same.
"""

Truth = Callable[[Batch], Tensor]
"""What is to be told at each place, ``[B, *places]``: int64 classes, else -1; or float values, else NaN."""

MAJORITY, MEAN = "most frequent class", "mean"
"""Rows of what says the same of every place."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """What is asked, and how much of it.

    Args:
        truth: what is to be told at each place.
        spread: from tokens to places.
        samples: maximum number of samples of each split, evenly spaced.
        places: labelled places of each training sample, drawn at random; all where there are fewer.
        test_places: the same of each test sample; None for all.
        seed: of the draws.
        batch_size: samples per batch.
        classes: names of the classes, whose intersections over unions are given one by one.
    """

    truth: Truth
    spread: Spread
    samples: int | None
    places: int
    test_places: int | None
    seed: int
    batch_size: int
    classes: Sequence[str] | None = None

    def measure(
        self, rows: Mapping[str, Features], train: Samples, test: Samples, constant: bool = True
    ) -> Iterator[Measurement]:
        """Scores of each row.

        Of classes the accuracy and the mean intersection over union of those that occur in the test samples;
        of values R2 and the root of the mean squared error.

        Args:
            rows: features by name.
            train: samples to fit on.
            test: samples to ask about.
            constant: whether to add the row of what says the same of every place.

        Raises:
            UserError: no place has a label, or features that are not finite.
        """
        features, truth, groups = self.collect(rows, train)
        regression = truth.is_floating_point()
        fits: dict[str, Linear | Ridge] = {
            name: fit_ridge(x, truth, groups) if regression else fit_linear(x, truth, seed=self.seed)
            for name, x in features.items()
        }
        same = MEAN if regression else MAJORITY
        usual = truth.double().mean() if regression else truth.bincount().argmax()
        sums: dict[str, list[Tensor]] = {name: [] for name in [*rows, *([same] if constant else [])]}
        for batch, found, chosen in self._batches(test, self.test_places):
            sizes = chosen.flatten(1).sum(1).tolist()
            for name, kept in sums.items():
                if name == same:
                    answers = usual.expand(len(found))
                else:
                    fit = fits[name]
                    told = self.spread(fit.scores(rows[name](batch).float().cpu()), chosen)
                    answers = fit.classes[told.argmax(1)] if isinstance(fit, Linear) else told[:, 0]
                pairs = zip(torch.split(answers, sizes), torch.split(found, sizes), strict=True)
                kept += [(errors if regression else counts)(*pair, usual) for pair in pairs if len(pair[0])]
        for name, kept in sums.items():
            yield from scored(name, kept, regression, self.classes)

    def collect(
        self, rows: Mapping[str, Features], samples: Samples
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Features ``[n, D]`` by row at some places, what is to be told there, and of which sample they are.

        Raises:
            UserError: no place has a label, or features that are not finite.
        """
        kept: dict[str, list[Tensor]] = {name: [] for name in rows}
        truth, groups = [], []
        for batch, found, chosen in self._batches(samples, self.places):
            truth.append(found)
            groups.append(batch["id"].repeat_interleave(chosen.flatten(1).sum(1)))
            for name, function in rows.items():
                value = self.spread(function(batch).float().cpu(), chosen)
                require_finite(name, value)
                kept[name].append(value)
        return {name: torch.cat(parts) for name, parts in kept.items()}, torch.cat(truth), torch.cat(groups)

    def _batches(self, samples: Samples, places: int | None) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Batches, what is to be told ``[n]`` at the places that are asked about, and these as a bool."""
        generator = torch.Generator().manual_seed(self.seed)
        index, total = evenly(len(samples), self.samples), 0
        for batch in batches(samples, index, batch_size=self.batch_size):
            truth = self.truth(batch)
            known = truth.isfinite() if truth.is_floating_point() else truth >= 0
            if places is not None:
                # the same places for every row of the table
                chance = torch.rand(known.flatten(1).shape, generator=generator)
                rank = chance.masked_fill(~known.flatten(1), 2.0).argsort(1).argsort(1)
                known = known & (rank < places).view_as(known)
            total += int(known.sum())
            yield batch, truth[known], known
        if not total:
            raise UserError(f"none of {len(index)} samples has a place whose label is known")


def counts(guess: Tensor, truth: Tensor, usual: Tensor | float = 0) -> Tensor:
    """By class, how often it is rightly told, true and told, by torchmetrics: ``[3, C]``."""
    from torchmetrics.functional.classification import multiclass_stat_scores  # takes seconds

    classes = max(int(torch.maximum(guess.max(), truth.max())) + 1, 2)
    found = multiclass_stat_scores(guess, truth, classes, average="none", validate_args=False)
    right, wrong, _, _, true = found.unbind(-1)
    return torch.stack([right, true, right + wrong])


def errors(guess: Tensor, truth: Tensor, usual: Tensor | float = 0) -> Tensor:
    """How many values there are, their sum less the usual, that of squares, that of errors: ``[4]``."""
    y = truth.double() - usual
    return torch.stack(
        [torch.tensor(float(len(y))), y.sum(), y.square().sum(), (guess - truth).square().sum()]
    )


def scored(
    row: str, kept: Sequence[Tensor], regression: bool, classes: Sequence[str] | None
) -> Iterator[Measurement]:
    """Scores with intervals, of what each sample gave.

    Args:
        row: of the table.
        kept: by sample, what :func:`counts` or :func:`errors` gave.
        regression: which of the two.
        classes: names of the classes, whose scores are given one by one; or None.
    """
    longest = max(one.shape[-1] for one in kept)
    totals = torch.stack([F.pad(one, (0, longest - one.shape[-1])) for one in kept]).double()
    function, bounds = (_of_errors, {"R2": (-torch.inf, 1.0)}) if regression else (_of_counts, {})
    whole, without = function(totals.sum(0)), function(totals.sum(0) - totals)
    for metric in whole:
        low, high = bounds.get(metric, (0.0, torch.inf if regression else 1.0))
        for value, others, name in _each(metric, whole[metric], without[metric], classes):
            yield Measurement.jackknife(row, name, value, others, low, high)


def _each(
    metric: str, whole: Tensor, without: Tensor, classes: Sequence[str] | None
) -> Iterator[tuple[float, Tensor, str]]:
    """A score, the same without each sample, and its name; of scores of classes one after the other."""
    if not whole.dim():
        yield float(whole), without, metric
    elif classes is not None:
        for number, value in enumerate(whole.tolist()):
            if value == value:
                name = classes[number] if number < len(classes) else str(number)
                yield value, without[:, number], f"{metric} of {name}"


def _of_counts(found: Tensor) -> dict[str, Tensor]:
    """Accuracy, mean intersection over union and that of each class, of counts ``[..., 3, C]``."""
    both, truth, guess = found.unbind(-2)
    iou = torch.where(truth > 0, both / (truth + guess - both), torch.nan)
    return {"accuracy": both.sum(-1) / truth.sum(-1), "mIoU": iou.nanmean(-1), "IoU": iou}


def _of_errors(sums: Tensor) -> dict[str, Tensor]:
    """R2 and the root of the mean squared error, of sums ``[..., 4]``."""
    n, total, squares, errors = sums.unbind(-1)
    return {"R2": 1 - errors / (squares - total.square() / n), "RMSE": (errors / n).sqrt()}
