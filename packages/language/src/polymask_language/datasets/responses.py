"""A jsonl file of prompts and responses."""

from __future__ import annotations

import json
from pathlib import Path

from polymask.data import Skipped
from polymask_language.datasets.exchanges import Exchanges
from polymask_language.datasets.lines import read_lines

PLAIN, PAIRED = ("prompt", "response"), ("prompt", "chosen", "rejected")


def responses(*, source: str) -> Exchanges:
    """The objects of a jsonl file: ``prompt`` and ``response``, or ``prompt``, ``chosen`` and ``rejected``.

    The first line that is an object of one kind decides which; others are skipped and listed in
    ``skipped``, as are those with an empty response. A prompt may be empty.

    Args:
        source: the file (``responses:PATH``).
    """
    skipped: Skipped = []
    rows: list[list[str]] = []
    fields: tuple[str, ...] | None = None
    for number, line in read_lines(source, "responses", skipped):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError("no object")
            fields = fields or next((f for f in (PAIRED, PLAIN) if found.keys() >= {*f}), None)
            if fields is None or not found.keys() >= {*fields}:
                wanted = " or ".join(", ".join(f) for f in ((PLAIN, PAIRED) if fields is None else (fields,)))
                raise ValueError(f"fields {', '.join(found)}, not {wanted}")
            row = [found[name] for name in fields]
            if not all(isinstance(text, str) for text in row) or not all(text.strip() for text in row[1:]):
                raise ValueError("a response that is empty or no text")
            "".join(row).encode()  # an escape may be half a character
            rows.append(row)
        except (ValueError, RecursionError) as error:
            skipped.append((f"line {number}", str(error)))
    return Exchanges(
        prompts=[row[0] for row in rows],
        responses=[row[1] for row in rows],
        rejected=[row[2] for row in rows] if fields == PAIRED else None,
        skipped=skipped,
        title=f"the file {source}",
    )


def example_source(folder: Path) -> str:
    """Twelve pairs."""
    path = folder / "pairs.jsonl"
    pairs = (
        {"prompt": f"what is {i}?", "chosen": f"{i} is a number.", "rejected": f"{i} is nothing at all."}
        for i in range(12)
    )
    path.write_text("\n".join(map(json.dumps, pairs)))
    return str(path)
