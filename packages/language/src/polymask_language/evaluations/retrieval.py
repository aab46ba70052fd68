"""Retrieval: how well a system ranks documents for queries, beside lexical search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import System, UserError
from polymask.data import collate, evenly
from polymask.evaluation.features import on_device
from polymask.systems.host import implementing
from polymask.types import Count, Whole
from polymask_language.capabilities import RanksDocuments
from polymask_language.ranking import bm25, ndcg, places_of, query_likelihood, recall, reciprocal_rank
from polymask_language.reranking import Reranker, fine_tune, padded

if TYPE_CHECKING:
    from polymask.evaluation import Measurement
    from polymask.run import Run
    from polymask_language.vocabulary import Vocabulary


class Retrieval:
    """Queries against held-out documents, each answered by those that say so, as a title its description.

    BM25 ranks all documents. A system that scores pairs (``relevance(query, document)``, as
    ``language/prop``) ranks the first ``depth`` of BM25 anew, of those that share a word with the query, so
    it can find no more than these hold: the row ``BM25`` has their recall. Any other system ranks all
    documents by the cosine between its features of query and document. Nothing is fine-tuned.

    With ``labelled`` queries, systems are first fine-tuned on so many of the training documents, each
    against documents that BM25 ranks high and that do not answer it. One that scores pairs goes on from its
    score; any other gets a fresh layer on what its encoder says of a query and a document in one sequence,
    as BERT is fine-tuned to rank. The row ``untrained`` learns from these labels alone.

    Args:
        queries: how many, at most, evenly spaced.
        documents: how many, at most, evenly spaced; those of the queries among them.
        depth: how many documents BM25 hands on.
        k: places that nDCG and MRR look at.
        split: documents of ``test`` or ``train``.
        batch_size: texts, or pairs, at a time.
        labelled: training queries to fine-tune on; 0 for none.
        negatives: documents beside the right one of each.
        tune_steps: of fine-tuning, eight queries each.
        tune_lr: its learning rate.
    """

    def __init__(
        self,
        *,
        queries: Count = 500,
        documents: Count = 20_000,
        depth: Whole = 100,
        k: Count = 10,
        split: str = "test",
        batch_size: Count = 128,
        labelled: Whole = 0,
        negatives: Whole = 3,
        tune_steps: Count = 100,
        tune_lr: float = 1e-4,
    ) -> None:
        if split not in ("train", "test"):
            raise UserError(f"split={split!r}: choose 'test' or 'train'")
        if min(queries, documents, depth, k, batch_size) < 1:
            raise UserError("queries, documents, depth, k and batch_size must be 1 or more")
        self.queries, self.documents, self.depth, self.k = queries, documents, depth, k
        if min(negatives, tune_steps) < 1 or labelled < 0 or tune_lr <= 0:
            raise UserError("negatives and tune_steps must be 1 or more, labelled 0 or more, tune_lr above 0")
        self.split, self.batch_size = split, batch_size
        self.labelled, self.negatives = labelled, negatives
        self.tune_steps, self.tune_lr = tune_steps, tune_lr

    def __call__(self, run: Run) -> list[Measurement]:
        """Scores of BM25, of the query likelihood model, and of the system, trained and not.

        Raises:
            UserError: the run's data has no queries.
        """
        data: Any = run.data
        if not hasattr(data, "pairs"):
            raise UserError("retrieval needs data whose documents answer queries, as language/glosses")
        asked, documents, relevant = self.chosen(*data.pairs(self.split))
        lexical = bm25(asked, documents)
        rows = {"BM25": lexical, "query likelihood": query_likelihood(asked, documents)}
        untrained = run.untrained()
        queries, answers = data.pairs("train")
        groups = self.groups(queries, answers, data.vocabulary, data.provides["length"])
        for row, system in (("pre-trained", run.system), ("untrained", untrained)):
            device = next((p.device for p in run.system.parameters()), torch.device("cpu"))
            ranker: Any = system.to(device).eval()
            if groups:
                ranker = Reranker(system, data.vocabulary, data.provides["length"]).to(device)
                fine_tune(ranker, groups, steps=self.tune_steps, lr=self.tune_lr)
            with torch.no_grad():
                rows[row] = self.rank(
                    ranker,
                    data.vocabulary,
                    data.provides["length"],
                    asked,
                    documents,
                    lexical,
                )
        return [score for row, scores in rows.items() for score in self.measure(row, scores, relevant)]

    def chosen(
        self, queries: Sequence[str], documents: Sequence[str], most: int | None = None
    ) -> tuple[list[str], list[str], Tensor]:
        """The queries asked, the documents searched, and which answers which, bool ``[Q, D]``.

        Documents of one query all answer it.

        Args:
            queries: what each document answers.
            documents: to search.
            most: queries at most; ``queries`` of the options if none.
        """
        kept = evenly(len(documents), self.documents)
        pool, own = [documents[i] for i in kept], [queries[i] for i in kept]
        distinct = list(dict.fromkeys(own))
        asked = [distinct[i] for i in evenly(len(distinct), most or self.queries)]
        number = {query: i for i, query in enumerate(asked)}
        relevant = torch.zeros(len(asked), len(pool), dtype=torch.bool)
        for d, query in enumerate(own):
            if query in number:
                relevant[number[query], d] = True
        return asked, pool, relevant

    def groups(
        self, queries: Sequence[str], documents: Sequence[str], vocabulary: Vocabulary, length: int
    ) -> list[tuple[list[int], list[list[int]]]]:
        """Ids of queries to fine-tune on, each with a document that answers it and some that do not.

        Of the ``depth`` documents that BM25 ranks highest, those at even distances that do not answer.
        """
        if not self.labelled:
            return []
        asked, pool, relevant = self.chosen(queries, documents, self.labelled)
        scores = bm25(asked, pool).masked_fill(relevant, -torch.inf)
        best = scores.topk(min(self.depth, len(pool)), dim=1).indices
        n = min(self.negatives, best.shape[1])
        wrong = best[:, torch.arange(n) * best.shape[1] // n]
        picked = torch.cat([relevant.int().argmax(1, keepdim=True), wrong], dim=1)
        question, found = (_ids(vocabulary, texts, length) for texts in (asked, pool))
        return [(question[q], [found[d] for d in row]) for q, row in enumerate(picked.tolist())]

    def rank(
        self,
        system: Any,
        vocabulary: Vocabulary,
        length: int,
        queries: Sequence[str],
        documents: Sequence[str],
        lexical: Tensor,
    ) -> Tensor:
        """What a system scores each document for each query: ``[Q, D]``, minus infinity where not asked.

        Args:
            system: in eval mode; or a :class:`polymask_language.reranking.Reranker`.
            vocabulary: of its data.
            length: most tokens of a text.
            queries: Q texts.
            documents: D texts.
            lexical: ``[Q, D]`` scores of the first stage.
        """
        device = next((p.device for p in system.parameters()), torch.device("cpu"))
        relevance: Callable[[Tensor, Tensor], Tensor] | None = None
        if isinstance(system, Reranker):
            relevance = system
        elif ranking := implementing(system, RanksDocuments):
            relevance = ranking.relevance
        if relevance is None:
            q, d = (self._features(system, vocabulary, length, texts) for texts in (queries, documents))
            return F.normalize(q, dim=1) @ F.normalize(d, dim=1).T
        asked, found = (_ids(vocabulary, texts, length) for texts in (queries, documents))
        scores = torch.full(lexical.shape, -torch.inf)
        best = lexical.topk(min(self.depth, lexical.shape[1]), dim=1).indices
        pairs = torch.stack([torch.arange(len(best))[:, None].expand_as(best), best], dim=-1)
        # a document without a word of the query is not found, so nobody is asked about it
        pairs = pairs[lexical.gather(1, best) > 0]
        # texts of like length beside each other, so that little is padded
        pairs = pairs[torch.tensor([len(found[d]) for d in pairs[:, 1].tolist()]).argsort(stable=True)]
        for some in torch.split(pairs, self.batch_size) if len(pairs) else ():
            query = padded([asked[i] for i in some[:, 0].tolist()], vocabulary.pad_id).to(device)
            document = padded([found[i] for i in some[:, 1].tolist()], vocabulary.pad_id).to(device)
            scores[some[:, 0], some[:, 1]] = relevance(query, document).float().cpu()
        return scores

    def measure(self, row: str, scores: Tensor, relevant: Tensor) -> list[Measurement]:
        """Metrics of one ranking, each with an interval over queries."""
        from polymask.evaluation import Measurement
        from polymask.evaluation.intervals import t_interval

        place = places_of(scores, relevant)
        found = {
            f"nDCG@{self.k}": ndcg(place, relevant, self.k),
            f"MRR@{self.k}": reciprocal_rank(place, self.k),
            f"recall@{self.depth}": recall(place, relevant, self.depth),
        }
        return [
            Measurement(row, metric, float(values.mean()), interval.low, interval.high)
            for metric, values in found.items()
            for interval in [t_interval(values.tolist())]
        ]

    def _features(self, system: System, vocabulary: Vocabulary, length: int, texts: Sequence[str]) -> Tensor:
        around = [[] if i is None else [i] for i in (vocabulary.start_id, vocabulary.end_id)]
        rows = _ids(vocabulary, texts, length - sum(map(len, around)))
        found = []
        for k in range(0, len(rows), self.batch_size):
            some = rows[k : k + self.batch_size]
            batch = collate([{"text": torch.tensor([*around[0], *ids, *around[1]])} for ids in some])
            found.append(system.encode(on_device(batch, system)).pool().float().cpu())
        return torch.cat(found)


def _ids(vocabulary: Vocabulary, texts: Sequence[str], length: int) -> list[list[int]]:
    return [encoding.ids[:length] for encoding in vocabulary.encode(texts)]
