"""What is claimed of point clouds."""

from __future__ import annotations

from claims.claim import Claim

SMALL = {"data": "pointcloud/shapes", "preset": "small"}

CLAIMS: dict[str, Claim] = {
    "pointcloud/msm": Claim(
        text="Predicting features of another view teaches more when something is hidden, and most when whole "
        "coarse cells are, with all voxels in them (Masked Scene Modeling, arXiv 2504.06719)",
        config={**SMALL, "system": "pointcloud/msm", "steps": 150},
        variants={
            "no mask": {"masking": None},
            "top-down": {"masking": "core/random", "masking.ratio": 0.4},
            "bottom-up": {"masking": "pointcloud/hierarchy", "masking.ratio": 0.4},
        },
        about=("bottom-up", "top-down"),
        measure="linear",
    ),
}
