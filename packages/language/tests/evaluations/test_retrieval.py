"""Rankings are measured as scikit-learn does; lexical rivals are what their formulas say."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor

from polymask import Batch, System, Tokens, UserError
from polymask_language.datasets.base import Corpus, TextDataset
from polymask_language.evaluations.retrieval import Retrieval
from polymask_language.ranking import (
    bm25,
    ndcg,
    places_of,
    query_likelihood,
    recall,
    reciprocal_rank,
    words_of,
)
from polymask_language.reranking import Reranker, fine_tune, padded

DOCUMENTS = ["a red fish swims", "red red wine", "the fish and the fish soup", "of the and"]


@pytest.mark.parametrize("k", [1, 3, 10, 40])
def test_ndcg_is_that_of_scikit_learn(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    scores = torch.rand(30, 25, generator=generator, dtype=torch.float64)
    relevant = torch.rand(30, 25, generator=generator) < 0.2
    relevant[:, 4] = True
    ours = ndcg(places_of(scores, relevant), relevant, k)
    theirs = [
        ndcg_score(r[None].numpy(), s[None].numpy(), k=k) for r, s in zip(relevant, scores, strict=True)
    ]
    assert torch.allclose(ours, torch.tensor(theirs, dtype=torch.float64))


def test_metrics_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.7, 0.1], [0.2, 0.9, -math.inf, 0.1]])
    relevant = torch.tensor([[False, True, False, True], [True, False, True, False]])
    place = places_of(scores, relevant)
    assert place.tolist() == [[math.inf, 3, math.inf, 4], [2, math.inf, math.inf, math.inf]]
    assert reciprocal_rank(place, 3).tolist() == [1 / 3, 1 / 2]
    assert reciprocal_rank(place, 2).tolist() == [0, 1 / 2]
    assert recall(place, relevant, 3).tolist() == [1 / 2, 1 / 2]
    best = 1 + 1 / math.log2(3)
    assert ndcg(place, relevant, 3).tolist() == pytest.approx([0.5 / best, 1 / math.log2(3) / best])


def test_a_scorer_that_cannot_tell_documents_apart_ranks_last() -> None:
    relevant = torch.eye(5, dtype=torch.bool)
    assert reciprocal_rank(places_of(torch.zeros(5, 5), relevant), 10).tolist() == [0.2] * 5


def test_query_likelihood_is_its_formula() -> None:
    mu, texts = 2.5, [words_of(text) for text in DOCUMENTS]
    total = sum(map(len, texts))
    scores = query_likelihood(["red fish unheard", "wine"], DOCUMENTS, mu)
    for d, words in enumerate(texts):
        for q, query in enumerate((["red", "fish"], ["wine"])):
            wanted = sum(
                math.log((words.count(w) + mu * sum(t.count(w) for t in texts) / total) / (len(words) + mu))
                for w in query
            )
            assert float(scores[q, d]) == pytest.approx(wanted, rel=1e-5)
    assert scores.argmax(1).tolist() == [0, 1]


def test_bm25_ranks_by_rare_words_and_short_documents() -> None:
    scores = bm25(["red wine", "soup", "unheard of"], DOCUMENTS)
    assert scores.shape == (3, 4)
    assert scores[0].argsort(descending=True)[:2].tolist() == [1, 0]
    assert scores[1].argmax() == 2 and (scores[2] == 0).all()


class Overlap(System):
    """Says how many tokens of the query stand in the document."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        if pairs:
            self.relevance = self._relevance

    def _relevance(self, query: Tensor, document: Tensor) -> Tensor:
        same = (query[:, :, None] == document[:, None, :]).any(2) & (query != 0)
        return same.sum(1).float()

    def encode(self, batch: Batch) -> Tokens:
        ids = batch["text"]
        values = torch.nn.functional.one_hot(ids, 400).float()
        return Tokens(values, torch.zeros(*ids.shape, 1))


def corpus() -> TextDataset:
    words = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
    texts = [f"{a} {b} live here" for a in words for b in words if a < b]
    queries = [f"{a} {b}" for a in words for b in words if a < b]
    return TextDataset(Corpus(texts, queries=queries), vocab_size=300, test=0.5)


@pytest.mark.parametrize("pairs", [True, False])
def test_a_system_ranks_by_pairs_or_by_features(pairs: bool) -> None:
    system = Overlap(pairs)
    run: Any = SimpleNamespace(name="x", system=system, data=corpus(), untrained=lambda: system)
    scores = Retrieval(depth=5)(run)
    found = {(s.row, s.metric): s.value for s in scores}
    assert {row for row, _ in found} == {"BM25", "query likelihood", "pre-trained", "untrained"}
    assert found["BM25", "nDCG@10"] == found["BM25", "recall@5"] == 1.0
    assert found["pre-trained", "MRR@10"] > 0.9
    assert all(s.low is not None and s.low <= s.value <= (s.high or 0) for s in scores)


def test_pairs_are_asked_only_of_what_bm25_hands_on() -> None:
    data = corpus()
    retrieval = Retrieval(depth=3, batch_size=4)
    asked, documents, _relevant = retrieval.chosen(*data.pairs("test"))
    lexical = bm25(asked, documents)
    scores = retrieval.rank(Overlap(True), data.vocabulary, 16, asked, documents, lexical)
    finite = scores.isfinite()
    assert finite.sum(1).tolist() == [3] * len(asked)
    assert (lexical[finite].view(-1, 3).amin(1) >= torch.where(finite, -1, lexical).amax(1)).all()
    for q, d in finite.nonzero().tolist():
        shared = set(data.vocabulary.encode([asked[q]])[0].ids) & set(
            data.vocabulary.encode([documents[d]])[0].ids
        )
        assert scores[q, d] == len(shared)


def test_what_bm25_does_not_find_is_handed_to_nobody() -> None:
    data = corpus()
    retrieval = Retrieval(depth=50)
    asked, documents, relevant = retrieval.chosen(*data.pairs("test"))
    lexical = bm25(asked, documents)
    assert ((lexical == 0).sum(1) > 0).any()
    scores = retrieval.rank(Overlap(True), data.vocabulary, 16, asked, documents, lexical)
    assert torch.equal(scores.isfinite(), lexical > 0)
    # a document that shares no word does not profit from there being few that do
    lonely = torch.zeros_like(lexical)
    scores = retrieval.rank(Overlap(True), data.vocabulary, 16, asked, documents, lonely)
    assert reciprocal_rank(places_of(scores, relevant), 10).sum() == 0


class Bag(System):
    """Sums an embedding of words; those of the query and those of the document apart."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.encoder = torch.nn.Embedding(400, 16)
        self.encoder.out_dim = 16
        if pairs:
            self.relevance = self._relevance

    def _relevance(self, query: Tensor, document: Tensor) -> Tensor:
        return -(self.encoder(query).mean(1) * self.encoder(document).mean(1)).sum(1)

    def encode(self, batch: Batch) -> Tokens:
        values = self.encoder(batch["text"]).cumsum(1).flip(1)
        return Tokens(values, torch.zeros(*batch["text"].shape, 1))


@pytest.mark.parametrize("pairs", [True, False])
def test_a_few_labelled_queries_fine_tune_a_copy(pairs: bool) -> None:
    torch.manual_seed(0)
    data, system = corpus(), Bag(pairs)
    retrieval = Retrieval(depth=6, labelled=5, negatives=2)
    groups = retrieval.groups(*data.pairs("train"), data.vocabulary, 16)
    assert len(groups) == 5 and all(len(documents) == 3 for _, documents in groups)
    queries, documents = data.pairs("train")
    for question, (right, *wrong) in groups:
        asked = data.vocabulary.tokenizer.decode(question).strip()
        found = [data.vocabulary.tokenizer.decode(ids).strip() for ids in (right, *wrong)]
        assert [documents.index(text) == queries.index(asked) for text in found] == [True, False, False]
    before = {name: x.clone() for name, x in system.state_dict().items()}
    reranker = Reranker(system, data.vocabulary, 16)

    def loss() -> float:
        query = padded([q for q, d in groups for _ in d], 0)
        document = padded([d for _, docs in groups for d in docs], 0)
        with torch.no_grad():
            scores = reranker(query, document).view(5, 3)
        return float(-scores.log_softmax(1)[:, 0].mean())

    untuned, state = loss(), torch.get_rng_state()
    fine_tune(reranker, groups, steps=60, lr=0.05)
    assert torch.equal(state, torch.get_rng_state())
    assert loss() < untuned / 2 and not reranker.training
    assert all(torch.equal(x, before[name]) for name, x in system.state_dict().items())


def test_labels_change_both_rows_of_the_system_alone() -> None:
    torch.manual_seed(0)
    system = Bag(False)
    run: Any = SimpleNamespace(name="x", system=system, data=corpus(), untrained=lambda: system)
    rows = [
        {(s.row, s.metric): s.value for s in Retrieval(depth=5, labelled=k, tune_lr=0.05)(run)}
        for k in (0, 6)
    ]
    assert rows[0]["BM25", "MRR@10"] == rows[1]["BM25", "MRR@10"]
    assert rows[0]["pre-trained", "MRR@10"] != rows[1]["pre-trained", "MRR@10"]
    with pytest.raises(UserError, match="labelled"):
        Retrieval(labelled=-1)


def test_documents_of_one_query_all_answer_it() -> None:
    queries, documents = ["q", "r", "q", "s"], ["a", "b", "c", "d"]
    asked, pool, relevant = Retrieval().chosen(queries, documents)
    assert (asked, pool) == (["q", "r", "s"], documents)
    assert relevant.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    asked, pool, relevant = Retrieval(queries=1, documents=2).chosen(queries, documents)
    assert (asked, pool, relevant.int().tolist()) == (["q"], ["a", "c"], [[1, 1]])
    with pytest.raises(UserError, match="1 or more"):
        Retrieval(depth=0)
