"""One file of many documents: a line each, or a JSON object each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from polymask import UserError
from polymask_language.datasets.base import Corpus, Preparation, Skipped, TextDataset


class Lines(TextDataset):
    """The lines of a text file, or its paragraphs; UTF-8. Each is a document; what is blank is none.

    Args:
        source: the file (``file:PATH``).
        paragraphs: documents are parted by blank lines instead.
        vocab: ``bpe`` or ``wordpiece`` to train one on the file; or a path, or a name on the hub.
        vocab_size: ids of a trained vocabulary.
        lower: a trained vocabulary makes capital letters small.
        length: most tokens of a sequence; longer documents are cut into several.
        pack: several documents in one sequence.
        tags: tell each word's part of speech, by a lexicon of English.
        test: share of the documents to hold out.
        limit: at most so many samples of each split.
    """

    def __init__(
        self,
        *,
        source: str,
        paragraphs: bool = False,
        vocab: str = "bpe",
        vocab_size: int = 8192,
        lower: bool = True,
        length: int = 128,
        pack: bool = False,
        tags: bool = False,
        test: float = 0.1,
        limit: int | None = None,
    ) -> None:
        skipped: Skipped = []
        lines = [text for _, text in read_lines(source, "file", skipped)]
        if paragraphs:
            lines = [" ".join(block.split("\n")) for block in "\n".join(lines).split("\n\n")]
        texts = [line.strip() for line in lines if line.strip()]
        super().__init__(
            Corpus(texts, skipped=skipped, title=f"the file {source}"),
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
        """A small stand-in: a file of twelve lines."""
        path = folder / "lines.txt"
        path.write_text("\n".join(f"line {i} says what the others do, {i} times over." for i in range(12)))
        return str(path)


class JSONLines(TextDataset):
    """The objects of a jsonl file, one to a line; UTF-8. Lines that are no such object are skipped.

    Args:
        source: the file (``jsonl:PATH``).
        field: which field holds the text.
        label_field: which holds the class, if there are any.
        query_field: which holds what the text answers (a title, a question), for retrieval.
        vocab: ``bpe`` or ``wordpiece`` to train one on the file; or a path, or a name on the hub.
        vocab_size: ids of a trained vocabulary.
        lower: a trained vocabulary makes capital letters small.
        length: most tokens of a sequence; longer documents are cut into several.
        pack: several documents in one sequence; there are no labels then.
        tags: tell each word's part of speech, by a lexicon of English.
        test: share of each class to hold out.
        limit: at most so many samples of each split.
    """

    def __init__(
        self,
        *,
        source: str,
        field: str = "text",
        label_field: str | None = None,
        query_field: str | None = None,
        vocab: str = "bpe",
        vocab_size: int = 8192,
        lower: bool = True,
        length: int = 128,
        pack: bool = False,
        tags: bool = False,
        test: float = 0.1,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            read_json_lines(source, field, label_field, query_field),
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
        """A small stand-in: twelve objects."""
        path = folder / "objects.jsonl"
        objects = ({"text": f"object {i} is much like the one before."} for i in range(12))
        path.write_text("\n".join(map(json.dumps, objects)))
        return str(path)


def read_json_lines(source: str, field: str, label_field: str | None, query_field: str | None) -> Corpus:
    """The documents of a jsonl file.

    Raises:
        UserError: there is no such file.
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
            rows.append((text, label, query))
        except ValueError as error:
            skipped.append((f"line {number}", str(error)))
    classes = sorted({label for _, label, _ in rows})
    number_of = {name: i for i, name in enumerate(classes)}
    return Corpus(
        texts=[text for text, _, _ in rows],
        labels=None if label_field is None else [number_of[label] for _, label, _ in rows],
        classes=None if label_field is None else classes,
        queries=None if query_field is None else [query for _, _, query in rows],
        skipped=skipped,
        title=f"the file {source}",
    )


def read_lines(source: str, name: str, skipped: Skipped) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line; those that are no UTF-8 are skipped."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{name}:{source}: there is no file {path.absolute()}")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                skipped.append((f"line {number}", f"no UTF-8 text: {error.reason}"))
