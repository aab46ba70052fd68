"""Sizes and training of systems of text. Strings and numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Presets = Mapping[str, Mapping[str, Any]]

MAE: Presets = {
    # nobody published it for text as it is: the encoder of BERT-base, the decoder of MAE, and 40 % hidden
    # (Wettig et al. 2022, arXiv 2202.08005)
    "paper": {
        "data.length": 512,
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.heads": 12,
        "masking.ratio": 0.4,
        "decoder_dim": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "steps": 1_000_000,
        "batch_size": 256,
        "lr": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "warmup_steps": 10_000,
    },
    # glosses of WordNet, minutes on two cores
    "small": {
        "data.length": 48,
        "data.vocab_size": 2048,
        "encoder.architecture": "modernbert",
        "encoder.dim": 128,
        "encoder.depth": 4,
        "encoder.heads": 4,
        "encoder.dropout": 0.0,
        "masking.ratio": 0.4,
        "decoder_dim": 128,
        "decoder_depth": 1,
        "decoder_heads": 4,
        "steps": 3000,
        "batch_size": 64,
        "lr": 1e-3,
        "betas": (0.9, 0.98),
        "weight_decay": 0.01,
        "clip": 1.0,
    },
    # what the conformance suite builds
    "tiny": {
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

SPARSEPO: Presets = {
    # dialogue (Anthropic HH) on a 1.4B model that was fine-tuned before: --encoder.pretrained NAME
    "paper": {
        "data.length": 512,
        "beta": 0.1,
        "reward_l1": 0.001,
        "kl_l1": 0.001,
        "epochs": 3,
        "batch_size": 128,
        "lr": 5e-7,
        "warmup_epochs": 0.3,
        "weight_decay": 0.0,
    },
    # a few thousand short pairs, minutes on two cores
    "small": {
        "data.length": 64,
        "encoder.architecture": "llama",
        "encoder.dim": 128,
        "encoder.depth": 4,
        "encoder.heads": 4,
        "beta": 0.1,
        "steps": 300,
        "batch_size": 32,
        "lr": 2e-4,
        "weight_decay": 0.0,
        "clip": 1.0,
    },
    # what the conformance suite builds
    "tiny": {
        "encoder.architecture": "llama",
        "encoder.dim": 32,
        "encoder.depth": 2,
        "encoder.heads": 2,
        "beta": 0.8,
        "reward_l1": 0.001,
        "kl_l1": 0.001,
        "steps": 10,
        "batch_size": 8,
    },
}
