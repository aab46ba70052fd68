"""Scores of predicted points and directions, in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import UserError
from polymask.objectives import SiteMean
from polymask_pointcloud.operations import chamfer


class Chamfer(SiteMean):
    """Chamfer distance between the points of each site (Fan et al. 2017, arXiv 1612.00603).

    The order of the points does not matter.

    Args:
        squared: of squared distances, else of distances (Point-MAE: squared).
        coordinates: numbers per point; those of a site are points one after another.
    """

    # sites of the conformance suite are 8 numbers wide

    def __init__(self, *, squared: bool = True, coordinates: int = 3) -> None:
        if coordinates < 1:
            raise UserError(f"a point has 1 coordinate or more, got {coordinates}")
        self.squared, self.coordinates = squared, coordinates

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        """``[B, N, n * coordinates]`` and ``[B, N, m * coordinates]`` to ``[B, N]``."""
        for name, x in (("prediction", prediction), ("target", target)):
            if x.shape[-1] % self.coordinates:
                raise ValueError(
                    f"the {name} is {list(x.shape)}: no points of {self.coordinates} coordinates"
                )
        x, y = (v.reshape(*v.shape[:-1], -1, self.coordinates) for v in (prediction, target.detach()))
        return chamfer(x, y, squared=self.squared)


class Undirected(SiteMean):
    """One minus squared cosine, for directions of which the sign means nothing."""

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        dtype = torch.promote_types(prediction.dtype, torch.float32)
        return 1 - F.cosine_similarity(prediction.to(dtype), target.detach().to(dtype), dim=-1).square()
