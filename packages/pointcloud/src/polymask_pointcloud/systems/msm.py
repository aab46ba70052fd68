"""MSM: Masked Scene Modeling (Hermosilla et al. 2025, arXiv 2504.06719).

A U-Net encodes one view of a cloud without the voxels of some coarse cells; its decoder starts with mask
tokens for these at the coarsest level, and predicts at every level the features that a moving average of the
network has at the same places of another view, which that teacher sees whole.

    polymask pretrain pointcloud/msm --preset small --data shapes

Whole cells of the coarsest level are hidden, with all voxels in them, and are absent from every index of the
encoder: voxels hidden one by one (``--masking core/random``, the paper's top-down ablation) leave a part of
almost every coarse cell, which tells what is missing. ``--masking null`` hides nothing and scores every
cell, the paper's other ablation: its loss falls all the same, so the loss says little here, and watch
``target 0_std`` and its like, the spread of what is predicted, for collapse.

Cells of two views are the same where the mean of a cell's points, moved back and into the other view, falls
into that view's cell: within half a cell of its middle along each axis. Others are not scored.

Published code is inference alone. Unverified, and chosen here: one minus cosine as the distance
(``--objective core/smooth-l1`` is another), layer norm without weights of what is predicted, heads of two
layers, one token per level, masks of two views drawn independently, views moved as by Masked Scene Contrast
and not coloured anew, momentum that rises by a cosine. Places of points within their voxel are features
here, and attention has no dropout.

A step of ``small``, 16 shapes of some 400 voxels twice, takes about half a second on a core, and the loss of
a level begins between 0.3 and 0.7. The number of cells differs from batch to batch: ``forward`` breaks graphs
where they are counted, and waits there for the device.

Shapes: B samples, K tokens, M cells of a level, S of them scored, C width of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, functional
from polymask.nn.blocks import MLP
from polymask.nn.teachers import EMATeacher
from polymask.protocols import Encoder, Masking, Objective, Tokenizer
from polymask.types import Fact, NotNegative, Share
from polymask_pointcloud.boxes import relative
from polymask_pointcloud.colours import Colours, by_cell
from polymask_pointcloud.display import Cloud
from polymask_pointcloud.operations.sparse import pack
from polymask_pointcloud.stages import Cells
from polymask_pointcloud.tokenizers import UNIT
from polymask_pointcloud.views import Motion, Views

WATCHED = 2048
"""Cells of a level whose targets are watched for collapse, at most."""


@dataclass(frozen=True, eq=False)
class View:
    """A view of a batch, and what of it is hidden.

    Args:
        batch: the clouds, moved.
        tokens: voxels.
        motion: what moved it.
        cells: that its tokens lie in.
        place: float64 ``[M, 3]`` for each level, the mean of the points of each cell, moved back.
        mask: which tokens are hidden; None where nothing is.
    """

    batch: Batch
    tokens: Tokens
    motion: Motion
    cells: Cells
    place: Sequence[Tensor]
    mask: Mask | None


class MSM(System):
    """Predicts a teacher's features of another view, at every level of a U-Net.

    Args:
        tokenizer: cuts clouds into voxels.
        encoder: a U-Net over voxels.
        objective: how a prediction is scored, over hidden cells that the other view has too.
        masking: what to hide of each view; None hides nothing, and all cells are scored.
        momentum: weight of the teacher's past at the start.
        final_momentum: the same at the end of the run.
        turn: largest angle of a view about z, in radians.
        tilt: largest angle about x and about y.
        flip: probability of mirroring x, and of mirroring y.
        scale: range of the factor on places.
        jitter: standard deviation of what shakes coordinates, in units of the cloud.
        crop: share of the points that a view keeps.
        feature_names: of what stands beside the place of a point, from the data; normals turn.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        objective: Objective,
        masking: Masking | None = None,
        momentum: float = 0.996,
        final_momentum: float = 1.0,
        turn: NotNegative = math.pi,
        tilt: NotNegative = math.pi / 64,
        flip: Share = 0.5,
        scale: Sequence[float] = (0.9, 1.1),
        jitter: float = 0.005,
        crop: float = 1.0,
        feature_names: Fact[Sequence[str]] = (),
    ) -> None:
        super().__init__()
        if not all(hasattr(encoder, name) for name in ("cells", "down", "up")):
            raise UserError(
                f"msm decodes cells that its encoder has not seen, level by level, and "
                f"{type(encoder).__name__} has no levels: use pointcloud/unet"
            )
        self.tokenizer, self.masking, self.objective = tokenizer, masking, objective
        unet: Any = encoder
        self.encoder: Any = unet
        self.channels: int = tokenizer.provides["channels"]
        self.move = Views(
            features=feature_names, turn=turn, tilt=tilt, flip=flip, scale=scale, jitter=jitter, crop=crop
        )
        dims: Sequence[int] = unet.up_dims
        self.heads = nn.ModuleList(MLP(dim) for dim in dims)
        self.mask_tokens: nn.ParameterList | None = None
        if masking is not None:
            self.mask_tokens = nn.ParameterList(nn.Parameter(0.02 * torch.randn(dim)) for dim in dims)
        self.teacher = EMATeacher(unet, momentum=momentum, final=final_momentum)

    def forward(self, batch: Batch, step: Step) -> Losses:
        one, other = self.view(batch, step, 0), self.view(batch, step, 1)
        losses: dict[str, Tensor] = {}
        for here, there in ((one, other), (other, one)):
            predictions, hidden = self.predict(here)
            targets = self.teach(there)
            for level, head in enumerate(self.heads):
                at, scored = self.match(here, there, level)
                scored = (scored & hidden[level]).nonzero()[:, 0]
                prediction_SC = head(predictions[level].index_select(0, scored))
                target_SC = targets[level].index_select(0, at[scored])
                every = Mask(torch.ones_like(scored, dtype=torch.bool)[None])
                loss = self.objective(prediction_SC[None], target_SC[None], every) / len(self.heads)
                losses[f"level {level}"] = losses.get(f"level {level}", 0.0) + loss
        return losses

    def after_step(self, step: Step) -> None:
        self.teacher.follow(self.encoder, step)

    def view(self, batch: Batch, step: Step, number: int) -> View:
        """One of the two views, its cells, and a mask over its tokens."""
        moved, motion = self.move(batch, step, number, self.tokenizer.key)
        tokens = self.tokenizer(moved)
        cells = self.encoder.cells(tokens.position, tokens.valid)
        centre = F.pad(tokens.position.double() * UNIT, (0, 3 - tokens.position.shape[2]))
        place = centre + relative(tokens, self.channels).double().mean(2)
        sample = torch.arange(len(place), device=place.device)[:, None].expand(tokens.shape).flatten()
        place = motion.undo(place.flatten(0, 1), sample).view(*tokens.shape, 3)
        mask = None
        if self.masking is not None:
            mask = self.draw(tokens, batch, step, number)
            mask = functional.require_hard_mask("msm", self.masking, mask)
        return View(moved, tokens, motion, cells, cells.mean(place), mask)

    def predict(self, view: View) -> tuple[list[Tensor], list[Tensor]]:
        """What the student makes of each level, ``[M, C]``, and which cells it has not seen, ``[M]``.

        Where nothing is hidden these are all.
        """
        if view.mask is None or self.mask_tokens is None:
            encoded = self.encoder.down(self.encoder.embed(view.tokens.values), view.cells)
            all_of = [torch.ones_like(level.key, dtype=torch.bool) for level in view.cells.levels]
            return self.encoder.up(encoded, view.cells, view.cells), all_of
        kept = view.mask.keep(view.tokens)
        seen = self.encoder.cells(kept.position, kept.valid)
        encoded = self.encoder.down(self.encoder.embed(kept.values), seen)
        unseen = [
            ~known.find(level.key)[1] for known, level in zip(seen.levels, view.cells.levels, strict=True)
        ]
        return self.encoder.up(encoded, seen, view.cells, list(self.mask_tokens)), unseen

    @torch.no_grad()
    def teach(self, view: View) -> list[Tensor]:
        """What the teacher makes of each level of the whole view, normalised: ``[M, C]`` float32."""
        teacher: Any = self.teacher.module
        encoded = teacher.down(teacher.embed(view.tokens.values), view.cells)
        decoded = teacher.up(encoded, view.cells, view.cells)
        return [F.layer_norm(x.float(), x.shape[1:]) for x in decoded]

    def match(self, here: View, there: View, level: int) -> tuple[Tensor, Tensor]:
        """Which cell of the other view each cell is, ``[M]``, and whether it is any."""
        sample = here.cells.levels[level].sample
        moved = self.encoder.locate(there.motion.move(here.place[level], sample))
        found: tuple[Tensor, Tensor] = there.cells.levels[level].find(
            pack(sample, moved.floor().long() >> level)
        )
        return found

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The teacher's features of cells of one view, for each level: ``[S, C]``."""
        found = {}
        for level, x in enumerate(self.teach(self.view(batch, step, 0))):
            some = torch.arange(min(len(x), WATCHED), device=x.device) * len(x) // min(len(x), WATCHED)
            found[f"target {level}"] = x[some]
        return found

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        """Masks over the clouds that the student sees: moved, shaken and cut out."""
        views = [self.view(batch, step, number) for number in (0, 1)]
        return {
            f"view {i}": MaskView(view.mask, view.tokens, view.batch)
            for i, view in enumerate(views, 1)
            if view.mask is not None
        }

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        """The first view, and at the finest and coarsest level what is to be predicted and what was.

        Both views are shown where they came from; features are colours, the same in both.
        """
        one, other = self.view(batch, step, 0), self.view(batch, step, 1)
        predictions, hidden = self.predict(one)
        targets = self.teach(other)
        unseen = {"visible": ~hidden[0], "hidden": hidden[0]}
        columns: dict[str, Sequence[Cloud]] = {
            "view 1 and what is hidden of it": by_cell(one.cells, one.place[0], unseen)
        }
        for level in dict.fromkeys((0, len(targets) - 1)):
            colours = Colours(targets[level])
            guess = self.heads[level](predictions[level]).float()
            guess = colours(F.layer_norm(guess, guess.shape[1:]))
            truth = colours(targets[level])
            everything = {"features": torch.ones_like(truth[:, 0], dtype=torch.bool)}
            parts = {"visible": ~hidden[level], "predicted": hidden[level]}
            size = f"level {level}, cells of {2**level}"
            columns[f"{size}: what the teacher makes of view 2"] = by_cell(
                other.cells, other.place[0], everything, {"features": truth}, level
            )
            columns[f"{size}: what is predicted where view 1 is hidden"] = by_cell(
                one.cells, one.place[0], parts, {"predicted": guess}, level
            )
        return Preview(columns)
