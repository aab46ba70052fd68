"""Masked language modelling: BERT (Devlin et al. 2018, arXiv 1810.04805), without its second task.

Hide some tokens of a text, most behind a mask token, some behind a random one, some not at all, and
predict each from both sides, through a head that is tied to the embedding.

    polymask pretrain language/mlm --preset small --data glosses
    polymask evaluate RUN language/perplexity

Frequencies of tokens alone give a perplexity of about 600 on glosses in the 2,048 ids of preset ``small``, a
loss of 6.4: below that, a model has learned from context. The preset builds ModernBERT, which gets there
within 300 steps; BERT itself, with norms behind its layers, stays at frequencies for a thousand.

BERT hides 15 % of tokens; 40 %, all behind the mask token, did as well or better (Wettig et al. 2022,
arXiv 2202.08005): ``--masking.ratio 0.4 --shares 1,0,0``. Other models: ``--encoder.architecture``.
BERT chooses positions with chance 15 % each, here it is 15 % exactly. Predicting the next sentence, BERT's
second task, is left out, as in all that came after it.

The head runs on hidden tokens alone. How many there are differs between rows, so the device is waited for
once, to know the most, and ``torch.compile`` breaks its graph there. The encoder compiles whole:
``system.encoder.compile(fullgraph=True)``.

Shapes: B samples, N tokens, K hidden ones of a row at most, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import (
    Batch,
    Losses,
    Mask,
    Preview,
    Step,
    System,
    Tokens,
    functional,
    sample_ids,
)
from polymask.nn.corruption import corrupt, maskable
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Fact, Whole
from polymask_language.curricula import Known, every_word
from polymask_language.display import compare
from polymask_language.heads import ClassHead, TiedHead
from polymask_language.tokenizers import draw


class MLM(System):
    """Masked language modelling on any encoder that has an embedding matrix.

    Args:
        tokenizer: makes tokens of text.
        encoder: encodes the whole sequence.
        masking: what to hide (paper: 15 % of tokens).
        objective: how a predicted token is scored.
        score: evidence per token for maskings that go by score; None for those that do not.
        mask_id: id of the mask token, from the tokenizer.
        special_ids: ids that are no content and are never hidden, from the tokenizer.
        shares: of hidden tokens: masked, replaced at random, left.
        tied: the head's weights are those of the embedding.
        tokenizer_file: the vocabulary of the data, to show words by.
    """

    perplexity = "pseudo-perplexity"
    known: Known

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        score: Target | None = None,
        mask_id: Fact[Whole] = 4,
        special_ids: Fact[Sequence[int]] = (0, 1, 2, 3, 4),
        shares: Sequence[float] = (0.8, 0.1, 0.1),
        tied: bool = True,
        tokenizer_file: Fact[str | None] = None,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.masking = tokenizer, encoder, masking
        self.objective, self.score = objective, score
        self.mask_id, self.special_ids, self.shares = mask_id, tuple(special_ids), tuple(shares)
        self.tokenizer_file = tokenizer_file
        self.known = every_word
        vocabulary = tokenizer.provides["vocabulary"]
        self.head = TiedHead(encoder) if tied else ClassHead(encoder.out_dim, vocabulary)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        states_BND = self.see(self.corrupt(tokens, mask, batch, step), tokens)
        assert tokens.ids is not None
        words_BN = self.known(tokens.ids, batch, step)
        hidden = mask.invert().keep(dataclasses.replace(tokens, values=states_BND, ids=words_BN))
        assert hidden.ids is not None and hidden.valid is not None
        logits_BKV = self.head(hidden.values, self.encoder)
        return {"words": self.objective(logits_BKV, hidden.ids, Mask(hidden.valid))}

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        """One mask per sample over its content."""
        mask = draw(self.masking, tokens, batch, step, self.special_ids, self.score, stream)
        return functional.require_hard_mask("mlm", self.masking, mask)

    def corrupt(self, tokens: Tokens, mask: Mask, batch: Batch, step: Step) -> Tensor:
        """The ids that the encoder sees, ``[B, N]``."""
        assert tokens.ids is not None
        shown_BN = corrupt(
            tokens.ids,
            mask,
            step,
            sample_ids(batch),
            mask_id=self.mask_id,
            vocabulary=self.tokenizer.provides["vocabulary"],
            special_ids=self.special_ids,
            shares=self.shares,
        )
        return self.known(shown_BN, batch, step)

    def see(self, ids_BN: Tensor, tokens: Tokens) -> Tensor:
        """States ``[B, N, D]`` of ids in the places of tokens."""
        x_BND = self.encoder(self.encoder.embed(ids_BN[..., None]), tokens.position, tokens.valid)
        return x_BND[:, self.encoder.prefix :]

    def surprise(self, batch: Batch, stride: int | None = None) -> Tensor:
        """Minus the log likelihood of each token given all others, nats: what pseudo-perplexity is of.

        Args:
            batch: texts.
            stride: hide every so-many-th token at a time; each by itself if none (Salazar et al. 2020).

        Returns:
            float32 ``[B, N]``; NaN at special tokens and padding.
        """
        tokens = self.tokenizer(batch)
        assert tokens.ids is not None
        content, stride = maskable(tokens, self.special_ids), stride or tokens.shape[1]
        nats = torch.full(tokens.shape, torch.nan, device=tokens.ids.device)
        for k in range(stride):
            shown = tokens.ids.clone()
            shown[:, k::stride] = torch.where(content[:, k::stride], self.mask_id, shown[:, k::stride])
            logits = self.head(self.see(shown, tokens)[:, k::stride], self.encoder).float()
            nats[:, k::stride] = F.cross_entropy(
                logits.transpose(1, 2), tokens.ids[:, k::stride], reduction="none"
            )
        return torch.where(content, nats, torch.nan)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        states_BND = self.see(self.corrupt(tokens, mask, batch, step), tokens)
        guess = self.head(states_BND, self.encoder).argmax(-1)
        caption = "masked words, predictions beside them"
        return Preview(compare(self.tokenizer_file, tokens, mask.hidden, guess, caption))
