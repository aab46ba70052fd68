"""Data sets of the Hugging Face hub, or local folders in its layout."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from polymask.data import BadSample, Skipped, Splits, divide, hub, whole
from polymask.types import Count, Share
from polymask_audio.datasets.recordings import Header, Recordings, look, read, write_tone


def huggingface(
    *,
    source: str,
    config: str | None = None,
    audio: str | None = None,
    label: str | None = None,
    streaming: bool = False,
    recordings: Count | None = None,
    test: Share = 0.1,
) -> Splits[Table]:
    """A data set of audio of the Hugging Face hub, by name, or a local folder in the hub's layout.

    The column of audio, and that of classes if there is one, are found by their type and name. The split
    ``train`` is trained on; ``test``, else ``validation``, is held out; without either, a fixed share of
    each class is. Audio is decoded by soundfile. Every recording is looked at once when the data set is
    opened, for its length.

    A stream has no random access and cannot be resumed exactly, so of one that is asked for the first
    ``recordings`` of each split are read, once, and kept in memory as they are stored.

    Args:
        source: name on the hub, or a folder (``hf:google/speech_commands``, ``hf:FOLDER``).
        config: which of several configurations.
        audio: column of audio.
        label: column of classes; ``none`` to use none.
        streaming: read the first ``recordings`` of each split and leave the rest where it is.
        recordings: maximum number of recordings of each split to look at.
        test: share of each class to hold out where there is no split for it.
    """
    # the library makes tables of files by itself
    hint = "; audio files without a table are read by folder:PATH, or by hf: where torchcodec is"
    splits = hub.load(source, config, streaming=streaming, option="recordings", most=recordings, hint=hint)
    features = splits[0].features
    audio = hub.column(
        features, audio, source, "audio", "audio", lambda kind: isinstance(kind, datasets.Audio)
    )
    label = hub.label_column(features, label, source)
    skipped: Skipped = []
    tables = [
        _table(split, audio, label, f"{source} {name}", skipped)
        for split, name in zip(splits, ("train", "test"), strict=False)
    ]
    parts, classes = [whole(table) for table, _ in tables], None
    if label is not None:
        classes, labels = hub.classes_of(features[label], [names for _, names in tables])
        parts = [whole(table, mine) for (table, _), mine in zip(tables, labels, strict=True)]
    train, held = parts if len(parts) == 2 else divide(parts[0], test)
    return Splits(train=train, test=held, classes=classes, skipped=skipped)


def example_source(folder: Path) -> str:
    """A table of tones of two classes for each split."""
    import pyarrow.parquet

    kinds = datasets.Features({"audio": datasets.Audio(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, count in (("train", 6), ("test", 3)):
        rows: dict[str, list[Any]] = {"audio": [], "label": []}
        for i in range(count):
            path = folder / "tone.wav"
            write_tone(path, 200 + 300 * (i % 2), seconds=0.3 + 0.02 * i, rate=8000)
            rows["audio"].append({"bytes": path.read_bytes(), "path": None})
            rows["label"].append(i % 2)
            path.unlink()
        table = pyarrow.Table.from_pydict(rows, schema=kinds.arrow_schema)
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet")
    return str(folder)


class Table(Recordings):
    """Recordings in the rows of a split.

    Args:
        rows: ``rows[i][column]`` is a mapping with ``bytes``, or else a ``path``.
        column: of audio.
        index: which rows.
        headers: of these.
        title: what to call the split.
    """

    def __init__(
        self, rows: Any, column: str, index: Sequence[int], headers: Sequence[Header], title: str
    ) -> None:
        names = [f"{title} {i}" for i in index]
        frames, rates = (
            torch.tensor([getattr(header, key) for header in headers], dtype=torch.int64)
            for key in ("frames", "rate")
        )
        super().__init__(Path(), names, frames, rates)
        self.rows, self.column, self.index = rows, column, list(index)

    def read(self, index: int, start: int, count: int) -> Tensor:
        return read(stored(self.rows[self.index[index]][self.column]), start, count)


def stored(value: Mapping[str, Any]) -> io.BytesIO:
    """The file in a row, as it is stored.

    Raises:
        BadSample: there is none.
    """
    try:
        return io.BytesIO(value["bytes"] or Path(value["path"]).read_bytes())
    except (OSError, TypeError) as error:
        raise BadSample("no audio in this row") from error


def _table(
    split: Any,
    column: str,
    label: str | None,
    title: str,
    skipped: Skipped,
) -> tuple[Table, list[Any]]:
    """The recordings of a split that can be used, and the class of each (None without)."""
    has_label = label is not None and label in split.features
    rows = split.select_columns([column, *([label] if has_label else [])])
    rows = rows.cast_column(column, datasets.Audio(decode=False))
    index, headers, names = [], [], []
    for i, row in enumerate(rows):
        try:
            headers.append(look(stored(row[column] or {"bytes": None, "path": None})))
        except BadSample as error:
            skipped.append((f"{title} {i}", str(error)))
            continue
        index.append(i)
        names.append(row[label] if has_label else None)
    return Table(rows, column, index, headers, title), names
