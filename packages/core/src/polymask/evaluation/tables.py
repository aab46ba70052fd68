"""Files of many rows, written batch by batch: vectors that were written are no longer in memory.

Rows are kept in a folder beside the file, ``.<name>.unfinished``, until all are there. A process that was
killed leaves it behind, and the next one goes on from it.
"""

from __future__ import annotations

import importlib
import json
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import safetensors.numpy
from torch import Tensor

from polymask.config import plain
from polymask.errors import UserError
from polymask.files import atomic, locked, read_json, write_json, writing

Rows: TypeAlias = Mapping[str, Any]
"""Columns of some rows, the same in each call: int64 ``[n]``, lists of text, and :data:`WIDE`."""

Array: TypeAlias = np.ndarray[Any, Any]

WIDE = "embedding"
"""The column of vectors, float32 ``[n, D]``."""

LOG, ABOUT = "rows", "about.json"
"""Files of rows that are not finished."""

_TEXT, _HEAD = "text ", "head "
"""Before the name of a column of text, and of what says how many samples and which columns there are."""


class Log:
    """Batches of rows on the disk, in the order they came.

    Args:
        path: of the file; it is cut off where a batch is not whole.

    Attributes:
        samples: how many the rows are of.
        rows: how many there are.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.samples, self.rows = path, 0, 0
        with writing(path):
            self.file = path.open("a+b")
            whole = 0
            for batch in self._batches():
                whole, self.samples = self.file.tell(), self.samples + _decoded(batch[_HEAD])["samples"]
                self.rows += len(batch[WIDE])
            self.file.truncate(whole)

    def append(self, rows: Rows, samples: int) -> None:
        """Add the rows of some samples."""
        made = {_HEAD: _encoded({"samples": samples, "columns": [*rows]})}
        for name, x in rows.items():
            if isinstance(x, Tensor):
                made[name] = np.ascontiguousarray(x.numpy())
            else:
                made[_TEXT + name] = _encoded(x)
        blob = safetensors.numpy.save(made)
        with writing(self.path):
            self.file.write(len(blob).to_bytes(8, "little") + zlib.crc32(blob).to_bytes(4, "little") + blob)
            self.file.flush()
        self.samples += samples
        self.rows += len(rows[WIDE])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches, numbers as arrays."""
        for batch in self._batches():
            yield {
                name: batch[name] if name in batch else _decoded(batch[_TEXT + name])
                for name in _decoded(batch[_HEAD])["columns"]
            }

    def _batches(self) -> Iterator[dict[str, Array]]:
        end, at = self.file.seek(0, os.SEEK_END), 0
        while at + 12 <= end:
            self.file.seek(at)
            size, check = (int.from_bytes(self.file.read(n), "little") for n in (8, 4))
            at += 12 + size
            if at > end or zlib.crc32(blob := self.file.read(size)) != check:
                return
            yield safetensors.numpy.load(blob)


def _encoded(value: Any) -> Array:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _decoded(x: Array) -> Any:
    return json.loads(x.tobytes())


@contextmanager
def table(path: Path, about: Mapping[str, Any]) -> Iterator[Log]:
    """Rows for a file in the format of its suffix, which is there once the block around this ends.

    Args:
        path: of the file, see :func:`writer`.
        about: what decides on the rows; those of a process that was killed are used if it is the same.

    Raises:
        UserError: rows of something else are there, another process writes them, or they cannot be written.
    """
    write, folder = writer(path), path.with_name(f".{path.name}.unfinished")
    try:
        with locked(folder):
            _require_same(folder, path, plain(about))
            log, finished = Log(folder / LOG), False
            try:
                yield log
                with atomic(path, "wb") as file:
                    write(log, file)
                finished = True
            finally:
                with suppress(OSError):  # of what a full disk did not take, which is told already
                    log.file.close()
                if finished or not log.samples:
                    for name in (LOG, ABOUT):
                        (folder / name).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def writer(path: Path) -> Callable[[Log, IO[bytes]], None]:
    """What writes rows in the format of a file's suffix.

    Raises:
        UserError: another suffix, or what writes it is not installed.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: choose a name that ends in {', '.join(FORMATS)}")
    if path.suffix == ".parquet":
        try:
            importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise UserError(
                f".parquet needs pyarrow ({error}): pip install 'polymask[parquet]', or choose .npz or "
                ".safetensors"
            ) from error
    return FORMATS[path.suffix]


def _require_same(folder: Path, path: Path, about: Mapping[str, Any]) -> None:
    known = folder / ABOUT
    if not known.is_file():
        write_json(known, about)
        return
    then = read_json(known, dict, f"delete {folder} to begin anew")
    for name in dict.fromkeys([*then, *about]):
        if then.get(name) != about.get(name):
            raise UserError(
                f"{path} was begun with other {name}, and {folder} has its rows so far: give another name, "
                "the same as then, or delete that folder"
            )


def _parquet(log: Log, file: IO[bytes]) -> None:
    """Columns as Apache Parquet, by pyarrow; pandas reads a vector as an array."""
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    made: Any = None
    try:
        for columns in log:
            wide = columns[WIDE]
            columns[WIDE] = arrow.FixedSizeListArray.from_arrays(wide.reshape(-1), wide.shape[1])
            texts = {name: _text(x) for name, x in columns.items() if isinstance(x, list)}
            rows = arrow.table({**columns, **texts})
            made = made or parquet.ParquetWriter(file, rows.schema)
            made.write_table(rows)
        if made is not None:
            made.close()
    except BaseException:
        if made is not None:
            made.is_open = False  # else it writes to the closed file when it is collected
        raise


def _text(column: list[Any]) -> list[Any]:
    """With a mark for each byte of a file's name that is no text."""
    return [x.encode(errors="surrogateescape").decode(errors="replace") if x else x for x in column]


def _npz(log: Log, file: IO[bytes]) -> None:
    """An array of each column, as numpy writes them."""
    numbers, text, shape = _narrow(log)
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in {**text, **numbers}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)
        with archive.open(f"{WIDE}.npy", "w", force_zip64=True) as entry:
            head = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, head)
            for columns in log:
                entry.write(columns[WIDE].astype("<f4").tobytes())


def _safetensors(log: Log, file: IO[bytes]) -> None:
    """A tensor of each column of numbers; columns of text are JSON under ``"text"`` of the metadata."""
    numbers, text, shape = _narrow(log)
    head: dict[str, Any] = {"__metadata__": {"text": json.dumps(text)}}
    shapes: dict[str, Any] = {name: ("I64", x.shape, x.nbytes) for name, x in numbers.items()}
    shapes[WIDE] = ("F32", shape, 4 * shape[0] * shape[1])
    at = 0
    for name, (dtype, sizes, size) in shapes.items():
        head[name] = {"dtype": dtype, "shape": list(sizes), "data_offsets": [at, at + size]}
        at += size
    encoded = json.dumps(head).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    for x in numbers.values():
        file.write(x.tobytes())
    for columns in log:
        file.write(columns[WIDE].astype("<f4").tobytes())


def _narrow(log: Log) -> tuple[dict[str, Array], dict[str, list[str]], tuple[int, int]]:
    """All columns of numbers and of text, and the shape of the vectors, which are longer than memory."""
    parts, shape = defaultdict[str, list[Any]](list), (0, 0)
    for columns in log:
        wide = columns.pop(WIDE)
        shape = shape[0] + len(wide), wide.shape[1]
        for name, value in columns.items():
            parts[name].append(value)
    numbers = {n: np.concatenate(x).astype("<i8") for n, x in parts.items() if not isinstance(x[0], list)}
    text = {name: [*chain(*x)] for name, x in parts.items() if isinstance(x[0], list)}
    return numbers, text, shape


FORMATS: Mapping[str, Callable[[Log, IO[bytes]], None]] = {
    ".parquet": _parquet,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
"""By the suffix of the file."""
