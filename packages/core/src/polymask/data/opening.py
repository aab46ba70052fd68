"""Finds the data set that ``--data name:source`` means."""

from __future__ import annotations

from typing import Any

from polymask.config import build
from polymask.data.protocols import Dataset
from polymask.plugins.registry import Registry


def open_data(spec: str, /, registry: Registry | None = None, **options: Any) -> Dataset:
    """Open a data set by name.

    Args:
        spec: ``"digits"``, ``"folder:photos"``, ``"vision/folder:photos"``.
        registry: where to look names up; the installed plugins by default.
        options: of the data set.

    Raises:
        UserError: unknown name or option, or nothing usable in the source.
    """
    name, colon, source = spec.partition(":")
    given = {**options, **({"source": source} if colon else {})}
    found: Dataset = build(name, "datasets", registry=registry, **given)
    return found
