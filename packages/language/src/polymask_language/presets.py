"""Presets of all parts of language: sizes and training. Strings and numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymask.config import as_host_preset

Options = Mapping[str, Any]
Presets = Mapping[str, Options]

# ------------------------------------------------------------------------------- shared groups

# BERT-base on 512 tokens
_BERT: Options = {"data.length": 512, "encoder.dim": 768, "encoder.depth": 12, "encoder.heads": 12}
_BERT_TRAINING: Options = {
    "steps": 1_000_000,
    "batch_size": 256,
    "lr": 1e-4,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
    "warmup_steps": 10_000,
}
_DEPTH_4: Options = {"encoder.dim": 128, "encoder.depth": 4, "encoder.heads": 4}

# glosses of WordNet, minutes on two cores
_SMALL: Options = {
    "data.length": 48,
    "data.vocab_size": 2048,
    "encoder.architecture": "modernbert",
    **_DEPTH_4,
    "encoder.dropout": 0.0,
    "steps": 3000,
    "batch_size": 64,
    "lr": 1e-3,
    "betas": (0.9, 0.98),
    "weight_decay": 0.01,
    "clip": 1.0,
}

# what the conformance suite builds
_TINY: Options = {"encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2, "steps": 10, "batch_size": 8}

# ------------------------------------------------------------------------------------- systems

MAE: Presets = {
    # nobody published it for text as it is: the encoder of BERT-base, the decoder of MAE, and 40 % masked
    # (Wettig et al. 2022, arXiv 2202.08005)
    "paper": {
        **_BERT,
        "masking.ratio": 0.4,
        "decoder_dim": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        **_BERT_TRAINING,
    },
    "small": {**_SMALL, "masking.ratio": 0.4, "decoder_dim": 128, "decoder_depth": 1, "decoder_heads": 4},
    "tiny": {**_TINY, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2},
}

SUPERVISED: Presets = {
    "small": _SMALL,
    # how to go on with an encoder, whatever its size, in minutes on two cores
    "finetune": {
        "label_smoothing": 0.1,
        "layer_decay": 0.75,
        "steps": 300,
        "batch_size": 64,
        "lr": 5e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "clip": 1.0,
    },
    # the encoder as it is, under a head that attends to its tokens
    "attentive": {
        "pool": "attention",
        "frozen": True,
        "steps": 300,
        "batch_size": 64,
        "lr": 5e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "clip": 1.0,
    },
    "tiny": _TINY,
}

DATA2VEC2: Presets = {
    # Base on BookCorpus and Wikipedia, 4 sequences on each of 16 devices
    "paper": {
        **_BERT,
        "data.pack": True,
        "data.vocab_size": 50265,
        "encoder.dropout": 0.1,
        "masking.ratio": 0.48,
        "views": 8,
        "layers": 12,
        "decoder_dim": 768,
        "decoder_depth": 5,
        "decoder_kernel": 9,
        "momentum": 0.9999,
        "final_momentum": 0.99999,
        "momentum_rise": 0.1,
        "steps": 1_000_000,
        "warmup_steps": 4_000,
        "batch_size": 64,
        "lr": 2e-4,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "clip": 1.0,
    },
    # the averages reach back as far in shares of the run
    "small": {
        **{key: value for key, value in _SMALL.items() if key != "encoder.architecture"},
        "views": 4,
        "layers": 3,
        "decoder_dim": 128,
        "decoder_depth": 3,
        "decoder_kernel": 5,
        "decoder_dropout": 0.0,
        "momentum": 0.97,
        "final_momentum": 0.998,
    },
    "tiny": {
        **_TINY,
        "views": 2,
        "layers": 2,
        "decoder_dim": 32,
        "decoder_depth": 2,
        "decoder_kernel": 3,
        "decoder_dropout": 0.0,
        "momentum": 0.9,
        "final_momentum": 0.99,
    },
}

MLM: Presets = {
    "paper": {
        **_BERT,
        "data.vocab": "wordpiece",
        "data.vocab_size": 30522,
        "masking.ratio": 0.15,
        **_BERT_TRAINING,
    },
    "small": {**_SMALL, "masking.ratio": 0.15},
    "tiny": _TINY,
}

MEAP: Presets = {
    # 1.1 billion weights, of the shape of TinyLlama
    "paper": {
        "data.length": 4096,
        "data.vocab_size": 32000,
        "data.pack": True,
        "encoder.architecture": "llama",
        "encoder.dim": 2048,
        "encoder.depth": 24,
        "encoder.heads": 32,
        "encoder.kv_heads": 2,
        "encoder.dropout": 0.0,
        "encoder.tied": False,
        "masking.ratio": 0.15,
        "steps": 190_000,
        "batch_size": 256,
        "lr": 4e-4,
        "min_lr": 4e-5,
        "warmup_steps": 19_000,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
        "clip": 1.0,
    },
    # glosses of WordNet, packed, minutes on two cores
    "small": {
        "data.length": 64,
        "data.pack": True,
        "encoder.architecture": "llama",
        **_DEPTH_4,
        "encoder.dropout": 0.0,
        "masking.ratio": 0.15,
        "steps": 2000,
        "batch_size": 64,
        "lr": 2e-3,
        "weight_decay": 0.05,
        "clip": 1.0,
    },
    # fine-tuning of a model: --encoder.pretrained NAME --data.vocab NAME, and data that has responses
    "sft": {
        "data.pack": False,
        "masking.ratio": 0.1,
        "epochs": 3,
        "batch_size": 64,
        "lr": 1e-5,
        "weight_decay": 0.0,
        "clip": 1.0,
    },
    "tiny": {**_TINY, "encoder.architecture": "llama", "encoder.dropout": 0.0},
}

PROP: Presets = {
    # BERT-base, whose weights the paper starts from: --encoder.pretrained bert-base-uncased, and its
    # vocabulary, --data.vocab bert-base-uncased
    "paper": {
        **_BERT,
        "masking.ratio": 0.15,
        "masking.most": 60,
        "epochs": 1,
        "batch_size": 80,
        "accumulate": 5,
        "lr": 2e-5,
        "warmup_epochs": 0.1,
        "weight_decay": 0.01,
    },
    "small": {**_SMALL, "encoder.init_std": 0.09, "masking.ratio": 0.15, "preference": "logistic"},
    "tiny": {**_TINY, "preference": "logistic"},
}

CLIMB: Presets = {
    "paper": {
        **as_host_preset(
            "language/mlm",
            {
                "data.length": 128,
                "data.pack": True,
                "data.tags": True,
                "encoder.architecture": "roberta-prelayernorm",
                "encoder.dim": 256,
                "encoder.depth": 8,
                "encoder.heads": 8,
                "encoder.mlp_ratio": 8,
                "masking.ratio": 0.15,
                "shares": (0.9, 0.1, 0.0),
                "tied": False,
                "steps": 400_000,
                "warmup_steps": 100_000,
                "batch_size": 128,
                "lr": 1e-3,
                "betas": (0.9, 0.999),
                "weight_decay": 0.01,
            },
        ),
        "class_window": (0.0, 0.125),
    },
    # glosses of WordNet, minutes on two cores
    "small": {
        **as_host_preset("language/mlm", {**MLM["small"], "data.tags": True, "shares": (0.9, 0.1, 0.0)}),
        "host_window": (0.0, 1.0),
    },
    # what the conformance suite builds
    "tiny": {
        **as_host_preset("language/mlm", {**MLM["tiny"], "data.tags": True}),
        "order": None,
        "host_window": (0.0, 1.0),
    },
}

SPARSEPO: Presets = {
    # dialogue (Anthropic HH) on a 1.4B model that was fine-tuned before: --encoder.pretrained NAME
    # --data.vocab NAME
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

MASKED_PDPP: Presets = {
    # PDPP on CrossTask, configuration of its release: 120 epochs of 200 steps, 256 plans each; the rate rises
    # for a sixth of them, and then falls by half four times, here by a cosine. Masked-PDPP's is not published
    "paper": {
        "dim": 256,
        "times": 200,
        "end_weight": 10.0,
        "steps": 24_000,
        "warmup_steps": 4_000,
        "batch_size": 256,
        "lr": 5e-4,
        "min_lr": 5e-4 / 16,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
    },
    # minutes on two cores
    "small": {
        "dim": 64,
        "times": 50,
        "classifier_dim": 128,
        "copy_until": 200,
        "steps": 1000,
        "batch_size": 64,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "clip": 10.0,
    },
    # what the conformance suite builds
    "tiny": {
        "dim": 8,
        "times": 50,
        "classifier_dim": 16,
        "classifier_depth": 1,
        "copy_until": 4,
        "every": 1,
        "steps": 10,
        "batch_size": 8,
    },
}

# ----------------------------------------------------- other parts, as the conformance suite builds them

TOKEN_IDS: Presets = {"tiny": {"vocabulary": 96, "length": 24}}
ENCODER: Presets = {
    "small": {"dim": 128, "depth": 4, "heads": 4, "dropout": 0.0},
    "tiny": {"dim": 32, "depth": 2, "heads": 2, "dropout": 0.0},
}
CONSTANT_WEIGHT: Presets = {"tiny": {"weight": 0.5}}
LEARNED_WEIGHT: Presets = {"tiny": {"width": 32, "layers": 2}}
