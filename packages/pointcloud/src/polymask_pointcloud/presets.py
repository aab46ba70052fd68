"""Presets of all parts of point clouds: sizes and training. Strings and numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Presets = Mapping[str, Mapping[str, Any]]

# what pre-trains on a thousand points of one object, in minutes on two cores
_SMALL: Mapping[str, Any] = {
    "encoder.dim": 96,
    "encoder.depth": 4,
    "encoder.heads": 4,
    "decoder_dim": 96,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "steps": 1000,
    "batch_size": 32,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "clip": 10.0,
}
_VOXELS: Mapping[str, Any] = {
    "tokenizer": "pointcloud/voxels",
    "tokenizer.voxel": 0.25,
    "tokenizer.neighbours": 16,
}

MAE: Presets = {
    # Point-MAE (Pang et al. 2022, arXiv 2203.06604) on ShapeNet; its decoder sees centres through a network
    # in every block, this one has fixed positions, once
    "paper": {
        "data.points": 1024,
        "data.augment": "move",
        "data.turn": 0.0,
        "data.stretch": (2 / 3, 3 / 2),
        "data.shift": 0.2,
        "tokenizer.groups": 64,
        "tokenizer.neighbours": 32,
        "encoder.dim": 384,
        "encoder.depth": 12,
        "encoder.heads": 6,
        "encoder.drop_path": 0.1,
        "masking.ratio": 0.6,
        "decoder_dim": 384,
        "decoder_depth": 4,
        "decoder_heads": 6,
        "epochs": 300,
        "warmup_epochs": 10,
        "batch_size": 128,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "clip": 10.0,
    },
    # a thousand points, minutes on two cores
    "small": {
        "tokenizer.groups": 64,
        "tokenizer.neighbours": 16,
        **_SMALL,
    },
    # little of a step is the decoder: one light block from half of the hidden groups to the visible ones
    "fast": {
        "tokenizer.groups": 64,
        "tokenizer.neighbours": 16,
        **_SMALL,
        "encoder.dim": 192,
        "encoder.depth": 6,
        "encoder.heads": 3,
        "decoder": "cross",
        "decode_share": 0.5,
    },
    # the same of GeoMAE's tokens and share of them, to compare with that
    "small-voxels": {
        **_VOXELS,
        **_SMALL,
        "masking.ratio": 0.7,
    },
    # what the conformance suite builds
    "tiny": {
        "encoder.dim": 24,
        "encoder.depth": 2,
        "encoder.heads": 2,
        "objective.coordinates": 3,
        "decoder_dim": 24,
        "decoder_depth": 2,
        "decoder_heads": 2,
        "steps": 10,
        "batch_size": 8,
    },
}

SUPERVISED: Presets = {
    "small": {
        "tokenizer.groups": 64,
        "tokenizer.neighbours": 16,
        **{name: value for name, value in _SMALL.items() if not name.startswith("decoder")},
    },
    # how to go on with an encoder, whatever its size, in minutes on two cores
    "finetune": {
        "label_smoothing": 0.1,
        "layer_decay": 0.75,
        "steps": 300,
        "batch_size": 32,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 10.0,
    },
    # the encoder as it is, under a head that attends to its tokens
    "attentive": {
        "pool": "attention",
        "frozen": True,
        "steps": 300,
        "batch_size": 32,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 10.0,
    },
    "tiny": {"encoder.dim": 24, "encoder.depth": 2, "encoder.heads": 2, "steps": 10, "batch_size": 8},
}

GEOMAE: Presets = {
    # the release for nuScenes, in metres: six pairs of blocks, and two for each decoder
    "paper": {
        "data.points": None,
        "data.features": ("intensity",),
        "data.normalise": "none",
        "data.augment": "move",
        "data.turn": 0.3925,
        "data.flip": 0.5,
        "data.scale": (0.95, 1.05),
        "tokenizer.pillar": 0.256,
        "tokenizer.low": (-51.2, -51.2, -5.0),
        "tokenizer.high": (51.2, 51.2, 3.0),
        "encoder.dim": 128,
        "encoder.depth": 12,
        "encoder.heads": 8,
        "encoder.mlp_ratio": 2.0,
        "decoder_dim": 128,
        "decoder_depth": 4,
        "decoder_heads": 8,
        "decoder_mlp_ratio": 2.0,
        "epochs": 72,
        "warmup_epochs": 7.2,
        "batch_size": 32,
        "lr": 1e-3,
        "min_lr": 1e-8,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 10.0,
    },
    # a thousand points of one object, minutes on two cores; sizes and training of pointcloud/mae
    "small": {
        **_VOXELS,
        **_SMALL,
        "centroid_target.scales": ((4, 4, 4), (2, 2, 2), (1, 1, 1)),
        "occupancy_target.scales": ((4, 4, 4), (2, 2, 2)),
        "normal_target.ratio": (2, 2, 2),
        "curvature_target.ratio": (2, 2, 2),
    },
    # what the conformance suite builds
    "tiny": {
        "encoder.dim": 24,
        "encoder.depth": 2,
        "encoder.heads": 2,
        "decoder_dim": 24,
        "decoder_depth": 2,
        "decoder_heads": 2,
        "steps": 10,
        "batch_size": 8,
    },
}

MSM: Presets = {
    # ScanNet at 2 cm, units of a metre
    "paper": {
        "data.points": None,
        "data.features": ("colour", "normals"),
        "data.normalise": "centre",
        "tokenizer.voxel": 0.02,
        "tokenizer.neighbours": 1,
        "tokenizer.low": (-10.24, -10.24, -5.12),
        "tokenizer.high": (10.24, 10.24, 5.12),
        "encoder.drop_path": 0.4,
        "crop": 0.6,
        "epochs": 1800,
        "warmup_epochs": 60,
        "batch_size": 12,
        "lr": 1.5e-3,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    # objects in the unit sphere, minutes on two cores
    "small": {
        "tokenizer.voxel": 0.125,
        "tokenizer.neighbours": 2,
        "tokenizer.low": (-1.2, -1.2, -1.2),
        "tokenizer.high": (1.2, 1.2, 1.2),
        "encoder.down_dims": (16, 32, 64),
        "encoder.up_dims": (16, 32, 64),
        "encoder.depth": 1,
        "encoder.attention": 1,
        "momentum": 0.97,
        "jitter": 0.01,
        "steps": 400,
        "batch_size": 16,
        "lr": 1e-3,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    # what the conformance suite builds
    "tiny": {
        "tokenizer.voxel": 0.25,
        "tokenizer.neighbours": 2,
        "encoder.down_dims": (16, 24),
        "encoder.up_dims": (16, 24),
        "encoder.depth": 1,
        "encoder.attention": 1,
        "encoder.attention_depth": 1,
        "steps": 10,
        "batch_size": 8,
    },
}

# other parts, as the conformance suite builds them
GROUPS: Presets = {"tiny": {"groups": 16, "neighbours": 8}}
VOXELS: Presets = {"tiny": {"voxel": 0.5, "neighbours": 4}}
PILLARS: Presets = {"tiny": {"pillar": 0.5, "neighbours": 8}}
TRANSFORMER: Presets = {
    "small": {"dim": 96, "depth": 4, "heads": 4},
    "tiny": {"dim": 24, "depth": 2, "heads": 2},
}
UNET: Presets = {
    "small": {"down_dims": (16, 32, 64), "up_dims": (16, 32, 64), "depth": 1, "attention": 1},
    "tiny": {"down_dims": (16, 24), "up_dims": (16, 24), "depth": 1, "attention_depth": 1},
}
HIERARCHY: Presets = {"tiny": {"stride": 2}}
CHAMFER: Presets = {"tiny": {"coordinates": 2}}

STYLISED: Presets = {"tiny": {"dim": 24, "depth": 2, "heads": 2, "dropout": 0.0}}

HUMANMAC: Presets = {
    # Human3.6M: 0.5 s are seen, 2 s to come; an epoch is 50,000 windows, drawn anew. The release keeps the
    # learning rate and takes a tenth off at epochs 75, 150, 225, 275, 350 and 450
    "paper": {
        "data.frames": 125,
        "data.rate": 50.0,
        "data.augment": "move",
        "encoder.dim": 512,
        "encoder.depth": 8,
        "encoder.heads": 8,
        "masking.past": 0.2,
        "coefficients": 20,
        "told": 0.8,
        "steps": 1001 * 782,
        "batch_size": 64,
        "lr": 3e-4,
        "min_lr": 3e-4 * 0.9**6,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
    },
    # HumanEva-I: 0.25 s are seen, 1 s to come
    "paper-humaneva": {
        "data.frames": 75,
        "data.rate": 60.0,
        "data.augment": "move",
        "encoder.dim": 512,
        "encoder.depth": 4,
        "encoder.heads": 8,
        "masking.past": 0.2,
        "coefficients": 10,
        "told": 1.0,
        "steps": 501 * 782,
        "batch_size": 64,
        "lr": 3e-4,
        "min_lr": 3e-4 * 0.9**6,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
    },
    # two seconds of motion, minutes on two cores
    "small": {
        "data.frames": 50,
        "data.rate": 25.0,
        "encoder.dim": 128,
        "encoder.depth": 4,
        "encoder.heads": 4,
        "encoder.dropout": 0.0,
        "coefficients": 16,
        "copy_until": 500,
        "steps": 3000,
        "batch_size": 64,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "clip": 1.0,
    },
    # what the conformance suite builds
    "tiny": {
        "encoder.dim": 24,
        "encoder.depth": 2,
        "encoder.heads": 2,
        "encoder.dropout": 0.0,
        "coefficients": 8,
        "times": 200,
        "copy_until": 4,
        "steps": 10,
        "batch_size": 8,
    },
}
