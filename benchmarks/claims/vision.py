"""What is claimed of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from claims.claim import Claim, trained
from claims.decoders import FAST, FULL, light_decoder
from polymask import RunConfig
from polymask.run import open_data_of
from polymask_vision.codes import fit_codes

SMALL = {"data": "vision/fashion", "preset": "small", "steps": 600}


# A constant learning rate, so that every point on the way is the end of a run of that length
CURVES = {**SMALL, "steps": 400, "schedule": "constant", "probe_every": 40}


# One view as DMJD hides it, and two views without its second head
ONE = {"name": "core/random", "ratio": 0.6, "rounding": "up"}


VIEWS = {"system": "vision/dmjd", "visible_weight": 0.0}


HOSTED = {"system": "vision/mto", "host.encoder.dim": 64}


EARTH = {
    "data": {"name": "vision/earth", "augment": "crop-flip", "crop_scale": [0.3, 1.0]},
    "preset": "small",
    "tokenizer.patch_size": 8,
}


DENSE = {"name": "vision/dense", "by_class": False}


CODES = Path("runs", "evidence-vision-codes.safetensors")
"""Codebook of patches, one for all seeds."""


def codes(folder: Path) -> dict[str, Any]:
    """Fit 512 codes to patches of the training images."""
    if not CODES.exists():
        config = RunConfig.resolve({**SMALL, "system": "vision/cae"})
        data = open_data_of(config)
        fit_codes(CODES, data, config.system.options["tokenizer"].build(data.provides), codes=512)
    return {"target.file": str(CODES)}


def supervised_teacher(folder: Path) -> dict[str, Any]:
    """Train a teacher on labels; its class token is classified, so that its attention says what matters."""
    teacher = trained({**SMALL, "system": "vision/supervised", "pool": "prefix"}, folder, "teacher")
    return {"target.run": str(teacher.folder)}


def two_teachers(folder: Path) -> dict[str, Any]:
    """Train a teacher of features on labels, and one of relations by masking."""
    features = trained({**SMALL, "system": "vision/supervised"}, folder, "feature-teacher")
    relations = trained({**SMALL, "system": "vision/mae"}, folder, "relation-teacher")
    return {"target.run": str(features.folder), "relation_target.run": str(relations.folder)}


def emoji(vendor: str) -> dict[str, Any]:
    """Emoji of a vendor; a picture of one vendor and its like of the other are in one split."""
    return {"name": "vision/emoji", "vendor": vendor, "size": 32}


def classifier(folder: Path) -> dict[str, Any]:
    """Train a classifier on Twitter's emoji, one for all seeds."""
    config = {"system": "vision/supervised", "preset": "small", "data": emoji("twitter"), "steps": 600}
    return {"base": str(trained(config, folder, "base").folder)}


EMOJI = {"name": "vision/emoji", "size": 32}


SELECTING = {"preset": "small", "steps": 400}


def detector(folder: Path) -> dict[str, Any]:
    """Train a classifier of whole images, one for all seeds."""
    net = {"encoder": "vision/resnet", "encoder.depths": (1, 1, 1), "encoder.width": 16}
    net |= {"encoder.bottleneck": False, "encoder.small_stem": True}
    config = {**SELECTING, **net, "system": "vision/supervised", "data": EMOJI}
    return {"detector": str(trained(config, folder, "detector").folder)}


CLAIMS: dict[str, Claim] = {
    "vision/masking": Claim(
        text="Masks from green noise, or in blocks, teach a masked autoencoder more than random ones "
        "(ColorMAE, arXiv 2407.13036); each masking at its default share, 0.75, and 0.4 for blocks",
        config={**SMALL, "system": "vision/mae", "steps": 1000},
        variants={name: {"masking": name} for name in ("core/random", "core/block", "core/color")},
        about=("core/color", "core/block"),
    ),
    "vision/mae-fast": light_decoder(
        "vision/mae",
        config={**CURVES, "tokenizer.patch_size": 7, "steps": 300, "probe_every": 60, "batch_size": 32},
        rows=dict.fromkeys((FULL, FAST), 32),
    ),
    "vision/mae-finetune": Claim(
        text="Fine-tuned with labels, an encoder is better where patches at random were hidden from it than "
        "where blocks were, at the same share and at a smaller one (MAE, arXiv 2111.06377, table 1f)",
        config={**SMALL, "system": "vision/mae"},
        variants={
            "blocks, 75 %": {"masking": {"name": "core/block", "ratio": 0.75}},
            "blocks, 50 %": {"masking": {"name": "core/block", "ratio": 0.5}},
            "random, 75 %": {"masking": "core/random"},
        },
        about=("random, 75 %",),
        evaluation={"name": "core/finetune", "labels": [0.1], "scratch": False},
        measure="accuracy with 10 % of the labels",
    ),
    "vision/simmim": Claim(
        text="Fine-tuned with few labels, an encoder is better after regressing the pixels of hidden patches "
        "with one linear layer than from scratch (SimMIM, arXiv 2111.09886)",
        config={**SMALL, "system": "vision/simmim", "steps": 2000},
        within=("untrained", "pre-trained"),
        about=("pre-trained",),
        evaluation={"name": "core/finetune", "labels": [0.1]},
        measure="accuracy with 10 % of the labels",
    ),
    "vision/hpm": Claim(
        text="Hiding the patches that a learned predictor ranks as hard teaches more than hiding patches at "
        "random, and more than predicting the ranks alone (HPM, arXiv 2304.05919)",
        config=SMALL,
        variants={
            "mae": {"system": "vision/mae", "target.patch_norm": False},
            "hpm, prediction only": {"system": "vision/hpm", "preset": "prediction-only"},
            "hpm": {"system": "vision/hpm"},
            "hpm, complementary scoring": {"system": "vision/hpm", "scoring": "complementary"},
        },
        about=("hpm", "hpm, complementary scoring"),
    ),
    "vision/r-amt": Claim(
        text="Dropping mask gradients that lead away from the classifier as it was keeps more of what it "
        "knew (R-AMT, arXiv 2307.15049), here of emoji of one vendor, while masks learn from few of another",
        config={
            "system": "vision/r-amt",
            "preset": "small",
            "data": {"name": "core/few-labels", "data": emoji("google"), "share": 0.2},
        },
        variants={"amt": {"drop": 0.0}, "r-amt": {"drop": 1.0}},
        about=("r-amt",),
        measure="accuracy on the base's data",
        evaluation="vision/retention",
        prepare=classifier,
        seeds=5,
    ),
    "vision/mixedae": Claim(
        text="Mixing images helps once the encoder is asked which patches belong together; mixing alone does "
        "not (MixedAE, arXiv 2303.17152)",
        config=SMALL,
        variants={
            "naive mixing": {"system": "vision/mixedae", "preset": "small-naive"},
            "mae": {"system": "vision/mae"},
            "mixedae": {"system": "vision/mixedae"},
        },
        about=("mixedae",),
        seeds=5,
    ),
    "vision/mto": Claim(
        text="Optimising the mask token reaches the same accuracy in fewer steps (MTO, arXiv 2404.08330)",
        config=CURVES,
        rows=dict.fromkeys(("simmim", "simmim with mto", "mto, without sparsity", "mto, without depth"), 64),
        variants={
            "simmim": {"system": "vision/simmim", "encoder.dim": 64},
            "simmim with mto": HOSTED,
            "mto, without sparsity": {**HOSTED, "sparsity": 0.0},
            "mto, without depth": {**HOSTED, "depth": 0.0},
        },
        about=("simmim with mto",),
    ),
    "vision/mto-mae": Claim(
        text="Optimising the mask token of a masked autoencoder's decoder reaches the same accuracy in fewer "
        "steps (MTO, arXiv 2404.08330)",
        config=CURVES,
        rows=dict.fromkeys(("mae", "mae with mto"), 64),
        variants={
            "mae": {"system": "vision/mae", "encoder.dim": 64, "decoder_depth": 2},
            "mae with mto": {**HOSTED, "preset": "small-mae"},
        },
        about=("mae with mto",),
    ),
    "vision/dmjd": Claim(
        text="Disjoint views with a loss at visible tokens too teach more in as many steps "
        "(DMJD, arXiv 2301.00230)",
        config={**CURVES, "encoder.dim": 64},
        rows={"mae of HOG": 64, "two independent views": 128, "disjoint views": 128, "dmjd": 128},
        variants={
            "mae of HOG": {"system": "vision/mae", "target": "vision/hog", "masking": ONE},
            "two independent views": {**VIEWS, "masking": ONE},
            "disjoint views": VIEWS,
            "dmjd": {"system": "vision/dmjd"},
        },
        about=("dmjd",),
    ),
    "vision/dmt-jepa": Claim(
        text="Predicting summaries of like neighbours in place of single patches teaches more of what each "
        "pixel is, here its climate (DMT-JEPA, arXiv 2405.17995)",
        config={**EARTH, "steps": 500},
        variants={
            "ijepa": {"system": "vision/ijepa"},
            "dmt-jepa": {"system": "vision/dmt-jepa"},
        },
        about=("dmt-jepa",),
        evaluation=DENSE,
        measure="mIoU",
    ),
    "vision/mfm": Claim(
        text="Predicting masked frequencies, low and high by turns, teaches more than the classical "
        "restoration tasks (Masked Frequency Modeling, arXiv 2206.07706)",
        config={**SMALL, "system": "vision/mfm"},
        variants={
            "denoising": {"corruption": "denoising"},
            "super-resolution": {"corruption": "super-resolution"},
            "deblurring": {"corruption": "deblurring"},
            "frequency": {},
        },
        about=("frequency",),
    ),
    "vision/ijepa": Claim(
        text="Predicting several large target blocks from a spread context teaches more than predicting "
        "random patches, or one block (I-JEPA, arXiv 2301.08243, table 6)",
        config={**SMALL, "system": "vision/ijepa", "momentum": 0.98},
        variants={
            "random patches": {"masking": {"name": "core/random", "ratio": 0.6}},
            "one block": {"masking": {"name": "core/block", "ratio": 0.6}},
            "several blocks": {},
        },
        about=("several blocks",),
    ),
    "vision/lut": Claim(
        text="Predicting another view from the mean of the visible tokens teaches a masked autoencoder more "
        "(LUT, arXiv 2310.13593); the same two augmentations, and the second view unused without",
        config={**SMALL, "system": "vision/lut"},
        variants={"mae": {"context_weight": 0.0}, "lut": {}},
        about=("lut",),
    ),
    "vision/cae": Claim(
        text="Aligning predicted latents with those that the encoder makes of the hidden patches teaches "
        "more than predicting codes alone (CAE, arXiv 2202.03026)",
        config={**SMALL, "system": "vision/cae"},
        variants={"no alignment": {"align_weight": 0.0}, "cae": {}},
        about=("cae",),
        prepare=codes,
    ),
    "vision/data2vec2": Claim(
        text="Several masked views of a sample for one pass of the teacher teach more in the same time than "
        "one view each (data2vec 2.0, arXiv 2212.07525); as many rows go through the student",
        config={**CURVES, "system": "vision/data2vec2", "steps": 300, "probe_every": 50},
        rows=dict.fromkeys(("one view", "four views"), 128),
        variants={
            "one view": {"views": 1, "batch_size": 128},
            "four views": {"views": 4, "batch_size": 32},
        },
        about=("four views",),
        may_differ=("batch_size",),
    ),
    "vision/maskalign": Claim(
        text="Matching a teacher's features of visible patches teaches more where those that it attends to "
        "stay visible, and several layers are matched by mixtures (MaskAlign, arXiv 2211.08887)",
        config={**SMALL, "system": "vision/maskalign"},
        variants={
            "last layer": {"target.layers": [-1], "fusion": "simple", "masking": "core/random"},
            "last layer, attention": {"target.layers": [-1], "fusion": "simple"},
            "maskalign": {},
        },
        about=("maskalign",),
        prepare=supervised_teacher,
    ),
    "vision/selfie": Claim(
        text="Fine-tuned with few labels, a ResNet is better where it learned to choose patches by their "
        "place and the visible ones than from scratch (Selfie, arXiv 1906.02940), and than where it went by "
        "the place alone",
        config={**SMALL, "system": "vision/selfie"},
        variants={
            "place alone": {"query": "position"},
            "selfie": {},
            "selfie, token queries": {"query": "token"},
        },
        about=("selfie", "selfie, token queries"),
        evaluation={"name": "core/finetune", "labels": [0.05], "seeds": 1},
        measure="accuracy with 5 % of the labels",
    ),
    "vision/hybrid-distillation": Claim(
        text="Relations of tokens, of a masked autoencoder, beside features of a supervised teacher teach "
        "more than these alone (Hybrid Distillation, arXiv 2306.15876)",
        config={**SMALL, "system": "vision/hybrid-distillation"},
        variants={"features alone": {"relation_weights": [0, 0]}, "both": {}},
        about=("both",),
        prepare=two_teachers,
    ),
    "vision/comet": Claim(
        text="A detector that looks at what a selector removes makes its masks find objects better than "
        "selector and predictor alone do, at the same budget (COMET, arXiv 2407.19308)",
        config={**SELECTING, "system": "vision/comet", "data": EMOJI, "area": 10.0, "budget": 0.4},
        variants={
            "selector and predictor": {"completeness": 0.0},
            "comet": {},
            # without a detector, masks of that area's weight may be empty soon
            "selector and predictor, less for area": {"completeness": 0.0, "area": 1.0},
        },
        about=("comet",),
        evaluation="vision/localisation",
        measure="pixel AP",
        prepare=detector,
    ),
}
