"""CLIMB: curriculum learning for infant-inspired models (Diehl Martinez et al. 2023, arXiv 2311.08886).

Three curricula for a language model, each a function of the step: the vocabulary, the training samples, and
the training objectives.

    polymask pretrain language/climb --preset small --data glosses
    polymask evaluate RUN language/minimal-pairs

The word-class objective uses a second masked copy of the batch, which costs a second pass of the encoder. The
paper finds no consistent gain over the same model without curricula: expect none. While many words are
unknown, most targets are the unknown token and the loss is low; it rises as words become known, so it
does not measure progress. Compare perplexities of held-out text (``language/perplexity``) and minimal pairs:
both use the whole vocabulary.

It hosts another system, as vision/mto does, because two of the three curricula do not depend on the hosted
system: samples are drawn by ``sample_weights``, and the word-class objective is one more loss on the same
encoder. For the third, language systems pass their inputs and targets through ``known``
(:mod:`polymask_language.curricula`). So mlm, meap and prop support all three without options of their own.

Words are replaced by the unknown token after masking, as in the published code: the target is "unknown" where
a hard word was masked. Unlike there, special tokens and classes are never replaced, words that ``both`` would
never admit are known from the end of the window on, and documents are packed whole. Omitted are weights that
prefer hard samples among the admitted ones, and self-perplexity, which re-ranks samples by the model itself:
sampling would no longer be a function of the step, and a resumed run would differ.

Unverified, and chosen here: weight decay (0.01); the trainer's cosine schedule (the code's is linear),
multiplied by a warm-up of each head over the first tenth of its window; the lexicon of
:mod:`polymask_language.speech`.

``torch.compile`` breaks where hidden tokens are gathered, as in mlm; the encoder compiles whole. Heads
outside their window get no gradient: several processes need ``--strategy ddp_find_unused_parameters_true``.

Shapes: B samples, N tokens, at most K hidden ones per row, D width, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polymask import Batch, Host, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, sample_ids
from polymask.functional import require_hard_mask
from polymask.nn.corruption import STREAM, corrupt, maskable
from polymask.protocols import Masking, Objective, Target
from polymask.schedules import Curve, Schedule
from polymask.systems.host import implementing
from polymask.types import Fact
from polymask_language.capabilities import LimitsWords
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
from polymask_language.tokenizers import draw

CLASSES = 16
"""Random stream of the word-class masks, distinct from those of hosts."""


class CLIMB(Host):
    """Curricula over words, samples and objectives for a hosted language system.

    Args:
        host: the hosted system, whose loss is one objective: language/mlm (the paper), meap or prop.
        class_target: target of the other objective (paper: parts of speech of nouns and verbs, or of all).
        class_masking: its masking (paper: 40 % of tokens of these parts of speech, 15 % of others).
        class_score: score per token for its masking.
        class_objective: loss of its predictions.
        words: difficulty of words: ``ids``, ``part-of-speech`` or ``both``; None to know all words.
        order: difficulty of samples: ``unigram`` perplexity, ``length`` or ``source``; None for plain
            epochs.
        sources: class names of the data from easy to hard, those of one level in one string, for ``source``.
        words_curve: curve of the known share of the vocabulary (paper: linear or log).
        order_curve: curve of the share of samples that are drawn.
        least: initial value of both shares, until the window starts.
        window: start and end of their growth to 1, as shares of the run.
        host_window: start and end of the host's loss, as shares of the run, both included.
        class_window: the same for the word-class loss; None to omit it.
        unknown_id: id of the unknown token, from the data.
        difficulty_file: difficulty of each sample, from the data.
        tokenizer_file: vocabulary of the data, to display words.
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
        """The word-class loss, on a separate masked copy of the batch."""
        tokens = self.tokenizer(batch)
        mask = self.draw_classes(tokens, batch, step)
        classes_BN = self.class_target(batch, tokens)
        hidden = mask.invert().keep(self.class_states(tokens, mask, batch, step))
        wanted = mask.invert().keep(dataclasses.replace(tokens, values=classes_BN))
        assert self.class_head is not None and hidden.valid is not None
        return self.class_objective(self.class_head(hidden.values), wanted.values, Mask(hidden.valid))

    def draw_classes(self, tokens: Tokens, batch: Batch, step: Step) -> Mask:
        """The mask of word classes."""
        mask = draw(
            self.class_masking, tokens, batch, step, self.special_ids, self.class_score, stream=CLASSES
        )
        return require_hard_mask("climb", self.class_masking, mask)

    def class_states(self, tokens: Tokens, mask: Mask, batch: Batch, step: Step) -> Tokens:
        """States ``[B, N, D]`` of that copy, with hidden and unknown words replaced."""
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
        """Heads warm up at the start of their windows, the encoder at the start of the run."""
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
