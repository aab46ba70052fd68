"""What is known about each token: its word's part of speech, how rare it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polymask import Mask, Tokens, UserError
from polymask.protocols import Media
from polymask.types import Count, Fact
from polymask_language.display import compare
from polymask_language.tokenizers import TAGS
from polymask_language.words import load_statistics


class WordClass(nn.Module):
    """The part of speech of each token's word, as a class to predict.

    Args:
        tags: parts of speech that are classes of their own; all others are one more, number 0 (CLIMB,
            Diehl Martinez et al. 2023, arXiv 2311.08886). None for all, by their number.
    """

    table: Tensor

    def __init__(self, *, tags: Sequence[str] | None = None) -> None:
        super().__init__()
        table = torch.arange(len(TAGS))
        if tags is not None:
            table = torch.zeros(len(TAGS), dtype=torch.int64)
            table[_numbers(tags)] = 1 + torch.arange(len(tags))
        self.dim = int(table.max()) + 1
        self.names = TAGS if tags is None else ("other", *tags)
        self.register_buffer("table", table, persistent=False)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """int64 ``[B, N]``, classes below ``dim``."""
        return self.table[_tags(batch)]


class TokenId(nn.Module):
    """The token itself, as a class to predict: what a masked autoencoder over text reconstructs.

    Args:
        vocabulary: how many ids there are, from the tokenizer.
        tokenizer_file: the vocabulary of the data, to show words by.
    """

    def __init__(self, *, vocabulary: Fact[Count] = 8192, tokenizer_file: Fact[str | None] = None) -> None:
        super().__init__()
        self.dim, self.tokenizer_file = vocabulary, tokenizer_file

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """int64 ``[B, N]``, classes below ``dim``."""
        assert tokens.ids is not None
        return tokens.ids

    def show(self, prediction: Tensor, tokens: Tokens, mask: Mask) -> Mapping[str, Sequence[Media]]:
        """Columns of a report: hidden words with what was predicted in their place."""
        guess = prediction.argmax(-1)
        return compare(self.tokenizer_file, tokens, mask.hidden, guess, "hidden words, predictions beside")


class PartOfSpeech(nn.Module):
    """1 for tokens of some parts of speech, 0 for others: a score to hide by.

    Args:
        tags: which parts of speech.
    """

    dim = 1
    chosen: Tensor

    def __init__(self, *, tags: Sequence[str] = ("NOUN", "VERB")) -> None:
        super().__init__()
        chosen = torch.zeros(len(TAGS))
        chosen[_numbers(tags)] = 1.0
        self.register_buffer("chosen", chosen, persistent=False)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32."""
        return self.chosen[_tags(batch)][..., None]


class Rarity(nn.Module):
    """Information of each token by itself, minus the logarithm of its share in the corpus: a score.

    Args:
        vocabulary: how many ids there are, from the tokenizer.
        statistics_file: what the data set counted, from the data; without, an id stands for its rank, as
            ids of a trained vocabulary nearly do, and shares fall with the rank (Zipf).
        key: entry of the batch that holds the ids.
    """

    dim = 1
    information: Tensor

    def __init__(
        self, *, vocabulary: Fact[Count] = 8192, statistics_file: Fact[str | None] = None, key: str = "text"
    ) -> None:
        super().__init__()
        self.key = key
        share = 1 / torch.arange(1.0, vocabulary + 1)
        if statistics_file is not None:
            share = 1 + torch.from_numpy(load_statistics(statistics_file)["counts"]).float()
            if len(share) != vocabulary:
                raise UserError(
                    f"{statistics_file} counts {len(share)} ids, and the vocabulary has {vocabulary}: "
                    "it is of other data"
                )
        self.register_buffer("information", -(share / share.sum()).log())

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32, in nats."""
        return self.information[batch[self.key]][..., None]


def _numbers(tags: Sequence[str]) -> list[int]:
    if unknown := [name for name in tags if name not in TAGS]:
        raise UserError(f"no part of speech is called {unknown[0]!r}; there are {' '.join(TAGS)}")
    return [TAGS.index(name) for name in tags]


def _tags(batch: Mapping[str, Tensor]) -> Tensor:
    if "part_of_speech" not in batch:
        raise UserError("this data tells no parts of speech: add --data.tags true")
    return batch["part_of_speech"]
