"""CLIMB: curriculum learning for infant-inspired models (Diehl Martinez et al. 2023, arXiv 2311.08886).

Three curricula around a language model, each a function of the step: which words it knows, which samples
it is given, which masked predictions it is asked for.

    polymask pretrain language/climb --preset small --data glosses
    polymask evaluate RUN language/minimal-pairs

Word classes have a masked copy of the batch of their own, which costs a second pass of the encoder. The
paper finds no consistent gain over the same model without curricula: expect none. While words are unknown,
"unknown" is the answer to most questions and the loss is low; it rises as words become known, and never
tells of learning. Compare perplexities of held-out text (``language/perplexity``) and minimal pairs: both
are of the whole vocabulary.

It hosts another system, as vision/mto does, because two of the three curricula are no concern of what is
hosted: samples are drawn by ``sample_weights``, and word classes are one more loss on the same encoder. For
the third, language systems ask ``known`` what they may see of words and what they are to say
(:mod:`polymask_language.curricula`). So mlm, meap and prop take on all three, and have no option for any.

The map to unknown comes after masking, as in the published code: "unknown" is what is to be said where a
hard word was masked. Other than there, special tokens and classes are never mapped, words that ``both``
would never admit are known from the end of the window on, and documents are packed whole. Left out are
weights that prefer hard samples among the admitted, and self-perplexity, which re-ranks samples by the model
itself: what is drawn would be no function of the step, and a resumed run would differ.

Unverified, and chosen here: weight decay (0.01); the trainer's cosine (the code's schedule is linear), times
a warm-up of each head over the first tenth of its window; the lexicon of :mod:`polymask_language.speech`.

``torch.compile`` breaks where hidden tokens are gathered, as in mlm; the encoder compiles whole. Heads out of
their window get no gradient: several processes need ``--strategy ddp_find_unused_parameters_true``.

Shapes: B samples, N tokens, K hidden ones of a row at most, D width, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polymask import Batch, Host, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, sample_ids
from polymask.protocols import Masking, Objective, Target
from polymask.schedules import Curve, Schedule
from polymask.systems.base import implementing
from polymask.types import Fact
from polymask_language.capabilities import LimitsWords
from polymask_language.corruption import STREAM, corrupt
from polymask_language.curricula import (
    SPOKEN_FIRST,
    By,
    EasyFirst,
    Order,
    Vocabulary,
    Window,
    Windows,
    difficulty_of,
    warming,
)
from polymask_language.display import compare_classes
from polymask_language.heads import ClassHead
from polymask_language.tokenizers import draw, maskable

CLASSES = 16
"""Stream of the masks of word classes, away from those of hosts."""


class CLIMB(Host):
    """A language system with curricula over words, samples and objectives.

    Args:
        host: system whose loss is one unit: language/mlm (the paper), meap or prop.
        class_target: what the other unit predicts (paper: parts of speech of nouns and verbs, or of all).
        class_masking: what it hides (paper: 40 % of tokens of these parts of speech, 15 % of others).
        class_score: evidence for its masking.
        class_objective: how its prediction is scored.
        words: what makes a word hard: ``ids``, ``part-of-speech`` or ``both``; None to know all words.
        order: what makes a sample hard: ``unigram`` perplexity, ``length`` or ``source``; None for plain
            epochs.
        sources: classes of the data from easy to hard, those of one level in one string, for ``source``.
        words_curve: how the known share of the vocabulary grows (paper: linear or log).
        order_curve: how the share of samples grows.
        least: both shares up to the beginning of the window.
        window: shares of the run between which they grow to one.
        host_window: shares of the run between which the host's loss counts, both included.
        class_window: the same of word classes; None to leave them out.
        unknown_id: id that stands for words that are not known, from the data.
        difficulty_file: what the data set tells of its samples, from the data.
        tokenizer_file: the vocabulary of the data, to show words by.
    """

    def __init__(
        self,
        *,
        host: System,
        class_target: Target,
        class_masking: Masking,
        class_objective: Objective,
        class_score: Target | None = None,
        words: By | None = "ids",
        order: Order | None = "unigram",
        sources: Sequence[str] = SPOKEN_FIRST,
        words_curve: Curve = "log",
        order_curve: Curve = "log",
        least: float = 0.1,
        window: Window = (0.0625, 0.875),
        host_window: Window = (0.125, 1.0),
        class_window: Window | None = (0.0, 1.0),
        unknown_id: Fact[int | None] = 1,
        difficulty_file: Fact[str | None] = None,
        tokenizer_file: Fact[str | None] = None,
    ) -> None:
        super().__init__(host)
        if not 0 < least <= 1:
            raise UserError(f"least must be a share above 0 and up to 1, got {least}")
        self.units = Windows({"host": host_window, "classes": class_window})
        self.words: Vocabulary | None = None
        facts = self.tokenizer.provides
        self.mask_id, self.special_ids, self.ids = facts["mask_id"], facts["special_ids"], facts["vocabulary"]
        if words is not None:
            limited: LimitsWords | None = implementing(host, LimitsWords)
            if limited is None:
                raise UserError(
                    f"{type(host).__name__} does not ask which words are known: host mlm, meap or prop, or "
                    "leave the curriculum over words out (--words null)"
                )
            self.words = Vocabulary(
                by=words,
                schedule=Schedule(least, 1.0, words_curve, window),
                vocabulary=self.ids,
                special_ids=self.special_ids,
                unknown_id=unknown_id,
            )
            limited.known = self.words
        self.samples: EasyFirst | None = None
        if order is not None:
            difficulty = difficulty_of(difficulty_file, order, sources)
            self.samples = EasyFirst(difficulty, Schedule(least, 1.0, order_curve, window))
        self.class_target, self.class_masking = class_target, class_masking
        self.class_score, self.class_objective = class_score, class_objective
        self.class_head = ClassHead(self.encoder.out_dim, class_target.dim) if class_window else None
        self.tokenizer_file = tokenizer_file

    def forward(self, batch: Batch, step: Step) -> Losses:
        losses: dict[str, Tensor] = {}
        if self.units.active("host", step):
            losses |= self.host(batch, step)
        if self.units.active("classes", step):
            losses["word classes"] = self.classify(batch, step)
        return losses

    def classify(self, batch: Batch, step: Step) -> Tensor:
        """The loss of the classes of hidden words, on a masked copy of the batch of its own."""
        tokens = self.tokenizer(batch)
        mask = self.draw_classes(tokens, batch, step)
        classes_BN = self.class_target(batch, tokens)
        hidden = mask.invert().keep(self.class_states(tokens, mask, batch, step))
        wanted = mask.invert().keep(dataclasses.replace(tokens, values=classes_BN))
        assert self.class_head is not None and hidden.valid is not None
        return self.class_objective(self.class_head(hidden.values), wanted.values, Mask(hidden.valid))

    def draw_classes(self, tokens: Tokens, batch: Batch, step: Step) -> Mask:
        """The mask of word classes."""
        return draw(
            self.class_masking, tokens, batch, step, self.special_ids, self.class_score, stream=CLASSES
        )

    def class_states(self, tokens: Tokens, mask: Mask, batch: Batch, step: Step) -> Tokens:
        """States ``[B, N, D]`` of the copy, hidden words and unknown ones replaced."""
        assert tokens.ids is not None
        shown_BN = corrupt(
            tokens.ids,
            mask,
            step,
            sample_ids(batch),
            mask_id=self.mask_id,
            vocabulary=self.ids,
            special_ids=self.special_ids,
            stream=STREAM - CLASSES,
        )
        if self.words is not None:
            shown_BN = self.words(shown_BN, batch, step)
        x_BND = self.encoder(self.encoder.embed(shown_BN[..., None]), tokens.position, tokens.valid)
        return dataclasses.replace(tokens, values=x_BND[:, self.encoder.prefix :])

    def sample_weights(self, step: Step) -> Tensor | None:
        return self.host.sample_weights(step) if self.samples is None else self.samples(step)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Heads warm up in their own windows; the encoder with the run."""
        own = self.host.parameter_groups()
        taken = {id(p) for group in own for p in group["params"]}
        taken |= {id(p) for p in self.encoder.parameters()}
        groups = own + warming(self.host, taken, self.units.windows["host"])
        if self.class_head is not None:
            groups += warming(self.class_head, set(), self.units.windows["classes"])
        return groups

    def schedule(self, step: Step) -> dict[str, float]:
        found = {f"{name} loss": float(self.units.active(name, step)) for name in self.units.windows}
        if self.samples is not None:
            found["samples drawn"] = self.samples.schedule(step)
        if self.words is not None:
            found["vocabulary known"] = self.words.schedule(step)
        return found

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        shown = self.host.preview(batch, step)
        media = dict(shown.media)
        if self.class_head is not None and hasattr(self.class_target, "names"):
            tokens = self.tokenizer(batch)
            mask = self.draw_classes(tokens, batch, step)
            guess_BN = self.class_head(self.class_states(tokens, mask, batch, step).values).argmax(-1)
            media |= compare_classes(
                self.tokenizer_file,
                tokens,
                mask.hidden,
                self.class_target(batch, tokens),
                guess_BN,
                self.class_target.names,
            )
        return Preview(media, shown.lines)

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        views, tokens = dict(self.host.masks(batch, step)), self.tokenizer(batch)
        if self.class_head is not None:
            views["word classes"] = MaskView(self.draw_classes(tokens, batch, step), tokens)
        if self.words is not None:
            content = maskable(tokens, self.special_ids)
            unknown = Mask(self.words.hard(tokens.ids, batch, step) & content, None, content)
            views["unknown words"] = MaskView(unknown, tokens)
        return views
