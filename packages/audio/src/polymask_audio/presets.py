"""Presets of all parts of audio: sizes and training. Strings and numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]
Presets = Mapping[str, Options]

# ------------------------------------------------------------------------------- shared groups

_BASE: Options = {
    "tokenizer.mels": 128,
    "tokenizer.patch_size": 16,
    "encoder.dim": 768,
    "encoder.depth": 12,
    "encoder.heads": 12,
}

# seconds of audio, minutes on two cores
_SMALL: Options = {
    "encoder.dim": 128,
    "encoder.depth": 4,
    "encoder.heads": 4,
    "steps": 2000,
    "batch_size": 32,
    "lr": 1e-3,
    "betas": (0.9, 0.98),
    "weight_decay": 0.01,
}
_SMALL_FRAMES: Options = {**_SMALL, "encoder.kernel": 32, "encoder.groups": 8, "clip": 10.0}
_SMALL_PATCHES: Options = {**_SMALL, "tokenizer.mels": 64, "tokenizer.patch_size": 8, "clip": 1.0}

# what the conformance suite builds
_TINY: Options = {"encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2, "steps": 10, "batch_size": 8}
_TINY_FRAMES: Options = {
    **_TINY,
    "encoder.kernel": 8,
    "encoder.groups": 4,
    "encoder.dropout": 0.0,
    "masking.length": 2,
}

# ------------------------------------------------------------------------------------- systems

_MAE_TRAINING: Options = {"betas": (0.9, 0.95), "weight_decay": 0.05}
_AUDIO_MAE: Options = {**_BASE, "epochs": 32, "warmup_epochs": 3, "batch_size": 512, "lr": 2e-4}

MAE: Presets = {
    # Audio-MAE, ViT-B on AudioSet (Huang et al. 2022, section 4.1). Its decoder attends in shifted
    # windows, 16 blocks deep; this one attends everywhere
    "paper": {
        **_AUDIO_MAE,
        "masking.ratio": 0.8,
        "decoder_dim": 512,
        "decoder_depth": 16,
        "decoder_heads": 16,
        "betas": (0.9, 0.95),
        "weight_decay": 1e-4,
    },
    "small": {
        **_SMALL_PATCHES,
        **_MAE_TRAINING,
        "decoder_dim": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
    },
    # little of a step is the decoder: one light block from half of the hidden patches to the visible ones
    "fast": {
        **_SMALL_PATCHES,
        **_MAE_TRAINING,
        "encoder.dim": 192,
        "encoder.depth": 6,
        "encoder.heads": 3,
        "decoder": "cross",
        "decode_share": 0.5,
        "decoder_dim": 128,
        "decoder_depth": 1,
        "decoder_heads": 4,
    },
    "tiny": {**_TINY, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2},
}

SUPERVISED: Presets = {
    "small": _SMALL_PATCHES,
    # how to go on with an encoder, whatever its size, in minutes on two cores
    "finetune": {
        "label_smoothing": 0.1,
        "layer_decay": 0.75,
        "steps": 300,
        "batch_size": 32,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 1.0,
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
        "clip": 1.0,
    },
    "tiny": _TINY,
}

SIMMIM: Presets = {
    # nobody published it for audio: the sizes of Audio-MAE, the rest as SimMIM has it for images
    "paper": {**_AUDIO_MAE, "betas": (0.9, 0.999), "weight_decay": 0.05, "clip": 5.0},
    "small": {**_SMALL_PATCHES, **_MAE_TRAINING},
    "tiny": _TINY,
}

DATA2VEC2: Presets = {
    # Base, 960 h of LibriSpeech; 8 times at most 62.5 s of audio per step, about 40 utterances
    "paper": {
        "data.seconds": 20.0,
        "data.min_seconds": 2.0,
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.heads": 12,
        "encoder.dropout": 0.1,
        "encoder.layer_drop": 0.05,
        "masking.trim": True,
        "views": 8,
        "layers": 8,
        "decoder_dim": 384,
        "decoder_depth": 4,
        "decoder_kernel": 7,
        "decoder_groups": 16,
        "momentum": 0.999,
        "final_momentum": 0.99999,
        "momentum_rise": 75_000 / 400_000,
        "steps": 400_000,
        "warmup_steps": 8_000,
        "batch_size": 40,
        "lr": 7.5e-4,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
        "weight_decay": 0.01,
    },
    # spectra in place of the convolutions; the averages reach back as far in shares of the run
    "small": {
        **_SMALL,
        "tokenizer": "audio/mel-frames",
        "encoder.position_depth": 3,
        "encoder.kernel": 7,
        "encoder.groups": 8,
        "encoder.dropout": 0.0,
        "encoder.layer_drop": 0.0,
        "views": 4,
        "layers": 3,
        "decoder_dim": 64,
        "decoder_depth": 3,
        "decoder_groups": 4,
        "decoder_dropout": 0.0,
        "momentum": 0.96,
        "final_momentum": 0.998,
        "clip": 4.0,
    },
    "tiny": {
        **_TINY,
        "encoder.conv_dim": 8,
        "encoder.position_depth": 2,
        "encoder.kernel": 3,
        "encoder.groups": 4,
        "encoder.dropout": 0.0,
        "encoder.layer_drop": 0.0,
        "masking.length": 2,
        "views": 2,
        "layers": 2,
        "decoder_dim": 32,
        "decoder_depth": 2,
        "decoder_kernel": 3,
        "decoder_groups": 4,
        "decoder_dropout": 0.0,
        "momentum": 0.9,
        "final_momentum": 0.99,
    },
}

HUBERT: Presets = {
    # Base, second iteration, 960 h of LibriSpeech; 32 times at most 87.5 s of audio per step
    "paper": {
        "tokenizer": "audio/waveform",
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.heads": 12,
        "encoder.dropout": 0.1,
        "encoder.mlp_dropout": 0.0,
        "encoder.layer_drop": 0.05,
        "masking.trim": True,
        "steps": 400_000,
        "warmup_steps": 32_000,
        "batch_size": 256,
        "lr": 5e-4,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "clip": 10.0,
    },
    # spectra in place of the convolutions
    "small": {**_SMALL_FRAMES, "tokenizer": "audio/mel-frames", "code_dim": 64},
    "tiny": {**_TINY_FRAMES, "encoder.conv_dim": 8, "code_dim": 16},
}

SPEAR: Presets = {
    # Large, of 300 s of audio per GPU and step; Zipformer's sizes for a plain Transformer, and
    # AdamW's usual rate for ScaledAdam's, which does not carry over
    "paper": {
        "tokenizer.mels": 128,
        "encoder.dim": 1024,
        "encoder.depth": 11,
        "encoder.heads": 8,
        "encoder.mlp_ratio": 3.0,
        "target.codebooks": 16,
        "audio_weight": 0.25,
        "steps": 500_000,
        "warmup_steps": 20_000,
        "batch_size": 256,
        "lr": 5e-4,
        "betas": (0.9, 0.98),
        "weight_decay": 0.01,
        "clip": 10.0,
    },
    "small": {**_SMALL_FRAMES, "channel_masking.length": 12},
    "tiny": {
        **_TINY_FRAMES,
        "target.codes": 8,
        "target.codebooks": 2,
        "audio_target": "audio/random-projection",
        "audio_target.codes": 4,
        "audio_target.seed": 1,
        "channel_masking.length": 3,
        "mixing": 0.5,
    },
}

_OPENBEATS: Options = {
    **_BASE,
    "steps": 400_000,
    "warmup_steps": 32_000,
    "batch_size": 256,
    "betas": (0.9, 0.98),
    "weight_decay": 0.01,
    "clip": 1.0,
}

OPENBEATS: Presets = {
    # Base. The batch is published in frames (420,000 of frames and tokens), not in clips, and the
    # learning rate is not among what could be read: both are of BEATs' order
    "paper": {
        **_OPENBEATS,
        "masking.ratio": 0.75,
        "predictor_dim": 768,
        "predictor_depth": 3,
        "predictor_heads": 12,
        "lr": 5e-4,
    },
    "small": {**_SMALL_PATCHES, "predictor_dim": 64, "predictor_depth": 2, "predictor_heads": 4},
    "tiny": {**_TINY, "predictor_dim": 32, "predictor_depth": 2, "predictor_heads": 2},
}

OPENBEATS_TOKENIZER: Presets = {
    "paper": {**_OPENBEATS, "lr": 5e-5},
    "small": {
        **_SMALL_PATCHES,
        "codes": 256,
        "code_dim": 32,
        "commitment": 1.25,
        "decoder_depth": 1,
        "decoder_heads": 4,
        "steps": 1000,
    },
    "tiny": {
        **_TINY,
        "codes": 16,
        "code_dim": 8,
        "commitment": 0.3,
        "decoder_depth": 1,
        "decoder_heads": 2,
    },
}

# ----------------------------------------------------- other parts, as the conformance suite builds them

WAVEFORM: Presets = {"tiny": {"rate": 1600}}
MEL_FRAMES: Presets = {"tiny": {"rate": 1600, "mels": 16}}
MEL_PATCHES: Presets = {"tiny": {**MEL_FRAMES["tiny"], "patch_size": 4, "window_ms": 40.0, "hop_ms": 10.0}}
TRANSFORMER: Presets = {
    "small": {"dim": 128, "depth": 4, "heads": 4, "kernel": 32, "groups": 8},
    "tiny": {"dim": 32, "depth": 2, "heads": 2, "conv_dim": 8, "kernel": 8, "groups": 4, "dropout": 0.0},
}
DATA2VEC_TRANSFORMER: Presets = {
    "small": {
        **TRANSFORMER["small"],
        "position_depth": 3,
        "kernel": 7,
        "dropout": 0.0,
        "layer_drop": 0.0,
    },
    "tiny": {
        **TRANSFORMER["tiny"],
        "position_depth": 2,
        "kernel": 3,
        "layer_drop": 0.0,
    },
}
VIT: Presets = {
    "small": {"dim": 128, "depth": 4, "heads": 4},
    "tiny": {"dim": 32, "depth": 2, "heads": 2},
}
LOG_MEL: Presets = {"tiny": {"mels": 8}}
TEACHER: Presets = {"tiny": {"model": "mfcc"}}
CLUSTERS: Presets = {"tiny": {"file": "random:8"}}
RANDOM_PROJECTION: Presets = {"tiny": {"codes": 16, "width": 8, "hidden": 12}}
DISTILLED: Presets = {"tiny": {"run": "random:8"}}
