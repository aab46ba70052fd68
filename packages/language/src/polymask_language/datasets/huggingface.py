"""Data sets of the Hugging Face hub, or local folders in its layout."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from polymask import UserError, hub
from polymask_language.datasets.base import Corpus, Preparation, Skipped, TextDataset

_TEXT = ("text", "content", "document", "sentence", "passage")


class HuggingFace(TextDataset):
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
        documents: at most so many documents of each split.
        vocab: ``bpe`` or ``wordpiece`` to train one on the text; or a path, or a name on the hub.
        vocab_size: ids of a trained vocabulary.
        lower: a trained vocabulary makes capital letters small.
        length: most tokens of a sequence; longer documents are cut into several.
        pack: several documents in one sequence; there are no labels then.
        tags: tell each word's part of speech, by a lexicon of English.
        test: share of each class to hold out where there is no split for it.
        limit: at most so many samples of each split.
    """

    def __init__(
        self,
        *,
        source: str,
        config: str | None = None,
        text: str | None = None,
        label: str | None = None,
        streaming: bool = False,
        documents: int | None = None,
        vocab: str = "bpe",
        vocab_size: int = 8192,
        lower: bool = True,
        length: int = 128,
        pack: bool = False,
        tags: bool = False,
        test: float = 0.1,
        limit: int | None = None,
    ) -> None:
        if streaming and documents is None:
            raise UserError("hf: how much of the stream? give --data.documents N")
        splits = hub.load(source, config, streaming)
        super().__init__(
            read_splits(splits, source, text, label, documents),
            Preparation(
                vocab=vocab,
                vocab_size=vocab_size,
                lower=lower,
                length=length,
                pack=pack,
                tags=tags,
                test=test,
                limit=limit,
            ),
        )

    @staticmethod
    def example_source(folder: Path) -> str:
        """A small stand-in: a folder with a table of each split."""
        for name, count in (("train", 9), ("test", 3)):
            rows = ({"text": f"{name} row {i} is a row of text."} for i in range(count))
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(folder)


def read_splits(
    splits: list[Any], source: str, text: str | None, label: str | None, documents: int | None
) -> Corpus:
    """The documents of one or two splits, which may be streams."""
    features = splits[0].features or dict.fromkeys(next(iter(splits[0]), {}))
    text = _text_column(features, text, source)
    label = hub.label_column(features, label, source)
    texts: list[str] = []
    names: list[Any] = []
    test: list[bool] = []
    skipped: Skipped = []
    for side, split in enumerate(splits):
        columns = split.select_columns([text, *([] if label is None else [label])])
        for number, row in enumerate(itertools.islice(columns, documents)):
            if not isinstance(row[text], str) or not row[text].strip():
                skipped.append((f"{source} {'test' if side else 'train'} {number}", "no text"))
                continue
            texts.append(row[text])
            names.append(None if label is None else row[label])
            test.append(side == 1)
    kind = None if label is None else features[label]
    classes = [str(name) for name in sorted(set(names))] if label is not None else None
    if isinstance(kind, datasets.ClassLabel):
        classes = list(kind.names)
        names = [classes[name] for name in names]
    number_of = {name: i for i, name in enumerate(classes or ())}
    return Corpus(
        texts=texts,
        labels=None if classes is None else [number_of[str(name)] for name in names],
        classes=classes,
        test=test if len(splits) == 2 else None,
        skipped=skipped,
        title=f"hf:{source}",
    )


def _text_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str:
    if wanted is not None:
        return hub.existing(features, wanted, source)
    typed = [
        name for name, kind in features.items() if getattr(kind, "dtype", None) in ("string", "large_string")
    ]
    named = [name for name in _TEXT if name in features]
    if not named and len(typed) != 1:
        raise UserError(
            f"hf:{source} has {len(typed)} columns of text; choose one (--data.text), of: "
            f"{', '.join(features)}"
        )
    return (named or typed)[0]
