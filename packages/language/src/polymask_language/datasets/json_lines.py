"""A jsonl file of many documents."""

from __future__ import annotations

import json
from pathlib import Path

from polymask.data import Skipped, class_names, class_numbers
from polymask_language.datasets.base import Corpus
from polymask_language.datasets.lines import read_lines


def json_lines(
    *, source: str, field: str = "text", label_field: str | None = None, query_field: str | None = None
) -> Corpus:
    """The objects of a jsonl file, one to a line; UTF-8. Lines that are no such object are skipped.

    Args:
        source: the file (``jsonl:PATH``).
        field: which field holds the text.
        label_field: which holds the class, if there are any.
        query_field: which holds what the text answers (a title, a question), for retrieval.
    """
    skipped: Skipped = []
    rows: list[tuple[str, str, str]] = []
    for number, line in read_lines(source, "jsonl", skipped):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError("no object")
            wanted = [field, *(f for f in (label_field, query_field) if f is not None)]
            if missing := [f for f in wanted if f not in found]:
                raise ValueError(f"no field {missing[0]!r}, it has {', '.join(map(repr, found))}")
            text = found[field]
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"no text in field {field!r}")
            label, query = (str(found[f]) if f is not None else "" for f in (label_field, query_field))
            "".join((text, label, query)).encode()  # an escape may be half a character
            rows.append((text, label, query))
        except (ValueError, RecursionError) as error:
            skipped.append((f"line {number}", str(error)))
    classes = class_names(label for _, label, _ in rows)
    labels = class_numbers((label for _, label, _ in rows), classes).tolist()
    return Corpus(
        texts=[text for text, _, _ in rows],
        labels=None if label_field is None else labels,
        classes=None if label_field is None else classes,
        queries=None if query_field is None else [query for _, _, query in rows],
        skipped=skipped,
        title=f"the file {source}",
    )


def example_source(folder: Path) -> str:
    """Twelve objects."""
    path = folder / "objects.jsonl"
    objects = ({"text": f"object {i} is much like the one before."} for i in range(12))
    path.write_text("\n".join(map(json.dumps, objects)))
    return str(path)
