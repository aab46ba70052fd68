"""What is claimed of point clouds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claims.claim import Claim
from claims.decoders import light_decoder

NONE = {
    "centroid_weights": (0.0, 0.0, 0.0),
    "occupancy_weights": (0.0, 0.0),
    "normal_weight": 0.0,
    "curvature_weight": 0.0,
}

MSM = {
    "no mask": {"masking": None},
    "top-down": {"masking": "core/random", "masking.ratio": 0.4},
    "bottom-up": {"masking": "pointcloud/hierarchy", "masking.ratio": 0.4},
}

CAD = {"name": "pointcloud/cad", "per_class": 150}
FEW = {"labels_per_class": 10}

DENSE = {"name": "pointcloud/dense", "points": 50}
"""Neighbours in a tile say much the same: 50 points of each tell it as well as all, and sooner."""


def geomae(**weights: Any) -> Mapping[str, Any]:
    """GeoMAE with some of its targets, all by default."""
    return {"system": "pointcloud/geomae", **(NONE if weights else {}), **weights}


GEOMAE = {
    "points of the same tokens": {"system": "pointcloud/mae", "preset": "small-voxels"},
    "centroid of the token alone": geomae(centroid_weights=(0.0, 0.0, 10.0)),
    "centroids alone": geomae(centroid_weights=(10.0, 8.0, 10.0)),
    "occupancy alone": geomae(occupancy_weights=(5.0, 2.0)),
    "normals alone": geomae(normal_weight=4.0),
    "curvature alone": geomae(curvature_weight=4.0),
    "all four": geomae(),
}

FUTURES = {"name": "pointcloud/futures", "futures": 10, "steps": 50, "limit": 40, "batch_size": 40}

CLAIMS: dict[str, Claim] = {
    "pointcloud/geomae": Claim(
        text="Telling the geometry of hidden tokens, their centroids, occupancy, normals and curvature, "
        "teaches more than predicting the points that they hold (GeoMAE, arXiv 2305.08808)",
        config={"data": CAD, "preset": "small", "steps": 900, "batch_size": 16},
        variants=GEOMAE,
        about=("all four",),
        probe=FEW,
        measure="linear",
    ),
    "pointcloud/geomae-scenes": Claim(
        text="Telling the geometry of hidden tokens of real scenes teaches more of what each point is than "
        "predicting the points that they hold (GeoMAE, arXiv 2305.08808)",
        config={"data": "pointcloud/scenes", "preset": "small", "steps": 250, "batch_size": 16},
        variants=GEOMAE,
        about=("all four",),
        evaluation=DENSE,
        measure="mIoU",
    ),
    "pointcloud/mae-fast": light_decoder(
        "pointcloud/mae",
        config={"data": CAD, "steps": 400, "batch_size": 16},
        probe=FEW,
        measure="linear",
    ),
    "pointcloud/msm": Claim(
        text="Predicting features of another view teaches more when something is hidden, and most when whole "
        "coarse cells are, with all voxels in them (Masked Scene Modeling, arXiv 2504.06719)",
        config={"data": CAD, "preset": "small", "system": "pointcloud/msm", "steps": 400, "batch_size": 16},
        variants=MSM,
        about=("bottom-up", "top-down"),
        measure="linear",
    ),
    "pointcloud/msm-scenes": Claim(
        text="Of real scenes, predicting features of another view teaches more of what each point is when "
        "something is hidden, and most when whole coarse cells are (Masked Scene Modeling, arXiv 2504.06719)",
        config={
            "data": "pointcloud/scenes",
            "preset": "small",
            "system": "pointcloud/msm",
            "steps": 150,
        },
        variants=MSM,
        about=("bottom-up", "top-down"),
        evaluation=DENSE,
        measure="mIoU",
    ),
    "pointcloud/humanmac": Claim(
        text="A diffusion model of whole motions comes nearer to what happens when it is told the past "
        "beside being completed by it (HumanMAC, arXiv 2302.03665)",
        config={
            "data": "pointcloud/mocap",
            "preset": "small",
            "system": "pointcloud/humanmac",
            "steps": 1000,
            "batch_size": 32,
            "copy_until": 200,
        },
        variants={
            "never told": {"told": 0.0},
            "all cosines": {"coefficients": 50},
            "told, slow cosines": {},
        },
        about=("told, slow cosines",),
        evaluation=FUTURES,
        measure="ADE",
        lower=True,
    ),
}
