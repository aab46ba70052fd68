"""Pictures of clouds: what is hidden is coloured, what is nearer is darker."""

from __future__ import annotations

import numpy as np
import torch

from polymask import Tokens
from polymask_pointcloud.datasets.draw import HIDDEN, SEEN, SIDE, by_token, scatter
from polymask_pointcloud.tokenizers import UNIT


def colours(picture: torch.Tensor) -> torch.Tensor:
    """Of all pixels that are not paper, ``[n, 3]``."""
    return picture.flatten(1).T[picture.flatten(1).amin(0) < 0.98]


def places(picture: torch.Tensor) -> torch.Tensor:
    return (picture.amin(0) < 0.98).nonzero().double().mean(0)


def test_up_is_up_and_the_whole_cloud_is_on_the_picture() -> None:
    frame = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    both = scatter(100 * frame + 7)
    assert both.shape == (3, SIDE, SIDE) and both.min() >= 0 and both.max() <= 1
    rows, columns = (both.amin(0) < 0.98).nonzero().unbind(1)
    assert min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < SIDE - 1
    heavy_top = torch.cat([frame, torch.tensor([[0, 0, 1.0]]).repeat(30, 1) + 0.05 * torch.randn(30, 3)])
    assert places(scatter(heavy_top))[0] < places(both)[0] - 5
    heavy_right = torch.cat([frame, torch.tensor([[1.0, 0, 0]]).repeat(30, 1) + 0.05 * torch.randn(30, 3)])
    assert places(scatter(heavy_right))[1] > places(both)[1] + 5


def test_hidden_points_are_coloured_and_nearer_ones_darker() -> None:
    points = torch.tensor([[0.0, -1, 0], [0, 1, 0]]).repeat(50, 1) + 0.02 * torch.randn(
        100, 3, generator=torch.Generator().manual_seed(0)
    )
    seen, hidden = scatter(points), scatter(points, torch.ones(100))
    hue = np.array(HIDDEN) / np.linalg.norm(HIDDEN)
    darkest = colours(hidden)[colours(hidden).sum(1).argmin()].numpy()
    assert (darkest / np.linalg.norm(darkest)) @ hue > 0.99
    grey = colours(seen)
    assert (grey.amax(1) - grey.amin(1)).max() < 0.02 and grey.amin() < SEEN[0]
    # however near, what is seen is lighter than what is hidden; edges of points fade into the paper
    inner = [found[found.sum(1) <= found.sum(1).median()] for found in (colours(hidden), grey)]
    assert inner[0].sum(1).max() < inner[1].sum(1).min()
    # the near end is below the far one as the camera looks down, and darker
    rows = (seen.amin(0) < 0.98).nonzero()[:, 0]
    near, far = seen[0][rows.max() - 3 : rows.max()].amin(), seen[0][rows.min() : rows.min() + 4].amin()
    assert near < far


def test_a_point_is_hidden_as_its_nearest_token_is() -> None:
    centres = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0.4, 0, 0]]])
    valid = torch.tensor([[True, True, False]])
    points = torch.tensor([[0.1, 0, 0], [0.9, 0.2, 0], [0.45, 0, 0]])
    hidden = torch.tensor([0.0, 1.0, 0.5])
    tokens = Tokens(torch.zeros(1, 3, 3), centres / UNIT, valid=valid)
    assert by_token(points, tokens, hidden).tolist() == [0, 1, 0]
    # pillars have no height
    flat = Tokens(torch.zeros(1, 3, 3), centres[..., :2] / UNIT)
    high = points + torch.tensor([0, 0, 9.0])
    assert by_token(high, flat, hidden).tolist() == [0, 1, 0.5]
