"""Presets named after a paper train as it published, in the units that it published."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from polymask import Run, RunConfig, Step
from polymask.plugins.registry import default_registry
from polymask.report import views

ADAM, MASKED = (0.9, 0.999), (0.9, 0.95)

MAE = {"rate": (1.5e-4, 256), "batch": 4096, "epochs": 800, "warmup": 40, "crop": (0.2, 1.0), "betas": MASKED}
SIMMIM = {"rate": (1e-4, 512), "batch": 2048, "epochs": 800, "warmup": 10, "crop": (0.67, 1.0), "betas": ADAM}
MFM = {"rate": (3e-4, 512), "batch": 2048, "epochs": 300, "warmup": 20, "crop": (0.2, 1.0), "betas": MASKED}
JEPA = {
    "rate": (1e-3, 2048),
    "batch": 2048,
    "warmup": 40,
    "last": 1e-3,
    "crop": (0.3, 1.0),
    "betas": ADAM,
    "decay": 0.04,
}
MASKGIT = {
    "rate": (1e-4, 256),
    "batch": 256,
    "epochs": 300,
    "warmup": 1,
    "schedule": "constant",
    "betas": (0.9, 0.96),
    "decay": 0.045,
}
SALT = {
    "rate": (6.25e-4, 3072),
    "last": 1e-6 / 6.25e-4,
    "batch": 3072,
    "warmup": 10_000,
    "crop": (0.3, 1.0),
    "betas": MASKED,
    "decay": 0.04,
    "clip": 0.02,
}
BERT = {"rate": (1e-4, 256), "batch": 256, "steps": 1_000_000, "warmup": 10_000, "betas": ADAM, "decay": 0.01}
DATA2VEC = {"views": 8, "layers": 8, "final_momentum": 0.99999, "betas": (0.9, 0.98), "decay": 0.01}
AUDIO = {"rate": (2e-4, 512), "batch": 512, "epochs": 32, "warmup": 3}
SPEECH = {"steps": 400_000, "warmup": 32_000, "betas": (0.9, 0.98), "decay": 0.01}

ADAPTED = {
    "data.source_data.size": 512,
    "tokenizer.patch_size": 512 // 16,
    "rate": (6e-5, 2),
    "batch": 2,
    "steps": 40_000,
    "warmup": 1500,
    "betas": ADAM,
    "decay": 0.01,
    "decoder_rate": 10.0,
    "rebuilder_rate": 2e-4 / 6e-5,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    # He et al. 2021, PRETRAIN.md
    "vision/mae paper": {**MAE, "decay": 0.05},
    # Hinojosa et al. 2024 trains for 300, 800 and 1,600 epochs
    "vision/colormae paper": {**MAE, "decay": 0.05},
    "vision/mixedae paper": {**MAE, "decay": 0.05},
    # Xie et al. 2021, configurations of the release; the last rate is a tenth of the highest
    "vision/simmim paper": {**SIMMIM, "last": 0.1, "decay": 0.05, "clip": 5.0},
    "vision/simmim paper-swin": {**SIMMIM, "rate": (2e-4, 512), "epochs": 100, "last": 0.05},
    # Hansen-Estruch et al. 2024, configuration of the release for B/4 on 64 pixels
    "vision/umd paper": {**MAE, "batch": 1024, "crop": (0.8, 1.0), "decay": 0.05, "clip": 1.0},
    # Wang et al. 2025, train_hyperunet.sh: one rate, whatever the batch
    "vision/maskunet paper": {
        "rate": (1e-5, 32),
        "batch": 32,
        "epochs": 15,
        "warmup": 0,
        "schedule": "constant",
        "crop": (0.8, 1.0),
        "betas": ADAM,
        "decay": 0.01,
        "clip": 1.0,
    },
    # Zheng et al. 2023, configurations of the release for ViT-B/16 and 16 shots
    "vision/r-amt paper": {
        "lr": 8e-5,
        "batch": 32,
        "epochs": 30,
        "crop": (0.5, 1.0),
        "betas": ADAM,
        "decay": 0.0,
    },
    # Wang et al. 2023, of the two lengths the longer; the average follows for 100 epochs
    "vision/hpm paper": {**MAE, "batch": 2048, "decay": 0.05, "momentum_rise": 100 / 800},
    # Ma et al. 2022, PRETRAIN.md: the batch counts by the share of its tokens that one view predicts
    "vision/dmjd paper": {
        "rate": (6e-4 / 0.6, 256),
        "batch": 512,
        "epochs": 400,
        "warmup": 20,
        "crop": (0.5, 1.0),
        "betas": MASKED,
        "decoder_mlp_ratio": 8.0,
    },
    # Xie et al. 2022, configurations of the release; the last rate is 2.5e-6 per 512
    "vision/mfm paper": {**MFM, "last": 1 / 120, "clip": 3.0},
    "vision/mfm paper-resnet": {**MFM, "last": 1 / 120, "clip": 3.0},
    # Assran et al. 2023, configuration of the release for ViT-H/14
    "vision/ijepa paper": {**JEPA, "epochs": 300},
    # Li et al. 2025: 240,000 steps of both stages, of which 40,000 are the teacher's
    "vision/mae paper-v-pixel": {**SALT, "steps": 40_000},
    "vision/salt paper": {**SALT, "steps": 200_000, "predictor_depth": 12},
    # Fan et al. 2024; batch, warm-up, last rate, crops and decoder are those of VideoMAE
    "vision/tgm paper": {
        "rate": (1.5e-4, 256),
        "last": 1e-5 / (4 * 1.5e-4),
        "batch": 1024,
        "epochs": 200,
        "warmup": 40,
        "crop": (0.66**2, 1.0),
        "masking.ratio": 117 / 196,
        "betas": MASKED,
        "decay": 0.05,
    },
    # Mo and Yun 2024, configuration of the release for ViT-B/16
    "vision/dmt-jepa paper": {**JEPA, "epochs": 600, "predictor_depth": 6},
    # Geng et al. 2023, configurations of the release; what a batch is could not be found
    "vision/pose-tokenizer paper": {
        "lr": 1e-2,
        "epochs": 50,
        "decay": 0.15,
        "codes": 2048,
        "pose_tokens": 34,
    },
    # Hamoud et al. 2025, by an unofficial implementation, whose optimiser is another
    "vision/previps paper": {"epochs": 50, "decay": 1e-5, "encoder.depth": 6, "encoder.dim": 256},
    # GA-DMS, appendix A.1; CLIP's ViT-B/16 and the text tower beside it
    "vision/ga-dms paper": {
        "lr": 1e-4,
        "batch": 512,
        "epochs": 30,
        "warmup": 5,
        "betas": ADAM,
        "decay": 4e-5,
        "text_encoder.depth": 12,
    },
    # OLA-VLM, scripts/train/pretrain.sh of the release: one epoch of captions, the language model frozen
    "vision/ola-vlm paper": {
        "lr": 1e-3,
        "batch": 256,
        "epochs": 1,
        "warmup": 0.03,
        "betas": ADAM,
        "decay": 0.0,
        "image_block": -2,
        "text_encoder.depth": 32,
    },
    # Baevski et al. 2022, configuration of the release: 16 images on each of 16 devices
    "vision/data2vec2 paper": {
        **DATA2VEC,
        "rate": (1e-3, 256),
        "batch": 256,
        "steps": 375_300,
        "warmup": 50_040,
        "betas": MASKED,
        "decay": 0.05,
        "clip": 4.0,
        "views": 16,
        "layers": 10,
        "momentum": 0.9998,
        "momentum_rise": 100_000 / 375_300,
    },
    # Chen et al. 2022, scripts of the release for ViT-B, 800 epochs
    "vision/cae paper": {
        "rate": (1.5e-3, 2048),
        "last": 1 / 150,
        "batch": 2048,
        "epochs": 800,
        "warmup": 20,
        "crop": (0.08, 1.0),
        "betas": ADAM,
        "decay": 0.05,
        "clip": 3.0,
        "drop_path": 0.1,
    },
    # Chang et al. 2022; rate, warm-up and weight decay are those of the release's configuration
    "vision/maskgit paper": MASKGIT,
    # Liu et al. 2025 takes its hosts as they are
    "vision/recap paper": MASKGIT,
    # Kim et al. 2023, PRETRAIN.md: the rate goes by the root of the batch
    "vision/lut paper": {
        "rate": (2.4e-3, 4096),
        "batch": 4096,
        "epochs": 1600,
        "warmup": 40,
        "betas": MASKED,
        "decay": 0.05,
    },
    # Weinzaepfel et al. 2022, release: a cosine laid out for 800 epochs that ends at 400
    "vision/croco paper": {
        "rate": (1.5e-4, 256),
        "batch": 256,
        "epochs": 400,
        "warmup": 40,
        "last": (1 + math.cos(math.pi * 360 / 760)) / 2,
        "crop": (224**2 / 256**2,) * 2,
        "betas": MASKED,
        "decay": 0.05,
    },
    # Shi et al. 2023: nothing of the training was found; as in MAE, for fewer epochs
    "vision/hybrid-distillation paper": {
        **MAE,
        "batch": 1024,
        "epochs": 300,
        "warmup": 20,
        "decay": 0.05,
    },
    # Xue et al. 2022, command of the release for ViT-B
    "vision/maskalign paper": {
        "rate": (1.5e-4, 256),
        "batch": 1024,
        "epochs": 200,
        "warmup": 20,
        "last": 1e-5 / 6e-4,
        "crop": (0.2, 1.0),
        "betas": MASKED,
        "decay": 0.05,
    },
    # Trinh et al. 2019: length and batch of another's implementation, whose optimiser is another too
    "vision/selfie paper": {"epochs": 200, "batch": 128},
    "vision/selfie paper-224": {"epochs": 200, "batch": 128, "positions": "axes"},
    # He et al. 2021, FINETUNE.md for ViT-B
    "vision/supervised paper": {
        "data.augment": "rand-augment",
        "crop": (0.08, 1.0),
        "rate": (5e-4, 256),
        "last": 1e-6 / 2e-3,
        "batch": 1024,
        "epochs": 100,
        "warmup": 5,
        "betas": ADAM,
        "decay": 0.05,
        "layer_decay": 0.65,
        "encoder.drop_path": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
    },
    # Zhang et al. 2024, conf/COMET.yaml of the release
    "vision/comet paper": {
        "rate": (5e-4, 128),
        "batch": 128,
        "epochs": 199,
        "warmup": 2,
        "betas": ADAM,
        "decay": 0.03,
        "completeness": 4.0,
        "margin": 2.0,
        "area": 100.0,
        "budget": 0.6,
    },
    # Panariello et al. 2024, kitti.sh of the release
    "vision/mom paper": {
        "lr": 5e-5,
        "batch": 16,
        "epochs": 150,
        "betas": (0.9, 0.999),
        "decay": 2e-5,
        "data.size": (375, 1242),
        "tokenizer.size": 120,
        "tokenizer.patch_size": 15,
        "warm_up": (10 / 150, 20 / 150),
    },
    # Pirvu et al. 2025: frames and networks of the release; nothing of the training was published
    "vision/phg-mae paper": {"data.size": (540, 960), "encoder.width": 32},
    "vision/phg-mae paper-student": {"data.size": (540, 960), "encoder.width": 10},
    # Qin et al. 2021: nothing of the training was published that could be read; sizes of Mask R-CNN
    "vision/mayor paper": {
        "boxes": "proposed",
        "assignment": "adaptive",
        "learn": "instance",
        "head": "mlp",
        "roi": 14,
        "model": "resnet50",
        "width": 256,
        "anchors": 256,
        "rois": 512,
    },
    # 2025, arXiv 2509.13801, in DACS and DAFormer of the release of DAFormer; the Rebuilder's rate is 2e-4
    "vision/masked-feature paper": {
        **ADAPTED,
        "model": "resnet101",
        "decoder": "deeplab",
        "arguments": {"output_stride": 8},
    },
    "vision/masked-feature paper-daformer": {**ADAPTED, "momentum": 0.999, "ignore_rows": (15, 120)},
    # Choi et al. 2024 leaves training to the host
    "vision/mto paper": {**SIMMIM, "last": 0.1, "clip": 5.0},
    "vision/mto paper-mae": MAE,
    # Huang et al. 2022
    "audio/mae paper": {**AUDIO, "betas": MASKED, "decay": 1e-4},
    "audio/simmim paper": {**AUDIO, "betas": ADAM},
    # Hsu et al. 2021, configuration of fairseq
    "audio/hubert paper": {**SPEECH, "rate": (5e-4, 256), "batch": 256, "clip": 10.0},
    # Baevski et al. 2022, configuration of the release, whose batches are of 500 s
    "audio/data2vec2 paper": {
        **DATA2VEC,
        "rate": (7.5e-4, 40),
        "batch": 40,
        "steps": 400_000,
        "warmup": 8_000,
        "momentum": 0.999,
        "momentum_rise": 75_000 / 400_000,
    },
    # Bharadwaj et al. 2025, configurations of the release
    "audio/openbeats paper": {**SPEECH, "rate": (5e-4, 256), "batch": 256, "clip": 1.0},
    "audio/openbeats-tokenizer paper": {**SPEECH, "rate": (5e-5, 256), "batch": 256, "clip": 1.0},
    # Yang et al. 2025 trains with another optimiser, whose rates do not carry over
    "audio/spear paper": {"steps": 500_000},
    # Pang et al. 2022, configuration of the release
    "pointcloud/mae paper": {"rate": (1e-3, 128), "batch": 128, "epochs": 300, "warmup": 10, "decay": 0.05},
    # Tian et al. 2023, 4 samples on each of 8 devices
    "pointcloud/geomae paper": {"batch": 32, "epochs": 72, "betas": ADAM},
    # Wu et al. 2025
    "pointcloud/msm paper": {
        "rate": (1.5e-3, 12),
        "batch": 12,
        "epochs": 1800,
        "warmup": 60,
        "betas": MASKED,
        "decay": 0.05,
    },
    # Chen et al. 2023, configurations of the release: 1,001 and 501 epochs of 50,000 windows; the rate falls
    # by a tenth six times
    "pointcloud/humanmac paper": {
        "rate": (3e-4, 64),
        "last": 0.9**6,
        "batch": 64,
        "steps": 1001 * 782,
        "betas": ADAM,
        "decay": 0.0,
        "coefficients": 20,
    },
    "pointcloud/humanmac paper-humaneva": {
        "rate": (3e-4, 64),
        "last": 0.9**6,
        "batch": 64,
        "steps": 501 * 782,
        "betas": ADAM,
        "decay": 0.0,
        "coefficients": 10,
    },
    # Devlin et al. 2018
    "language/mlm paper": BERT,
    "language/mae paper": BERT,
    # Baevski et al. 2022, configuration of the release: 4 sequences on each of 16 devices
    "language/data2vec2 paper": {
        **DATA2VEC,
        "rate": (2e-4, 64),
        "batch": 64,
        "steps": 1_000_000,
        "warmup": 4_000,
        "clip": 1.0,
        "layers": 12,
        "momentum": 0.9999,
        "momentum_rise": 0.1,
    },
    # Martinez et al. 2023, 32 sequences on each of 4 devices
    "language/climb paper": {"rate": (1e-3, 128), "batch": 128, "steps": 400_000, "warmup": 100_000},
    # Zhuang et al. 2025, configuration of the release
    "language/meap paper": {
        "rate": (4e-4, 256),
        "last": 0.1,
        "batch": 256,
        "steps": 190_000,
        "warmup": 19_000,
        "betas": MASKED,
        "decay": 0.05,
        "clip": 1.0,
    },
    # Wang et al. 2023, configuration of the release of PDPP for CrossTask
    "language/masked-pdpp paper": {
        "rate": (5e-4, 256),
        "last": 1 / 16,
        "batch": 256,
        "steps": 120 * 200,
        "warmup": 4_000,
        "betas": ADAM,
        "decay": 0.0,
        "end_weight": 10.0,
        "times": 200,
    },
    # Ma et al. 2021, README of the release
    "language/prop paper": {"rate": (2e-5, 80), "batch": 80, "epochs": 1, "decay": 0.01},
    # Christopoulou et al. 2025, the run on HH
    "language/sparsepo paper": {"rate": (5e-7, 128), "batch": 128, "epochs": 3, "warmup": 0.3},
}
"""By system and preset: ``rate``, the highest learning rate and per how many samples it is; ``warmup`` in the
unit of the length; ``last``, the last rate as a share of the highest; other names as options."""

OPTIONS = {"batch": "batch_size", "crop": "data.crop_scale", "decay": "weight_decay"}

PRESETS = {
    f"{part.full_name} {name}": options
    for part in default_registry().parts("systems")
    for name, options in part.presets.items()
    if name.startswith("paper") and part.plugin in ("vision", "audio", "pointcloud", "language")
}


def test_every_preset_named_after_a_paper_is_in_the_table() -> None:
    assert PRESETS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_paper_preset_trains_as_published(name: str) -> None:
    preset, published = PRESETS[name], dict(PUBLISHED[name])
    highest = preset["lr"] if "lr" in preset else preset["base_lr"] * preset["batch_size"] / 256
    if "rate" in published:
        rate, per = published.pop("rate")
        assert highest == pytest.approx(rate * published["batch"] / per)
    if "last" in published:
        assert preset["min_lr"] == pytest.approx(highest * published.pop("last"))
    if "warmup" in published:
        unit = "warmup_epochs" if "epochs" in published else "warmup_steps"
        assert preset[unit] == pytest.approx(published.pop("warmup"))
    assert published == {key: preset.get(OPTIONS.get(key, key)) for key in published}


@pytest.mark.parametrize("name", ["vision/mae", "audio/mae", "pointcloud/mae"])
def test_the_decoder_of_fast_costs_little_beside_its_encoder(name: str, tmp_path: Path) -> None:
    data = {"vision": "fashion", "audio": "audio/words", "pointcloud": "shapes"}[name.partition("/")[0]]
    run = Run.create(RunConfig.resolve({"system": name, "preset": "fast", "data": data}), tmp_path)
    with FlopCounterMode(display=False) as counter:
        run.system(views.batch_of(run.data.split("train"), range(2), None), Step())
    encoder, decoder = (
        sum(counter.get_flop_counts()[f"MAE.{part}"].values()) for part in ("encoder", "decoder")
    )
    assert 0 < decoder < 0.15 * encoder
