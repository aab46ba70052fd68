"""Classifiers that masks over weights leave as they are: where they are from, and how to fit one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask import Run, UserError
from polymask.checkpoints import CHECKPOINT
from polymask.config import RunConfig
from polymask.data import Dataset
from polymask.evaluation.classifiers import Linear, fit_linear
from polymask.evaluation.features import evaluating, extract, on_device
from polymask.export import load
from polymask.imports import load_initial
from polymask.protocols import Encoder
from polymask.recipes import Stage
from polymask.systems.supervised import pooler_of

ABSENT = -1e4
"""Logit of classes that no sample is of: of probability 0, and finite."""


def open_base(folder: str | Path) -> Any:
    """A run of vision/supervised or its export, with ``tokenizer``, ``encoder``, ``pool``, ``classifier``.

    Raises:
        UserError: something else is there.
    """
    found: Any = Run.open(folder).system if (Path(folder) / CHECKPOINT).is_file() else load(folder)
    if not hasattr(found, "classifier"):
        raise UserError(f"{folder} has no classifier: give a run of vision/supervised, or its export")
    return found


def head_of(base: str | None, encoder: Encoder, classes: int) -> tuple[str, nn.Module, nn.Linear]:
    """How the tokens of a base are pooled, by what, and what classifies them.

    Args:
        base: folder, or ``random``.
        encoder: what encodes the tokens.
        classes: that the data has.

    Raises:
        UserError: there is none, or it is for other classes.
    """
    if base is None:
        raise UserError(
            "masks over which network? give --base FOLDER, a run of vision/supervised or its export; "
            "polymask recipe vision/r-amt trains one, or takes a model of timm"
        )
    if base == "random":
        return "mean", pooler_of("mean", encoder.out_dim), nn.Linear(encoder.out_dim, classes)
    found = open_base(base)
    own = found.classifier
    if own.head.out_features != classes:
        raise UserError(
            f"{base} tells {own.head.out_features} classes apart, and this data has {classes}: give data of "
            "the same classes, or have a classifier fitted to them, polymask recipe vision/r-amt --base "
            "FOLDER --refit true"
        )
    return found.pool, own.pooler, own.head


def of_timm(model: str, stage: Stage, patch_size: int) -> Any:
    """A system vision/supervised with the weights of a model of timm, its classifier still to be fitted."""
    options = {"name": "vision/timm", "model": model}
    config = RunConfig.resolve(
        {
            "system": "vision/supervised",
            "data": stage.given,
            "encoder": options,
            "tokenizer": {"name": "vision/patches", "patch_size": patch_size},
        }
    )
    try:
        system: Any = config.system.build(stage.data.provides)
        load_initial(system, f"timm:{model}", facts=stage.data.provides)
    except UserError as error:
        # the recipe's own option
        raise UserError(str(error).replace("--tokenizer.patch_size", "--patch_size")) from error
    return system


def fit_classifier(system: Any, data: Dataset, seed: int = 0) -> None:
    """Fit the linear classifier of a supervised system to the training samples, its encoder as it is.

    Args:
        system: the ``head`` of its classifier is replaced.
        data: with labels.
        seed: of the choice of the regularisation.
    """
    labels = data.labels("train")
    if labels is None:
        raise UserError("a classifier is fitted to labels, and this data has none: choose data with classes")
    index, own = (labels >= 0).nonzero()[:, 0], system.classifier
    with evaluating(system):

        def features(batch: dict[str, Tensor]) -> Tensor:
            pooled: Tensor = own.pooler(system.encode(on_device(batch, system)))
            return pooled

        x = extract({"features": features}, data.split("train"), index.tolist())["features"]
    own.head = _as_layer(fit_linear(x, labels[index], seed=seed), x.shape[1], len(data.classes or ()))


def _as_layer(fitted: Linear, width: int, classes: int) -> nn.Linear:
    """The classifier as a layer, for all classes."""
    bias = fitted.scores(torch.zeros(1, width))[0]
    weight = (fitted.scores(torch.eye(width)) - bias).T
    head = nn.Linear(width, max(classes, int(fitted.classes.max()) + 1))
    with torch.no_grad():
        head.weight.zero_()[fitted.classes] = weight.float()
        head.bias.fill_(ABSENT)[fitted.classes] = bias.float()
    return head
