"""Finds the data set that ``--data name:source`` means."""

from __future__ import annotations

from os import PathLike
from typing import Any

from polymask.data.protocols import Dataset
from polymask.registry import Registry, default_registry
from polymask.wiring import RUN, construct


def open_data(
    spec: str, /, registry: Registry | None = None, run: str | PathLike[str] | None = None, **options: Any
) -> Dataset:
    """Open a data set by name.

    Args:
        spec: ``"digits"``, ``"folder:photos"``, ``"vision/folder:photos"``.
        registry: where to look names up; the installed plugins by default.
        run: folder of a run, which options may begin with (:data:`polymask.wiring.RUN`).
        options: constructor options of the data set.

    Raises:
        UserError: unknown name or option, or nothing usable in the source.
    """
    registry = registry or default_registry()
    name, colon, source = spec.partition(":")
    part = registry.find("datasets", name)
    if colon:
        options["source"] = source
    data: Dataset = construct(part, {**part.defaults, **options}, {} if run is None else {RUN: run}, registry)
    return data
