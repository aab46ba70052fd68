"""A corpus as ids: computed once, kept in the cache, mapped into memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask.data import span
from polymask.data.cache import cache_folder, whole_or_not
from polymask_language.speech import tag
from polymask_language.vocabulary import Vocabulary, hash_of
from polymask_language.words import count_words

_AT_ONCE = 4096


class Encoded:
    """The ids of a corpus, one document after another. Picklable: workers map the same files.

    Args:
        folder: where they are: ``ids.npy`` int32 ``[n]``; ``begins.npy`` bool ``[n]``, where a word
            begins; ``ends.npy`` int64 ``[documents]``; ``tags.npy`` uint8 ``[n]``, parts of speech.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, np.ndarray[Any, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_open": {}}

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """One of the arrays."""
        if name not in self._open:
            mapped = np.load(self.folder / f"{name}.npy", mmap_mode="r")
            self._open[name] = mapped.view(np.ndarray)  # whose parts are cheaper to take
        return self._open[name]


def ends_of(around: tuple[int | None, int | None]) -> tuple[np.ndarray[Any, Any], ...]:
    """Ids before and after a text, each an array of one or none."""
    return tuple(np.array([] if i is None else [i], dtype=np.int64) for i in around)


def encode(texts: Sequence[str], vocabulary: Vocabulary, corpus: str, tags: bool) -> Encoded:
    """Cut texts into ids, or find them cut.

    Args:
        texts: the documents.
        vocabulary: what to cut them with.
        corpus: hash of the texts.
        tags: also say each word's part of speech.
    """
    # by what the vocabulary is, not where: a run's own is named by its copy when the data is opened again
    folder = cache_folder("text") / hash_of([corpus, vocabulary.file.read_text(encoding="utf-8")])
    if not folder.is_dir():
        with whole_or_not(folder) as part:
            for name, array in _encode(texts, vocabulary).items():
                np.save(part / f"{name}.npy", array)
    encoded = Encoded(folder)
    if not tags:
        return encoded
    tagged = Encoded(folder.with_name(f"{folder.name}-tagged"))
    if not tagged.folder.is_dir():
        with whole_or_not(tagged.folder) as part:
            for name in ("ids", "begins", "ends"):
                np.save(part / f"{name}.npy", encoded.array(name))
            np.save(part / "tags.npy", _tags(encoded, vocabulary))
    return tagged


def statistics_of(encoded: Encoded, documents: Tensor, vocabulary: Vocabulary) -> Path:
    """File of what occurs how often in some documents, see :func:`polymask_language.words.count_words`.

    Args:
        encoded: the corpus.
        documents: int64, which of its documents.
        vocabulary: what they were cut with.
    """
    name = hash_of([str(encoded.folder.name).removesuffix("-tagged"), str(documents.tolist())])
    folder = cache_folder("statistics") / name
    if not folder.is_dir():
        sizes = torch.from_numpy(np.diff(encoded.array("ends"), prepend=0))
        wanted = torch.zeros(len(sizes), dtype=torch.bool)
        wanted[documents] = True
        at = wanted.repeat_interleave(sizes)
        ids = torch.from_numpy(encoded.array("ids").astype(np.int64))[at]
        word = torch.from_numpy(encoded.array("begins").astype(np.int64))[at].cumsum(0) - 1
        document = torch.arange(len(documents)).repeat_interleave(sizes[wanted])
        found = count_words(ids, word, document, vocabulary.size)
        begins = torch.ones_like(word, dtype=torch.bool)
        begins[1:] = word[1:] != word[:-1]
        found["length"] = torch.bincount(document[begins], minlength=len(documents)).numpy()
        with whole_or_not(folder) as part:
            np.savez_compressed(part / "statistics.npz", **found)
    return folder / "statistics.npz"


def _encode(texts: Sequence[str], vocabulary: Vocabulary) -> dict[str, np.ndarray[Any, Any]]:
    none = np.zeros(0, dtype=np.int64)
    ids, begins, sizes = [none], [none], [none]
    for k in range(0, len(texts), _AT_ONCE):
        found = vocabulary.encode(texts[k : k + _AT_ONCE])
        sizes.append(np.array([len(x.ids) for x in found], dtype=np.int64))
        ids.append(np.array([i for x in found for i in x.ids], dtype=np.int64))
        words = np.array([-1 if w is None else w for x in found for w in x.word_ids], dtype=np.int64)
        new = np.diff(words, prepend=-2) != 0
        first = np.cumsum(sizes[-1]) - sizes[-1]
        new[first[sizes[-1] > 0]] = True
        begins.append(new)
    return {
        "ids": np.concatenate(ids).astype(np.int32),
        "begins": np.concatenate(begins).astype(bool),
        "ends": np.cumsum(np.concatenate(sizes)),
    }


def _tags(encoded: Encoded, vocabulary: Vocabulary) -> np.ndarray[Any, Any]:
    """The part of speech of each token's word; every different word is looked up once."""
    ids, begins = encoded.array("ids"), np.flatnonzero(encoded.array("begins"))
    cuts = np.append(begins, len(ids))
    word = [ids[a:b].tobytes() for a, b in itertools.pairwise(cuts)]
    number = {pieces: k for k, pieces in enumerate(dict.fromkeys(word))}
    spelled = vocabulary.tokenizer.decode_batch([np.frombuffer(w, np.int32).tolist() for w in number])
    tags = np.array([tag(w.strip()) for w in spelled], dtype=np.uint8)
    found = tags[[number[w] for w in word]]
    return np.repeat(found, np.diff(cuts))


def describe(encoded: Encoded, vocabulary: Vocabulary, what: str, lengths: Tensor) -> dict[str, str]:
    """Lines for a person: what training sees, and how much of the text its vocabulary lacks.

    Args:
        encoded: the corpus.
        vocabulary: of the corpus.
        what: the documents of training, with their number.
        lengths: int64 ``[samples]``, tokens of each sample of training.
    """
    found, ids = f"{vocabulary.size:,} ids", encoded.array("ids")
    if vocabulary.unknown_id is not None:
        found += f"; {np.mean(ids == vocabulary.unknown_id):.1%} of the text is unknown to them"
    tokens = f" of {span(lengths, 6)} tokens" if len(lengths) else ""
    return {"text": f"{what} as {len(lengths):,} samples{tokens}", "vocabulary": found}
