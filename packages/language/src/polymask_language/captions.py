"""Short texts that belong to samples of another modality, as ids of a vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask_language.drawing import draw_text
from polymask_language.vocabulary import vocabulary_of


class Captions:
    """Texts by number, with the entries ``text`` and ``word`` of :mod:`polymask_language.tokenizers`.

    Each begins and ends with the vocabulary's tokens for that, where it has them. Texts that are too long
    lose their end.

    Args:
        texts: what they say.
        train: those to train a vocabulary on; any number of times each.
        vocab: ``bpe`` or ``wordpiece`` to train one; or the path of a ``tokenizer.json``, or a name on the
            Hugging Face hub.
        vocab_size: ids of a trained vocabulary, at most; fewer of little text.
        length: maximum number of tokens, special ones included.

    Attributes:
        cut: how many texts lost their end.
    """

    def __init__(
        self,
        texts: Sequence[str],
        train: Sequence[str],
        *,
        vocab: str = "bpe",
        vocab_size: int = 4096,
        length: int = 32,
    ) -> None:
        self.vocabulary = vocabulary_of(vocab, train, size=vocab_size)
        self.length = length
        around = (self.vocabulary.start_id, self.vocabulary.end_id)
        self._start, self._end = ([] if i is None else [i] for i in around)
        self._room = length - len(self._start) - len(self._end)
        if self._room < 1:
            raise UserError(f"captions of {length} tokens have no room for words; choose a longer length")
        # what an Encoding knows, without it: it cannot be sent to another process
        self._ids, self._words, self._offsets, self.cut = [], [], [], 0
        for encoding in self.vocabulary.encode(texts):
            self.cut += len(encoding.ids) > self._room
            self._ids.append(encoding.ids[: self._room])
            self._words.append([-1 if w is None else w for w in encoding.word_ids[: self._room]])
            self._offsets.append(encoding.offsets[: self._room])

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = [*self._start, *self._ids[index], *self._end]
        # tokens around a text are words of their own
        words = [*[-2] * len(self._start), *self._words[index], *[-3] * len(self._end)]
        begins = [a != b for a, b in itertools.pairwise([None, *words])]
        return {"text": torch.tensor(ids), "word": torch.tensor(begins).cumsum(0) - 1}

    def within(self, index: int, start: int, stop: int) -> Tensor:
        """Which tokens of a text lie, in part at least, between two of its characters: bool ``[L]``."""
        inside = [a < stop and b > start for a, b in self._offsets[index]]
        return torch.tensor([*[False] * len(self._start), *inside, *[False] * len(self._end)])

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What parts take as constructor arguments."""
        return {**self.vocabulary.facts, "length": self.length}

    def render(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """The text of a sample as a picture ``[3, H, W]``, hidden tokens in colour."""
        return draw_text(self.vocabulary.pieces(sample["text"]), None, hidden)
