"""Masked modelling in every modality: hide part of something, predict it, keep what was learned.

The names below that need torch are imported when first used, so that ``import polymask`` and
``polymask --help`` stay light.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from polymask.config import RunConfig, build
from polymask.errors import UserError
from polymask.parts import Part
from polymask.plugins.hookspecs import hookimpl
from polymask.plugins.registry import Registry, default_registry

if TYPE_CHECKING:
    from polymask.mask import Mask
    from polymask.protocols import Batch, Losses, Request, sample_ids
    from polymask.run import Run
    from polymask.step import Step
    from polymask.systems.base import Generation, MaskView, Preview, System
    from polymask.systems.host import Host
    from polymask.tokens import Tokens

__version__ = version("polymask")

_LAZY = {
    "Batch": "polymask.protocols",
    "Generation": "polymask.systems.base",
    "Host": "polymask.systems.host",
    "Losses": "polymask.protocols",
    "Mask": "polymask.mask",
    "MaskView": "polymask.systems.base",
    "Preview": "polymask.systems.base",
    "Request": "polymask.protocols",
    "Run": "polymask.run",
    "Step": "polymask.step",
    "System": "polymask.systems.base",
    "Tokens": "polymask.tokens",
    "sample_ids": "polymask.protocols",
}

__all__ = [
    "Batch",
    "Generation",
    "Host",
    "Losses",
    "Mask",
    "MaskView",
    "Part",
    "Preview",
    "Registry",
    "Request",
    "Run",
    "RunConfig",
    "Step",
    "System",
    "Tokens",
    "UserError",
    "build",
    "default_registry",
    "hookimpl",
    "sample_ids",
]


_MODULES = ("data", "evaluation", "export", "recipes", "report", "testing", "training")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"polymask.{name}")
    raise AttributeError(f"module 'polymask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
