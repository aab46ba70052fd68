"""Fine-tuning what scores a query and a document on a few queries whose answers are known."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import System, Tokens, UserError
from polymask.systems.host import implementing
from polymask_language.capabilities import RanksDocuments
from polymask_language.joining import join
from polymask_language.vocabulary import Vocabulary


class Reranker(nn.Module):
    """Scores pairs by a copy of a system: by its own score, or by a fresh layer on what it encodes.

    Args:
        system: what was pre-trained; it stays as it is.
        vocabulary: of its data.
        length: most tokens of query and document together.

    Raises:
        UserError: it has no score of pairs, and the vocabulary no tokens to put two texts together.
    """

    def __init__(self, system: System, vocabulary: Vocabulary, length: int) -> None:
        super().__init__()
        copied: Any = copy.deepcopy(system)
        self.system = copied
        self.pad_id, self.head = vocabulary.pad_id, None
        self.frame: dict[str, Any] = {
            "start_id": vocabulary.start_id,
            "end_id": vocabulary.end_id,
            "pad_id": vocabulary.pad_id,
            "length": length,
        }
        if implementing(system, RanksDocuments) is None:
            if vocabulary.start_id is None or vocabulary.end_id is None:
                raise UserError("a query and a document need a vocabulary with tokens for start and end")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.head = nn.Linear(copied.encoder.out_dim, 1, bias=False)

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        """How well documents answer queries, ``[B]``; both int64 ``[B, N]``, padded, no special tokens."""
        if self.head is None:
            system: Any = self.system
            scores: Tensor = system.relevance(query, document)
            return scores
        pieces = torch.where(query == self.pad_id, -1, query)
        rows = join(pieces, document, torch.zeros_like(document), document != self.pad_id, **self.frame)
        found: Tokens = self.system.encode(rows)
        first = found.values[:, 0] if found.prefix is None else found.prefix[:, 0]
        told: Tensor = self.head(first)[:, 0].float()
        return told


def fine_tune(
    reranker: Reranker,
    groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    *,
    steps: int,
    lr: float,
    batch_size: int = 8,
    seed: int = 0,
) -> None:
    """Have each query's first document score above its others (softmax over the group, Adam, no decay).

    Args:
        reranker: changed in place; in eval mode afterwards.
        groups: ids of a query, and of documents, the one that answers it first; all as many.
        steps: of the optimiser.
        lr: at its peak; it rises over a tenth of the steps and falls to 0, both linearly.
        batch_size: groups per step.
        seed: of their order, and of dropout.
    """
    reranker.train()
    device = next(reranker.parameters()).device
    trained = [p for p in reranker.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr)
    size = min(batch_size, len(groups))
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        order = torch.cat([torch.randperm(len(groups)) for _ in range(1 + steps * size // len(groups))])
        for step in range(steps):
            rise = min((step + 1) / max(steps // 10, 1), 1.0)
            optimizer.param_groups[0]["lr"] = lr * min(rise, (steps - step) / max(steps - steps // 10, 1))
            some = [groups[i] for i in order[step * size : (step + 1) * size].tolist()]
            query = padded([query for query, documents in some for _ in documents], reranker.pad_id)
            document = padded([d for _, documents in some for d in documents], reranker.pad_id)
            scores = reranker(query.to(device), document.to(device)).view(size, -1)
            loss = F.cross_entropy(scores, torch.zeros(size, dtype=torch.int64, device=device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    reranker.eval()


def padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """int64 ``[B, N]``, the padding at the end."""
    longest = max(1, *map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
