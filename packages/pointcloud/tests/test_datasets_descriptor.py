"""What is said of clouds without learning, the rival of what is learned."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from polymask.data import length_key, open_data

DATA = open_data("pointcloud/shapes", limit=8)


def disc(n: int = 500) -> Tensor:
    radius, angle = (
        torch.arange(1, n + 1).sqrt() / math.sqrt(n),
        torch.arange(n) * math.pi * (3 - math.sqrt(5)),
    )
    return torch.stack([radius * angle.cos(), radius * angle.sin(), torch.zeros(n)], dim=-1)


def described(points: Tensor) -> dict[str, Tensor]:
    """Distances, extent, spread, bend and level of one cloud."""
    found = DATA.descriptor({"points": points[None]})[0]
    assert found.shape == (54,)
    return dict(
        zip(("distance", "extent", "spread", "bend", "level"), found.split([32, 3, 3, 8, 8]), strict=True)
    )


def test_a_disc_is_flat_and_level_and_a_wall_is_flat_and_upright() -> None:
    level, wall = described(disc()), described(disc().roll(1, dims=-1))
    assert level["bend"].tolist() == [8] + [0] * 7 == wall["bend"].tolist()
    assert level["level"].tolist() == [0] * 7 + [8] and wall["level"].tolist() == [8] + [0] * 7
    assert level["extent"].tolist() == pytest.approx([2, 2, 0], abs=0.1)
    assert level["spread"].tolist() == pytest.approx([0.5, 0.5, 0], abs=0.01)
    assert torch.equal(level["distance"], wall["distance"])


def test_noise_that_fills_space_bends() -> None:
    noise = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    found = described(noise)
    assert float(found["bend"][:2].sum()) < 2 and float(found["bend"].sum()) == pytest.approx(8)


def test_what_pads_a_cloud_says_nothing() -> None:
    short = disc(20)
    batch = {
        "points": torch.stack([pad(short, (0, 0, 0, 480), value=3.0), disc()]),
        length_key("points"): torch.tensor([20, 500]),
    }
    together = DATA.descriptor(batch)
    alone = torch.stack([DATA.descriptor({"points": points[None]})[0] for points in (short, disc())])
    torch.testing.assert_close(together, alone)


def test_a_cloud_of_fewer_points_than_a_neighbourhood_has_a_descriptor() -> None:
    assert DATA.descriptor({"points": disc(3)[None]}).isfinite().all()
