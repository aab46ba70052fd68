"""Probes of the encoder while it is trained: how soon it is how good."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor

from polymask.data import Dataset, Samples
from polymask.evaluation.classifiers import knn, linear
from polymask.evaluation.features import encoder_features, evaluating, extract
from polymask.evaluation.probe import draw, labels_of
from polymask.evaluation.result import METHODS
from polymask.training.module import Training

MOST = 2000
"""Samples of each split that are used at most, drawn at random."""


class OnlineProbe:
    """Accuracy of both classifiers of a probe, on few samples that are always the same.

    Adds ``kNN`` and ``linear`` to a row. Fewer samples than at the end of a run make each point cheap, and
    no figure of these the one that :func:`polymask.evaluation.probe` finds.

    Args:
        data: labelled data; its training samples are used without augmentation.
        every: steps between two probes.

    Raises:
        UserError: the data has no labels.
    """

    def __init__(self, data: Dataset, every: int) -> None:
        self.every = every
        self._parts: list[tuple[Samples, Tensor, Tensor]] = []
        for samples, labels in zip((data.split("train"), data.split("test")), labels_of(data), strict=True):
            index = draw(labels, None, 1, MOST, 0)[0]
            self._parts.append((samples, index, labels[index]))

    def __call__(self, trainer: pl.Trainer, module: Training, step: int) -> dict[str, float]:
        """Accuracies at a step."""
        features = []
        with evaluating(module.system, module.device), trainer.precision_plugin.forward_context():
            for samples, index, _ in self._parts:
                found = extract({"": encoder_features(module.system)}, samples, index.tolist())
                features.append(found[""])
        (_, _, labels), (_, _, truth) = self._parts
        answers = (knn(features[0], labels, features[1]), linear(features[0], labels, features[1]))
        return {
            method: float((one.predicted == truth).float().mean())
            for method, one in zip(METHODS, answers, strict=True)
        }
