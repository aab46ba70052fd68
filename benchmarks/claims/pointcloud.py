"""What is claimed of point clouds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claims.claim import Claim

NONE = {
    "centroid_weights": (0.0, 0.0, 0.0),
    "occupancy_weights": (0.0, 0.0),
    "normal_weight": 0.0,
    "curvature_weight": 0.0,
}


def geomae(**weights: Any) -> Mapping[str, Any]:
    """GeoMAE with some of its targets, all by default."""
    return {"system": "pointcloud/geomae", **(NONE if weights else {}), **weights}


CLAIMS: dict[str, Claim] = {
    "pointcloud/geomae": Claim(
        text="Telling the geometry of hidden tokens, their centroids, occupancy, normals and curvature, "
        "teaches more than predicting the points that they hold (GeoMAE, arXiv 2305.08808)",
        config={"data": "pointcloud/cad", "preset": "small", "steps": 300, "batch_size": 16},
        variants={
            "points of the same tokens": {
                "system": "pointcloud/mae",
                "tokenizer": {"name": "pointcloud/voxels", "voxel": 0.25, "neighbours": 16},
                "masking.ratio": 0.7,
            },
            "centroid of the token alone": geomae(centroid_weights=(0.0, 0.0, 10.0)),
            "centroids alone": geomae(centroid_weights=(10.0, 8.0, 10.0)),
            "occupancy alone": geomae(occupancy_weights=(5.0, 2.0)),
            "normals alone": geomae(normal_weight=4.0),
            "curvature alone": geomae(curvature_weight=4.0),
            "all four": geomae(),
        },
        about=("all four",),
    ),
    "pointcloud/msm": Claim(
        text="Predicting features of another view teaches more when something is hidden, and most when whole "
        "coarse cells are, with all voxels in them (Masked Scene Modeling, arXiv 2504.06719)",
        config={"data": "pointcloud/shapes", "preset": "small", "system": "pointcloud/msm", "steps": 150},
        variants={
            "no mask": {"masking": None},
            "top-down": {"masking": "core/random", "masking.ratio": 0.4},
            "bottom-up": {"masking": "pointcloud/hierarchy", "masking.ratio": 0.4},
        },
        about=("bottom-up", "top-down"),
        measure="linear",
    ),
}
