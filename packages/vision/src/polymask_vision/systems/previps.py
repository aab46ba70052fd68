"""PreViPS: Multi-view Video-Pose Pretraining for Operating Room Surgical Activity Recognition (2025).

Match the clip of every camera with the poses that any camera of the same window was found to show, agree on
how alike cameras are by clip and by pose, and predict masked poses as codes; no camera is calibrated.

    polymask recipe vision/previps --data recorded-poses
    polymask pretrain vision/previps --preset small --data recorded-poses --tokenizer.run RUN --target.run RUN

Hamoud et al., arXiv 2502.13883. The recipe trains ``vision/pose-tokenizer``, which names a pose by several
codes, then this. The data are stick figures, whose motion is captured (``recorded-poses``) or made up
(``camera-poses``), before synthetic cameras: nothing here is about real operating rooms.

The authors' code was not to be had. Losses and sizes are those of an unofficial implementation that cites the
paper's equations; sums and means are as it has them. Ours, since nothing tells: the vectors of a pose's codes
side by side are mapped to its token; poses are matched as they are masked, in one pass; a view in which
nobody is seen matches nothing. There, masked poses are decoded from the encoder's input, which teaches it
nothing; here from its output. The paper's video encoder is an MViT; the default is a ViT on tubelets.
Who is who differs from camera to camera, so persons of two views never meet, only what stands for a view.

Matching costs the logarithm of the batch by chance, a little more at first, as temperatures are low. The
geometric terms are 0 where all embeddings are equal, and are refused without matching. As windows differ in
how many persons are masked, ``forward`` waits for the device, and does not compile whole. Exported is the
encoder of poses, for one view at a time; ``encode`` gives a vector for each view and modality there is.

Shapes: B windows, V views, R = B V clips, N persons at times of a window, D width, E what is matched, J codes
of a pose, K codes to choose from.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError, functional
from polymask.config import relative_to_run
from polymask.data import valid_of
from polymask.objectives.matching import require_matching
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.recipes import Stage, divided
from polymask.types import Count, Fact, NotNegative, Share, Whole
from polymask_vision.pose_codes import CodeDecoder
from polymask_vision.poses import Figures
from polymask_vision.stick_figures import storyboards
from polymask_vision.view_matching import Views, match_views


class PreViPS(System):
    """Encoders of clips and of poses whose views are matched, while masked poses are predicted.

    Args:
        tokenizer: makes a token of each person at each time and view.
        encoder: encodes the poses of a view.
        video_tokenizer: cuts a clip into tokens; none for poses alone.
        video_encoder: encodes the clip of a view; none for poses alone.
        target: the codes of each pose; none where nothing is masked.
        masking: which persons at which times to mask (paper: 15 %); none for whole poses.
        objective: how a predicted code is scored.
        match_objective: how views of a batch are matched.
        geometry_objective: how it is scored whether cameras are as alike by clip as by pose.
        match_weight: weight of matching.
        geometry_weight: weight of the geometric terms.
        mask_weight: weight of the masked poses.
        dim: width of what is matched.
        decoder_depth: blocks between the encoder and the codes.
        decoder_heads: their attention heads.
        view_code: add a learned vector for each camera to its poses, where cameras are always the same.
        views: cameras at most, from the data.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        video_tokenizer: Tokenizer | None = None,
        video_encoder: Encoder | None = None,
        target: Target | None = None,
        masking: Masking | None = None,
        objective: Objective,
        match_objective: Objective,
        geometry_objective: Objective,
        match_weight: NotNegative = 1.0,
        geometry_weight: NotNegative = 0.5,
        mask_weight: NotNegative = 0.5,
        dim: Count = 256,
        decoder_depth: Whole = 2,
        decoder_heads: Count = 8,
        view_code: bool = False,
        views: Fact[Count] = 3,
    ) -> None:
        super().__init__()
        if (video_tokenizer is None) != (video_encoder is None):
            raise UserError("a clip needs a tokenizer and an encoder: give both or neither")
        matching = require_matching("previps matches views of a batch", match_objective)
        if not match_weight and (geometry_weight or video_encoder is not None):
            raise UserError(
                "without matching, geometric terms are least where all is equal, and clips teach nothing: "
                "set --geometry_weight 0, --video_encoder none and --video_tokenizer none too"
            )
        if masking is not None and not hasattr(target, "streams"):
            raise UserError(
                "previps predicts codes of masked poses: use --target vision/pose-codes, or --masking none"
            )
        both: tuple[Any, ...] = tokenizer, target
        books = [part.coder.codebook.book for part in both if hasattr(part, "coder")]
        if len(books) == 2 and not torch.equal(*books):
            raise UserError("codes of two runs: give --tokenizer.run and --target.run the same folder")
        if masking is None and not match_weight:
            raise UserError("nothing is matched and nothing masked: give --masking or --match_weight")
        if match_weight and video_encoder is None and views == 1:
            raise UserError("the poses of one view match nothing: add clips, or set --match_weight 0")
        self.tokenizer, self.encoder, self.masking, self.target = tokenizer, encoder, masking, target
        self.video_tokenizer, self.video_encoder = video_tokenizer, video_encoder
        self.objective, self.match_objective = objective, matching
        self.geometry_objective = geometry_objective
        self.match_weight, self.geometry_weight, self.mask_weight = match_weight, geometry_weight, mask_weight
        width = encoder.out_dim
        self.camera = nn.Parameter(torch.empty(views, encoder.dim)) if view_code else None
        self.pose_map = nn.Linear(width, dim, bias=False) if match_weight else None
        self.video_map = None
        if video_encoder is not None:
            self.video_map = nn.Linear(video_encoder.out_dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(encoder.dim)) if masking is not None else None
        if masking is not None:
            codes: Any = target
            self.decoder = CodeDecoder(width, decoder_depth, decoder_heads, codes.streams, codes.dim)
        for parameter in (self.camera, self.mask_token):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens, losses = self.tokenizer(batch), Losses()
        mask = None if self.masking is None else self.draw(tokens, batch, step)
        poses = self.read(tokens, mask, batch)
        if self.match_weight:
            found = self.embed(batch, tokens, poses)
            losses["match"] = self.match_weight * match_views(self.match_objective, found)
            if self.video_encoder is not None and self.geometry_weight:
                video, pose = found["video"], found["pose"]
                both = Mask(video.real & pose.real)
                geometry = self.geometry_objective(video.values, pose.values, both)
                losses["geometry"] = self.geometry_weight * geometry
        if mask is not None:
            logits, ids, real = self.masked_codes(batch, tokens, mask, poses)
            losses["masked"] = self.mask_weight * self.objective(logits, ids, Mask(real))
        return losses

    # ------------------------------------------------------------------------------ encoders

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        mask = super().draw(tokens, batch, step, stream)
        return functional.require_hard_mask("previps", self.masking, mask)

    def read(self, tokens: Tokens, mask: Mask | None, batch: Batch) -> Tokens:
        """Poses of each view, encoded: ``[R, N / V, D]``."""
        x_BND = self.encoder.embed(tokens.values)
        if mask is not None and self.mask_token is not None:
            x_BND = mask.fill(x_BND, self.mask_token)
        if self.camera is not None:
            x_BND = x_BND + self.camera[tokens.position[..., 0].long()].to(x_BND.dtype)
        views = len(x_BND) * batch[self.tokenizer.key].shape[1]
        x, real = x_BND.reshape(views, -1, x_BND.shape[-1]), tokens.real.reshape(views, -1)
        # time and person; which view a person is in is not told by place
        place = tokens.position[..., 1:].reshape(views, -1, tokens.position.shape[-1] - 1)
        seen = real
        if not self.encoder.prefix:
            # somewhere to look at in a view of nobody, whose features count nowhere
            first = torch.arange(real.shape[1], device=real.device) == 0
            seen = real | (first & ~real.any(1, keepdim=True))
        return functional.as_tokens(self.encoder, self.encoder(x, place, seen), Tokens(x, place, valid=real))

    def watch(self, batch: Batch) -> Tensor:
        """Clips of each view, encoded and pooled: ``[B, V, D]``."""
        assert self.video_tokenizer is not None and self.video_encoder is not None
        key = self.video_tokenizer.key
        if key not in batch:
            raise UserError(
                f"previps matches clips with poses, and samples of this data have no {key}: use data that "
                "has it, or --video_encoder none and --video_tokenizer none"
            )
        clips = self.video_tokenizer({key: batch[key].flatten(0, 1)})
        encoded = functional.encode_tokens(self.video_encoder, clips)
        pooled = _stands_for(functional.as_tokens(self.video_encoder, encoded, clips))
        return pooled.view(*batch[key].shape[:2], -1)

    def embed(self, batch: Batch, tokens: Tokens, poses: Tokens) -> dict[str, Views]:
        """What is matched of each view, of length 1, by modality."""
        found = {}
        if self.video_tokenizer is not None:
            video_BVD = self.watch(batch)
            real_BV = valid_of(batch, self.video_tokenizer.key)
            if real_BV is None:
                real_BV = torch.ones_like(video_BVD[..., 0], dtype=torch.bool)
            found["video"] = Views(_mapped(self.video_map, video_BVD), real_BV)
        rows = len(tokens.values)
        pose_BVD = _stands_for(poses).view(rows, -1, self.encoder.out_dim)
        real_BV = tokens.real.view(rows, pose_BVD.shape[1], -1).any(-1)
        found["pose"] = Views(_mapped(self.pose_map, pose_BVD), real_BV)
        return found

    def encode(self, batch: Batch) -> Tokens:
        """What stands for each view, by clip then by pose, ``[B, 2 V, E]``; what is missing is padding."""
        tokens = self.tokenizer(batch)
        found = self.embed(batch, tokens, self.read(tokens, None, batch))
        values = torch.cat([views.values for views in found.values()], dim=1)
        place = torch.arange(values.shape[1], device=values.device, dtype=torch.float32)
        real = torch.cat([views.real for views in found.values()], dim=1)
        return Tokens(values, place.view(1, -1, 1).expand(len(values), -1, -1), valid=real)

    def example(self, n: int, seed: int = 0) -> Batch:
        batch = self.tokenizer.example(n, seed)
        if self.video_tokenizer is not None:
            views, key = batch[self.tokenizer.key].shape[1], self.video_tokenizer.key
            clips = self.video_tokenizer.example(n * views, seed)[key]
            batch[key] = clips.view(n, views, *clips.shape[1:])
        return batch

    def masked_codes(
        self, batch: Batch, tokens: Tokens, mask: Mask, poses: Tokens
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[B, M, J, K]``, codes ``[B, M, J]`` of masked poses; which are real, bool ``[B, M]``."""
        codes: Any = self.target
        ids = codes(batch, tokens).view(*tokens.shape, codes.streams)
        features = self.decoder(poses).reshape(*tokens.shape, -1)
        kept, wanted = (mask.invert().keep(dataclasses.replace(tokens, values=x)) for x in (features, ids))
        return self.decoder.logits(kept.values), wanted.values, kept.real

    # ------------------------------------------------------------------------------- reports

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens, told = self.tokenizer(batch), dict[str, Tensor]()
        mask = None if self.masking is None else self.draw(tokens, batch, step)
        poses = self.read(tokens, mask, batch)
        if self.match_weight:
            found = self.embed(batch, tokens, poses)
            told = {name: views.values[:, 0] for name, views in found.items()}
        if mask is not None:
            logits, ids, real = self.masked_codes(batch, tokens, mask, poses)
            told["masked codes that are right"] = Mask(real).mean((logits.argmax(-1) == ids).float().mean(-1))
        return told

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        codes: Any = self.target
        if self.masking is None:
            return Preview()
        tokens, figures = self.tokenizer(batch), Figures.of(batch)
        mask = self.draw(tokens, batch, step)
        logits, _, _ = self.masked_codes(batch, tokens, mask, self.read(tokens, mask, batch))
        guess = functional.at_hidden(logits.argmax(-1).float(), mask).long()
        hidden = mask.hidden.view(figures.seen.shape[:-1])
        boxed = codes.joints(guess).view_as(figures.joints)
        joints = torch.where(hidden[..., None, None], figures.placed(boxed), batch["pose"])
        return Preview(
            {
                "poses": storyboards(batch["pose"], figures.seen, hidden),
                "visible": storyboards(batch["pose"], figures.seen & ~hidden[..., None]),
                "masked, as the codes predicted say, in their boxes": storyboards(
                    joints, figures.seen | hidden[..., None], hidden
                ),
            }
        )


def _stands_for(tokens: Tokens) -> Tensor:
    """One vector for all tokens, ``[R, D]``: the class token, or their mean."""
    return tokens.pool("mean" if tokens.prefix is None else "prefix")


def _mapped(linear: nn.Module | None, x: Tensor) -> Tensor:
    """Of length 1."""
    return F.normalize((x if linear is None else linear(x)).float(), dim=-1)


def previps(
    stage: Stage,
    /,
    *,
    preset: str = "small",
    steps: Count | None = None,
    share: Share = 0.4,
) -> None:
    """A tokenizer of poses, and a system that predicts its codes.

    Args:
        stage: trains a run.
        preset: of both stages.
        steps: of both stages together; by default those of their presets.
        share: of these steps that are the tokenizer's.
    """
    first, second = ({}, {}) if steps is None else ({"steps": n} for n in divided(steps, share))
    tokenizer = stage("pose-tokenizer", "vision/pose-tokenizer", preset=preset, **first)
    run = relative_to_run(tokenizer.folder.name)
    codes = {"tokenizer.run": run, "target.run": run}
    stage("previps", "vision/previps", preset=preset, **codes, **second)
