"""Ranking documents for queries: what lexical rivals score, and how good a ranking is."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor


def words_of(text: str) -> list[str]:
    """Words of a text for lexical search: letters and digits, small, without stop words."""
    return [w for w in re.findall(r"[^\W_]+", text.lower()) if w not in ENGLISH_STOP_WORDS]


def bm25(queries: Sequence[str], documents: Sequence[str], k1: float = 1.5, b: float = 0.75) -> Tensor:
    """Scores of BM25 (Robertson et al. 1995), by the library bm25s (Lù 2024, arXiv 2407.03618).

    Args:
        queries: Q texts.
        documents: D texts.
        k1: how soon more of a word adds no more.
        b: how much long documents are held back, in [0, 1].

    Returns:
        float32 ``[Q, D]``.
    """
    import bm25s  # type: ignore[import-untyped]

    index = bm25s.BM25(k1=k1, b=b)
    # the library has no place for documents without words
    index.index([words_of(text) or [""] for text in documents], show_progress=False)
    known = index.vocab_dict
    asked = [[w for w in words_of(text) if w in known] for text in queries]
    none = np.zeros(len(documents), dtype=np.float32)
    return torch.from_numpy(np.stack([index.get_scores(words) if words else none for words in asked]))


def query_likelihood(queries: Sequence[str], documents: Sequence[str], mu: float | None = None) -> Tensor:
    """Log likelihood of queries under each document's model with a Dirichlet prior (Zhai and Lafferty 2001).

    ``sum over w of log((tf(w, d) + mu P(w)) / (|d| + mu))`` with P the share of a word in all documents;
    words that no document has are passed over.

    Args:
        queries: Q texts.
        documents: D texts.
        mu: strength of the prior, in words; None for the mean length of a document.

    Returns:
        float32 ``[Q, D]``.
    """
    texts = [words_of(text) for text in documents]
    number: dict[str, int] = {}
    places: list[dict[int, int]] = []  # by word: how often it occurs in which document
    for d, words in enumerate(texts):
        for word in words:
            w = number.setdefault(word, len(number))
            if w == len(places):
                places.append({})
            places[w][d] = places[w].get(d, 0) + 1
    length = torch.tensor([len(words) for words in texts], dtype=torch.float64)
    prior = float(length.mean()) if mu is None else mu
    total = float(length.sum())
    scores = torch.zeros(len(queries), len(documents), dtype=torch.float64)
    for q, query in enumerate(queries):
        for w in (number[word] for word in words_of(query) if word in number):
            expected = prior * sum(places[w].values()) / total
            at = torch.tensor(list(places[w]))
            count = torch.tensor(list(places[w].values()), dtype=torch.float64)
            scores[q] += np.log(expected) - (length + prior).log()
            scores[q, at] += (1 + count / expected).log()
    return scores.float()


def places_of(scores: Tensor, relevant: Tensor) -> Tensor:
    """Place in its query's ranking of each relevant document, from 1 on; infinite for all others.

    Equal scores count against a document: one that says the same of all ranks last. What scores minus
    infinity is not in the ranking.

    Args:
        scores: float ``[Q, D]``.
        relevant: bool ``[Q, D]``.
    """
    place = torch.full(scores.shape, torch.inf, dtype=torch.float64)
    order = scores.sort(dim=1).values
    for q, d in relevant.nonzero().tolist():
        if scores[q, d] > -torch.inf:
            below = int(torch.searchsorted(order[q], scores[q, d]))
            place[q, d] = scores.shape[1] - below
    return place


def ndcg(place: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Normalised discounted cumulative gain of each query (Järvelin and Kekäläinen 2002), float64 ``[Q]``.

    Args:
        place: ``[Q, D]``, see :func:`places_of`.
        relevant: bool ``[Q, D]``; gains are 1 and 0.
        k: only the first k places count.
    """
    gain = torch.where(place <= k, 1 / (place + 1).log2(), 0.0).sum(1)
    discount = 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()
    best = torch.cat([discount.new_zeros(1), discount.cumsum(0)])[relevant.sum(1).clamp(max=k)]
    return gain / best.clamp(min=1e-12)


def reciprocal_rank(place: Tensor, k: int) -> Tensor:
    """One over the place of the first relevant document, 0 beyond the first k: float64 ``[Q]``."""
    first = place.min(1).values
    return torch.where(first <= k, 1 / first, 0.0)


def recall(place: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Share of its relevant documents that a query finds among the first k: float64 ``[Q]``."""
    return (place <= k).sum(1) / relevant.sum(1).clamp(min=1)
