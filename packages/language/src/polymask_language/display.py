"""What a notebook or a report shows of text: hidden tokens in colour, what was predicted beside them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from polymask import Tokens
from polymask.protocols import Media
from polymask.report.drawing import HIDDEN
from polymask_language.vocabulary import Vocabulary

_RGB = " ".join(str(round(255 * c)) for c in HIDDEN)
_COLOUR = f"rgb({_RGB})"


def compare(
    tokenizer_file: str | None, tokens: Tokens, hidden: Tensor, guess: Tensor, caption: str
) -> dict[str, Sequence[Media]]:
    """A column of a report: the text with what was hidden of it, and what was predicted there.

    Args:
        tokenizer_file: of the vocabulary; without, tokens are shown as numbers.
        tokens: the text.
        hidden: bool ``[B, N]``.
        guess: int64 ``[B, N]``, predicted ids.
        caption: of the column.
    """
    pieces, guesses = spelled(tokenizer_file, tokens), spelled(tokenizer_file, tokens, guess)
    rows = zip(pieces, hidden, guesses, strict=True)
    return {caption: [Words(text, row[: len(text)].tolist(), other) for text, row, other in rows]}


def compare_classes(
    tokenizer_file: str | None,
    tokens: Tokens,
    hidden: Tensor,
    true: Tensor,
    guess: Tensor,
    names: Sequence[str],
) -> dict[str, Sequence[Media]]:
    """A column of a report: hidden words with their classes, and the classes that were predicted.

    Args:
        tokenizer_file: of the vocabulary; without, tokens are shown as numbers.
        tokens: the text.
        hidden: bool ``[B, N]``.
        true: int64 ``[B, N]``, classes.
        guess: int64 ``[B, N]``, predicted ones.
        names: of the classes.
    """
    rows = []
    for text, *columns in zip(spelled(tokenizer_file, tokens), hidden, true, guess, strict=True):
        row, right, said = (column[: len(text)].tolist() for column in columns)
        pieces = [f"{p} ({names[k]})" if h else p for p, h, k in zip(text, row, right, strict=True)]
        guesses = [p if k == g else f" ({names[g]})" for p, k, g in zip(pieces, right, said, strict=True)]
        rows.append(Words(pieces, row, guesses))
    return {"classes of hidden words, predictions beside": rows}


def spelled(tokenizer_file: str | None, tokens: Tokens, ids: Tensor | None = None) -> list[list[str]]:
    """What each token adds to the text, row by row, without padding.

    Args:
        tokenizer_file: of the vocabulary; without, tokens are shown as numbers.
        tokens: the text.
        ids: int64 ``[B, N]`` in place of those of the tokens.
    """
    ids = tokens.ids if ids is None else ids
    assert ids is not None
    vocabulary = None if tokenizer_file is None else Vocabulary(Path(tokenizer_file))
    rows = []
    for number, row in enumerate(ids):
        real = row if tokens.valid is None else row[tokens.valid[number]]
        rows.append([f" {i}" for i in real.tolist()] if vocabulary is None else vocabulary.pieces(real))
    return rows


class Words:
    """Text, its hidden tokens in colour and each followed by the prediction.

    Args:
        pieces: what each token adds to the text, with the space before it.
        hidden: which are hidden.
        guesses: what was predicted of each, read where it is hidden.
    """

    def __init__(self, pieces: Sequence[str], hidden: Sequence[bool], guesses: Sequence[str]) -> None:
        self.pieces, self.hidden, self.guesses = list(pieces), list(hidden), list(guesses)

    @property
    def note(self) -> str:
        """How many hidden tokens were predicted."""
        hits = [p == g for p, h, g in zip(self.pieces, self.hidden, self.guesses, strict=True) if h]
        return f"{sum(hits)} of {len(hits)} hidden right"

    def _repr_html_(self) -> str:
        out = []
        for piece, hidden, guess in zip(self.pieces, self.hidden, self.guesses, strict=True):
            text = html.escape(piece)
            if hidden:
                line = "none" if piece == guess else "line-through"
                beside = "" if piece == guess else f'<sub style="color:#555">{html.escape(guess)}</sub>'
                text = (
                    f'<span style="background:{_COLOUR};color:white;text-decoration:{line};'
                    f'text-decoration-thickness:1px">{text}</span>{beside}'
                )
            out.append(text)
        return (
            f'<figure style="margin:0;max-width:32em;text-align:left"><p style="margin:0">{"".join(out)}</p>'
            f"<figcaption>{html.escape(self.note)}</figcaption></figure>"
        )


def weighted(
    tokenizer_file: str | None, tokens: Tokens, weight: Tensor, counted: Tensor
) -> list[WeightedWords]:
    """Texts whose tokens are coloured by weight, as shares of the largest of all.

    Args:
        tokenizer_file: of the vocabulary; without, tokens are shown as numbers.
        tokens: the texts.
        weight: ``[B, N]``, 0 or more.
        counted: bool ``[B, N]``, tokens that have a weight; the others are grey.
    """
    assert tokens.ids is not None
    vocabulary = None if tokenizer_file is None else Vocabulary(Path(tokenizer_file))
    largest = float(weight.max()) or 1.0
    shown = []
    for row, ids in enumerate(tokens.ids):
        real = slice(None) if tokens.valid is None else tokens.valid[row]
        pieces = [f" {i}" for i in ids[real].tolist()] if vocabulary is None else vocabulary.pieces(ids[real])
        shown.append(WeightedWords(pieces, weight[row][real].tolist(), counted[row][real].tolist(), largest))
    return shown


class WeightedWords:
    """Text, each token on a colour as strong as its weight, what has none in grey.

    Args:
        pieces: what each token adds to the text, with the space before it.
        weights: 0 or more.
        counted: which tokens have one.
        largest: the weight of full colour.
    """

    def __init__(
        self, pieces: Sequence[str], weights: Sequence[float], counted: Sequence[bool], largest: float
    ) -> None:
        self.pieces, self.weights, self.counted = list(pieces), list(weights), list(counted)
        self.largest = largest

    @property
    def note(self) -> str:
        """The mean of the weights, and how many are 0."""
        found = [w for w, c in zip(self.weights, self.counted, strict=True) if c]
        mean = sum(found) / max(len(found), 1)
        return f"mean weight {mean:.3g}, {sum(w == 0 for w in found)} of {len(found)} are 0"

    def _repr_html_(self) -> str:
        out = []
        for piece, weight, counted in zip(self.pieces, self.weights, self.counted, strict=True):
            share = weight / self.largest
            text = html.escape(piece)
            ink = "white" if share > 0.6 else "inherit"
            style = f"background:rgb({_RGB} / {share:.0%});color:{ink}" if counted else "color:#888"
            out.append(f'<span style="{style}">{text}</span>')
        return (
            f'<figure style="margin:0;max-width:32em;text-align:left"><p style="margin:0">{"".join(out)}</p>'
            f"<figcaption>{html.escape(self.note)}</figcaption></figure>"
        )
