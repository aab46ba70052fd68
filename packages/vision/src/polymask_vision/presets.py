"""Presets of all parts of vision: sizes and training. Strings and numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymask.config import as_host_preset

Options = Mapping[str, Any]
Presets = Mapping[str, Options]

# ------------------------------------------------------------------------------- shared groups

_IMAGENET: Options = {"data.size": 224, "data.augment": "crop-flip", "tokenizer.patch_size": 16}
_VIT_B: Options = {"encoder.dim": 768, "encoder.depth": 12, "encoder.heads": 12}
_VIT_SMALL: Options = {"encoder.dim": 128, "encoder.depth": 4, "encoder.heads": 4}
_VIT_TINY: Options = {"encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2}
_DECODER_B: Options = {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16}

# images of 28 to 64 pixels, minutes on two cores
_SMALL: Options = {
    "tokenizer.patch_size": 4,
    **_VIT_SMALL,
    "steps": 2000,
    "batch_size": 64,
    "lr": 1e-3,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
}

# what the conformance suite builds
_TINY: Options = {"tokenizer.patch_size": 4, **_VIT_TINY, "steps": 10, "batch_size": 8}

# ------------------------------------------------------------------------------------- systems

MAE: Presets = {
    # ViT-B, the command recommended by the authors' repository (PRETRAIN.md)
    "paper": {
        **_IMAGENET,
        "data.crop_scale": (0.2, 1.0),
        **_VIT_B,
        "masking.ratio": 0.75,
        "target.patch_norm": True,
        **_DECODER_B,
        "epochs": 800,
        "warmup_epochs": 40,
        "batch_size": 4096,
        "base_lr": 1.5e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    "small": {**_SMALL, "decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4},
    # little of a step is the decoder: one light block from half of the hidden patches to the visible ones
    "fast": {
        **_SMALL,
        "encoder.dim": 192,
        "encoder.depth": 6,
        "encoder.heads": 3,
        "decoder": "cross",
        "decode_share": 0.5,
        "decoder_dim": 128,
        "decoder_depth": 1,
        "decoder_heads": 4,
        "batch_size": 32,
    },
    "tiny": {**_TINY, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2},
}

_SIMMIM_TRAINING: Options = {"betas": (0.9, 0.999), "weight_decay": 0.05, "clip": 5.0}
_SIMMIM_PAPER: Options = {
    "data.augment": "crop-flip",
    "data.crop_scale": (0.67, 1.0),
    "masking.ratio": 0.6,
    "warmup_epochs": 10,
    "batch_size": 2048,
    "min_lr": 4e-5,
    **_SIMMIM_TRAINING,
}

SIMMIM: Presets = {
    # ViT-B, 800 epochs. The paper's rates are per 512 samples, those here per 256; its rate drops
    # tenfold at epoch 700, ours reaches the same end by a cosine
    "paper": {
        **_SIMMIM_PAPER,
        **_IMAGENET,
        **_VIT_B,
        "encoder.positions": "relative",
        "encoder.layer_scale": 0.1,
        "encoder.drop_path": 0.1,
        "masking.cell": 2,
        "epochs": 800,
        "base_lr": 5e-5,
    },
    # Swin-B, 100 epochs
    "paper-swin": {
        **_SIMMIM_PAPER,
        "data.size": 192,
        "tokenizer.patch_size": 4,
        "encoder": "vision/swin",
        "encoder.dim": 128,
        "encoder.depths": (2, 2, 18, 2),
        "encoder.heads": (4, 8, 16, 32),
        "encoder.window": 6,
        "masking.cell": 8,
        "epochs": 100,
        "base_lr": 1e-4,
    },
    # images of 28 to 64 pixels; single patches are hidden, since a grid of 7 x 7 does not divide into cells
    "small": {**_SMALL, "masking.cell": 1, **_SIMMIM_TRAINING},
    "tiny": {**_TINY, "masking.cell": 1},
}

# MAE's sizes and training: the two are to be compared. The averages of the paper reach back as far
# in shares of the run
_HPM_SMALL: Options = {**MAE["small"], "momentum": 0.9, "final_momentum": 0.99}

HPM: Presets = {
    # ViT-B, the longer of the two published lengths, which are 200 and 800 epochs (PRETRAIN.md); the
    # average's momentum rises for 100 of them
    "paper": {
        **_IMAGENET,
        "data.crop_scale": (0.2, 1.0),
        **_VIT_B,
        **_DECODER_B,
        "momentum_rise": 0.125,
        "epochs": 800,
        "warmup_epochs": 40,
        "batch_size": 2048,
        "base_lr": 1.5e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    "small": _HPM_SMALL,
    # the loss of the ranker alone, at small size; to any other preset add these two options
    "prediction-only": {**_HPM_SMALL, "masking": "core/random", "scoring": "none"},
    "tiny": MAE["tiny"],
}

DMJD: Presets = {
    # ConViT-B, PRETRAIN.md of the release
    "paper": {
        **_IMAGENET,
        "data.crop_scale": (0.5, 1.0),
        "encoder": "vision/conv-vit",
        **_VIT_B,
        "encoder.depth": 11,
        **_DECODER_B,
        # the release passes the ratio of its blocks twice as large as MAE's
        "decoder_mlp_ratio": 8.0,
        "epochs": 400,
        "warmup_epochs": 20,
        "batch_size": 512,
        # 6e-4 per 256 images, over the 0.6 of their tokens that one view alone predicts
        "base_lr": 1e-3,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    # MAE's sizes and training: the two are to be compared; single patches are hidden, since a grid
    # of 7 x 7 does not divide into cells
    "small": {**MAE["small"], "masking.masking.cell": 1},
    "tiny": MAE["tiny"],
}


CAE: Presets = {
    # ViT-B, 800 epochs; codes are to be fitted first (recipe vision/cae), in place of DALL-E's 8,192
    "paper": {
        **_IMAGENET,
        "data.crop_scale": (0.08, 1.0),
        **_VIT_B,
        "encoder.layer_scale": 0.1,
        "encoder.drop_path": 0.1,
        "decoder_dim": 768,
        "decoder_heads": 12,
        "drop_path": 0.1,
        "epochs": 800,
        "warmup_epochs": 20,
        "batch_size": 2048,
        "lr": 1.5e-3,
        "min_lr": 1e-5,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 3.0,
    },
    "small": {
        **_SMALL,
        "target.file": "random:512",
        "encoder.layer_scale": 0.1,
        "decoder_dim": 128,
        "decoder_heads": 4,
        "regressor_depth": 2,
        "decoder_depth": 2,
        "clip": 3.0,
    },
    "tiny": {
        **_TINY,
        "target.file": "random:8",
        "decoder_dim": 32,
        "decoder_heads": 2,
        "regressor_depth": 2,
        "decoder_depth": 2,
    },
}


def _like_mae(preset: str) -> dict[str, Any]:
    """MAE's sizes and training: the two are to be compared. The ratio follows from the group."""
    return {key: value for key, value in MAE[preset].items() if key != "masking.ratio"}


_NAIVE: Options = {"attention": "plain", "segments": False, "contrast": 0.0}

MIXEDAE: Presets = {
    "paper": _like_mae("paper"),
    "naive": {**_like_mae("paper"), **_NAIVE},
    "small": _like_mae("small"),
    "small-naive": {**_like_mae("small"), **_NAIVE},
    "tiny": {**_like_mae("tiny"), "masking.group": 2},
}

# 300 epochs. The paper's rates are per 512 samples, those here per 256
_MFM_PAPER: Options = {
    **_IMAGENET,
    "data.crop_scale": (0.2, 1.0),
    "masking.radius": 16 / 224,
    "epochs": 300,
    "warmup_epochs": 20,
    "batch_size": 2048,
    "base_lr": 1.5e-4,
    "min_lr": 1e-5,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "clip": 3.0,
}

MFM: Presets = {
    # ViT-B
    "paper": {**_MFM_PAPER, **_VIT_B, "masking.low_pass": 0.5},
    # ResNet-50
    "paper-resnet": {
        **_MFM_PAPER,
        "tokenizer.patch_size": 32,
        "encoder": "vision/resnet",
        "masking.low_pass": 0.3,
    },
    "small": {**_SMALL, "clip": 3.0},
    "tiny": _TINY,
}

MASKGIT: Presets = {
    # 300 epochs; codes are to be fitted first (recipe vision/maskgit), in place of a VQGAN's 1,024. Rate,
    # warm-up (5,000 steps) and weight decay are the release's, which has 16 heads where the paper has 8
    "paper": {
        **_IMAGENET,
        "data.size": 256,
        "encoder.dim": 768,
        "encoder.depth": 24,
        "encoder.heads": 8,
        "encoder.norm_first": False,
        "epochs": 300,
        "warmup_epochs": 1,
        "batch_size": 256,
        "lr": 1e-4,
        "schedule": "constant",
        "betas": (0.9, 0.96),
        "weight_decay": 0.045,
    },
    "small": {**_SMALL, "tokenizer.file": "random:512"},
    "tiny": {**_TINY, "tokenizer.file": "random:8"},
}

IJEPA: Presets = {
    # ViT-H/14; the release raises weight decay from this to 0.4, and crops without flipping
    "paper": {
        **_IMAGENET,
        "data.augment": "crop-flip",
        "data.crop_scale": (0.3, 1.0),
        "tokenizer.patch_size": 14,
        "encoder.dim": 1280,
        "encoder.depth": 32,
        "encoder.heads": 16,
        "encoder.class_token": False,
        "predictor_dim": 384,
        "predictor_depth": 12,
        "predictor_heads": 16,
        "epochs": 300,
        "warmup_epochs": 40,
        "batch_size": 2048,
        "lr": 1e-3,
        "min_lr": 1e-6,
        "betas": (0.9, 0.999),
        "weight_decay": 0.04,
    },
    "small": {
        **_SMALL,
        "encoder.class_token": False,
        "predictor_dim": 64,
        "predictor_depth": 2,
        "predictor_heads": 4,
    },
    "tiny": {
        **_TINY,
        "encoder.class_token": False,
        "predictor_dim": 32,
        "predictor_depth": 2,
        "predictor_heads": 2,
    },
}

# Video: 3 axes of tokens need widths divisible by 6
_VIDEO_PAPER: Options = {
    "data.size": 224,
    "data.frames": 16,
    # every fourth frame of 30 per second
    "data.rate": 7.5,
    "data.augment": "crop",
    "data.crop_scale": (0.3, 1.0),
    "tokenizer": "vision/tubelets",
    "tokenizer.patch_size": 16,
    "encoder.class_token": False,
    "batch_size": 3072,
    "warmup_steps": 10_000,
    "lr": 6.25e-4,
    "min_lr": 1e-6,
    "betas": (0.9, 0.95),
    # raised to 0.4 in the paper
    "weight_decay": 0.04,
    "clip": 0.02,
}
_VIDEO_SMALL: Options = {
    **_SMALL,
    "tokenizer": "vision/tubelets",
    "tokenizer.patch_size": 8,
    "encoder.dim": 96,
    "encoder.class_token": False,
}
_VIDEO_TINY: Options = {
    **_TINY,
    "tokenizer": "vision/tubelets",
    "encoder.dim": 24,
    "encoder.class_token": False,
}

V_PIXEL: Presets = {
    # SALT's teacher of a ViT-L, 40,000 steps; its decoder is not published, this one is MAE's
    "paper-v-pixel": {
        **_VIDEO_PAPER,
        "encoder.dim": 1024,
        "encoder.depth": 24,
        "encoder.heads": 16,
        "masking": "core/tube-blocks",
        "decoder_dim": 384,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "steps": 40_000,
    },
    "small-v-pixel": {
        **_VIDEO_SMALL,
        "masking": "core/tube-blocks",
        "decoder_dim": 48,
        "decoder_depth": 1,
        "decoder_heads": 4,
    },
    "tiny-v-pixel": {
        **_VIDEO_TINY,
        "masking": "core/tube-blocks",
        "decoder_dim": 24,
        "decoder_depth": 2,
        "decoder_heads": 2,
    },
}

SALT: Presets = {
    # ViT-L, 200,000 steps behind the 40,000 of a ViT-L as its teacher
    "paper": {
        **_VIDEO_PAPER,
        "encoder.dim": 1024,
        "encoder.depth": 24,
        "encoder.heads": 16,
        "predictor_dim": 384,
        "predictor_depth": 12,
        "predictor_heads": 16,
        "steps": 200_000,
    },
    "small": {**_VIDEO_SMALL, "predictor_dim": 48, "predictor_depth": 2, "predictor_heads": 4},
    "tiny": {
        **_VIDEO_TINY,
        "teacher": "untrained",
        "predictor_dim": 24,
        "predictor_depth": 2,
        "predictor_heads": 2,
    },
}

_DUAL_TEXT: Options = {"data.text_vocab": "bpe", "data.text_vocab_size": 1024}

DUAL: Presets = {
    # in place of CLIP; frames of 32 pixels, a minute on one core
    "small": {
        **_VIDEO_SMALL,
        **_DUAL_TEXT,
        "encoder.dim": 48,
        "encoder.depth": 1,
        "text_encoder.dim": 64,
        "text_encoder.depth": 1,
        "text_encoder.heads": 4,
        "dim": 64,
        "steps": 400,
        "clip": 1.0,
    },
    "tiny": {
        **_VIDEO_TINY,
        **_DUAL_TEXT,
        "text_encoder.dim": 32,
        "text_encoder.depth": 1,
        "text_encoder.heads": 2,
        "dim": 16,
    },
}

TGM: Presets = {
    # ViT-B on Kinetics-400 with CLIP ViT-B/32; batch, warm-up, crops and decoder are VideoMAE's
    "paper": {
        "data.size": 224,
        "data.frames": 16,
        # every fourth frame of 30 per second
        "data.rate": 7.5,
        "data.augment": "crop",
        # sides of 1, .875, .75 and .66, of which any between are drawn here
        "data.crop_scale": (0.66**2, 1.0),
        "data.text_vocab": "openai/clip-vit-base-patch32",
        "data.text_length": 77,
        "tokenizer.patch_size": 16,
        **_VIT_B,
        "encoder.class_token": False,
        # 117 of the 196 patches of each slot
        "masking.ratio": 117 / 196,
        "guide": "transformers:openai/clip-vit-base-patch32",
        "score.guide": "transformers:openai/clip-vit-base-patch32",
        "epochs": 200,
        "warmup_epochs": 40,
        "batch_size": 1024,
        "base_lr": 1.5e-4,
        "min_lr": 1e-5,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    "small": {
        **_VIDEO_SMALL,
        **_DUAL_TEXT,
        "dim": 64,
        "decoder_dim": 48,
        "decoder_depth": 1,
        "decoder_heads": 4,
    },
    "tiny": {
        **_VIDEO_TINY,
        **_DUAL_TEXT,
        "guide": "random",
        "score.guide": "random",
        "dim": 16,
        "decoder_dim": 24,
        "decoder_depth": 2,
        "decoder_heads": 2,
    },
}

POSE_TOKENIZER: Presets = {
    # configuration of PCT's release; what a batch was is not known
    "paper": {
        "codes": 2048,
        "pose_tokens": 34,
        "dim": 512,
        "depth": 4,
        "epochs": 50,
        "lr": 1e-2,
        "weight_decay": 0.15,
    },
    "small": {
        "codes": 128,
        "pose_tokens": 8,
        "dim": 64,
        "depth": 2,
        "token_hidden": 32,
        "channel_hidden": 128,
        "commitment": 1.0,
        "steps": 600,
        "batch_size": 16,
        "lr": 5e-3,
    },
    "tiny": {
        "codes": 16,
        "pose_tokens": 4,
        "dim": 16,
        "depth": 1,
        "decoder_dim": 8,
        "token_hidden": 8,
        "channel_hidden": 16,
        "steps": 10,
        "batch_size": 8,
        "lr": 1e-3,
    },
}

PREVIPS: Presets = {
    # sizes and training of an unofficial implementation, which trains by SGD at 0.01: another optimiser,
    # whose rate does not carry over, so this one is ours. Cameras are the same in all its windows
    "paper": {
        "data.size": 224,
        "encoder.dim": 256,
        "encoder.depth": 6,
        "encoder.heads": 8,
        "video_tokenizer.patch_size": 16,
        "video_encoder.dim": 384,
        "video_encoder.depth": 12,
        "video_encoder.heads": 6,
        "view_code": True,
        "epochs": 50,
        "lr": 1e-4,
        "weight_decay": 1e-5,
    },
    "small": {
        "encoder.dim": 64,
        "encoder.depth": 2,
        "encoder.heads": 4,
        "video_tokenizer.patch_size": 8,
        "video_encoder.dim": 96,
        "video_encoder.depth": 3,
        "video_encoder.heads": 4,
        "dim": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
        "steps": 800,
        "batch_size": 32,
        "lr": 5e-4,
        "clip": 1.0,
    },
    "tiny": {
        "tokenizer.run": "random:16x4",
        "target.run": "random:16x4",
        "encoder.dim": 24,
        "encoder.depth": 2,
        "encoder.heads": 2,
        "video_tokenizer.patch_size": 16,
        "video_encoder.dim": 24,
        "video_encoder.depth": 1,
        "video_encoder.heads": 2,
        "dim": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "steps": 10,
        "batch_size": 8,
        "lr": 1e-3,
    },
}

DATA2VEC2: Presets = {
    # ViT-B, 75 epochs of 16 images on each of 16 devices; its 10 + 2 blocks are 12 here
    "paper": {
        **_IMAGENET,
        "data.crop_scale": (0.2, 1.0),
        **_VIT_B,
        "views": 16,
        "layers": 10,
        "decoder_dim": 768,
        "decoder_depth": 6,
        "decoder_kernel": 3,
        "decoder_groups": 16,
        "momentum": 0.9998,
        "final_momentum": 0.99999,
        "momentum_rise": 100_000 / 375_300,
        "steps": 375_300,
        "warmup_steps": 50_040,
        "batch_size": 256,
        "lr": 1e-3,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
        "clip": 4.0,
    },
    # the averages reach back as far in shares of the run
    "small": {
        **_SMALL,
        "views": 4,
        "layers": 3,
        "decoder_dim": 64,
        "decoder_depth": 3,
        "decoder_groups": 4,
        "momentum": 0.96,
        "final_momentum": 0.998,
        "clip": 4.0,
    },
    "tiny": {
        **_TINY,
        "views": 2,
        "layers": 2,
        "decoder_dim": 32,
        "decoder_depth": 2,
        "decoder_groups": 4,
        "momentum": 0.9,
        "final_momentum": 0.99,
    },
}

SUPERVISED: Presets = {
    # MAE's fine-tuning of ViT-B (FINETUNE.md of the release)
    "paper": {
        **_IMAGENET,
        "data.augment": "rand-augment",
        "data.crop_scale": (0.08, 1.0),
        **_VIT_B,
        "encoder.drop_path": 0.1,
        "label_smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "layer_decay": 0.65,
        "epochs": 100,
        "warmup_epochs": 5,
        "batch_size": 1024,
        "base_lr": 5e-4,
        "min_lr": 1e-6,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
    },
    "small": _SMALL,
    # how to go on with an encoder, whatever its size, in a minute on two cores
    "finetune": {
        "label_smoothing": 0.1,
        "layer_decay": 0.75,
        "steps": 300,
        "batch_size": 64,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
    },
    # the encoder as it is, under a head that attends to its tokens
    "attentive": {
        "pool": "attention",
        "frozen": True,
        "steps": 300,
        "batch_size": 64,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
    },
    "tiny": _TINY,
}

DMT_JEPA: Presets = {
    # ViT-B/16, 600 epochs
    "paper": {
        **IJEPA["paper"],
        "tokenizer.patch_size": 16,
        **_VIT_B,
        "heads": 12,
        "predictor_depth": 6,
        "predictor_heads": 12,
        "epochs": 600,
    },
    "small": {**IJEPA["small"], "heads": 4},
    "tiny": {**IJEPA["tiny"], "heads": 2},
}

_TWO_VIEWS: Options = {
    "data.views": 2,
    "data.augment": "shift-flip",
    "data.other_augment": "three-augment",
}

LUT: Presets = {
    # ViT-B, PRETRAIN.md of the release. Its rate goes by the root of the batch: 1.5e-4 * sqrt(4096) / 4
    "paper": {
        **_IMAGENET,
        **_TWO_VIEWS,
        **_VIT_B,
        **_DECODER_B,
        "epochs": 1600,
        "warmup_epochs": 40,
        "batch_size": 4096,
        "lr": 2.4e-3,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    # MAE's sizes and training: the two are to be compared; a short run takes a short average
    "small": {**MAE["small"], **_TWO_VIEWS, "hidden_dim": 512, "statistics": "batch", "momentum": 0.98},
    "tiny": {**MAE["tiny"], **_TWO_VIEWS, "hidden_dim": 64, "statistics": "batch"},
}

_TWO_CROPS: Options = {
    "data.views": 2,
    "data.augment": "crop-jitter",
    "data.crop_scale": (0.765625, 0.765625),
}
"""224 of 256 pixels."""

CROCO: Presets = {
    # ViT-B, pretrain.py of the release: a cosine over 800 epochs that ends after 400, at 0.54 of the highest
    # rate. Ours ends there too, and is lower on the way, by 0.12 of the highest at most
    "paper": {
        "data.size": 224,
        "tokenizer.patch_size": 16,
        **_TWO_CROPS,
        **_VIT_B,
        "encoder.class_token": False,
        **_DECODER_B,
        "epochs": 400,
        "warmup_epochs": 40,
        "batch_size": 256,
        "base_lr": 1.5e-4,
        "min_lr": 0.54129 * 1.5e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    # a decoder as wide and deep as it takes to find a patch in another picture
    "small": {**_SMALL, **_TWO_CROPS, "decoder_dim": 128, "decoder_depth": 3, "decoder_heads": 4},
    "tiny": {**MAE["tiny"], **_TWO_CROPS},
}

GA_DMS: Presets = {
    # ViT-B/16 and the text tower of CLIP, whose weights the paper starts from, on five million pairs
    # (appendix A.1). It decays weights by Adam's way, 4e-5
    "paper": {
        "data.size": (384, 128),
        "data.augment": "shift-flip",
        "data.text_vocab": "bpe",
        "data.text_vocab_size": 49408,
        "data.text_length": 77,
        "tokenizer.patch_size": 16,
        **_VIT_B,
        "text_encoder.dim": 512,
        "text_encoder.depth": 12,
        "text_encoder.heads": 8,
        "epochs": 30,
        "warmup_epochs": 5,
        "batch_size": 512,
        "lr": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 4e-5,
    },
    # two thirds of the blocks of the text encoder are scored, as in the paper
    "small": {
        **_SMALL,
        "tokenizer.patch_size": 8,
        "data.text_vocab": "bpe",
        "data.text_vocab_size": 1024,
        "text_encoder.dim": 128,
        "text_encoder.depth": 3,
        "text_encoder.heads": 4,
        "last_blocks": 2,
        "dim": 128,
        "heads": 4,
        "depth": 1,
        "match_objective.temperature": 0.07,
        "steps": 1500,
        "lr": 3e-4,
        "clip": 1.0,
    },
    "tiny": {
        **_TINY,
        "data.text_vocab": "bpe",
        "data.text_vocab_size": 512,
        "text_encoder.dim": 32,
        "text_encoder.depth": 2,
        "text_encoder.heads": 2,
        "last_blocks": 1,
        "dim": 32,
        "heads": 2,
        "depth": 1,
        "samples": 100_003,  # that ids of the suite are numbers of samples
    },
}

OLA_VLM: Presets = {
    # pre-training of the release (scripts/train/pretrain.sh), models of the sizes of its own: CLIP-ViT-L/14
    # of 336 pixels and Llama 3 8B, whose weights --init and --text_encoder.pretrained name. Teachers are
    # given by --depth_target, --seg_target and --gen_target
    "paper": {
        "data.size": 336,
        "data.text_vocab": "bpe",
        "data.text_vocab_size": 128256,
        "data.text_length": 1024,
        "tokenizer.patch_size": 14,
        "encoder.dim": 1024,
        "encoder.depth": 24,
        "encoder.heads": 16,
        "image_block": -2,
        "text_encoder.architecture": "llama",
        "text_encoder.dim": 4096,
        "text_encoder.depth": 32,
        "text_encoder.heads": 32,
        "text_encoder.kv_heads": 8,
        "text_encoder.mlp_ratio": 3.5,
        "text_encoder.tied": False,
        "text_encoder.length": 2048,
        "epochs": 1,
        "warmup_epochs": 0.03,
        "batch_size": 256,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
    },
    # the language model begins with nothing, so it is trained
    "small": {
        **_SMALL,
        "tokenizer.patch_size": 8,
        "data.text_vocab": "bpe",
        "data.text_vocab_size": 1024,
        "text_encoder.dim": 96,
        "text_encoder.depth": 4,
        "text_encoder.heads": 4,
        "text_encoder.length": 128,
        "train_language": True,
        "depth_layers": (2, 3),
        "seg_layers": (2, 3),
        "gen_layers": (2, 3),
        "task_tokens": 4,
        "steps": 1500,
        "batch_size": 32,
        "clip": 1.0,
    },
    "tiny": {
        **_TINY,
        "data.text_vocab": "bpe",
        "data.text_vocab_size": 512,
        "text_encoder.dim": 32,
        "text_encoder.depth": 2,
        "text_encoder.heads": 2,
        "text_encoder.length": 256,
        "depth_target": "vision/hog",
        "seg_target": "vision/dct",
        "gen_target": "vision/pixels",
        "depth_layers": (1, 2),
        "seg_layers": (1,),
        "gen_layers": (2,),
        "task_tokens": 4,
        "heads": 2,
        "head_dim": 8,
    },
}

UMD: Presets = {
    # B/4 on ImageNet of 64 pixels, ae_i1k.py of the release; warm-up is 5 % of the epochs
    "paper": {
        "data.size": 64,
        "data.augment": "crop-flip",
        "data.crop_scale": (0.8, 1.0),
        "tokenizer.patch_size": 4,
        **_VIT_B,
        "encoder.positions": "learned",
        "epochs": 800,
        "warmup_epochs": 40,
        "batch_size": 1024,
        "base_lr": 1.5e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
        "clip": 1.0,
    },
    "small": {**_SMALL, "decoder_depth": 2, "decoder_heads": 4, "clip": 1.0},
    "tiny": {**_TINY, "decoder_depth": 2, "decoder_heads": 2},
}

MASKALIGN: Presets = {
    # ViT-B with CLIP-B as its teacher, the command of the release; 58 of 196 patches stay visible
    "paper": {
        **_IMAGENET,
        "data.crop_scale": (0.2, 1.0),
        **_VIT_B,
        "encoder.drop_path": 0.1,
        "target.model": "transformers:openai/clip-vit-base-patch16",
        "masking.ratio": 138 / 196,
        "epochs": 200,
        "warmup_epochs": 20,
        "batch_size": 1024,
        "base_lr": 1.5e-4,
        "min_lr": 1e-5,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    "small": _SMALL,
    "tiny": {**_TINY, "target.model": "test_vit", "target.pretrained": False, "fusion": "sum"},
}

_DENOISER: Options = {"clean_share": 0.0, "noisy_masking": None}
MASKUNET: Presets = {
    # the denoiser is UMD's, in place of Stable Diffusion; training is the release's, 4 images on 8 GPUs
    "paper": {
        **as_host_preset("vision/umd", {**UMD["paper"], **_DENOISER}),
        "epochs": 15,
        "warmup_epochs": 0,
        "batch_size": 32,
        "base_lr": 8e-5,
        "schedule": "constant",
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "clip": 1.0,
    },
    "small": {
        **as_host_preset("vision/umd", {**UMD["small"], **_DENOISER}),
        "start": 2.0,
        "weight_decay": 0.01,
    },
    "tiny": {**as_host_preset("vision/umd", {**UMD["tiny"], **_DENOISER}), "base": "random", "start": 1.0},
}

# the paper trains nothing: it takes other models as they are
RECAP: Presets = {
    preset: as_host_preset("vision/maskgit", MASKGIT[preset]) for preset in ("paper", "small", "tiny")
}

R_AMT: Presets = {
    # ViT-B/16 of CLIP with 16 shots, configurations of the release (3e-5 and 10 epochs on ImageNet)
    "paper": {
        **_IMAGENET,
        "data.crop_scale": (0.5, 1.0),
        **_VIT_B,
        "epochs": 30,
        "batch_size": 32,
        "lr": 8e-5,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
    },
    # a rate at which numbers reach the threshold in 25 steps
    "small": {
        **_SMALL,
        "steps": 400,
        "batch_size": 32,
        "lr": 2e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
    },
    "tiny": {**_TINY, "base": "random"},
}

HYBRID_DISTILLATION: Presets = {
    # ViT-B with DeiT-B and MAE-B as its teachers; training is MAE's with fewer epochs, as none was published
    "paper": {
        **_IMAGENET,
        "data.crop_scale": (0.2, 1.0),
        **_VIT_B,
        "target.model": "deit_base_patch16_224.fb_in1k",
        "relation_target.model": "vit_base_patch16_224.mae",
        "epochs": 300,
        "warmup_epochs": 20,
        "batch_size": 1024,
        "base_lr": 1.5e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
    },
    # products of queries and keys as they are would have ten times the gradient of the features
    "small": {**_SMALL, "relation_kind": "scaled"},
    "tiny": {
        **_TINY,
        "target.model": "test_vit",
        "target.pretrained": False,
        "relation_target.model": "test_vit",
        "relation_target.pretrained": False,
        "relation_target.layers": (-2,),
        "relation_weights": (1.0,),
    },
}

# one block a stage; a stem of 16 channels in place of 64, which a small one replaces
_STAGES: Options = {
    "layers": [1, 1, 1, 1],
    "channels": [16, 32, 96, 192],
    "stem_type": "deep",
    "stem_width": 8,
}
_NARROW: Options = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}

SELFIE: Presets = {
    # 32 pixels, of another's implementation, as nothing of the paper's training was found. Its rates are of
    # SGD, which do not carry over
    "paper": {
        "data.size": 32,
        "data.augment": "shift-flip",
        "tokenizer.patch_size": 8,
        "encoder.small_stem": True,
        "epochs": 200,
        "batch_size": 128,
        "lr": 5e-4,
    },
    # 224 pixels, the same otherwise
    "paper-224": {
        "data.size": 224,
        "data.augment": "crop-flip",
        "tokenizer.patch_size": 32,
        "positions": "axes",
        "epochs": 200,
        "batch_size": 128,
        "lr": 5e-4,
    },
    "small": {
        "data.size": 32,
        "tokenizer.patch_size": 8,
        "encoder.model": "resnet18",
        "encoder.arguments": _STAGES,
        "encoder.small_stem": True,
        "heads": 4,
        "mlp_dim": 256,
        "steps": 2000,
        "batch_size": 64,
        "lr": 1e-3,
        "weight_decay": 0.05,
    },
    "tiny": {
        "tokenizer.patch_size": 4,
        "encoder.model": "resnet18",
        "encoder.arguments": _NARROW,
        "encoder.small_stem": True,
        "depth": 1,
        "heads": 2,
        "mlp_dim": 16,
        "steps": 10,
        "batch_size": 8,
    },
}

MTO: Presets = {
    "paper": as_host_preset("vision/simmim", SIMMIM["paper"]),
    "paper-mae": as_host_preset("vision/mae", MAE["paper"]),
    "small": as_host_preset("vision/simmim", SIMMIM["small"]),
    # gates stand between blocks, so the decoder needs a second one
    "small-mae": as_host_preset("vision/mae", {**MAE["small"], "decoder_depth": 2}),
    "tiny": as_host_preset("vision/simmim", SIMMIM["tiny"]),
}

_BASIC: Options = {"bottleneck": False, "small_stem": True}
_RESNET_TINY: Options = {"depths": (1, 1, 1), "width": 8, **_BASIC}
_COMET_TINY: Options = {
    "tokenizer.patch_size": 4,
    **{f"encoder.{name}": value for name, value in _RESNET_TINY.items()},
    "detector": "untrained",
    "selector": "dilated",
    "selector_width": 8,
    "steps": 10,
    "batch_size": 8,
}

COMET: Presets = {
    # ResNet-18 and LR-ASPP, conf/COMET.yaml of the release, whose comments call other weights the default
    "paper": {
        "data.size": 224,
        "data.augment": "shift-flip",
        "tokenizer.patch_size": 32,
        "encoder.depths": (2, 2, 2, 2),
        "encoder.width": 64,
        "encoder.bottleneck": False,
        "selector": "lraspp",
        "completeness": 4.0,
        "margin": 2.0,
        "area": 100.0,
        "budget": 0.6,
        "epochs": 199,
        "warmup_epochs": 2,
        "batch_size": 128,
        "lr": 5e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.03,
    },
    "small": {
        **_COMET_TINY,
        "detector": None,
        "encoder.width": 16,
        "selector_width": 16,
        "budget": 0.4,
        "steps": 1000,
        "batch_size": 32,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.03,
    },
    "tiny": _COMET_TINY,
}

# of the release of DAFormer, whose rate falls in a line: cosine is the nearest here. Frames of GTA are
# brought to 1280 x 720 and of Cityscapes to 1024 x 512 there before they are cropped
_ADAPTED: Options = {
    "data.source_data.size": 512,
    "data.source_data.augment": "crop-flip",
    "data.source_data.crop_scale": (0.28, 0.28),
    "data.target_data.size": 512,
    "data.target_data.augment": "crop-flip",
    "data.target_data.crop_scale": (0.5, 0.5),
    "tokenizer.patch_size": 32,
    "pretrained": True,
    "decoder_rate": 10.0,
    "rebuilder_rate": 10 / 3,
    "steps": 40_000,
    "warmup_steps": 1500,
    "batch_size": 2,
    "lr": 6e-5,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
}
# strides of 4 and 8, so that tiles of 64 pixels have 8 x 8 cells
_ADAPTED_SMALL: Options = {
    "tokenizer.patch_size": 8,
    "model": "resnet18",
    "levels": (1, 2, 3),
    "decoder_dim": 32,
    "dilations": (1, 2, 4),
    "width": 64,
    "heads": 4,
    "decoder_rate": 1.0,
    "rebuilder_rate": 1.0,
}
MASKED_FEATURE: Presets = {
    "paper": {**_ADAPTED, "model": "resnet101", "arguments": {"output_stride": 8}, "decoder": "deeplab"},
    # timm has no MiT-B5; PVT v2 has maps of the same widths and strides. Rows of the sky and of the own car
    "paper-daformer": {
        **_ADAPTED,
        "model": "pvt_v2_b5",
        "decoder": "daformer",
        "momentum": 0.999,
        "ignore_rows": (15, 120),
    },
    "small": {
        **_ADAPTED_SMALL,
        "arguments": {
            "output_stride": 8,
            "layers": [1, 1, 1, 1],
            "channels": [32, 64, 128, 128],
            "stem_width": 32,
        },
        "steps": 600,
        "batch_size": 16,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
    },
    "tiny": {
        **_ADAPTED_SMALL,
        "tokenizer.patch_size": 4,
        "levels": (0, 1),
        "arguments": {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16], "stem_width": 16},
        "decoder_dim": 16,
        "dilations": (1, 2),
        "width": 32,
        "steps": 10,
        "batch_size": 8,
    },
}

_MAYOR_SMALL: Options = {
    "model": "resnet10t",
    "levels": (1,),
    "arguments": {"channels": (32, 48, 64, 64), "stem_width": 16},
    "width": 32,
    "boxes": "given",
    "margin": 0.1,
    "depth": 1,
    "reduced": 8,
    "hidden": 64,
    "steps": 1000,
    "batch_size": 16,
    "lr": 2e-3,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
}

MAYOR: Presets = {
    # ours, as nothing was published but the idea: sizes of Mask R-CNN, and training that AdamW is used to
    "paper": {
        "data.size": 800,
        "data.augment": "crop-flip",
        "data.crop_scale": (0.3, 1.0),
        "model": "resnet50",
        "pretrained": True,
        "head": "mlp",
        "roi": 14,
        "hidden": 1024,
        "width": 256,
        "anchors": 256,
        "rois": 512,
        "assignment": "adaptive",
        "learn": "instance",
        "boxes": "proposed",
        "epochs": 100,
        "warmup_epochs": 1,
        "batch_size": 16,
        "lr": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 1.0,
    },
    # boxes are given, so that masks alone are compared; a shallow trunk, as a deep one sees the whole box
    "small": _MAYOR_SMALL,
    "small-proposals": {
        **_MAYOR_SMALL,
        "levels": (1, 2, 3),
        "boxes": "proposed",
        "anchors": 64,
        "before": 100,
        "after": 50,
        "rois": 32,
        "box_dim": 64,
    },
    "tiny": {
        "model": "resnet10t",
        "levels": (1, 2),
        "arguments": {"channels": (8, 8, 8, 8), "stem_width": 8},
        "width": 8,
        "boxes": "given",
        "roi": 4,
        "depth": 1,
        "reduced": 4,
        "hidden": 16,
        "steps": 10,
        "batch_size": 8,
    },
}

UNET: Presets = {
    "small": {"width": 16},
    "tiny": {"width": 4, "levels": 2, "dilations": (1, 2)},
}
_PHG_MAE: Options = {
    "tokenizer.patch_size": 1,
    "steps": 1000,
    "batch_size": 16,
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
}
# sees the image alone; for --teacher
_STUDENT: Options = {"tokenizer.visible": ("image",), "reconstruction_weight": 0.0}
# frames and network of the release, its largest of four; nothing of the training was published
_DRONESCAPES: Options = {**_PHG_MAE, "data.size": (540, 960)}
PHG_MAE: Presets = {
    "paper": {**_DRONESCAPES, "encoder.width": 32},
    "paper-student": {**_DRONESCAPES, **_STUDENT, "encoder.width": 10},
    "small": {**_PHG_MAE, "encoder.width": 8},
    "student": {**_PHG_MAE, **_STUDENT, "encoder.width": 8},
    "tiny": {
        "tokenizer.patch_size": 4,
        **{f"encoder.{name}": value for name, value in UNET["tiny"].items()},
        "steps": 10,
        "batch_size": 8,
    },
}

# crops of 8 x 8 cells; half are hidden
_MOM: Options = {"encoder.class_token": False, "betas": (0.9, 0.999)}
MOM: Presets = {
    # kitti.sh of the release. Its encoder is the end of a pre-trained ViT-B. It accumulates batches of 4 four
    # times and clips gradients by value; its cosine starts again after every epoch, ours is one
    "paper": {
        **_MOM,
        "data.size": (375, 1242),
        "tokenizer.size": 120,
        "tokenizer.patch_size": 15,
        "encoder.dim": 768,
        "encoder.depth": 6,
        "encoder.heads": 12,
        "encoder.positions": "learned",
        "pretrained": True,
        "warm_up": (10 / 150, 20 / 150),
        "epochs": 150,
        "batch_size": 16,
        "lr": 5e-5,
        "min_lr": 1e-6,
        "weight_decay": 2e-5,
    },
    # for images of 64 to 128 pixels
    "small": {
        **_MOM,
        "tokenizer.size": 32,
        "tokenizer.patch_size": 4,
        "encoder.dim": 96,
        "encoder.depth": 3,
        "encoder.heads": 4,
        "model": "convnext_atto",
        "arguments": {"depths": (1, 1, 2, 1), "dims": (32, 64, 128, 128)},
        "levels": (0, 1, 2),
        "pyramid_dim": 32,
        "small": 4.0,
        "warm_up": (0.05, 0.15),
        "head_dim": 128,
        "decoder_dim": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
        "steps": 1000,
        "batch_size": 16,
        "lr": 1e-3,
        "weight_decay": 0.05,
    },
    "tiny": {
        **_MOM,
        "tokenizer.size": 32,
        "tokenizer.patch_size": 4,
        **_VIT_TINY,
        "model": "convnext_atto",
        "arguments": {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)},
        "levels": (0, 1),
        "pyramid_dim": 8,
        "small": 0.0,
        "object_heads": 2,
        "head_dim": 16,
        "decoder_dim": 32,
        "decoder_depth": 2,
        "decoder_heads": 2,
        "steps": 10,
        "batch_size": 8,
    },
}

# stages with strides of 4 pixels, so that any subset of patches of 4 can be encoded
_RESNET_STAGE: Options = {"model": "resnet18", "stage": 1}
LAYER_MASKED: Presets = {
    "small": {**_RESNET_STAGE, "arguments": {"layers": [4, 1, 1, 1]}},
    "tiny": {**_RESNET_STAGE, "arguments": {"layers": [1, 1, 1, 1], "channels": [32, 32, 32, 32]}},
}


def _layer_masked(preset: str) -> Options:
    return {f"host.encoder.{name}": value for name, value in LAYER_MASKED[preset].items()}


LAYER_MASKING: Presets = {
    # the paper's network, for --init; it was trained elsewhere. 512 masks of half of the squares of 16 pixels
    "resnet50": {
        "data.size": 224,
        "host.tokenizer.patch_size": 16,
        "host.encoder.model": "resnet50",
        "draws": 512,
    },
    "small": {
        "host.tokenizer.patch_size": 4,
        **_layer_masked("small"),
        "draws": 128,
        "steps": 1000,
        "batch_size": 64,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
    },
    "tiny": {
        "host.tokenizer.patch_size": 4,
        **_layer_masked("tiny"),
        "draws": 8,
        "steps": 10,
        "batch_size": 8,
    },
}

# ----------------------------------------------------- other parts, as the conformance suite builds them

PATCHES: Presets = {"tiny": {"size": 16, "channels": 3, "patch_size": 4}}
TUBELETS: Presets = {"tiny": {"frames": 4, "size": 16, "channels": 3, "patch_size": 4}}
LAYER_PATCHES: Presets = {
    "tiny": {
        **PATCHES["tiny"],
        "layers": {"image": 3, "height": 1, "ground": 3, "kind": 4},
        "class_layers": ("ground", "kind"),
        "tasks": ("kind",),
    }
}
CODE_PATCHES: Presets = {"tiny": {**PATCHES["tiny"], "file": "random:8"}}
VIT: Presets = {
    "small": {"dim": 128, "depth": 4, "heads": 4},
    "tiny": {"dim": 32, "depth": 2, "heads": 2},
}
CONV_VIT: Presets = {
    "small": {**VIT["small"], "conv_dims": (32, 64), "conv_depths": (1, 1)},
    "tiny": {**VIT["tiny"], "conv_dims": (8, 16), "conv_depths": (1, 1)},
}
RESNET: Presets = {
    "small": {"depths": (2, 2, 2), "width": 32, **_BASIC},
    "tiny": _RESNET_TINY,
}
PATCH_RESNET: Presets = {
    "small": {"model": "resnet18", "arguments": _STAGES, "small_stem": True},
    "tiny": {"model": "resnet18", "arguments": _NARROW, "small_stem": True},
}
# strides of 4 pixels, for images of 28 to 64
_SWIN = {"patch_size": 2, "window_size": 7}
TIMM: Presets = {
    "small": {
        "model": "swin_tiny_patch4_window7_224",
        "arguments": {**_SWIN, "embed_dim": 64, "depths": [2, 2], "num_heads": [2, 4]},
    },
    "tiny": {
        "model": "swin_tiny_patch4_window7_224",
        "arguments": {**_SWIN, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]},
    },
}
SWIN: Presets = {
    "small": {"dim": 64, "depths": (2, 2), "heads": (2, 4), "window": 4},
    "tiny": {"dim": 16, "depths": (2, 2), "heads": (2, 2), "window": 2},
}
CODES: Presets = {"tiny": {"file": "random:8"}}
TEXT_SIMILARITY: Presets = {"tiny": {"guide": "random"}}
TEACHER: Presets = {"tiny": {"model": "test_vit", "pretrained": False}}
_WINDOWS: Options = {"frames": 4, "persons": 2, "joints": 17, "views": 2}
POSES: Presets = {"tiny": _WINDOWS}
POSE_TOKENS: Presets = {"tiny": {**_WINDOWS, "run": "random:16x4"}}
POSE_CODES: Presets = {"tiny": {"run": "random:16x1"}}
