"""Features of cells as colours: what is alike looks alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polymask_pointcloud.display import Cloud
from polymask_pointcloud.stages import Cells

_SPREAD = 2.0
"""Standard deviations that colours reach to either side of grey."""


class Colours:
    """Colours by the three directions in which features differ most.

    Args:
        features: ``[M, C]`` that the directions are found on.
    """

    def __init__(self, features: Tensor) -> None:
        x = features.detach().float()
        self.mean = x.mean(0)
        _, size, directions = torch.linalg.svd(x - self.mean, full_matrices=False)
        self.directions = torch.zeros(x.shape[1], 3, device=x.device)
        self.directions[:, : len(directions[:3])] = directions[:3].T
        self.reach = max(_SPREAD * float(size[0]) / len(x) ** 0.5, 1e-12)

    def __call__(self, features: Tensor) -> Tensor:
        """``[M, C]`` to red, green and blue ``[M, 3]`` in [0, 1]; alike for the same features."""
        place: Tensor = (features.detach().float() - self.mean) @ self.directions
        return torch.clamp(0.5 + 0.5 * place / self.reach, 0, 1)


def by_cell(
    cells: Cells,
    place: Tensor,
    layers: Mapping[str, Tensor],
    colours: Mapping[str, Tensor] | None = None,
    level: int = 0,
) -> list[Cloud]:
    """A display of each sample: its finest cells, by what holds for the cells around them at a level.

    Args:
        cells: of a batch.
        place: ``[M, 3]`` of the finest cells.
        layers: which cells of the level are in it, bool ``[M']``, by name.
        colours: of the cells of the level, ``[M', 3]`` in [0, 1], by name of the layer.
        level: the number of the level.
    """
    sample = cells.levels[0].sample
    around = torch.arange(len(sample), device=sample.device)
    for finer in cells.levels[:level]:
        assert finer.parent is not None
        around = finer.parent[around]
    found = []
    for row in range(int(sample.max()) + 1):
        parts = {name: (sample == row) & which[around] for name, which in layers.items()}
        shown = {name: colour[around[parts[name]]] for name, colour in (colours or {}).items()}
        found.append(Cloud({name: place[part] for name, part in parts.items()}, shown))
    return found
