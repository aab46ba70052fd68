"""A jsonl file of prompts and responses."""

from __future__ import annotations

import json
from pathlib import Path

from polymask_language.datasets.base import Preparation, Skipped
from polymask_language.datasets.exchanges import ExchangeDataset, Exchanges
from polymask_language.datasets.lines import read_lines

PLAIN, PAIRED = ("prompt", "response"), ("prompt", "chosen", "rejected")


class Responses(ExchangeDataset):
    """The objects of a jsonl file: ``prompt`` and ``response``, or ``prompt``, ``chosen`` and ``rejected``.

    The first line that is an object of one kind decides which; others are skipped and listed in
    ``skipped``, as are those with an empty response. A prompt may be empty.

    Args:
        source: the file (``responses:PATH``).
        vocab: ``bpe`` or ``wordpiece`` to train one on the file; or a path, or a name on the hub.
        vocab_size: ids of a trained vocabulary.
        lower: a trained vocabulary makes capital letters small.
        length: most tokens of prompt and response together; longer ones are cut.
        pack: put several into one sequence, as plain text to pre-train on, without rejected ones.
        test: share to hold out.
        limit: at most so many of each split.
    """

    def __init__(
        self,
        *,
        source: str,
        vocab: str = "bpe",
        vocab_size: int = 8192,
        lower: bool = True,
        length: int = 128,
        pack: bool = False,
        test: float = 0.1,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            read_responses(source),
            Preparation(
                vocab=vocab,
                vocab_size=vocab_size,
                lower=lower,
                length=length,
                pack=pack,
                test=test,
                limit=limit,
            ),
        )

    @staticmethod
    def example_source(folder: Path) -> str:
        """A small stand-in: twelve pairs."""
        path = folder / "pairs.jsonl"
        pairs = (
            {"prompt": f"what is {i}?", "chosen": f"{i} is a number.", "rejected": f"{i} is nothing at all."}
            for i in range(12)
        )
        path.write_text("\n".join(map(json.dumps, pairs)))
        return str(path)


def read_responses(source: str) -> Exchanges:
    """The exchanges of a jsonl file.

    Raises:
        UserError: there is no such file.
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
            rows.append(row)
        except ValueError as error:
            skipped.append((f"line {number}", str(error)))
    return Exchanges(
        prompts=[row[0] for row in rows],
        responses=[row[1] for row in rows],
        rejected=[row[2] for row in rows] if fields == PAIRED else None,
        skipped=skipped,
        title=f"the file {source}",
    )
