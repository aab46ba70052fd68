"""What is claimed of sound. Words are judged across voices: by one that the classifiers never heard."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from claims.claim import Claim
from claims.decoders import light_decoder
from polymask.codebooks import fit
from polymask.recipes import Stage
from polymask_audio.fitting import fit_multi, fit_units

TRAINING: dict[str, Any] = {"preset": "small", "steps": 300, "batch_size": 16}
SMALL: dict[str, Any] = {"data": "audio/words", **TRAINING}

LONGER = 1500
"""Steps of what predicts patches: after 300 none of it knows more of words than an untrained encoder."""

VOICES = ("en", "es", "fr", "it", "ru")

WHAT_AND_WHO = {
    "name": "core/multi-label-probe",
    "sets": {
        "word": [{"label": "word", "test_voice": voice} for voice in VOICES],
        "speaker": {"label": "speaker"},
        "language": {"label": "language"},
        "speech or music": {"name": "audio/prompts", "label": "kind", "seconds": 1.0, "limit": 500},
    },
}
"""Words by a voice held out, each in turn; five languages are four speakers here, little else than those."""

IN_NOISE = {
    "name": "core/multi-label-probe",
    "sets": {
        **{
            f"word at {ratio} dB": [
                {"label": "word", "test_voice": voice, "noise": float(ratio)} for voice in VOICES
            ]
            for ratio in (20, 10, 0)
        },
        **{f"speaker at {ratio} dB": {"label": "speaker", "noise": float(ratio)} for ratio in (20, 10, 0)},
    },
}
"""By classifiers that were trained on clean sound, at so many decibels over white noise."""

PARTS = Path("runs", "evidence-audio-parts")
"""Codebooks, and the runs they are of; one for all seeds."""


def part(name: str) -> str:
    """A file or run among them."""
    return str(PARTS / name)


def clusters(name: str) -> dict[str, str]:
    """A target of codes in a file."""
    return {"name": "audio/clusters", "file": part(f"{name}.safetensors")}


def units(folder: Path, stage: Stage | None = None) -> dict[str, Any]:
    """Fit codebooks to cepstra, to spectra and to a layer and the end of a first encoder.

    All comparisons of sound share them, in one folder.

    Args:
        folder: of a comparison; they are not kept beside it.
        stage: trains the encoder; by default as long as those that are compared.
    """
    stage = stage or Stage(PARTS, SMALL["data"])

    def books(name: str, features: str, layer: int | None, how: Any, **options: Any) -> None:
        file = stage.folder / f"{name}.safetensors"
        if not file.exists():
            fit_units(file, stage.data, features, (layer,), functools.partial(how, **options))

    books("mfcc", "mfcc", None, fit, codes=100)
    books("mel", "mel", None, fit, codes=100)
    books("mfcc-residual", "mfcc", None, fit, codes=64, stages=4)
    books("mfcc-multi", "mfcc", None, fit_multi, codebooks=4, codes=64, steps=400)
    stage("first", "audio/hubert", target=clusters("mfcc"), **TRAINING)
    books("layer", "run:first", 2, fit, codes=100)
    books("layer-multi", "run:first", 2, fit_multi, codebooks=4, codes=64, steps=400)
    books("teacher", "run:first", None, fit, codes=256)
    books("teacher-multi", "run:first", None, fit_multi, codebooks=4, codes=256, steps=400)
    return {}


def tokens(folder: Path, stage: Stage | None = None) -> dict[str, Any]:
    """Distil a tokenizer from a first encoder, in the folder of :func:`units` too."""
    stage = stage or Stage(PARTS, SMALL["data"])
    training = {**TRAINING, "steps": LONGER}
    encoder = stage("encoder", "audio/openbeats", **training)
    teacher = {"name": "audio/teacher", "run": str(encoder.folder)}
    stage("tokenizer", "audio/openbeats-tokenizer", target=teacher, **training)
    return {}


CLAIMS: dict[str, Claim] = {
    "audio/speech-targets": Claim(
        text="What a speech model is to predict decides what it learns: clusters of a first encoder's layer "
        "teach more of what is said than clusters of cepstra (Hsu et al. 2021, arXiv 2106.07447), and "
        "finer targets more than one clustering (Chen et al. 2024, arXiv 2409.10788)",
        config={**SMALL, "system": "audio/hubert"},
        variants={
            "cepstra, 100 clusters": {"target": clusters("mfcc")},
            "log-mel spectra, 100 clusters": {"target": clusters("mel")},
            "cepstra, 4 stages of 64": {"target": clusters("mfcc-residual")},
            "cepstra, 4 codebooks of 64": {"target": clusters("mfcc-multi")},
            "random projection": {"target": "audio/random-projection", "target.codes": 100},
            "second iteration, 100 clusters": {"target": clusters("layer")},
            "second iteration, 4 codebooks of 64": {"target": clusters("layer-multi")},
        },
        about=("second iteration, 100 clusters",),
        measure="word linear",
        evaluation=WHAT_AND_WHO,
        prepare=units,
    ),
    "audio/mae-fast": light_decoder(
        "audio/mae",
        config={"data": "audio/words", "steps": 400, "batch_size": 16},
        measure="word linear",
        evaluation=WHAT_AND_WHO,
    ),
    "audio/openbeats": Claim(
        text="Predicting acoustic tokens of hidden patches teaches more than regressing their spectra, and "
        "tokens distilled from a first encoder more than random ones (Chen et al. 2022, arXiv 2212.09058; "
        "OpenBEATs, arXiv 2507.14129)",
        config={**SMALL, "steps": LONGER},
        variants={
            "mae": {"system": "audio/mae"},
            "openbeats, random tokens": {"system": "audio/openbeats"},
            "openbeats, distilled tokens": {
                "system": "audio/openbeats",
                "target": {"name": "audio/distilled", "run": part("tokenizer")},
            },
        },
        about=("openbeats, random tokens", "openbeats, distilled tokens"),
        measure="word linear",
        evaluation=WHAT_AND_WHO,
        prepare=tokens,
    ),
    "audio/spear": Claim(
        text="Codes of several codebooks that add up to a teacher's features teach more than one clustering "
        "of them (SPEAR, arXiv 2510.25955)",
        config={**SMALL, "system": "audio/spear"},
        variants={
            "256 clusters": {"target": clusters("teacher")},
            "4 codebooks of 256": {"target": clusters("teacher-multi")},
            "4 codebooks of 256, hidden frames alone": {
                "target": clusters("teacher-multi"),
                "visible_weight": 0.0,
            },
        },
        about=("4 codebooks of 256",),
        measure="word linear",
        evaluation=WHAT_AND_WHO,
        prepare=units,
    ),
    "audio/spear-mixing": Claim(
        text="Mixing sounds, and codes with them, makes features hold in noise (SPEAR, arXiv 2510.25955)",
        config={**SMALL, "system": "audio/spear", "target": clusters("teacher-multi")},
        variants={
            "no mixing": {"mixing": 0.0},
            "mixing": {"token_mixing": False},
            "mixing, of codes too": {},
        },
        about=("mixing, of codes too",),
        measure="speaker at 10 dB linear",
        evaluation=IN_NOISE,
        prepare=units,
    ),
}
