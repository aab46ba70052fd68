"""Sizes and training of systems that core has for any modality, for sound. Strings and numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Presets = Mapping[str, Mapping[str, Any]]

_BASE: Mapping[str, Any] = {
    "tokenizer.mels": 128,
    "tokenizer.patch_size": 16,
    "encoder.dim": 768,
    "encoder.depth": 12,
    "encoder.heads": 12,
}

# seconds of sound, minutes on two cores
_SMALL: Mapping[str, Any] = {
    "tokenizer.mels": 64,
    "tokenizer.patch_size": 8,
    "encoder.dim": 128,
    "encoder.depth": 4,
    "encoder.heads": 4,
    "steps": 2000,
    "batch_size": 32,
    "lr": 1e-3,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "clip": 1.0,
}

# what the conformance suite builds
_TINY: Mapping[str, Any] = {
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "steps": 10,
    "batch_size": 8,
}

MAE: Presets = {
    # Audio-MAE, ViT-B on AudioSet (Huang et al. 2022, section 4.1). Its decoder attends in shifted
    # windows, 16 blocks deep; this one attends everywhere
    "paper": {
        **_BASE,
        "masking.ratio": 0.8,
        "decoder_dim": 512,
        "decoder_depth": 16,
        "decoder_heads": 16,
        "epochs": 32,
        "warmup_epochs": 3,
        "batch_size": 512,
        "lr": 2e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 1e-4,
    },
    "small": {**_SMALL, "decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4},
    "tiny": {**_TINY, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2},
}

SIMMIM: Presets = {
    # nobody published it for sound: the sizes of Audio-MAE, the rest as SimMIM has it for pictures
    "paper": {
        **_BASE,
        "epochs": 32,
        "warmup_epochs": 3,
        "batch_size": 512,
        "lr": 2e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 5.0,
    },
    "small": _SMALL,
    "tiny": _TINY,
}
