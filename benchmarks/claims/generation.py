"""What is claimed of images that are generated, and of networks that read nothing hidden.

Clothes are judged by a classifier of clothes, one for all runs: features of it give the Fréchet distance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import photographs

from claims.claim import Claim, trained
from claims.vision import codes

FASHION = {"data": "vision/fashion", "preset": "small"}

JUDGE = Path("runs", "evidence-vision-judge")

PHOTOGRAPHS = Path("runs", "photographs")

DISTANCE = "Fréchet distance"

DDIM = {"steps": 25, "eta": 0.0}


def judged(**options: Any) -> dict[str, Any]:
    """The distance of generated clothes by features of the judge."""
    return {"name": "core/frechet-distance", "network": f"{JUDGE}-all", "samples": 300, **options}


def judge(folder: Path) -> dict[str, Any]:
    """Train a classifier of clothes."""
    trained({**FASHION, "system": "vision/supervised", "steps": 600}, JUDGE, "all")
    return {}


def denoiser(folder: Path) -> dict[str, Any]:
    """Train the judge, and a denoiser for too short a while, one for all seeds."""
    clean = {"clean_share": 0.0, "noisy_masking": None}
    base = trained({**FASHION, "system": "vision/umd", **clean, "steps": 1000}, folder, "base")
    return {**judge(folder), "base": str(base.folder)}


def coded(folder: Path) -> dict[str, Any]:
    """Train the judge, and fit codes to patches: those of the preset are random and make no pictures."""
    return {**judge(folder), "host.tokenizer.file": codes(folder)["target.file"]}


def crops(folder: Path) -> dict[str, Any]:
    """Cut crops of photographs, if there are none yet."""
    if not PHOTOGRAPHS.is_dir():
        photographs.make(PHOTOGRAPHS)
    return {}


CLAIMS: dict[str, Claim] = {
    "vision/umd": Claim(
        text="One network that denoises and completes knows more of images than one that only denoises "
        "(UMD, arXiv 2406.17688); beside it, how near to images comes what they generate",
        config={**FASHION, "system": "vision/umd", "steps": 500},
        variants={
            "denoising alone": {"clean_share": 0.0, "noisy_masking": None},
            "umd": {},
        },
        about=("umd",),
        measure="linear",
        evaluation=judged(budgets=(DDIM,)),
        prepare=judge,
    ),
    "vision/maskunet": Claim(
        text="Weights of a frozen denoiser switched off by sample and time bring what it generates nearer to "
        "images (MaskUNet, arXiv 2505.03097); a denoiser that was trained for 1,000 steps",
        # weights whose logit is 20 are on, whatever is learned: the denoiser as it is
        config={**FASHION, "system": "vision/maskunet", "steps": 200},
        variants={
            "denoiser": {"start": 20.0},
            "same masks for all": {"reference_init": True},
            "by sample and time": {},
        },
        about=("by sample and time",),
        measure=DISTANCE,
        lower=True,
        evaluation=judged(budgets=(DDIM,)),
        prepare=denoiser,
    ),
    "vision/recap": Claim(
        text="At the cost of 8 full steps, 8 more light ones that reuse keys and values bring images nearer "
        "to real ones (ReCAP, arXiv 2505.19089)",
        config={**FASHION, "system": "vision/recap", "steps": 1000},
        within=("pre-trained", "steps 16, plain 0.0, light 1", "steps 16, plain 1.0"),
        about=("steps 16, plain 0.0, light 1",),
        measure=DISTANCE,
        lower=True,
        evaluation=judged(
            budgets=(
                {"steps": 8, "plain": 1.0},
                {"steps": 16, "plain": 0.0, "light": 1},
                {"steps": 16, "plain": 1.0},
            )
        ),
        prepare=coded,
    ),
    "vision/layer-masking": Claim(
        text="A network that leaves hidden parts out of every layer answers rightly more often than where "
        "they are painted over (Layer Masking, arXiv 2211.14646)",
        config={
            "system": "vision/layer-masking",
            "data": {"name": "vision/folder", "source": str(PHOTOGRAPHS)},
            "preset": "small",
        },
        within=("mean colour", "grey", "noise", "left out"),
        about=("left out",),
        measure="accuracy",
        evaluation={"name": "vision/removal", "cell": 2},
        prepare=crops,
    ),
}
