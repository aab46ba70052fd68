"""DMT-JEPA: discriminative masked targets (Mo and Yun 2024, arXiv 2405.17995).

vision/ijepa, except that the target of a patch is not the teacher's feature of it but a learned summary of
those of its neighbours that the teacher finds most similar to it: 4 of the 8 around it. The patch itself
takes part in the choice alone.

    polymask pretrain vision/dmt-jepa --preset small --data fashion-mnist

Two cross-attention blocks summarise, starting from the mean feature of the image. The student has such
blocks too, which attend from the mean of the context to all of it before the predictor; those that make
targets follow them as an EMA and get no gradient. The paper's text was not at hand: this is the released
code, except where that starts a patch's summary from the mean of another image of the batch (``--query
tiled``) and lets windows reach around the border to the other side (``--border wrap``). Weights of the blocks
start as others do here; the release draws them with standard deviation 0.02.

Shapes: B samples, N tokens, K in the context, W neighbours in a window, S of them chosen, D encoder width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Step, Tokens, UserError
from polymask.nn.blocks import Block, initialise
from polymask.nn.teachers import EMATeacher
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Share
from polymask_vision.systems.ijepa import IJEPA

DEPTH = 2
"""Cross-attention blocks of a summary."""


class DMTJEPA(IJEPA):
    """Predicts summaries of like neighbours, in an EMA teacher's features, from a context block.

    Args:
        tokenizer: cuts the input into tokens of a grid.
        encoder: encodes the context alone (paper: without a class token).
        masking: draws context and targets, as core/multi-block does; with a masking of one mask per sample,
            the context is what it leaves visible and the only target what it hides.
        objective: how a prediction is scored over the patches of a target (release: smooth L1).
        score: score per token, for maskings that need one.
        neighbours: patches that a target summarises (paper: 4).
        window: patches along a side of the window that they are chosen from (paper: 3).
        border: what lies beyond the border of the image: nothing (``"clip"``), or its other side (``"wrap"``,
            as released). Where fewer than ``neighbours`` patches remain, the target summarises those.
        query: where a summary starts: the mean feature of the same ``"image"``, or, as released, means of the
            images of the batch in turn (``"tiled"``), so that targets depend on other samples.
        heads: attention heads of the summary (release: those of the encoder).
        momentum: EMA momentum of both teachers at the start of the run.
        final_momentum: momentum at its end; it rises linearly.
        predictor_dim: width of the predictor (paper: 384).
        predictor_depth: blocks of the predictor (paper: 6 behind ViT-B, 12 behind larger ones).
        predictor_heads: attention heads of the predictor (release: those of the encoder).
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        score: Target | None = None,
        neighbours: Count = 4,
        window: Count = 3,
        border: Literal["clip", "wrap"] = "clip",
        query: Literal["image", "tiled"] = "image",
        heads: Count = 12,
        momentum: Share = 0.996,
        final_momentum: Share = 1.0,
        predictor_dim: Count = 384,
        predictor_depth: Count = 6,
        predictor_heads: Count = 12,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            encoder=encoder,
            masking=masking,
            objective=objective,
            score=score,
            momentum=momentum,
            final_momentum=final_momentum,
            predictor_dim=predictor_dim,
            predictor_depth=predictor_depth,
            predictor_heads=predictor_heads,
        )
        if border not in ("clip", "wrap"):
            raise UserError(f"border={border!r}: choose 'clip' or 'wrap'")
        if query not in ("image", "tiled"):
            raise UserError(f"query={query!r}: choose 'image' or 'tiled'")
        grid = tokenizer.provides.get("grid")
        if grid is None or len(grid) != 2:
            raise UserError("dmt-jepa needs tokens on a grid of rows and columns, which these are not")
        index_NW, inside_NW = windows(grid, window, wrap=border == "wrap")
        if not 1 <= neighbours <= index_NW.shape[1]:
            raise UserError(
                f"a window of {window} x {window} has {index_NW.shape[1]} neighbours, of which {neighbours} "
                "cannot be chosen: give another --neighbours or --window"
            )
        if encoder.out_dim % heads:
            raise UserError(f"encoder width {encoder.out_dim} is not divisible by {heads} heads")
        self.neighbours, self.query = neighbours, query
        self.register_buffer("window_index", index_NW, persistent=False)
        self.register_buffer("inside", inside_NW, persistent=False)
        self.window_index: Tensor
        self.inside: Tensor
        self.summary = Summary(encoder.out_dim, heads)
        self.summary_teacher = EMATeacher(
            self.summary, momentum=momentum, final=final_momentum, curve="linear"
        )

    @torch.no_grad()
    def latents(self, batch: Batch, tokens: Tokens) -> Tensor:
        h_BND = super().latents(batch, tokens)
        chosen_BNS, real_BNS = self.alike(h_BND)
        b, n, d = h_BND.shape
        rows = torch.arange(b, device=h_BND.device)[:, None, None]
        members = h_BND[rows, chosen_BNS].flatten(0, 1)
        mean_BD = h_BND.mean(dim=1)
        start = mean_BD.repeat_interleave(n, 0) if self.query == "image" else mean_BD.repeat(n, 1)
        teacher: Any = self.summary_teacher.module
        made: Tensor = teacher(start[:, None], members, real_BNS.flatten(0, 1))
        return made.view(b, n, d)

    def alike(self, h_BND: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens ``[B, N, S]`` of each window most similar to its centre, and which are there at all."""
        unit_BND = F.normalize(h_BND, dim=-1)
        similarity_BNW = torch.einsum("bnd,bnwd->bnw", unit_BND, unit_BND[:, self.window_index])
        similarity_BNW = similarity_BNW.masked_fill(~self.inside, -torch.inf)
        best = similarity_BNW.topk(self.neighbours, dim=-1)
        index_BNW = self.window_index.expand(len(h_BND), -1, -1)
        return index_BNW.gather(2, best.indices), best.values > -torch.inf

    def encode_context(self, seen: Tokens) -> Tensor:
        valid = None if seen.valid is None else F.pad(seen.valid, (self.encoder.prefix, 0), value=True)
        return self.summary.spread(super().encode_context(seen), valid)

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        self.summary_teacher.follow(self.summary, step)


class Summary(nn.Module):
    """Cross-attention from one query to a set of features, without positions.

    Args:
        dim: width.
        heads: attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(Block(dim, heads) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise(self)

    def forward(self, query: Tensor, members: Tensor, real: Tensor) -> Tensor:
        """The summary ``[R, 1, D]``, like the query, of features ``[R, S, D]`` where ``real [R, S]``."""
        attend = F.pad(real, (1, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            query = block(query, attn_mask=attend, context=torch.cat([query, members], dim=1))
        summary: Tensor = self.norm(query)
        return summary

    def spread(self, z_BKD: Tensor, valid: Tensor | None) -> Tensor:
        """The features ``[B, K, D]``, with what their mean attends to added to each."""
        weight = z_BKD.new_ones(z_BKD.shape[:2]) if valid is None else valid.to(z_BKD.dtype)
        attend = None if valid is None else F.pad(valid, (1, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            mean_B1D = torch.einsum("bk,bkd->bd", weight, z_BKD)[:, None] / weight.sum(1)[:, None, None]
            context = block.norm1(torch.cat([mean_B1D, z_BKD], dim=1))
            z_BKD = z_BKD + block.attn(context[:, :1], context, attend)
            z_BKD = z_BKD + block.mlp(block.norm2(z_BKD))
        spread: Tensor = self.norm(z_BKD)
        return spread


def windows(grid: tuple[int, int], side: int, wrap: bool) -> tuple[Tensor, Tensor]:
    """The sites around each site of a grid, itself left out, and which of them lie on the grid.

    Args:
        grid: rows and columns.
        side: sites along a side of the window, an odd number.
        wrap: join opposite borders.

    Returns:
        int64 and bool, ``[rows * columns, side**2 - 1]``; the index of a site that is not on the grid is 0.

    Raises:
        UserError: the side is even, or below 3.
    """
    if side < 3 or side % 2 == 0:
        raise UserError(f"window must be an odd number of patches, 3 or more, got {side}")
    reach = torch.arange(side) - side // 2
    offset = torch.cartesian_prod(reach, reach)
    offset = offset[(offset != 0).any(1)]
    size = torch.tensor(grid)
    site = torch.cartesian_prod(*(torch.arange(n) for n in grid))
    around = site[:, None] + offset
    inside = ((around >= 0) & (around < size)).all(-1)
    if wrap:
        around, inside = around % size, torch.ones_like(inside)
    index = around[..., 0] * grid[1] + around[..., 1]
    return torch.where(inside, index, 0), inside
