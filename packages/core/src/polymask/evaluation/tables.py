"""Files of many rows, written batch by batch: vectors that were written are no longer in memory."""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.files import atomic, writing

Rows = Mapping[str, Any]
"""Columns of some rows, the same in each call: int64 ``[n]``, lists of text, and :data:`WIDE`."""

WIDE = "embedding"
"""The column of vectors, float32 ``[n, D]``."""


class Format(Protocol):
    """Gathers rows in a scratch file, and writes the file that was asked for in the end."""

    def append(self, rows: Rows) -> None: ...

    def finish(self, file: IO[bytes]) -> None: ...

    def forget(self) -> None: ...


def table(path: Path) -> AbstractContextManager[Callable[[Rows], None]]:
    """A file to append rows to, in the format of its suffix, whole at the end or not there at all.

    Raises:
        UserError: another suffix, what writes it is not installed, or it cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: choose a name that ends in {', '.join(FORMATS)}")
    return _open(path)


@contextmanager
def _open(path: Path) -> Iterator[Callable[[Rows], None]]:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115, what is done within is no writing
    made = FORMATS[path.suffix](held)
    try:

        def append(rows: Rows) -> None:
            with writing(path):
                made.append(rows)

        yield append
        with atomic(path, "wb") as file:
            made.finish(file)
    finally:
        with suppress(OSError):  # of what is still to be written to a full disk: the failure is told already
            held.close()
        made.forget()


class Parquet:
    """Columns as Apache Parquet, by pyarrow; pandas reads a vector as an array.

    Args:
        scratch: where the file grows.
    """

    def __init__(self, scratch: IO[bytes]) -> None:
        try:
            self.arrow: Any = importlib.import_module("pyarrow")
            self.parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise UserError(
                f".parquet needs pyarrow ({error}): pip install 'polymask[parquet]', or choose .npz or "
                ".safetensors"
            ) from error
        self.scratch = scratch
        self.writer: Any = None

    def append(self, rows: Rows) -> None:
        columns = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in rows.items()}
        wide = columns[WIDE]
        columns[WIDE] = self.arrow.FixedSizeListArray.from_arrays(wide.reshape(-1), wide.shape[1])
        made = self.arrow.table(columns)
        if self.writer is None:
            self.writer = self.parquet.ParquetWriter(self.scratch, made.schema)
        self.writer.write_table(made)

    def finish(self, file: IO[bytes]) -> None:
        if self.writer is not None:
            self.writer.close()
        self.scratch.seek(0)
        shutil.copyfileobj(self.scratch, file)

    def forget(self) -> None:
        """Write nothing more, which pyarrow else does when it is collected."""
        if self.writer is not None:
            self.writer.is_open = False


class Arrays:
    """Columns as arrays, which say at their beginning how long they are: vectors wait in the scratch file.

    Args:
        scratch: where they wait.
    """

    def __init__(self, scratch: IO[bytes]) -> None:
        self.scratch, self.shape = scratch, (0, 0)
        self.parts: dict[str, list[Any]] = defaultdict(list)

    def append(self, rows: Rows) -> None:
        for name, value in rows.items():
            if name != WIDE:
                self.parts[name].append(value)
                continue
            self.shape = self.shape[0] + len(value), value.shape[1]
            self.scratch.write(value.numpy().astype("<f4").tobytes())

    def numbers(self) -> dict[str, np.ndarray[Any, Any]]:
        """Columns of int64."""
        found = {name: parts for name, parts in self.parts.items() if isinstance(parts[0], Tensor)}
        return {name: torch.cat(parts).numpy().astype("<i8") for name, parts in found.items()}

    def text(self) -> dict[str, list[str]]:
        """Columns of text."""
        found = {name: parts for name, parts in self.parts.items() if isinstance(parts[0], list)}
        return {name: [*chain(*parts)] for name, parts in found.items()}

    def copy_vectors(self, file: IO[bytes]) -> None:
        """Write all vectors, as they lie in memory."""
        self.scratch.seek(0)
        shutil.copyfileobj(self.scratch, file)

    def forget(self) -> None:
        """Nothing is written later."""


class Npz(Arrays):
    """An array of each column, as numpy writes them."""

    def finish(self, file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, values in {**self.text(), **self.numbers()}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)
            with archive.open(f"{WIDE}.npy", "w", force_zip64=True) as entry:
                head = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_1_0(entry, head)
                self.copy_vectors(entry)


class Safetensors(Arrays):
    """A tensor of each column of numbers; columns of text are JSON under ``"text"`` of the metadata."""

    def finish(self, file: IO[bytes]) -> None:
        numbers, at = self.numbers(), 0
        head: dict[str, Any] = {"__metadata__": {"text": json.dumps(self.text())}}
        shapes = {**{name: ("I64", x.shape, x.nbytes) for name, x in numbers.items()}}
        shapes[WIDE] = ("F32", self.shape, 4 * self.shape[0] * self.shape[1])
        for name, (dtype, shape, size) in shapes.items():
            head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        encoded = json.dumps(head).encode()
        encoded += b" " * (-len(encoded) % 8)
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for x in numbers.values():
            file.write(x.tobytes())
        self.copy_vectors(file)


FORMATS: Mapping[str, Callable[[IO[bytes]], Format]] = {
    ".parquet": Parquet,
    ".npz": Npz,
    ".safetensors": Safetensors,
}
"""By the suffix of the file."""
