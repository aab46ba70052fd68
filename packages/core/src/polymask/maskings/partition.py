"""Sites dealt out among several samples."""

from __future__ import annotations

import torch

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings.choose import places, unique_keys
from polymask.protocols import Request


class Partition:
    """Groups of samples, each site visible in one sample of its group and hidden in the others.

    Laid over each other, the visible sites of a group make one whole sample in which every site
    comes from one of them (Chen et al. 2023, MixedAE, arXiv 2303.17152). By itself each sample's mask
    is uniformly random, of ratio 1 - 1 / ``group``; where the sites do not divide, those left over
    are hidden in all.

    Groups are consecutive rows of a batch and draw by the id of their first sample, so a mask depends
    on the sample's place in the batch. A last group that is not full shows what its samples would show
    in a full one. Streams v, up to ``group``, of one draw hand each sample what its neighbour v rows
    on showed: together they show all of every sample.

    Args:
        group: how many samples share the sites.
    """

    def __init__(self, *, group: int = 4) -> None:
        if group < 2:
            raise UserError(f"a group must be of 2 samples or more, got {group}")
        self.group = group

    def __call__(self, request: Request) -> Mask:
        if request.valid is not None:
            raise UserError("core/partition needs samples of equal size; this batch is padded")
        visible = request.sites // self.group
        if not visible:
            raise UserError(
                f"{request.sites} sites are too few for {self.group} samples to share; choose a smaller group"
            )
        draw, turn = divmod(request.stream, self.group)
        bits = request.step.bits(request.ids[:: self.group], request.sites, draw)
        owner_GN = places(unique_keys(bits), None) // visible
        rows = torch.arange(len(request.ids), device=bits.device)
        owner_BN = owner_GN.repeat_interleave(self.group, dim=0)[: len(rows)]
        return Mask(owner_BN != ((rows + turn) % self.group)[:, None], visible)
