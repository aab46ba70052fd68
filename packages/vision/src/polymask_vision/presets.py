"""Sizes and training of systems that core has for any modality, for images. Strings and numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Presets = Mapping[str, Mapping[str, Any]]

MAE: Presets = {
    # ViT-B, the command recommended by the authors' repository (PRETRAIN.md)
    "paper": {
        "data.size": 224,
        "data.augment": "crop-flip",
        "data.crop_scale": (0.2, 1.0),
        "tokenizer.patch_size": 16,
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.heads": 12,
        "masking.ratio": 0.75,
        "target.patch_norm": True,
        "decoder_dim": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "epochs": 800,
        "warmup_epochs": 40,
        "batch_size": 4096,
        "base_lr": 1.5e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    # images of 28 to 64 pixels, minutes on two cores
    "small": {
        "tokenizer.patch_size": 4,
        "encoder.dim": 128,
        "encoder.depth": 4,
        "encoder.heads": 4,
        "decoder_dim": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
        "steps": 2000,
        "batch_size": 64,
        "lr": 1e-3,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    # what the conformance suite builds
    "tiny": {
        "tokenizer.patch_size": 4,
        "encoder.dim": 32,
        "encoder.depth": 2,
        "encoder.heads": 2,
        "decoder_dim": 32,
        "decoder_depth": 2,
        "decoder_heads": 2,
        "steps": 10,
        "batch_size": 8,
    },
}

SIMMIM: Presets = {
    # ViT-B, 800 epochs. The paper's rates are per 512 samples, those here per 256; its rate drops
    # tenfold at epoch 700, ours reaches the same end by a cosine
    "paper": {
        "data.size": 224,
        "data.augment": "crop-flip",
        "data.crop_scale": (0.67, 1.0),
        "tokenizer.patch_size": 16,
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.heads": 12,
        "encoder.positions": "relative",
        "encoder.layer_scale": 0.1,
        "encoder.drop_path": 0.1,
        "masking.ratio": 0.6,
        "masking.cell": 2,
        "epochs": 800,
        "warmup_epochs": 10,
        "batch_size": 2048,
        "base_lr": 5e-5,
        "min_lr": 4e-5,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 5.0,
    },
    # Swin-B, 100 epochs
    "paper-swin": {
        "data.size": 192,
        "data.augment": "crop-flip",
        "data.crop_scale": (0.67, 1.0),
        "tokenizer.patch_size": 4,
        "encoder": "vision/swin",
        "encoder.dim": 128,
        "encoder.depths": (2, 2, 18, 2),
        "encoder.heads": (4, 8, 16, 32),
        "encoder.window": 6,
        "masking.ratio": 0.6,
        "masking.cell": 8,
        "epochs": 100,
        "warmup_epochs": 10,
        "batch_size": 2048,
        "base_lr": 1e-4,
        "min_lr": 4e-5,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 5.0,
    },
    # images of 28 to 64 pixels, minutes on two cores; single patches are hidden, since a grid
    # of 7 x 7 does not divide into cells
    "small": {
        "tokenizer.patch_size": 4,
        "masking.cell": 1,
        "encoder.dim": 128,
        "encoder.depth": 4,
        "encoder.heads": 4,
        "steps": 2000,
        "batch_size": 64,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 5.0,
    },
    # what the conformance suite builds
    "tiny": {
        "tokenizer.patch_size": 4,
        "masking.cell": 1,
        "encoder.dim": 32,
        "encoder.depth": 2,
        "encoder.heads": 2,
        "steps": 10,
        "batch_size": 8,
    },
}
