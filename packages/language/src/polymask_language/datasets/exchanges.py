"""Prompts and responses: what fine-tuning reads, and alignment, where each has a response less wanted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import Samples, Skipped, SplitName, evenly
from polymask.types import Count, Share
from polymask_language.datasets.base import Corpus, held_out
from polymask_language.datasets.encoded import Encoded, describe, encode, ends_of, statistics_of
from polymask_language.datasets.sequences import Sequences, pack
from polymask_language.drawing import draw_text
from polymask_language.vocabulary import hash_of, vocabulary_of

Spans = Sequence[tuple[int, int]]
"""Parts of a text, by the places of their first character and of the one behind their last."""


@dataclass(frozen=True)
class Exchanges:
    """Prompts with their responses, read.

    Args:
        prompts: what is asked; may be empty.
        responses: what is wanted.
        rejected: what is less wanted, or None where nobody said.
        decisive: the words that decide, of wanted and of rejected responses; None where nobody knows.
        skipped: what was left out, ``(name, reason)``.
        title: what to call the source in messages.
    """

    prompts: Sequence[str]
    responses: Sequence[str]
    rejected: Sequence[str] | None = None
    decisive: tuple[Sequence[Spans], Sequence[Spans]] | None = None
    skipped: Skipped = field(default_factory=list)
    title: str = "the exchanges"


class ExchangeDataset:
    """Prompts and responses that a reader found, as samples: a prompt and its response in one sequence.

    A sample has ``text`` int64, ``response`` bool, True on the tokens of the response and its end, ``word``,
    and ``decisive``, bool, where it is known. Where there are rejected responses, the same prompt with the
    rejected one has the same entries under ``rejected_text`` and so on. Packed, samples are plain text to
    pre-train on.

    Args:
        exchanges: what the reader found.
        vocab: ``bpe`` or ``wordpiece`` to train a vocabulary on the training text; or the path of a
            ``tokenizer.json``, or a name on the Hugging Face hub.
        vocab_size: ids of a trained vocabulary, at most; fewer of little text.
        lower: a trained vocabulary makes capital letters small.
        length: maximum number of tokens of prompt and response together; longer ones are cut.
        pack: put several into one sequence, as plain text to pre-train on, without rejected ones.
        test: share to hold out.
        limit: maximum number of exchanges per split.
    """

    key = "text"
    classes = None

    def __init__(
        self,
        exchanges: Exchanges,
        /,
        *,
        vocab: str = "bpe",
        vocab_size: Count = 8192,
        lower: bool = True,
        length: Count = 128,
        pack: bool = False,
        test: Share = 0.1,
        limit: Count | None = None,
    ) -> None:
        if not exchanges.responses:
            why = "".join(f"; skipped {name}: {reason}" for name, reason in exchanges.skipped[:1])
            raise UserError(f"no responses in {exchanges.title}{why}")
        if length < 4:
            raise UserError(f"sequences of {length} tokens have no room for prompt and response")
        self.exchanges, self.skipped = exchanges, list(exchanges.skipped)
        self.length, self.pack = length, pack
        sides = [exchanges.prompts, exchanges.responses]
        sides += [] if exchanges.rejected is None else [exchanges.rejected]
        self.sides = len(sides)
        texts = [text for exchange in zip(*sides, strict=True) for text in exchange]
        whole = [f"{p}\n{r}" for p, r in zip(exchanges.prompts, exchanges.responses, strict=True)]
        held = held_out(Corpus(whole), test)
        self._numbers: dict[SplitName, Tensor] = {
            "train": _some(np.flatnonzero(~held), limit),
            "test": _some(np.flatnonzero(held), limit),
        }
        train = (self._numbers["train"][:, None] * self.sides + torch.arange(self.sides)).flatten()
        known = hash_of(texts)
        self.vocabulary = vocabulary_of(
            vocab,
            [texts[i] for i in train.tolist()],
            size=vocab_size,
            lower=lower,
            corpus=f"{known} {hash_of(map(str, train.tolist()))}",
        )
        self.encoded = encode(texts, self.vocabulary, known, tags=False)
        self.provides: dict[str, Any] = {
            **self.vocabulary.facts,
            "length": length,
            "preparation": {"vocab": str(self.vocabulary.file), "length": length},
            "statistics_file": str(statistics_of(self.encoded, train, self.vocabulary)),
        }
        self._samples = {name: self._make(numbers) for name, numbers in self._numbers.items()}
        self.provides["samples"] = len(self._samples["train"])

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        """Samples of a split; ``augment`` changes nothing.

        Raises:
            UserError: it is empty.
        """
        samples = self._samples[name]
        if not len(samples):
            raise UserError(
                f"{self.exchanges.title} has nothing to {name}: give more, or another --data.test"
            )
        return samples

    def labels(self, name: SplitName) -> None:
        """There are none."""

    def lengths(self, name: SplitName) -> Tensor:
        """int64 ``[n]``, tokens of each prompt with its response."""
        return self._samples[name].lengths

    def describe(self) -> dict[str, str]:
        what = f"{len(self._numbers['train']):,} exchanges"
        return describe(self.encoded, self.vocabulary, what, self._samples["train"].lengths)

    def render(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """Prompt and response as a picture ``[3, H, W]``, hidden tokens in colour."""
        return draw_text(self.vocabulary.pieces(sample[self.key]), sample.get("document"), hidden)

    def _make(self, numbers: Tensor) -> Pairs | Sequences:
        around = (self.vocabulary.start_id, self.vocabulary.end_id)
        if not self.pack:
            return Pairs(self.encoded, numbers, self.sides, around, self.length, self._decisive)
        ends = torch.from_numpy(np.array(self.encoded.array("ends")))
        begins = torch.cat([ends.new_zeros(1), ends[:-1]])
        # a prompt lies before its response: both are one piece
        first, last = numbers * self.sides, numbers * self.sides + 1
        extra = sum(i is not None for i in around)
        starts = begins[first]
        stops = torch.minimum(ends[last], starts + self.length - extra)
        rows = pack((stops - starts + extra).tolist(), self.length)
        order = torch.tensor([piece for row in rows for piece in row], dtype=torch.int64)
        after = torch.tensor([len(row) for row in rows], dtype=torch.int64).cumsum(0)
        spans = torch.stack([torch.cat([after.new_zeros(1), after[:-1]]), after], dim=1)
        return Sequences(
            self.encoded, starts[order], stops[order], spans, around=around, packed=True, tags=False
        )

    @cached_property
    def _decisive(self) -> Tensor | None:
        """Which tokens of the whole corpus decide, bool ``[n]``; None where nobody knows."""
        exchanges = self.exchanges
        if exchanges.decisive is None:
            return None
        assert exchanges.rejected is not None
        decides = torch.zeros(len(self.encoded.array("ids")), dtype=torch.bool)
        ends = np.concatenate([[0], self.encoded.array("ends")])
        sides = ((exchanges.responses, exchanges.decisive[0]), (exchanges.rejected, exchanges.decisive[1]))
        for side, (texts, spans) in enumerate(sides, 1):
            for number, encoding in enumerate(self.vocabulary.encode(texts)):
                start = int(ends[number * self.sides + side])
                for place, (a, b) in enumerate(encoding.offsets):
                    decides[start + place] = any(a < stop and b > begin for begin, stop in spans[number])
        return decides


class Pairs:
    """Samples of :class:`ExchangeDataset`. Picklable: workers map the same files.

    Both sequences of a pair begin with the same tokens of the prompt. What is too long is cut: the prompt
    at its start, to what the longer response leaves and to half the room at least, then the response at
    its end.

    Args:
        encoded: prompt, response and, in pairs, rejected response of every exchange, one after the other.
        numbers: int64 ``[samples]``, which exchanges.
        sides: texts of an exchange, 2 or 3.
        around: ids before the prompt and after the response.
        length: most tokens of a sequence.
        decisive: bool ``[n]``, which tokens of the corpus decide.
    """

    random = False

    def __init__(
        self,
        encoded: Encoded,
        numbers: Tensor,
        sides: int,
        around: tuple[int | None, int | None],
        length: int,
        decisive: Tensor | None,
    ) -> None:
        self.encoded, self.numbers, self.sides = encoded, numbers, sides
        self.length = length
        self.decisive = None if decisive is None else decisive.numpy()
        self._ends = ends_of(around)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def lengths(self) -> Tensor:
        """int64 ``[samples]``, of prompt and wanted response."""
        sizes = np.diff(self.encoded.array("ends"), prepend=0).reshape(-1, self.sides)[self.numbers.numpy()]
        prompt = self._kept(sizes[:, 0], sizes[:, 1:].max(1))
        whole = prompt + sizes[:, 1] + sum(map(len, self._ends))
        return torch.from_numpy(whole.clip(max=self.length))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        first = int(self.numbers[index]) * self.sides
        ends = self.encoded.array("ends")
        cuts = [0 if i == 0 else int(ends[i - 1]) for i in range(first, first + self.sides + 1)]
        sizes = [stop - start for start, stop in itertools.pairwise(cuts)]
        prompt = int(self._kept(sizes[0], max(sizes[1:])))
        sample: dict[str, Tensor] = {}
        for side, prefix in zip(range(1, self.sides), ("", "rejected_"), strict=False):
            found = self._sequence(slice(cuts[1] - prompt, cuts[1]), slice(cuts[side], cuts[side + 1]))
            sample |= {f"{prefix}{key}": value for key, value in found.items()}
        return sample

    def _sequence(self, prompt: slice, response: slice) -> dict[str, Tensor]:
        """One side of an exchange."""
        lead, tail = self._ends
        ids, begins = self.encoded.array("ids"), self.encoded.array("begins")
        text = np.concatenate([lead, ids[prompt], ids[response], tail], dtype=np.int64)
        new = np.ones_like(text, dtype=bool)
        start, middle, stop = len(lead), len(lead) + prompt.stop - prompt.start, len(text) - len(tail)
        # what comes first of a prompt, which may begin within a word, and of a response is new
        new[start + 1 : middle] = begins[prompt][1:]
        new[middle + 1 : stop] = begins[response][1:]
        sample = {"text": text, "word": new.cumsum() - 1, "response": np.arange(len(text)) >= middle}
        if self.decisive is not None:
            sample["decisive"] = np.zeros_like(new)
            sample["decisive"][middle:stop] = self.decisive[response]
        return {key: torch.from_numpy(value[: self.length]) for key, value in sample.items()}

    def _kept(self, prompt: Any, response: Any) -> Any:
        """Tokens of a prompt that are kept beside a response of so many."""
        room = self.length - sum(map(len, self._ends))
        return np.minimum(prompt, np.maximum(room - response, room // 2))


def _some(numbers: np.ndarray[Any, Any], limit: int | None) -> Tensor:
    """At most so many, evenly spaced."""
    if limit is not None and limit < 1:
        raise UserError(f"limit must be 1 or more, got {limit}")
    return torch.from_numpy(numbers)[evenly(len(numbers), limit)]
