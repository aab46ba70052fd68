"""Blocks of neighbours in a cloud, and cells of space; the past of a motion, its end, or joints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polymask import Mask, Request, UserError
from polymask.maskings.choose import check_ratio, hidden_counts, hide_last_valid, unique_keys
from polymask.maskings.ranking import Ranking
from polymask.types import Count, Fact, Share
from polymask_pointcloud.operations.sparse import MIDDLE, pack
from polymask_pointcloud.tokenizers import UNIT


class Neighbours(Ranking):
    """Hide the tokens nearest to randomly chosen ones, exactly the given share of each sample.

    With one block this is the block masking of Point-BERT (Yu et al. 2022, arXiv 2111.14819). With more, each
    token goes by its nearest block, so that blocks grow alike. Tokens inside a cloud are hidden more often
    than those at its edge.

    Args:
        ratio: share of tokens to hide, in (0, 1).
        blocks: how many.
    """

    def __init__(self, *, ratio: float = 0.6, blocks: int = 1) -> None:
        if blocks < 1:
            raise UserError(f"blocks must be 1 or more, got {blocks}")
        self.ratio, self.blocks = check_ratio(ratio), blocks

    def rank(self, request: Request) -> Tensor:
        """Tokens by their distance to the nearest chosen one."""
        position = request.position
        if position is None:
            raise UserError("neighbours need to know where tokens lie: this tokenizer gives no positions")
        if self.blocks > request.sites:
            raise UserError(f"{self.blocks} blocks of {request.sites} tokens: choose fewer")
        bits = request.step.bits(request.ids, request.sites, request.stream)
        keys = unique_keys(bits)
        if request.valid is not None:
            keys = torch.where(request.valid, keys, -1)
        chosen = keys.topk(self.blocks, dim=1).indices
        place = position.detach().double()
        centre = place.gather(1, chosen[..., None].expand(-1, -1, place.shape[2]))
        squared = (place[:, :, None] - centre[:, None]).square().sum(-1)
        if request.valid is not None:  # a row of fewer tokens than blocks
            squared = squared.masked_fill(~request.valid.gather(1, chosen)[:, None], torch.inf)
        return unique_keys(bits, -squared.amin(2))


class Hierarchy:
    """Hide whole cells of space with all that is in them, the given share of the cells of each sample.

    The bottom-up masking of Masked Scene Modeling (Hermosilla et al. 2025, arXiv 2504.06719): decided for
    the coarsest cells of a U-Net and handed down, so that a cell of any size is hidden wholly or not at all.
    Its top-down masking, which the paper warns of, decides for the finest: ``core/random``. With that
    almost no coarse cell is hidden, and each tells what is missing in it.

    Cells hold different numbers of tokens, so samples differ in how many are hidden. At least one cell is
    hidden and one stays, but a sample that lies in a single cell is not masked.

    Args:
        ratio: share of the occupied coarse cells to hide, in (0, 1).
        stride: finest cells in a coarse one along each axis; from the encoder where it has such cells.
        cell_low: lower corner of the box that the tokenizer's cells fill; 0 for other tokens.
        cell_size: of the finest cell; for other tokens one token unit.
    """

    def __init__(
        self,
        *,
        ratio: float = 0.4,
        stride: Fact[Count] = 8,
        cell_low: Fact[Sequence[float] | None] = None,
        cell_size: Fact[Sequence[float] | None] = None,
    ) -> None:
        if stride < 1:
            raise UserError(f"stride must be 1 or more cells, got {stride}")
        self.ratio, self.stride = check_ratio(ratio), stride
        self.low = (0.0,) * 3 if cell_low is None else tuple(float(x) for x in cell_low)
        self.size = (UNIT,) * 3 if cell_size is None else tuple(float(s) for s in cell_size)

    def __call__(self, request: Request) -> Mask:
        cell = self.cell(request)
        site = torch.arange(request.sites, device=cell.device)
        # the first token of each cell stands for it: its number does not depend on what follows
        ordered, order = cell.sort(dim=1, stable=True)
        begins = torch.ones_like(ordered, dtype=torch.bool)
        begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        leader = order.gather(1, torch.where(begins, site, 0).cummax(1).values)
        leader = torch.empty_like(leader).scatter(1, order, leader)
        leads = leader == site
        if request.valid is not None:
            leads &= request.valid
        counts = hidden_counts(self.ratio, leads)
        if bool((counts == 0).all()):
            raise UserError(
                f"every sample lies in one cell of {self.stride} tokens a side: choose a smaller stride "
                "(fewer levels), or smaller voxels"
            )
        keys = unique_keys(request.step.bits(request.ids, request.sites, request.stream))
        hidden = hide_last_valid(keys, counts, leads).hidden.gather(1, leader)
        if request.valid is not None:
            hidden &= request.valid
        return Mask(hidden, None, request.valid)

    def cell(self, request: Request) -> Tensor:
        """The coarse cell of each token, int64 ``[B, sites]``; that of padding is none of a token's."""
        position = request.position
        if position is None:
            raise UserError("cells need to know where tokens lie: this tokenizer gives no positions")
        axes = min(position.shape[2], 3)
        low, size = (
            torch.tensor(v[:axes], dtype=torch.float64, device=position.device) for v in (self.low, self.size)
        )
        index = ((position[..., :axes].detach().double() * UNIT - low) / size).floor().long()
        index = torch.nn.functional.pad(index, (0, 3 - axes)) // self.stride + MIDDLE
        cell = pack(torch.zeros_like(index[..., 0]), index)
        return cell if request.valid is None else torch.where(request.valid, cell, 1 << 62)


class Observed:
    """Hide all of a motion but its first frames, its last ones, and some joints: the same in every sample.

    Args:
        past: share of the frames that are seen at the start.
        end: share of the frames that are seen at the end.
        joints: numbers of joints that are seen in all frames; tokens are joints of frames then.
    """

    def __init__(self, *, past: Share = 0.2, end: Share = 0.0, joints: Sequence[int] = ()) -> None:
        self.past, self.end, self.joints = past, end, list(joints)

    def __call__(self, request: Request) -> Mask:
        if request.valid is not None or request.grid is None:
            raise UserError("observed frames need tokens on a grid, time first, without padding")
        frames, per_frame = request.grid[0], request.sites // request.grid[0]
        if self.joints and (len(request.grid) != 2 or not all(0 <= j < per_frame for j in self.joints)):
            raise UserError(
                f"joints {self.joints} are to be seen, and tokens lie on a grid {tuple(request.grid)}: give "
                "numbers from 0 below the joints there are, and let tokens be joints (--tokenizer "
                "pointcloud/joints)"
            )
        hidden = torch.ones(frames, per_frame, dtype=torch.bool, device=request.ids.device)
        first, last = round(self.past * frames), round(self.end * frames)
        hidden[:first] = hidden[frames - last :] = hidden[:, self.joints] = False
        count = (frames - first - last) * (per_frame - len(set(self.joints)))
        visible = request.sites - count
        if not 0 < count < request.sites:
            raise UserError(
                f"past={self.past:g}, end={self.end:g} and joints={self.joints} leave {visible} of "
                f"{request.sites} sites visible: let some be seen, and some not"
            )
        return Mask(hidden.flatten().expand(len(request.ids), -1), visible)
