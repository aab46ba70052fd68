"""LUT: Learning with Unmasked Tokens Drives Stronger Vision Learners (Kim et al. 2023, arXiv 2310.13593).

A masked autoencoder whose visible tokens must also tell about the rest: their mean in one view of an image
predicts what an EMA teacher, which sees all of another view, makes of that.

    polymask pretrain vision/lut --preset small --data fashion-mnist

Two views of an image are cropped and flipped, and the second changes its colours too (``--data.views 2
--data.augment shift-flip --data.other_augment three-augment``, in all presets). What is visible of one is at
other places than what is visible of the other: two disjoint quarters. Only the first view is reconstructed.
The class token takes part in neither mean. ``--context_weight 0`` is vision/mae on the first view, bit for
bit, and needs no second. A step takes 3.7 times as long as one of vision/mae at preset ``small``: compare at
equal time too. How far each block attends, and how many directions its features take, beside vision/mae:

    polymask compare vision/lut --context_weight 0,0.25 --data fashion-mnist --evaluation vision/by-block

The teacher's batch norms go by averaged running statistics, as released. These start at mean 0 and variance 1
and lag behind, and in a short run a shift common to all images fills the teacher's summaries: predictions are
right and say nothing, which ``retrieval_gauge`` shows (0.5 is chance). So the presets ``small`` and ``tiny``
use the statistics of the batch (``--statistics batch``). Statistics are those of one process and one part of
an accumulated batch; the release takes them from all processes.

Shapes: B samples, N tokens, K of them visible, M hidden, D encoder width, T target width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, functional
from polymask.nn.decoders import LightDecoder
from polymask.nn.teachers import EMATeacher
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, NotNegative, Share, Whole
from polymask_vision.depth import lines_by_depth
from polymask_vision.views import other_view

Statistics = Literal["running", "batch"]


class LUT(System):
    """Masked autoencoder whose pooled visible tokens predict another view.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes only the visible tokens.
        target: what to predict of each hidden token of the first view.
        masking: what to hide; called for each view with its own ``stream``.
        objective: how such a prediction is scored, over hidden tokens.
        context_objective: how a predicted summary of the other view is scored.
        score: score per token, for maskings that need one.
        context_weight: weight of the scores of both summaries, added up (paper: 0.25); 0 builds neither heads
            nor teacher.
        momentum: EMA momentum of the teacher at the start of the run.
        final_momentum: momentum at its end; it rises by a cosine.
        hidden_dim: width within projector and predictor (paper: 4096).
        statistics: what the batch norms of these two go by outside of training, those of the teacher always:
            ``"running"`` statistics (release) or those of the ``"batch"``.
        decoder_dim: width of the decoder (paper: 512).
        decoder_depth: blocks of the decoder (paper: 8).
        decoder_heads: attention heads of the decoder (paper: 16).
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        context_objective: Objective,
        score: Target | None = None,
        context_weight: NotNegative = 0.25,
        momentum: Share = 0.996,
        final_momentum: Share = 1.0,
        hidden_dim: Count = 4096,
        statistics: Statistics = "running",
        decoder_dim: Count = 512,
        decoder_depth: Whole = 8,
        decoder_heads: Count = 16,
    ) -> None:
        super().__init__()
        if statistics not in ("running", "batch"):
            raise UserError(f"statistics={statistics!r}: choose 'running' or 'batch'")
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.context_objective, self.context_weight = context_objective, context_weight
        size = {"dim": decoder_dim, "depth": decoder_depth, "heads": decoder_heads}
        self.decoder = LightDecoder.behind(encoder, tokenizer, target.dim, **size)
        self.projector = self.predictor = self.teacher = None
        if context_weight:
            self.projector = _head(encoder.out_dim, hidden_dim, statistics)
            self.predictor = _head(encoder.out_dim, hidden_dim, statistics)
            self.teacher = EMATeacher(
                self.student(), momentum=momentum, final=final_momentum, curve="cosine", buffers="average"
            )
            self.least_batch = 2

    def student(self) -> nn.ModuleList:
        """The modules that the teacher averages."""
        return nn.ModuleList([self.encoder, self.projector])  # type: ignore[list-item]

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens, mask, encoded = self.see(batch, step, 0)
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        prediction_BMT = self.decoder(encoded, mask, tokens.position)
        losses = {"reconstruction": functional.masked_loss(self.objective, prediction_BMT, hidden)}
        if self.teacher is not None:
            second, other_mask, other_encoded = self.see(self.other(batch), step, 1)
            guesses = [
                self.predict(encoded, tokens, mask),
                self.predict(other_encoded, second, other_mask),
            ]
            scores = [
                self.context_objective(guess_BD[:, None], self.teach(view)[:, None])
                for guess_BD, view in zip(guesses, (second, tokens), strict=True)
            ]
            losses["context"] = self.context_weight * torch.stack(scores).sum()
        return losses

    def see(self, view: Batch, step: Step, stream: int) -> tuple[Tokens, Mask, Tensor]:
        """Tokens of a view, its mask, and the encoding of what is visible, ``[B, prefix + K, D]``."""
        tokens = self.tokenizer(view)
        mask = self.draw(tokens, view, step, stream)
        return tokens, mask, functional.encode_visible(self.encoder, tokens, mask)

    def other(self, batch: Batch) -> Batch:
        """The second view in the place of the first."""
        return other_view(
            self.tokenizer,
            batch,
            "lut compares two views of an image, and the data give one: add --data.views 2 "
            "--data.augment shift-flip --data.other_augment three-augment, or use --context_weight 0",
        )

    def predict(self, encoded: Tensor, tokens: Tokens, mask: Mask) -> Tensor:
        """What the visible tokens of a view tell about the other view, ``[B, D]``."""
        assert self.projector is not None and self.predictor is not None
        seen = mask.keep(tokens)
        visible = Tokens(encoded[:, self.encoder.prefix :], seen.position, valid=seen.valid)
        guess_BD: Tensor = self.predictor(self.projector(visible.pool()))
        return guess_BD

    @torch.no_grad()
    def teach(self, tokens: Tokens) -> Tensor:
        """The teacher's summary of a whole view, ``[B, D]``."""
        assert self.teacher is not None
        encoder, projector = self.teacher.module.children()
        kept: Any = encoder
        encoded = functional.encode_tokens(kept, tokens)
        whole = Tokens(encoded[:, kept.prefix :], tokens.position, valid=tokens.valid)
        summary_BD: Tensor = projector(whole.pool())
        return summary_BD

    def after_step(self, step: Step) -> None:
        if self.teacher is not None:
            self.teacher.follow(self.student(), step)

    def example(self, n: int, seed: int = 0) -> Batch:
        batch, key = super().example(n, seed), self.tokenizer.key
        return {**batch, "other": super().example(n, seed + 1)[key]}

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        views = [batch] if self.teacher is None else [batch, self.other(batch)]
        found = {}
        for stream, view in enumerate(views):
            tokens = self.tokenizer(view)
            found[f"view {stream + 1}"] = MaskView(self.draw(tokens, view, step, stream), tokens, view)
        return found

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        if self.teacher is None:
            return {}
        tokens, mask, encoded = self.see(batch, step, 0)
        guess_BD = self.predict(encoded, tokens, mask).float()
        truth_BD = self.teach(self.tokenizer(self.other(batch))).float()
        alike_BB = F.normalize(guess_BD, dim=-1) @ F.normalize(truth_BD, dim=-1).T
        # how many other images' summaries are less like a guess than the summary of its own image
        found = (alike_BB < alike_BB.diagonal()[:, None]).float().sum() / (
            len(alike_BB) * (len(alike_BB) - 1)
        )
        return {"prediction": guess_BD, "target": truth_BD, "retrieval": found}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens, mask, encoded = self.see(batch, step, 0)
        prediction_BNT = functional.at_hidden(self.decoder(encoded, mask, tokens.position), mask)
        media = functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT)
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is not None and self.teacher is not None:
            second, other_mask, _ = self.see(self.other(batch), step, 1)
            media["second view"] = inverse(second.values)
            media["visible of it"] = inverse(other_mask.fill(second.values, second.values.new_zeros(1)))
        return Preview(media, lines_by_depth(self.encoder, tokens))


def _head(dim: int, hidden_dim: int, statistics: Statistics) -> nn.Sequential:
    """Projector or predictor: two layers without biases, a norm between them and none behind."""
    return nn.Sequential(
        nn.Linear(dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim, track_running_stats=statistics == "running"),
        nn.ReLU(),
        nn.Linear(hidden_dim, dim, bias=False),
    )
