"""Points that cover a cloud."""

from __future__ import annotations

import torch
from torch import Tensor


def farthest_points(points: Tensor, count: int, valid: Tensor | None = None) -> Tensor:
    """Farthest-point sampling (Eldar et al. 1997): each pick is the point farthest from all before it.

    The first pick is the first real point, and ties go to the lower index. Once every place of a cloud is
    picked, its first point is picked again.

    Args:
        points: ``[B, N, 3]``.
        count: how many to pick.
        valid: bool ``[B, N]``, at least one True per row; None where nothing is padded.

    Returns:
        int64 ``[B, count]``, in the order of picking.
    """
    points = points.detach().float()
    # coordinates apart: sums over a last axis of 3 are several times slower on a CPU
    x, y, z = points.unbind(-1)
    if valid is None:
        left = torch.full_like(x, torch.inf)
        pick = torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
    else:
        left = torch.where(valid, torch.inf, -torch.inf)
        pick = valid.to(torch.uint8).argmax(dim=1, keepdim=True)
    first, picks = pick, [pick]
    for _ in range(count - 1):
        squared = (x - x.gather(1, pick)).square_()
        squared += (y - y.gather(1, pick)).square_()
        squared += (z - z.gather(1, pick)).square_()
        left = torch.minimum(left, squared)
        most, pick = left.max(dim=1, keepdim=True)
        # max may answer with any of several that are equal, which matters where nothing is left
        pick = torch.where(most > 0, pick, first)
        picks.append(pick)
    return torch.cat(picks, dim=1)
