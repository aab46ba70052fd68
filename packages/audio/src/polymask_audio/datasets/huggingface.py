"""Data sets of the Hugging Face hub, or local folders in its layout."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from polymask import UserError, hub
from polymask.data import Skipped, BadSample, class_numbers, whole
from polymask_audio.datasets.base import AudioDataset
from polymask_audio.datasets.cut import Cut
from polymask_audio.datasets.recordings import Header, Recordings, divide, held_out, look, read, write_tone


class HuggingFace(AudioDataset):
    """A data set of sound of the Hugging Face hub, by name, or a local folder in the hub's layout.

    The column of sound, and that of classes if there is one, are found by their type and name. The split
    ``train`` is trained on; ``test``, else ``validation``, is held out; without either, a fixed share of
    each class is. Sound is decoded by soundfile. Every recording is looked at once when the data set is
    opened, for its length.

    A stream has no random access and cannot be resumed exactly, so of one that is asked for the first
    ``recordings`` of each split are read, once, and kept in memory as they are stored.

    Args:
        source: name on the hub, or a folder (``hf:google/speech_commands``, ``hf:FOLDER``).
        config: which of several configurations.
        audio: column of sound.
        label: column of classes; ``none`` to use none.
        streaming: read the first ``recordings`` of each split and leave the rest where it is.
        recordings: at most so many of each split are looked at.
        rate: samples per second to resample to.
        seconds: cut longer recordings to so many; by default they are kept whole.
        min_seconds: skip shorter recordings.
        pad: add silence after shorter recordings than ``seconds``, so that all are equally long.
        test: share of each class to hold out where there is no split for it.
        limit: at most so many recordings of each split.
        speech: classes that are speech, for systems that treat it apart (``audio/spear``).
        noise: decibels by which white noise is weaker than the recordings to test on, which it is added to.
    """

    def __init__(
        self,
        *,
        source: str,
        config: str | None = None,
        audio: str | None = None,
        label: str | None = None,
        streaming: bool = False,
        recordings: int | None = None,
        rate: int = 16000,
        seconds: float | None = None,
        min_seconds: float = 0.0,
        pad: bool = False,
        test: float = 0.1,
        limit: int | None = None,
        speech: tuple[str, ...] | None = None,
        noise: float | None = None,
    ) -> None:
        if streaming and recordings is None:
            raise UserError("hf: how much of the stream? give --data.recordings N")
        cut = Cut(rate=rate, seconds=seconds, min_seconds=min_seconds, pad=pad)
        # the library makes tables of files by itself
        hint = "; files of sound without a table are read by folder:PATH, or by hf: where torchcodec is"
        splits = hub.load(source, config, streaming, hint)
        features = splits[0].features
        if features is None:
            raise UserError(f"hf:{source} does not tell its columns as a stream: leave streaming out")
        audio, label = _audio_column(features, audio, source), hub.label_column(features, label, source)
        skipped: Skipped = []
        titles = [f"{source} {name}" for name in ("train", "test")]
        tables = [
            _table(split, audio, label, recordings, title, skipped)
            for split, title in zip(splits, titles, strict=False)
        ]
        classes, labels = _classes(features, label, [names for _, names in tables])
        if len(tables) == 1:
            table = tables[0][0]
            keys = [table.name(i) for i in range(len(table))]
            train, held = divide(table, labels[0], held_out(keys, labels[0], test))
        else:
            train, held = (whole(table, mine) for (table, _), mine in zip(tables, labels, strict=True))
        super().__init__(
            train, held, cut, classes=classes, skipped=skipped, limit=limit, speech=speech, noise=noise
        )

    @staticmethod
    def example_source(folder: Path) -> str:
        """A small stand-in: a table of sounds of two classes for each split."""
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
        column: of sound.
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
        raise BadSample("no sound in this row") from error


def _table(
    split: Any,
    column: str,
    label: str | None,
    most: int | None,
    title: str,
    skipped: Skipped,
) -> tuple[Table, list[Any]]:
    """The recordings of a split that can be used, and the class of each (None without)."""
    has_label = label is not None and label in split.features
    rows = split.select_columns([column, *([label] if has_label else [])])
    rows = rows.cast_column(column, datasets.Audio(decode=False))
    if isinstance(rows, datasets.IterableDataset):
        rows = list(itertools.islice(rows, most))
    index, headers, names = [], [], []
    for i, row in enumerate(itertools.islice(rows, most)):
        try:
            headers.append(look(stored(row[column] or {"bytes": None, "path": None})))
        except BadSample as error:
            skipped.append((f"{title} {i}", str(error)))
            continue
        index.append(i)
        names.append(row[label] if has_label else None)
    return Table(rows, column, index, headers, title), names


def _audio_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str:
    if wanted is not None:
        return hub.existing(features, wanted, source)
    found = [name for name, kind in features.items() if isinstance(kind, datasets.Audio)]
    if len(found) != 1:
        raise UserError(
            f"hf:{source} has {len(found)} columns of sound; choose one (--data.audio), of: "
            f"{', '.join(features)}"
        )
    return found[0]


def _classes(
    features: Mapping[str, Any], label: str | None, found: list[list[Any]]
) -> tuple[list[str] | None, list[Tensor | None]]:
    """Names of the classes, and their numbers in each split."""
    if label is None or None in itertools.chain(*found):
        return None, [None] * len(found)
    kind = features[label]
    if isinstance(kind, datasets.ClassLabel):
        return list(kind.names), [torch.tensor(column, dtype=torch.int64) for column in found]
    classes = sorted({str(name) for name in itertools.chain(*found)})
    return classes, [class_numbers(map(str, column), classes) for column in found]
