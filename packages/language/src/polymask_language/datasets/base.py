"""The data set of text: documents that a reader found, their splits, a vocabulary, samples."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import BadSample, Samples, Skipped, SplitName, evenly
from polymask.data.splits import Names
from polymask.types import Count, Share
from polymask_language.datasets.difficulty import difficulty_file
from polymask_language.datasets.encoded import describe, encode, statistics_of
from polymask_language.datasets.sequences import Sequences, cut, pack
from polymask_language.drawing import draw_text
from polymask_language.vocabulary import hash_of, vocabulary_of


@dataclass(frozen=True)
class Corpus:
    """Documents, read.

    Args:
        texts: what they say.
        labels: class numbers, one per document, -1 where unknown; None where there are none.
        classes: names of the classes, or None.
        test: which documents are for testing, where the source says so.
        queries: what each document answers (a title), for retrieval, where the source says so.
        names: of the files they are in, one per document, where each has one.
        skipped: what was left out, ``(name, reason)``.
        title: what to call the source in messages.
    """

    texts: Sequence[str]
    labels: Sequence[int] | None = None
    classes: Sequence[str] | None = None
    test: Sequence[bool] | None = None
    queries: Sequence[str] | None = None
    names: Sequence[str] | None = None
    skipped: Skipped = field(default_factory=list)
    title: str = "the corpus"


class TextDataset:
    """Documents that a reader found, as samples ``{"text": int64 [L], "word": int64 [L]}``.

    ``word`` numbers the words of a sample. Packed samples also have ``document``, which numbers their
    documents, and with ``tags`` there is ``part_of_speech``, both int64 ``[L]``.

    Args:
        corpus: the documents.
        vocab: ``bpe`` or ``wordpiece`` to train a vocabulary on the training documents; or the path of a
            ``tokenizer.json``, or a name on the Hugging Face hub.
        vocab_size: ids of a trained vocabulary, at most; fewer of little text.
        lower: a trained vocabulary makes capital letters small.
        length: maximum number of tokens in a sequence, special ones included; longer documents are cut into
            several.
        pack: put several documents into one sequence; there are no labels then.
        tags: give each word's part of speech, by a lexicon of English.
        test: share of each class to hold out where the source does not say what.
        limit: maximum number of samples per split.
    """

    key = "text"

    def __init__(
        self,
        corpus: Corpus,
        /,
        *,
        vocab: str = "bpe",
        vocab_size: Count = 8192,
        lower: bool = True,
        length: Count = 128,
        pack: bool = False,
        tags: bool = False,
        test: Share = 0.1,
        limit: Count | None = None,
    ) -> None:
        if not corpus.texts:
            raise UserError(_nothing(corpus))
        if limit is not None and limit < 1:
            raise UserError(f"limit must be 1 or more, got {limit}")
        self.corpus, self.skipped = corpus, list(corpus.skipped)
        self.length, self.pack, self.tags, self.limit = length, pack, tags, limit
        held = held_out(corpus, test)
        self.documents: dict[SplitName, Tensor] = {
            "train": torch.from_numpy(np.flatnonzero(~held)),
            "test": torch.from_numpy(np.flatnonzero(held)),
        }
        known, train = hash_of(corpus.texts), [corpus.texts[i] for i in self.documents["train"].tolist()]
        self.vocabulary = vocabulary_of(
            vocab,
            train,
            size=vocab_size,
            lower=lower,
            corpus=f"{known} {hash_of(map(str, self.documents['test'].tolist()))}",
        )
        self.encoded = encode(corpus.texts, self.vocabulary, known, tags)
        cuts = {name: self._cut(index) for name, index in self.documents.items()}
        _confirm_long_enough(cuts["train"], corpus.title)
        self._samples = {name: self._make(index, *cuts[name]) for name, index in self.documents.items()}
        self.classes = None if pack or corpus.labels is None else list(corpus.classes or ())
        statistics = statistics_of(self.encoded, self.documents["train"], self.vocabulary)
        self.provides: dict[str, Any] = {
            **self.vocabulary.facts,
            "length": length,
            "preparation": {"vocab": str(self.vocabulary.file), "length": length, "pack": pack, "tags": tags},
            "samples": len(self._samples["train"][0]),
            "sequences": len(cuts["train"][0]) / max(len(self.documents["train"]), 1),
            "statistics_file": str(statistics),
            "difficulty_file": str(
                difficulty_file(self._samples["train"][0], statistics, self.labels("train"), self.classes)
            ),
        }

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        """Samples of a split; ``augment`` changes nothing.

        Raises:
            UserError: it is empty.
        """
        samples = self._samples[name][0]
        if not len(samples):
            raise UserError(f"{self.corpus.title} has no {name} documents: give more, or another --data.test")
        return samples

    def labels(self, name: SplitName) -> Tensor | None:
        if self.classes is None or self.corpus.labels is None:
            return None
        return torch.as_tensor(self.corpus.labels, dtype=torch.int64)[self._samples[name][1]]

    def lengths(self, name: SplitName) -> Tensor:
        """int64 ``[n]``, tokens of each sample."""
        return self._samples[name][0].lengths

    def pairs(self, name: SplitName) -> tuple[list[str], list[str]]:
        """What the documents of a split answer, and the documents, for retrieval.

        Raises:
            UserError: nobody knows what these documents answer.
        """
        if self.corpus.queries is None:
            raise UserError(
                f"{self.corpus.title} has documents but no queries that they answer: use language/glosses, "
                "language/titles, or jsonl: with --data.query_field"
            )
        index = self.documents[name].tolist()
        return [self.corpus.queries[i] for i in index], [self.corpus.texts[i] for i in index]

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Words counted, without an encoder: ``[B, 4096]``, log counts of ids, of length 1.

        Only the first 4,096 ids of a vocabulary count, which are the most frequent of a trained one.
        """
        ids = batch[self.key]
        real = torch.ones_like(ids, dtype=torch.bool)
        if f"{self.key}_length" in batch:
            real = torch.arange(ids.shape[1], device=ids.device) < batch[f"{self.key}_length"][:, None]
        for special in self.vocabulary.special_ids:
            real = real & (ids != special)
        counts = torch.zeros(len(ids), max(self.vocabulary.size, 4096), device=ids.device)
        counts = counts.scatter_add(1, ids, real.float())[:, :4096].log1p()
        return torch.nn.functional.normalize(counts, dim=1)

    def describe(self) -> dict[str, str]:
        found, documents = self._samples["train"][0], len(self.documents["train"])
        return describe(self.encoded, self.vocabulary, f"{documents:,} documents", found.lengths)

    def render(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """The text as a picture ``[3, H, W]``, hidden tokens in colour, documents apart."""
        return draw_text(self.vocabulary.pieces(sample[self.key]), sample.get("document"), hidden)

    def _make(
        self, documents: Tensor, starts: Tensor, stops: Tensor, owner: Tensor
    ) -> tuple[Sequences, Tensor]:
        """Samples of some documents as they are cut, and the number of the (first) document of each."""
        around = (self.vocabulary.start_id, self.vocabulary.end_id)
        spans = torch.stack([torch.arange(len(starts)), torch.arange(len(starts)) + 1], dim=1)
        if self.pack:
            rows = pack((stops - starts + self._frame).tolist(), self.length)
            order = torch.tensor([piece for row in rows for piece in row], dtype=torch.int64)
            starts, stops, owner = starts[order], stops[order], owner[order]
            after = torch.tensor([len(row) for row in rows], dtype=torch.int64).cumsum(0)
            spans = torch.stack([torch.cat([after.new_zeros(1), after])[:-1], after], dim=1)
        if self.limit is not None and self.limit < len(spans):
            # evenly, so that sorted classes stay in proportion
            spans = spans[evenly(len(spans), self.limit)]
        first, known = documents[owner[spans[:, 0]]], self.corpus.names
        names = None if known is None else Names([known[i] for i in first.tolist()])
        samples = Sequences(
            self.encoded, starts, stops, spans, around=around, packed=self.pack, tags=self.tags, names=names
        )
        return samples, first

    @property
    def _frame(self) -> int:
        """Tokens around each piece of text."""
        return sum(i is not None for i in (self.vocabulary.start_id, self.vocabulary.end_id))

    def _cut(self, documents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Documents in sequences, see :func:`cut`."""
        room = self.length - self._frame
        if room < 1:
            raise UserError(
                f"sequences of {self.length} tokens have no room for text; choose a longer length"
            )
        ends = torch.from_numpy(np.array(self.encoded.array("ends")))
        begins = torch.cat([ends.new_zeros(1), ends[:-1]])
        return cut(begins[documents], ends[documents], room)


def read_text(raw: bytes) -> str:
    """Text of a file.

    Raises:
        BadSample: it is empty, or no UTF-8.
    """
    text = decoded(raw).strip()
    if not text:
        raise BadSample("no text")
    return text


def decoded(raw: bytes) -> str:
    """UTF-8 as text, with or without a mark at its start.

    Raises:
        BadSample: it is something else.
    """
    if b"\0" in raw:
        raise BadSample("holds bytes of zero, as UTF-16 does: convert it, e.g. iconv -f utf-16 -t utf-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(
            f"not UTF-8 ({error.reason} at byte {error.start}): convert it, e.g. iconv -f latin1 -t utf-8"
        ) from error


def _confirm_long_enough(cuts: tuple[Tensor, Tensor, Tensor], title: str) -> None:
    """Warn of documents that are one token: there is nothing to predict it from.

    Raises:
        UserError: all of them are.
    """
    starts, stops, _ = cuts
    short = int((stops - starts <= 1).sum())
    if 2 * short > len(starts):
        found = (
            f"{short} of {len(starts)} documents of {title} are a single token, which nothing can be "
            "predicted of: give longer ones, or a vocabulary of smaller pieces (--data.vocab_size 300)"
        )
        if short == len(starts):
            raise UserError(found)
        warnings.warn(found, stacklevel=3)


def held_out(corpus: Corpus, share: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which documents are for testing: in each class those whose text hashes lowest.

    Copies of one text lie on one side, and documents that are added move few from one side to the other.

    Raises:
        UserError: a share out of range.
    """
    if not 0 <= share < 1:
        raise UserError(f"test must be a share of the documents, 0 <= test < 1, got {share}")
    if corpus.test is not None:
        return np.asarray(corpus.test, dtype=bool)
    digests = (
        hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=8).digest() for t in corpus.texts
    )
    rank = np.frombuffer(b"".join(digests), dtype="<u8")
    n = len(corpus.texts)
    group = np.zeros(n, dtype=np.int64) if corpus.labels is None else np.asarray(corpus.labels)
    test = np.zeros(n, dtype=bool)
    for value in np.unique(group) if share else ():
        members = np.flatnonzero(group == value)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        test[members[np.argsort(rank[members], kind="stable")[:count]]] = True
    # a text of two classes goes where it is held out
    return np.isin(rank, rank[test], kind="sort")  # a table overflows 64 bits in older numpy


def _nothing(corpus: Corpus) -> str:
    message = f"no text in {corpus.title}"
    if corpus.skipped:
        first, reason = corpus.skipped[0]
        message += f"; skipped {len(corpus.skipped)}, first {first}: {reason}"
    return message
