"""What the pointcloud package registers. Strings only: torch is imported when a part is used."""

from __future__ import annotations

from collections.abc import Iterable

from polymask.parts import Part
from polymask.plugins.hookspecs import hookimpl
from polymask_pointcloud import presets

POLYMASK_API = "1.0"

POINTS = "polymask_pointcloud.datasets.base:PointDataset"
MOTION = "polymask_pointcloud.datasets.motions:MotionDataset"


@hookimpl
def polymask_register_tokenizers() -> Iterable[Part]:
    return [
        Part(
            name="groups",
            target="polymask_pointcloud.tokenizers:Groups",
            presets=presets.GROUPS,
            summary="the nearest points of centres that cover the cloud",
            paper="Pang et al. 2022, arXiv 2203.06604",
            modality="points",
        ),
        Part(
            name="voxels",
            target="polymask_pointcloud.tokenizers:Voxels",
            presets=presets.VOXELS,
            summary="occupied cubes of a box",
            modality="points",
        ),
        Part(
            name="pillars",
            target="polymask_pointcloud.tokenizers:Pillars",
            presets=presets.PILLARS,
            summary="occupied columns of a box",
            paper="Lang et al. 2019, arXiv 1812.05784",
            modality="points",
        ),
        Part(
            name="frames",
            target="polymask_pointcloud.poses:Poses",
            defaults={"each": "frame"},
            summary="the poses of a motion",
            modality="motion",
            tags=frozenset({"invertible"}),
        ),
        Part(
            name="joints",
            target="polymask_pointcloud.poses:Poses",
            summary="each joint of each pose of a motion",
            modality="motion",
            tags=frozenset({"invertible"}),
        ),
    ]


@hookimpl
def polymask_register_encoders() -> Iterable[Part]:
    return [
        Part(
            name="transformer",
            target="polymask_pointcloud.encoders:Transformer",
            presets=presets.TRANSFORMER,
            summary="a small PointNet per token, then timm's blocks, on any subset of tokens",
            paper="Pang et al. 2022, arXiv 2203.06604",
            modality="points",
        ),
        Part(
            name="unet",
            target="polymask_pointcloud.unet:UNet",
            presets=presets.UNET,
            summary="convolutions over occupied voxels of growing size and back, attention at the coarsest",
            paper="Hermosilla et al. 2025, arXiv 2504.06719",
            modality="points",
        ),
        Part(
            name="stylised",
            target="polymask_pointcloud.stylised:Stylised",
            presets=presets.STYLISED,
            summary="attention over poses, or cosines of them, its layers told a time and more",
            paper="Zhang et al. 2022, arXiv 2208.15001",
            modality="motion",
        ),
    ]


@hookimpl
def polymask_register_targets() -> Iterable[Part]:
    return [
        Part(
            name="coordinates",
            target="polymask_pointcloud.targets:Coordinates",
            summary="the points of each token, relative to its centre",
            modality="points",
            tags=frozenset({"invertible"}),
        ),
        Part(
            name="centroid",
            target="polymask_pointcloud.targets:Centroid",
            summary="centroids of the points in each cell of a token's box",
            paper="Tian et al. 2023, arXiv 2305.08808",
            modality="points",
        ),
        Part(
            name="occupancy",
            target="polymask_pointcloud.targets:Occupancy",
            summary="occupancy of each cell of a token's box",
            paper="Tian et al. 2023, arXiv 2305.08808",
            modality="points",
        ),
        Part(
            name="normals",
            target="polymask_pointcloud.surfaces:Normals",
            summary="surface normal around each token",
            paper="Tian et al. 2023, arXiv 2305.08808",
            modality="points",
        ),
        Part(
            name="curvature",
            target="polymask_pointcloud.surfaces:Curvature",
            summary="curvature around each token, from the spread of points along three directions",
            paper="Tian et al. 2023, arXiv 2305.08808",
            modality="points",
        ),
    ]


@hookimpl
def polymask_register_objectives() -> Iterable[Part]:
    return [
        Part(
            name="chamfer",
            target="polymask_pointcloud.objectives:Chamfer",
            presets=presets.CHAMFER,
            summary="Chamfer distance between sets of points",
            paper="Fan et al. 2017, arXiv 1612.00603",
            modality="points",
        ),
        Part(
            name="undirected",
            target="polymask_pointcloud.objectives:Undirected",
            summary="one minus squared cosine, for directions of no sign",
            modality="points",
        ),
    ]


@hookimpl
def polymask_register_maskings() -> Iterable[Part]:
    return [
        Part(
            name="neighbours",
            target="polymask_pointcloud.maskings:Neighbours",
            summary="tokens around randomly chosen ones",
            suits="groups of points that overlap, and would give each other away",
            paper="Yu et al. 2022, arXiv 2111.14819",
            modality="points",
            tags=frozenset({"uneven"}),
        ),
        Part(
            name="hierarchy",
            target="polymask_pointcloud.maskings:Hierarchy",
            presets=presets.HIERARCHY,
            summary="whole coarse cells of space, with all that is in them",
            suits="voxels of several sizes, so that no level shows what another hides: msm",
            paper="Hermosilla et al. 2025, arXiv 2504.06719",
            modality="points",
            tags=frozenset({"variable-count"}),
        ),
        Part(
            name="observed",
            target="polymask_pointcloud.maskings:Observed",
            summary="all of a motion but its past, its end, or some joints",
            suits="motion of which a part is known: humanmac",
            paper="Chen et al. 2023, arXiv 2302.03665",
            modality="motion",
            tags=frozenset({"fixed", "shared", "grid", "uneven"}),
        ),
    ]


@hookimpl
def polymask_register_datasets() -> Iterable[Part]:
    return [
        Part(
            name="shapes",
            target="polymask_pointcloud.datasets.shapes:shapes",
            prepare=POINTS,
            summary="480 CAD shapes of electronic components in 8 classes, built in",
            modality="points",
        ),
        Part(
            name="cad",
            target="polymask_pointcloud.datasets.cad:cad",
            prepare=POINTS,
            summary="6,200 of them in 13 classes, fetched once",
            modality="points",
        ),
        Part(
            name="scenes",
            target="polymask_pointcloud.datasets.scenes:scenes",
            prepare=POINTS,
            summary="tiles of a room and of mountains, with a class at each point",
            modality="points",
        ),
        Part(
            name="folder",
            target="polymask_pointcloud.datasets.folder:folder",
            prepare=POINTS,
            summary="folder:PATH, point clouds and meshes in class folders or none",
            modality="points",
        ),
        Part(
            name="mocap",
            target="polymask_pointcloud.datasets.mocap:mocap",
            prepare=MOTION,
            summary="windows of 20 captured motions of people, fetched once",
            modality="motion",
        ),
        Part(
            name="clips",
            target="polymask_pointcloud.datasets.clips:clips",
            prepare=MOTION,
            summary="clips:PATH, motion in npy and npz files in class folders or none",
            modality="motion",
        ),
        Part(
            name="skeletons",
            target="polymask_pointcloud.datasets.skeletons:skeletons",
            prepare=MOTION,
            summary="legs and trunks that swing, made up, built in",
            modality="motion",
        ),
    ]


@hookimpl
def polymask_register_systems() -> Iterable[Part]:
    return [
        Part(
            name="mae",
            target="polymask.systems.mae:MAE",
            presets=presets.MAE,
            summary="encode the visible groups, reconstruct the points of the rest with a light decoder",
            suits="first choice for shapes and small clouds",
            paper="He et al. 2021, arXiv 2111.06377; of points: Pang et al. 2022, arXiv 2203.06604",
            modality="points",
            defaults={
                "tokenizer": "pointcloud/groups",
                "encoder": "pointcloud/transformer",
                "target": "pointcloud/coordinates",
                "masking": "core/random",
                "masking.ratio": 0.6,
                "objective": "pointcloud/chamfer",
            },
        ),
        Part(
            name="supervised",
            target="polymask.systems.supervised:Supervised",
            presets=presets.SUPERVISED,
            summary="train an encoder and a linear classifier on labels: fine-tuning, and a baseline",
            suits="labels for all clouds, and fine-tuning",
            paper="recipe: He et al. 2021, arXiv 2111.06377",
            modality="points",
            defaults={"tokenizer": "pointcloud/groups", "encoder": "pointcloud/transformer"},
            tags=frozenset({"fixed"}),
        ),
        Part(
            name="geomae",
            target="polymask_pointcloud.systems.geomae:GeoMAE",
            presets=presets.GEOMAE,
            summary="predict centroids, occupancy, normals and curvature of masked pillars",
            suits="scans of roads and rooms, on pillars: surfaces rather than places of points",
            paper="Tian et al. 2023, arXiv 2305.08808",
            modality="points",
            defaults={
                "tokenizer": "pointcloud/pillars",
                "encoder": "pointcloud/transformer",
                "masking": "core/random",
                "masking.ratio": 0.7,
                "masking.rounding": "up",
                "centroid_target": "pointcloud/centroid",
                "centroid_target.scales": ((4, 4, 8), (2, 2, 4), (1, 1, 1)),
                "centroid_objective": "core/mse",
                "occupancy_target": "pointcloud/occupancy",
                "occupancy_target.scales": ((4, 4, 8), (2, 2, 4)),
                "occupancy_objective": "core/binary-cross-entropy",
                "normal_target": "pointcloud/normals",
                "normal_objective": "pointcloud/undirected",
                "curvature_target": "pointcloud/curvature",
                "curvature_objective": "core/mse",
            },
        ),
        Part(
            name="msm",
            target="polymask_pointcloud.systems.msm:MSM",
            presets=presets.MSM,
            summary="predict an EMA teacher's features of another view at every level of a U-Net",
            suits="large scenes in voxels, for tasks at each point",
            paper="Hermosilla et al. 2025, arXiv 2504.06719",
            modality="points",
            defaults={
                "tokenizer": "pointcloud/voxels",
                "encoder": "pointcloud/unet",
                "masking": "pointcloud/hierarchy",
                "objective": "core/cosine",
            },
            tags=frozenset({"moving-target"}),
        ),
        Part(
            name="humanmac",
            target="polymask_pointcloud.systems.humanmac:HumanMAC",
            presets=presets.HUMANMAC,
            summary="learn whole motions by diffusion of cosines, complete what is seen of one",
            suits="motion: what comes next, what lies between, what other joints do, in several versions",
            paper="Chen et al. 2023, arXiv 2302.03665",
            modality="motion",
            defaults={
                "tokenizer": "pointcloud/joints",
                "encoder": "pointcloud/stylised",
                "masking": "pointcloud/observed",
                "objective": "core/mse",
            },
        ),
    ]


@hookimpl
def polymask_register_evaluations() -> Iterable[Part]:
    return [
        Part(
            name="dense",
            target="polymask_pointcloud.evaluations.dense:Dense",
            summary="accuracy and mean IoU of a linear classifier of points, with raw points as baseline",
            modality="points",
        ),
        Part(
            name="futures",
            target="polymask_pointcloud.evaluations.futures:Futures",
            summary="how near, how different and how plausible several completions of motions are",
            modality="motion",
        ),
    ]
