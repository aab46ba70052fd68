"""What reaches a system has the size that its preset claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from polymask.config import RunConfig
from polymask.data import collate
from polymask.plugins.registry import default_registry
from polymask_pointcloud import presets

MAE, GEOMAE, MSM = "pointcloud/mae", "pointcloud/geomae", "pointcloud/msm"


class Size(NamedTuple):
    """What a preset claims.

    Args:
        metres: whether places keep the unit of the data; else they are in the unit sphere.
        points: of a sample; None for all of its file.
        features: beside the place of a point.
        cell: sides of a token; a number of tokens where these are groups.
    """

    metres: bool
    points: int | None
    features: int
    cell: tuple[float, float, float] | int


SIZES = {
    (MAE, "paper"): Size(False, 1024, 0, 64),
    (MAE, "small"): Size(False, 1024, 0, 64),
    (MAE, "fast"): Size(False, 1024, 0, 64),
    (MAE, "small-voxels"): Size(False, 1024, 0, (0.25, 0.25, 0.25)),
    (GEOMAE, "paper"): Size(True, None, 1, (0.256, 0.256, 8.0)),
    (GEOMAE, "small"): Size(False, 1024, 0, (0.25, 0.25, 0.25)),
    (MSM, "paper"): Size(True, None, 6, (0.02, 0.02, 0.02)),
    (MSM, "small"): Size(False, 1024, 0, (0.125, 0.125, 0.125)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms of 3,000 points, eight metres wide, with all features."""
    root = tmp_path_factory.mktemp("rooms")
    for i in range(3):
        random = np.random.default_rng(i)
        normals = random.standard_normal((3000, 3))
        np.savez(
            root / f"{i}.npz",
            points=random.uniform((-4, -4, -1), (4, 4, 2), (3000, 3)),
            normals=normals / np.linalg.norm(normals, axis=1, keepdims=True),
            colour=random.integers(0, 256, (3000, 3), dtype=np.uint8),
            intensity=random.random(3000),
        )
    return root


def test_every_preset_of_a_system_is_known() -> None:
    parts = [p for p in default_registry().parts("systems") if p.full_name in (MAE, GEOMAE, MSM)]
    assert {(p.full_name, name) for p in parts for name in p.presets} - SIZES.keys() == {
        (p.full_name, "tiny") for p in parts
    }


@pytest.mark.parametrize(("system", "preset"), SIZES)
def test_what_reaches_a_system_is_what_its_preset_claims(system: str, preset: str, folder: Path) -> None:
    size = SIZES[system, preset]
    config: dict[str, Any] = {"system": system, "preset": preset, "data": f"folder:{folder}"}
    run = RunConfig.resolve(config)
    assert run.data is not None
    data = run.data.build()
    batch = collate([data.split("train")[i] for i in range(2)])
    points = batch["points"]
    assert points.shape[1:] == (size.points or 3000, 3 + size.features)
    place, rest = points[..., :3].double(), points[..., 3:]
    width = 8.0 if size.metres else 2.0
    assert 0.9 * width < float((place.amax(1) - place.amin(1))[:, 0].min()) <= width + 1e-6 or not size.metres
    if not size.metres:
        assert float(place.norm(dim=2).max()) == pytest.approx(1, abs=1e-5)
    assert float(rest.abs().sum()) == 0 if not size.features else 0.4 < float(rest.abs().mean()) < 0.6
    tokens = run.system.options["tokenizer"].build(data.provides)(batch)
    if isinstance(size.cell, int):
        assert tokens.shape == (2, size.cell)
        return
    assert tokens.valid is not None
    low = torch.tensor(MINIMA.get((system, preset), (-1.0, -1.0, -1.0)), dtype=torch.float64)
    cells = ((place - low) / torch.tensor(size.cell, dtype=torch.float64)).floor()
    assert tokens.valid.sum(1).tolist() == [len(row.unique(dim=0)) for row in cells]


MINIMA = {
    (system, preset): found[preset]["tokenizer.low"]
    for system, found in ((GEOMAE, presets.GEOMAE), (MSM, presets.MSM))
    for preset in found
    if "tokenizer.low" in found[preset]
}
