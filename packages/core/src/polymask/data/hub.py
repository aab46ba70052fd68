"""Data sets in the layout of the Hugging Face hub: what loaders of every modality share.

For packages that depend on ``datasets``; the core package does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from polymask.data.splits import class_names, class_numbers
from polymask.errors import UserError

TEST = ("test", "validation", "valid", "val", "dev")
"""Splits to test on, the first that there is."""

LABEL = ("label", "labels", "class", "fine_label", "target", "category")
"""Columns that hold classes, where no column is typed so."""

_SAVED = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` of ``datasets`` leaves in a folder."""


def load(
    source: str,
    config: str | None,
    *,
    streaming: bool = False,
    option: str,
    most: int | None,
    hint: str = "",
) -> list[datasets.Dataset]:
    """The split to train on and, where there is one, that to test on.

    A stream has no random access and cannot be resumed exactly: of one that is asked for the first rows are
    read, once, and kept in memory, images and audio as they are stored.

    Args:
        source: name on the hub; or a folder in its layout, or that ``save_to_disk`` wrote.
        config: which of several configurations.
        streaming: read the first ``most`` rows of each split, and leave the rest where it is.
        option: what the user calls ``most``.
        most: maximum number of rows of each split.
        hint: what to say beside an error of a package that is missing.

    Raises:
        UserError: neither can be loaded, or a stream without an end is asked for.
    """
    if streaming and most is None:
        raise UserError(f"hf: how much of the stream? give --data.{option} N")
    folder = Path(source).expanduser()
    local = folder.is_dir()
    found: Any
    try:
        if any((folder / name).is_file() for name in _SAVED):
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if local else source, config, streaming=streaming)
        if isinstance(found, datasets.Dataset):
            found = {"train": found}
        first = "train" if "train" in found else next(iter(found))
        names = [first, *(name for name in TEST if name in found and name != first)][:2]
        return [found[name] if most is None else _first(found[name], most) for name in names]
    # the library lets errors of its network and file layers through as they are
    except Exception as error:
        where = f"the folder {folder}" if local else f"{source!r} (no folder of that name here)"
        more = hint if isinstance(error.__cause__ or error, ImportError) else ""
        raise UserError(f"hf: cannot load {where}: {error}{more}") from error


def _first(split: Any, most: int) -> datasets.Dataset:
    """The first rows of a split, of a stream in memory."""
    if isinstance(split, datasets.Dataset):
        return split.select(range(min(most, len(split))))
    for name, kind in (split.features or {}).items():
        if isinstance(kind, datasets.Image | datasets.Audio):
            split = split.cast_column(name, type(kind)(decode=False))
    rows = datasets.Dataset.from_list(list(split.take(most)))
    # with its types from the start it would encode audio again
    return rows.cast(split.features) if split.features and len(rows) else rows


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


def column(
    features: Mapping[str, Any],
    wanted: str | None,
    source: str,
    option: str,
    what: str,
    fits: Callable[[Any], bool],
) -> str:
    """The column asked for, or the only one of a fitting type.

    Args:
        features: types of the columns by name.
        wanted: its name, or None.
        source: of the data, for the error.
        option: that chooses the column: ``"image"``.
        what: it holds: ``"images"``.
        fits: whether a type does.

    Raises:
        UserError: no such column, or none or several that fit.
    """
    if wanted is not None:
        return existing(features, wanted, source)
    found = [name for name, kind in features.items() if fits(kind)]
    if len(found) != 1:
        raise UserError(
            f"hf:{source} has {len(found)} columns of {what}; choose one (--data.{option}), of: "
            f"{', '.join(features)}"
        )
    return found[0]


def classes_of(kind: Any, columns: Sequence[Sequence[Any]]) -> tuple[list[str], list[Tensor]]:
    """Names of the classes, and class numbers, int64, of the values of each split; -1 for None.

    Args:
        kind: type of the column of classes.
        columns: its values in each split.
    """
    if isinstance(kind, datasets.ClassLabel):
        numbers = [[-1 if value is None else int(value) for value in column] for column in columns]
        return list(kind.names), [torch.tensor(column, dtype=torch.int64) for column in numbers]
    names = [[None if value is None else str(value) for value in column] for column in columns]
    classes = class_names(*names)
    return classes, [class_numbers(column, classes) for column in names]


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
