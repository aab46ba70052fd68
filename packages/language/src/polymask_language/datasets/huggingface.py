"""Data sets of the Hugging Face hub, or local folders in its layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from polymask.data import Skipped, hub
from polymask.types import Count
from polymask_language.datasets.base import Corpus

_TEXT = ("text", "content", "document", "sentence", "passage")


def huggingface(
    *,
    source: str,
    config: str | None = None,
    text: str | None = None,
    label: str | None = None,
    streaming: bool = False,
    documents: Count | None = None,
) -> Corpus:
    """A data set of text of the Hugging Face hub, by name, or a local folder in the hub's layout.

    The column of text, and that of classes if there is one, are found by name and type. The split
    ``train`` is trained on; ``test``, else ``validation``, is held out; without either, a fixed share is.

    A stream has no random access and cannot be resumed exactly, so of one that is asked for the first
    ``documents`` of each split are read, once, and kept like any other corpus.

    Args:
        source: name on the hub, or a folder (``hf:roneneldan/TinyStories``, ``hf:FOLDER``).
        config: which of several configurations.
        text: column of text.
        label: column of classes; ``none`` to use none.
        streaming: read the first ``documents`` of each split and leave the rest where it is.
        documents: maximum number of documents of each split.
    """
    splits = hub.load(source, config, streaming=streaming, option="documents", most=documents)
    return read_splits(splits, source, text, label)


def example_source(folder: Path) -> str:
    """A table of each split."""
    for name, count in (("train", 9), ("test", 3)):
        rows = ({"text": f"{name} row {i} is a row of text."} for i in range(count))
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def read_splits(splits: list[Any], source: str, text: str | None, label: str | None) -> Corpus:
    """The documents of one or two splits."""
    features = splits[0].features
    text = _text_column(features, text, source)
    label = hub.label_column(features, label, source)
    texts: list[str] = []
    names: list[list[Any]] = []
    test: list[bool] = []
    skipped: Skipped = []
    for side, split in enumerate(splits):
        names.append([])
        columns = split.select_columns([text, *([] if label is None else [label])])
        for number, row in enumerate(columns):
            if not isinstance(row[text], str) or not row[text].strip():
                skipped.append((f"{source} {'test' if side else 'train'} {number}", "no text"))
                continue
            texts.append(row[text])
            names[-1].append(None if label is None else row[label])
            test.append(side == 1)
    classes, labels = None, None
    if label is not None:
        classes, numbers = hub.classes_of(features[label], names)
        labels = torch.cat(numbers).tolist()
    return Corpus(
        texts=texts,
        labels=labels,
        classes=classes,
        test=test if len(splits) == 2 else None,
        skipped=skipped,
        title=f"hf:{source}",
    )


def _text_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str:
    named = [name for name in _TEXT if name in features]
    if wanted is None and named:
        return named[0]
    strings = ("string", "large_string")
    return hub.column(
        features, wanted, source, "text", "text", lambda kind: getattr(kind, "dtype", None) in strings
    )
