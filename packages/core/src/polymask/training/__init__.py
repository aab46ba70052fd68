"""Training through Lightning, with exact resume.

What Lightning does not give is here: an order of samples, augmentation, masks and dropout that
are functions of the seed and the step alone, so that a run resumed from any checkpoint computes
what the uninterrupted one would have; checkpoints written whole or not at all; and a stop that
explains itself when numbers stop being numbers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from polymask.config import TrainOptions

if TYPE_CHECKING:
    from polymask.training.finite_check import Diverged
    from polymask.training.metrics import read_metrics
    from polymask.training.trainer import FitResult, fit

_LAZY = {
    "Diverged": "polymask.training.finite_check",
    "FitResult": "polymask.training.trainer",
    "fit": "polymask.training.trainer",
    "read_metrics": "polymask.training.metrics",
}

__all__ = ["Diverged", "FitResult", "TrainOptions", "fit", "read_metrics"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
