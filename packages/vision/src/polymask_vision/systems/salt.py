"""SALT: Static-teacher Asymmetric Latent Training (Li et al. 2025, "Rethinking JEPA", arXiv 2509.24317).

Train a masked autoencoder of pixels, freeze its encoder, and let a new encoder, of any size, predict from the
visible part of a video what the frozen one makes of the hidden part of the whole: no moving average, and no
collapse, since the target is a constant of the data.

    polymask recipe vision/salt --data moving-digits
    polymask pretrain vision/salt --preset small --data moving-digits --teacher RUN

The recipe trains the teacher, "V-Pixel", which is vision/mae on tubelets under the same masks, with a sixth
of the steps, then the student. Masks are V-JEPA's, of two families, each a pass of its own over the same
clips; their losses are averaged. What differs from V-JEPA: the teacher does not move, and the student may be
of another width, since the predictor's last layer leads to the teacher's.

Whoever predicts zero pays about 0.8 by the mean absolute error of normalised latents, which is no rival: the
latents of a teacher that has learned little share one vector. Compare with the best constant by position,

    polymask evaluate RUN --evaluation core/constant-baseline --evaluation.by_position true

and see to it that the teacher leaves that well behind first. The loss is comparable under one teacher alone.

The text does not say whether targets are normalised; V-JEPA's are, over features and without learned scales,
and so are these, unless ``--norm none``. Nor does it give the teacher's decoder, or how mask tokens begin
(V-JEPA: 0; here normal, 0.02). Positions are fixed sines and cosines where the paper rotates (RoPE), so the
width is to be divisible by 6; weight decay is constant, as is the learning rate's schedule that of the paper.

Shapes: B samples, N tokens, K of them visible, M hidden, T teacher width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError, functional
from polymask.config import relative_to_run
from polymask.nn.blocks import initialise
from polymask.nn.teachers import EMATeacher, Frozen, normalise
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.recipes import Stage, divided
from polymask.types import Count, Fact, Place, Share
from polymask_vision.decoders import LatentPredictor
from polymask_vision.pixel_scale import require_same_scale

EMA = "ema"
"""In place of a folder: a moving average of the student, as in V-JEPA, which SALT is compared to."""

UNTRAINED = "untrained"
"""In place of a folder: an encoder like the student, with random weights of its own."""


class SALT(System):
    """Predicts what a frozen encoder makes of hidden tokens, from visible ones.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: the student; encodes the visible tokens alone.
        masking: what to hide; of a masking of several families each is a pass of its own.
        objective: how a prediction is scored over hidden tokens (paper: absolute error).
        teacher: folder of a finished run with the same tokens, whose encoder is the teacher; ``ema``, a
            moving average of the student, the paper's baseline V-JEPA; or ``untrained``, to try things out.
        target: what to predict in place of a teacher's latents; no teacher is opened then.
        norm: what becomes of the latents: each token's with mean 0 and variance 1 (``"layer"``, V-JEPA), or
            as they are (``"none"``).
        score: score per token, for maskings that need one.
        momentum: EMA momentum at the start of the run, of teacher ``ema`` (V-JEPA: 0.998); it rises to 1.
        predictor_dim: width of the predictor (paper: 384).
        predictor_depth: blocks of the predictor (paper: 12).
        predictor_heads: attention heads of the predictor (paper: 16).
        mean: per channel, what was subtracted from values in [0, 1], from the data.
        std: per channel, what they were divided by, from the data.
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        teacher: Place = None,
        target: Target | None = None,
        norm: Literal["layer", "none"] = "layer",
        score: Target | None = None,
        momentum: Share = 0.998,
        predictor_dim: Count = 384,
        predictor_depth: Count = 12,
        predictor_heads: Count = 16,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
    ) -> None:
        super().__init__()
        if norm not in ("layer", "none"):
            raise UserError(f"norm={norm!r}: choose 'layer' or 'none'")
        if teacher is None and target is None:
            raise UserError(
                "salt needs a frozen teacher: give --teacher FOLDER, a finished run, as polymask recipe "
                "vision/salt trains one; or --target NAME in its place"
            )
        self.tokenizer, self.encoder, self.objective = tokenizer, encoder, objective
        self.masking, self.score, self.target, self.norm = masking, score, target, norm
        self.families = getattr(masking, "families", 1)
        self.teacher: Frozen | None = None
        if target is None and teacher == EMA:
            student: Any = encoder
            self.teacher = EMATeacher(student, momentum=momentum, final=1.0, curve="linear")
        elif target is None and teacher is not None:
            self.teacher = Frozen(teacher_of(teacher, tokenizer, encoder, mean, std))
        width = target.dim if target is not None else self._teacher.out_dim
        self.predictor: Any = LatentPredictor.behind(
            encoder,
            tokenizer,
            width,
            families=self.families,
            dim=predictor_dim,
            depth=predictor_depth,
            heads=predictor_heads,
        )

    @property
    def _teacher(self) -> Any:
        assert self.teacher is not None
        return self.teacher.module

    @property
    def backbone(self) -> Encoder:
        """The student; of V-JEPA its average, as published."""
        encoder: Encoder = self._teacher if isinstance(self.teacher, EMATeacher) else self.encoder
        return encoder

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        latents = Tokens(self.latents(batch, tokens), tokens.position)
        losses = []
        for family in range(self.families):
            mask = self.draw(tokens, batch, step, family)
            prediction_BMT = self.predict(tokens, mask, family)
            hidden = mask.invert().keep(latents)
            losses.append(functional.masked_loss(self.objective, prediction_BMT, hidden))
        return {"prediction": torch.stack(losses).mean()}

    @torch.no_grad()
    def latents(self, batch: Batch, tokens: Tokens) -> Tensor:
        """What is to be predicted of each token, from the whole input, ``[B, N, T]``."""
        if self.target is not None:
            return normalise(self.target(batch, tokens), self.norm)
        teacher = self._teacher
        return normalise(functional.encode_tokens(teacher, tokens)[:, teacher.prefix :], self.norm)

    def predict(self, tokens: Tokens, mask: Mask, family: int = 0) -> Tensor:
        """Predictions ``[B, M, T]`` at the hidden tokens, from the visible ones."""
        encoded_BKD = functional.encode_visible(self.encoder, tokens, mask)
        seen = self.predictor.context(encoded_BKD, mask, tokens.position)
        prediction_BMT: Tensor = self.predictor.answer(seen, tokens.position, mask, family)
        return prediction_BMT

    def after_step(self, step: Step) -> None:
        if isinstance(self.teacher, EMATeacher):
            student: Any = self.encoder
            self.teacher.follow(student, step)

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        prediction_BMT = self.predict(tokens, self.draw(tokens, batch, step))
        # one token of each sample, since shorter rows of some maskings are padded
        return {"prediction": prediction_BMT[:, 0], "target": self.latents(batch, tokens)[:, 0]}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is None:
            return Preview()
        tokens = self.tokenizer(batch)
        latents_BNT, blank = self.latents(batch, tokens), tokens.values.new_zeros(1)
        media = {"original": inverse(tokens.values)}
        for family, (name, view) in enumerate(self.masks(batch, step).items()):
            prediction_BNT = functional.at_hidden(self.predict(tokens, view.mask, family), view.mask)
            error_BN = (prediction_BNT.float() - latents_BNT).abs().mean(-1)
            media[f"{name}: visible"] = inverse(view.mask.fill(tokens.values, blank))
            media[f"{name}: error of the predicted latents (bright: large)"] = inverse(
                functional.bright(error_BN, tokens, view.mask)
            )
        return Preview(media)


def teacher_of(
    folder: str,
    tokenizer: Tokenizer,
    encoder: Encoder,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Any:
    """The encoder of a finished run, if it encodes the tokens of a tokenizer.

    Args:
        folder: of the run, or :data:`UNTRAINED`.
        tokenizer: of the system that asks.
        encoder: its encoder, which an untrained teacher is like.
        mean: of the pixels, as they are normalised.
        std: of the pixels, as they are normalised.

    Raises:
        UserError: it does not.
    """
    from polymask.run import Run

    if folder == UNTRAINED:
        fresh: Any = copy.deepcopy(encoder)
        initialise(fresh)
        return fresh
    run = Run.open(folder)
    found: Any = run.system
    teacher = getattr(found, "backbone", None)
    if teacher is None or not hasattr(found, "tokenizer"):
        raise UserError(
            f"the run {folder} has no encoder that could teach: give --teacher a run of vision/mae"
        )
    own, asked = found.tokenizer.provides, tokenizer.provides
    if any(own.get(name) != asked.get(name) for name in ("grid", "in_dim")) or teacher.downsample > 1:
        raise UserError(
            f"the teacher {folder} encodes tokens of {own.get('in_dim')} numbers on a grid of "
            f"{own.get('grid')}, and these are of {asked.get('in_dim')} on {asked.get('grid')}: use the "
            "tokenizer options and the data of its run"
        )
    require_same_scale(run, mean, std)
    return teacher


def salt(
    stage: Stage,
    /,
    *,
    preset: str = "small",
    steps: Count | None = None,
    share: Share = 1 / 6,
) -> None:
    """A masked autoencoder of pixels, whose encoder teaches, and a student of it.

    Args:
        stage: trains a run.
        preset: of both stages, of vision/mae with ``-v-pixel`` behind it.
        steps: of both stages together; by default those of the student's preset, and as many more as make
            the teacher's share of the sum.
        share: of the steps that are the teacher's (paper: 40,000 of 240,000).
    """
    from polymask_vision import presets

    if preset not in presets.SALT:
        raise UserError(f"vision/salt has no preset {preset!r}; it has {', '.join(sorted(presets.SALT))}")
    if share == 1:
        raise UserError("share=1 leaves the student no steps: give less")
    total = steps or round(presets.SALT[preset]["steps"] / (1 - share))
    first, rest = divided(total, share)
    teacher = stage("teacher", "vision/mae", preset=f"{preset}-v-pixel", steps=first)
    own = relative_to_run(teacher.folder.name)
    stage("student", "vision/salt", preset=preset, teacher=own, steps=rest)
