"""PROP: Pre-training with Representative Words Prediction (Ma et al. 2020, arXiv 2010.10137).

Sample two word sets of equal size from a document's smoothed unigram model. The encoder reads each set
followed by the document and must score the likelier set higher, in addition to whole-word masked language
modelling of the document.

    polymask pretrain language/prop --preset small --data glosses
    polymask evaluate RUN language/retrieval

The paper continues from BERT-base on Wikipedia or MS MARCO and fine-tunes on each collection; the evaluation
ranks by the score as trained, or after fine-tuning on a few labelled queries. The preset ``small`` trains
from scratch and learns within some thousand steps which words of a set occur in the document.

Choices where paper and published code differ or are silent: word sets are sampled anew at each step, one pair
per document, from the noise of the step (the code prepares ten pairs, uses four or five of them once, and
skips most documents of less than 100 pieces). Words are sampled from the whole vocabulary with probabilities
proportional to ``P(w|d) keep(w)``, exactly (the code renormalises over about 500 words per document). Words
are not stemmed. 15 % of the pieces are hidden (the code: as many pieces as 15 % of the words). Both forms of
the preference loss are options: the code's hinge on the softmax of the pair, which is ``2 sigmoid(s- - s+)``
and gives little gradient for pairs that are confidently wrong, and the logistic loss.

Shapes: B documents, N tokens of one, L words of a set, T tokens of a set with its document, D width,
V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import (
    Batch,
    Losses,
    Mask,
    MaskView,
    Preview,
    Step,
    System,
    Tokens,
    UserError,
    functional,
    sample_ids,
)
from polymask.nn.corruption import STREAM, corrupt, maskable
from polymask.protocols import Encoder, Masking, Media, Objective, Tokenizer
from polymask.types import Count, Fact, NotNegative, Positive, Whole
from polymask_language.curricula import Known, every_word
from polymask_language.display import compare
from polymask_language.heads import TiedHead, embedding_of
from polymask_language.joining import join
from polymask_language.tokenizers import draw
from polymask_language.word_sets import WordSets

SIDES = ("likelier set", "other set")


class PROP(System):
    """A cross-encoder of word sets and documents.

    Args:
        tokenizer: converts documents to tokens.
        encoder: encodes set and document; the score is computed from its first token.
        masking: which tokens of the document to hide (paper: 15 % of tokens, whole words, 60 at most).
        objective: loss of a predicted token.
        vocabulary: number of ids, from the tokenizer.
        length: maximum number of tokens of set and document together; longer documents are truncated.
        mask_id: id of the mask token.
        pad_id: id of padding.
        special_ids: ids of special tokens.
        start_id: id of the token at the start of a sequence, from the data.
        end_id: id of the token after the set and after the document.
        statistics_file: word counts of the data; without it, every id is a word.
        tokenizer_file: vocabulary of the data, to convert words to ids.
        sequences: mean number of sequences per text of the data.
        mean_words: mean of the Poisson distribution of set sizes.
        least: minimum count in the corpus of words that are sampled.
        preference: loss of a pair, ``hinge`` on the softmax of both scores (the code's) or ``logistic``.
        rop_weight: weight of the preference loss (ROP) relative to masked language modelling.
        dropout: dropout before the score.
    """

    known: Known

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        vocabulary: Fact[Count] = 8192,
        length: Fact[Count] = 128,
        mask_id: Fact[Whole] = 4,
        pad_id: Fact[Whole] = 0,
        special_ids: Fact[Sequence[int]] = (0, 1, 2, 3, 4),
        start_id: Fact[int | None] = 2,
        end_id: Fact[int | None] = 3,
        statistics_file: Fact[str | None] = None,
        tokenizer_file: Fact[str | None] = None,
        sequences: Fact[Positive] = 1.0,
        mean_words: Positive = 3.0,
        least: Whole = 10,
        preference: Literal["hinge", "logistic"] = "hinge",
        rop_weight: NotNegative = 1.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if preference not in ("hinge", "logistic"):
            raise UserError(f"preference={preference!r}: choose 'hinge' or 'logistic'")
        if getattr(encoder, "causal", False):
            raise UserError(
                f"prop reads its score at the first token, from where {type(encoder).__name__} sees nothing "
                "of the text: choose --encoder language/transformer"
            )
        if start_id is None or end_id is None:
            raise UserError(
                "prop needs a vocabulary with tokens for start and end, as BERT's: choose another"
            )
        self.tokenizer, self.encoder, self.masking, self.objective = tokenizer, encoder, masking, objective
        self.vocabulary, self.mask_id, self.pad_id = vocabulary, mask_id, pad_id
        self.special_ids = tuple(special_ids)
        self.frame = {"start_id": start_id, "end_id": end_id, "pad_id": pad_id, "length": length}
        self.preference = preference
        self.rop_weight = rop_weight
        self.tokenizer_file = tokenizer_file
        self.sets = WordSets(
            vocabulary=vocabulary,
            special_ids=self.special_ids,
            statistics_file=statistics_file,
            tokenizer_file=tokenizer_file,
            sequences=sequences,
            least=least,
            mean_length=mean_words,
        )
        dim = encoder.out_dim
        self.head = TiedHead(encoder)
        self.segment = nn.Embedding(2, encoder.dim)
        # as large as the embeddings of ids, which it is added to
        nn.init.normal_(self.segment.weight, std=float(embedding_of(encoder).detach().std()))
        # only differences of scores count: a bias of the last layer would get no gradient
        last = nn.Linear(dim, 1, bias=False)
        self.scorer = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Dropout(dropout), last)
        self.known = every_word

    def forward(self, batch: Batch, step: Step) -> Losses:
        sides = self.pair(batch, step)
        masks = self.draw_sides(sides, step)
        shown = [
            self.corrupt(side, mask, step, k) for k, (side, mask) in enumerate(zip(sides, masks, strict=True))
        ]
        rows = {key: torch.cat([side[key] for side in sides]) for key in sides[0]}
        tokens = self.tokenizer(rows)
        states_BTD = self.see(torch.cat(shown), rows["segment"], tokens)
        chosen, rejected = self.judge(states_BTD).chunk(2)
        known_BT = torch.cat([self.known(side["text"], side, step) for side in sides])
        words = Tokens(states_BTD[:, self.encoder.prefix :], tokens.position, ids=known_BT)
        hidden = Mask(torch.cat([m.hidden for m in masks]), None, tokens.valid).invert().keep(words)
        assert hidden.ids is not None and hidden.valid is not None
        mlm = self.objective(self.head(hidden.values, self.encoder), hidden.ids, Mask(hidden.valid))
        return {"words": mlm, "preference": self.rop_weight * self.prefer(chosen, rejected)}

    def pair(self, batch: Batch, step: Step) -> tuple[Batch, Batch]:
        """Each document behind its likelier set of words, and behind the other.

        Raises:
            UserError: documents are packed, or the data does not tell words.
        """
        if "document" in batch or "word" not in batch:
            raise UserError(
                "prop needs one document to a sample, and to know its words: use a data set of language "
                "without --data.pack"
            )
        tokens = self.tokenizer(batch)
        assert tokens.ids is not None
        document = self.sets.count(tokens.ids, batch["word"], maskable(tokens, self.special_ids))
        drawn = self.sets.draw(document, step, sample_ids(batch))
        likelier, other = (
            join(self.sets.spell(words), tokens.ids, batch["word"], tokens.valid, **self.frame)
            for words in drawn
        )
        samples = {"id": sample_ids(batch)}
        return {**likelier, **samples}, {**other, **samples}

    def draw_sides(self, sides: Sequence[Batch], step: Step) -> list[Mask]:
        """A mask over the document of each row; sets stay visible."""
        masks = []
        for k, side in enumerate(sides):
            tokens, document = self.tokenizer(side), side["segment"] == 1
            mask = draw(self.masking, tokens, side, step, self.special_ids, stream=k, allowed=document)
            masks.append(functional.require_hard_mask("prop", self.masking, mask))
        return masks

    def corrupt(self, side: Batch, mask: Mask, step: Step, stream: int) -> Tensor:
        """The ids that the encoder sees, ``[B, T]``."""
        shown_BT = corrupt(
            side["text"],
            mask,
            step,
            side["id"],
            mask_id=self.mask_id,
            vocabulary=self.vocabulary,
            special_ids=self.special_ids,
            stream=STREAM - stream,
        )
        return self.known(shown_BT, side, step)

    def see(self, ids_BT: Tensor, segment_BT: Tensor, tokens: Tokens) -> Tensor:
        """States ``[B, prefix + T, D]`` of ids at the positions of tokens."""
        x_BTD = self.encoder.embed(ids_BT[..., None]) + self.segment(segment_BT)
        return self.encoder(x_BTD, tokens.position, tokens.valid)

    def judge(self, states_BTD: Tensor) -> Tensor:
        """Scores of set and document, float32 ``[B]``, computed from the first token."""
        scores: Tensor = self.scorer(states_BTD[:, 0])[:, 0].float()
        return scores

    def prefer(self, chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
        """The preference loss, given the scores of the likelier sets and of the others."""
        if self.preference == "logistic":
            return -F.logsigmoid(chosen_B - rejected_B).mean()
        # max(0, 1 - (p+ - p-)) of a softmax over two scores, which never is 0
        return 2 * torch.sigmoid(rejected_B - chosen_B).mean()

    def relevance(self, query: Tensor, document: Tensor) -> Tensor:
        """Relevance scores of documents for queries, ``[B]``.

        Args:
            query: int64 ``[B, Q]``, padded, without special tokens.
            document: int64 ``[B, N]``, the same.
        """
        spelled = torch.where(query == self.pad_id, -1, query)
        valid, words = document != self.pad_id, torch.zeros_like(document)
        rows = join(spelled, document, words, valid, **self.frame)
        return self.judge(self.see(rows["text"], rows["segment"], self.tokenizer(rows)))

    def encode(self, batch: Batch) -> Tokens:
        tokens = self.tokenizer(batch)
        assert tokens.ids is not None
        x = self.see(tokens.ids, torch.ones_like(tokens.ids), tokens)
        r = self.encoder.prefix
        return dataclasses.replace(tokens, values=x[:, r:], prefix=x[:, :r] if r else None)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        sides = self.pair(batch, step)
        columns: dict[str, Sequence[Media]] = {}
        for k, (side, mask) in enumerate(zip(sides, self.draw_sides(sides, step), strict=True)):
            tokens = self.tokenizer(side)
            states_BTD = self.see(self.corrupt(side, mask, step, k), side["segment"], tokens)
            guess = self.head(states_BTD[:, self.encoder.prefix :], self.encoder).argmax(-1)
            columns |= compare(
                self.tokenizer_file, tokens, mask.hidden, guess, f"{SIDES[k]}, then the document"
            )
        return Preview(columns)

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        """Masks over the documents, which follow their word sets."""
        sides = self.pair(batch, step)
        masks = self.draw_sides(sides, step)
        return {
            name: MaskView(mask, self.tokenizer(side), side)
            for name, mask, side in zip(SIDES, masks, sides, strict=True)
        }
