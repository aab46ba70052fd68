"""Captions of files in a folder: a table or list of all of them, or a text beside each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from os.path import splitext
from pathlib import Path, PurePosixPath
from typing import Any

from polymask import UserError
from polymask.data import BadSample
from polymask.data.splits import Skipped

TABLES = ("captions.csv", "captions.jsonl")
FILE, CAPTION = ("file", "file_name", "filename", "image"), ("caption", "text")
"""What columns are called, by whom they are usual with."""


def read_captions(
    root: Path, names: Sequence[str], skipped: Skipped, *, several: bool = False
) -> tuple[list[list[str]] | None, Skipped]:
    """The captions of each file, and what was left out.

    Args:
        root: the folder.
        names: of the files, below it.
        skipped: what the folder's reader left out, captions among it.
        several: keep all captions of a file, of several rows of a table; else the first.

    Returns:
        No captions where the folder has none; and what was left out, without files that captions are in, and
        with rows that are of no use, such as second captions where these are not kept.

    Raises:
        UserError: a table has no column of files, or none of captions, or a quote in it does not end.
    """
    table = next((name for name in TABLES if (root / name).is_file()), None)
    if table is not None:
        found, broken = _of_table(root / table, set(names), several)
        other = f"captions are those of {table}"
        kept = [(name, other if name in TABLES else why) for name, why in skipped if name != table]
        return [found.get(name, []) for name in names], sorted([*kept, *broken])
    texts = {name for name, _ in skipped if name.endswith(".txt")}
    beside = {name: text for name in names if (text := f"{splitext(name)[0]}.txt") in texts}
    if not beside:
        return None, skipped
    captions, broken = dict[str, list[str]](), []
    for name, text in beside.items():
        try:
            captions[name] = [" ".join((root / text).read_text(encoding="utf-8-sig").split())]
        except (OSError, UnicodeDecodeError) as error:
            broken.append((text, f"cannot be read: {error}"))
    used = set(beside.values())
    kept = [(name, why) for name, why in skipped if name not in used]
    return [captions.get(name, []) for name in names], sorted([*kept, *broken])


def _of_table(path: Path, names: set[str], several: bool) -> tuple[dict[str, list[str]], Skipped]:
    """The captions of each file, and rows that are of no use."""
    found, broken = dict[str, list[str]](), []
    read = _csv if path.suffix == ".csv" else _jsonl
    try:
        for line, row in read(path):
            try:
                name, caption = _pair(row)
                if name not in names:
                    raise BadSample(f"there is no file {name} that can be used")
                if name in found and not several:
                    raise BadSample(f"another caption of {name}; its first is used")
                found.setdefault(name, []).append(caption)
            except BadSample as error:
                broken.append((f"{path.name}, line {line}", str(error)))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    return found, broken


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            yield from _rows(rows, path)
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num + 1}: {error}; see to its quotes") from error


def _rows(rows: csv.DictReader[str], path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    columns = rows.fieldnames or ()
    if not (set(FILE) & set(columns) and set(CAPTION) & set(columns)):
        raise UserError(
            f"{path} needs a first line with the names of its columns, file and caption; it begins with "
            f"{', '.join(columns) or 'nothing'}"
        )
    for row in rows:
        yield rows.line_num, row


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (json.JSONDecodeError, RecursionError):
                    yield number, None


def _pair(row: Any) -> tuple[str, str]:
    """File and caption of a row.

    Raises:
        BadSample: it lacks one of them.
    """
    if not isinstance(row, Mapping):
        raise BadSample("no JSON object")
    if None in row:
        raise BadSample("more fields than columns: put a caption with a comma in double quotes")
    name, caption = (next((row[k] for k in keys if row.get(k)), None) for keys in (FILE, CAPTION))
    if not isinstance(name, str) or not isinstance(caption, str) or not caption.strip():
        raise BadSample("it lacks a file or a caption")
    return str(PurePosixPath(name.strip().replace("\\", "/"))), " ".join(caption.split())
