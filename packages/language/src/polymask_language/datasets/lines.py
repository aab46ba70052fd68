"""A text file of many documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from polymask import UserError
from polymask.data import BadSample, Skipped
from polymask_language.datasets.base import Corpus, decoded


def lines(*, source: str, paragraphs: bool = False) -> Corpus:
    """The lines of a text file, or its paragraphs; UTF-8. Each is a document; blank ones are left out.

    Args:
        source: the file (``file:PATH``).
        paragraphs: blank lines separate documents instead.
    """
    skipped: Skipped = []
    found = [text for _, text in read_lines(source, "file", skipped)]
    if paragraphs:
        found = [" ".join(block.split("\n")) for block in "\n".join(found).split("\n\n")]
    texts = [line.strip() for line in found if line.strip()]
    return Corpus(texts, skipped=skipped, title=f"the file {source}")


def example_source(folder: Path) -> str:
    """A file of twelve lines."""
    path = folder / "lines.txt"
    path.write_text("\n".join(f"line {i} says what the others do, {i} times over." for i in range(12)))
    return str(path)


def read_lines(source: str, name: str, skipped: Skipped) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line; those that are no UTF-8 are skipped."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{name}:{source}: there is no file {path.absolute()}")
    with path.open("rb") as file:
        # old Macs, and some tables, end lines by \r alone
        split = (raw for line in file for raw in line.rstrip(b"\r\n").split(b"\r"))
        for number, raw in enumerate(split, 1):
            try:
                yield number, decoded(raw)
            except BadSample as error:
                skipped.append((f"line {number}", str(error)))
