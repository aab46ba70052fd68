"""Data sets in the layout of the Hugging Face hub: what loaders of every modality share.

For packages that depend on ``datasets``; the core package does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from polymask.errors import UserError

TEST = ("test", "validation", "valid", "val", "dev")
"""Splits to test on, the first that there is."""

LABEL = ("label", "labels", "class", "fine_label", "target", "category")
"""Columns that hold classes, where no column is typed so."""


def load(source: str, config: str | None, streaming: bool = False, hint: str = "") -> list[Any]:
    """The split to train on and, where there is one, that to test on.

    Args:
        source: name on the hub, or a folder in its layout.
        config: which of several configurations.
        streaming: leave the rows where they are.
        hint: what to say beside an error of a package that is missing.

    Raises:
        UserError: neither can be loaded.
    """
    folder = Path(source).expanduser()
    local = folder.is_dir()
    try:
        found = datasets.load_dataset(str(folder) if local else source, config, streaming=streaming)
    # the library lets errors of its network and file layers through as they are
    except Exception as error:
        where = f"the folder {folder}" if local else f"{source!r} (no folder of that name here)"
        more = hint if isinstance(error.__cause__ or error, ImportError) else ""
        raise UserError(f"hf: cannot load {where}: {error}{more}") from error
    first = "train" if "train" in found else next(iter(found))
    return [found[first], *(found[name] for name in TEST if name in found and name != first)][:2]


def label_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str | None:
    """The column of classes: the one asked for, the only one typed so, or one that is called so.

    Args:
        features: types of the columns by name; None where a type is unknown.
        wanted: its name, or ``none`` for no classes.
        source: of the data, for the error.
    """
    if wanted is not None:
        return None if wanted == "none" else existing(features, wanted, source)
    typed = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [name for name in LABEL if name in features and _countable(features[name])]
    return next(iter(typed if len(typed) == 1 else named + typed), None)


def existing(features: Mapping[str, Any], name: str, source: str) -> str:
    """The name of a column that there is.

    Raises:
        UserError: there is none.
    """
    if name not in features:
        raise UserError(f"hf:{source} has no column {name!r}; it has {', '.join(features)}")
    return name


def _countable(kind: Any) -> bool:
    if kind is None or isinstance(kind, datasets.ClassLabel):
        return True
    return isinstance(kind, datasets.Value) and kind.dtype.startswith(("int", "uint", "string", "large"))
