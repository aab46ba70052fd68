"""MEAP: Mask-Enhanced Autoregressive Prediction (Zhuang et al. 2025, arXiv 2502.07490).

Ordinary next-token prediction, with a small share of the *input* tokens behind a mask token: attention is
causal, the targets are the clean next tokens, all of them count, nothing else changes.

    polymask pretrain language/meap --preset small --data glosses --data.pack true
    polymask evaluate RUN language/perplexity
    polymask evaluate RUN language/facts

What to compare with is plain next-token prediction, the same system without a masking (``--masking null``).
The paper's gain is in finding facts far back in long texts, at a thousand times this size. Losses of
training are those of masked inputs: compare perplexities, which are of clean ones.

    polymask pretrain language/meap --preset sft --data responses:FILE --encoder.pretrained FOLDER \
        --data.vocab FOLDER

Fine-tuning on responses: where the batch has ``response``, bool ``[B, N]``, only tokens of responses are
predicted, twice: once from clean input, once (responses of more than ``long`` tokens) with some of them
masked, and then the masked ones alone. All these predictions weigh alike.

Choices where paper and published code differ. Masks are drawn for each sample and step anew; the code has
51 patterns that all samples of a step share, ``patterns=51`` (on which pattern a step falls is ours).
Special tokens are never masked, so that borders of documents stay; the code may mask them. The ratio is
rounded to the nearest count, the code rounds down. No document predicts the next one in its sequence.

The head runs where something is to be predicted; how much differs between rows, so the device is waited
for once, and ``torch.compile`` breaks its graph there.

Shapes: B samples (twice as many rows in fine-tuning), N tokens, K predictions of a row at most, D width,
V vocabulary.
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
    UserError,
    functional,
    sample_ids,
)
from polymask.protocols import Masking, Objective, Target, Tokenizer
from polymask.types import Fact, Whole
from polymask_language.curricula import Known, every_word
from polymask_language.display import compare
from polymask_language.encoders import Causal
from polymask_language.tokenizers import documents, draw


class MEAP(System):
    """Next-token prediction with masked input.

    Args:
        tokenizer: makes tokens of text.
        encoder: a causal one, with a head (:class:`polymask_language.encoders.Causal`).
        masking: what to mask of the input (paper: 15 % of tokens, 10 % of responses); None for nothing.
        objective: how a predicted token is scored.
        score: evidence per token for maskings that go by score; None for those that do not.
        mask_id: id of the mask token, from the tokenizer.
        special_ids: ids that are no content and are never masked, from the tokenizer.
        long: responses of more tokens than that are also shown masked in fine-tuning (paper: 50).
        patterns: so many masks in all, each shared by all samples of a step; None for fresh ones.
        tokenizer_file: the vocabulary of the data, to show words by.
    """

    perplexity = "perplexity"
    known: Known
    encoder: Causal

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Causal,
        objective: Objective,
        masking: Masking | None = None,
        score: Target | None = None,
        mask_id: Fact[Whole] = 4,
        special_ids: Fact[Sequence[int]] = (0, 1, 2, 3, 4),
        long: Whole = 50,
        patterns: int | None = None,
        tokenizer_file: Fact[str | None] = None,
    ) -> None:
        super().__init__()
        if not getattr(encoder, "causal", False):
            raise UserError(
                f"meap predicts the next token, and {type(encoder).__name__} sees those that follow: choose "
                "--encoder language/causal"
            )
        if patterns is not None and patterns < 1:
            raise UserError(f"patterns must be 1 or more, got {patterns}")
        self.tokenizer, self.encoder, self.masking = tokenizer, encoder, masking
        self.objective, self.score = objective, score
        self.mask_id, self.special_ids = mask_id, tuple(special_ids)
        self.long, self.patterns, self.tokenizer_file = long, patterns, tokenizer_file
        self.known = every_word

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        assert tokens.ids is not None
        mask = self.draw(tokens, batch, step)
        shown_BN = self.corrupt(tokens, mask)
        scored_BN = self.scored(tokens, batch)
        # no response is long where no row is
        if "response" in batch and self.masking is not None and tokens.shape[1] > self.long:
            both = {key: torch.cat([value, value]) for key, value in batch.items()}
            # what is masked at a place is predicted from the place before
            again_BN = scored_BN & ahead(mask.hidden)
            scored_BN, shown_BN = torch.cat([scored_BN, again_BN]), torch.cat([tokens.ids, shown_BN])
            batch, tokens = both, self.tokenizer(both)
        states_BND = self.see(self.known(shown_BN, batch, step), tokens)
        assert tokens.ids is not None
        words = dataclasses.replace(tokens, ids=self.known(tokens.ids, batch, step))
        return {"next token": self.next_token_loss(states_BND, words, scored_BN)}

    def scored(self, tokens: Tokens, batch: Batch) -> Tensor:
        """Where the next token is to be predicted: of the same document, no padding. Bool ``[B, N]``."""
        real = tokens.real
        if "response" in batch:
            real = real & batch["response"].bool()
        scored, document = ahead(real), documents(tokens.position)
        if document is not None:
            scored[:, :-1] &= document[:, 1:] == document[:, :-1]
        return scored

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        """One mask per sample over its content, or over long responses where there are responses.

        The last token that something is predicted from is never masked.
        """
        if self.masking is None:
            return Mask(torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.values.device))
        if "response" in batch:
            # a token is of a response where the one before it is to predict it
            response = self.scored(tokens, batch).roll(1, dims=1)
            allowed = response & (response.sum(1, keepdim=True) > self.long)
        else:
            scored = self.scored(tokens, batch)
            allowed = scored & ahead(scored)
        if self.patterns is not None:
            batch = {**batch, "id": torch.zeros_like(sample_ids(batch))}
            step = dataclasses.replace(step, index=step.index % self.patterns)
        mask = draw(self.masking, tokens, batch, step, self.special_ids, self.score, stream, allowed)
        return functional.require_hard_mask("meap", self.masking, mask)

    def corrupt(self, tokens: Tokens, mask: Mask) -> Tensor:
        """The ids that the encoder sees, ``[B, N]``; the targets stay as they are."""
        assert tokens.ids is not None
        return mask.fill(tokens.ids, torch.tensor(self.mask_id, device=tokens.ids.device))

    def see(self, ids_BN: Tensor, tokens: Tokens) -> Tensor:
        """States ``[B, N, D]`` of ids in the places of tokens."""
        x_BND: Tensor = self.encoder(self.encoder.embed(ids_BN[..., None]), tokens.position, tokens.valid)
        return x_BND

    def next_token_loss(self, states_BND: Tensor, tokens: Tokens, scored_BN: Tensor) -> Tensor:
        """The loss of the next token after each place that is scored."""
        assert tokens.ids is not None
        following = Tokens(states_BND, tokens.position, ids=tokens.ids.roll(-1, dims=1))
        kept = Mask(~scored_BN, None, torch.ones_like(scored_BN)).keep(following)
        assert kept.ids is not None and kept.valid is not None
        logits_BKV = self.encoder.logits(kept.values)
        return self.objective(logits_BKV, kept.ids, Mask(kept.valid))

    def surprise(self, batch: Batch, stride: int | None = None) -> Tensor:
        """Minus the log likelihood of each token given those before it, nats; nothing is masked.

        Returns:
            float32 ``[B, N]``; NaN at the first token of a document, special tokens and padding.
        """
        tokens = self.tokenizer(batch)
        assert tokens.ids is not None
        logits = self.encoder.logits(self.see(tokens.ids, tokens)).float()
        nats = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens.ids[:, 1:], reduction="none")
        known = self.scored(tokens, batch)[:, :-1]
        for special in self.special_ids:
            known = known & (tokens.ids[:, 1:] != special)
        return F.pad(torch.where(known, nats, torch.nan), (1, 0), value=torch.nan)

    def following(self, batch: Batch) -> Tensor:
        """Log likelihood of what may come after each text, nats; nothing is masked.

        Returns:
            float32 ``[B, V]``, behind the last token that is no padding.
        """
        tokens = self.tokenizer(batch)
        assert tokens.ids is not None
        states_BND = self.see(tokens.ids, tokens)
        last = torch.full_like(tokens.ids[:, 0], -1) if tokens.valid is None else tokens.valid.sum(1) - 1
        states_BD = states_BND[torch.arange(len(last), device=last.device), last]
        return self.encoder.logits(states_BD).float().log_softmax(-1)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        states_BND = self.see(self.known(self.corrupt(tokens, mask), batch, step), tokens)
        guess = self.encoder.logits(states_BND).argmax(-1).roll(1, dims=1)
        caption = "words masked in the input, predicted from those before"
        return Preview(compare(self.tokenizer_file, tokens, mask.hidden, guess, caption))


def ahead(here_BN: Tensor) -> Tensor:
    """At each place what holds at the next one, False at the last. Bool ``[B, N]``."""
    return F.pad(here_BN[:, 1:], (0, 1), value=False)
