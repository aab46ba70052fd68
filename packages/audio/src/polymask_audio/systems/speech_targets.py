"""Prediction targets of masked pre-training for speech (Chen et al. 2024, arXiv 2409.10788).

HuBERT in iterations (Hsu et al. 2021, arXiv 2106.07447): cluster simple features of speech, train an
encoder to predict the clusters of hidden frames, cluster a layer of that encoder, train the next one.
The study keeps all of it and varies what is predicted: what the first clusters are of, which layer or
layers later ones are of, how many codes there are and whether they come in stages.

    polymask recipe audio/speech-targets --data words
    polymask recipe audio/speech-targets --data prompts --layers 2,3,4
    polymask recipe audio/speech-targets --data prompts --codes 128 --stages 4

The first is HuBERT's own, the second *layer multi-target* (a codebook and a head for each of several
layers), the third residual vector quantisation (a head for each stage, none knowing of the others).
Their losses do not compare, as more codes cost more; probes do. On ``words`` a round of the preset
``small`` takes minutes on two cores.

The names of these proposals are the study's; its grids and how it weighs streams could not be read, so
streams count alike, stages have equally many codes, and layers default to the middle one, as 6 of 12
in HuBERT. Features are standardised per channel before clustering, by numbers that the codebook keeps.
"""

from __future__ import annotations

import functools
from typing import Any

from polymask import UserError
from polymask.codebooks import fit
from polymask.config import relative_to_run
from polymask.recipes import Stage
from polymask.types import Count
from polymask_audio.fitting import fit_units


def speech_targets(
    stage: Stage,
    /,
    *,
    rounds: Count = 2,
    initial: str = "mfcc",
    initial_codes: Count = 100,
    layers: tuple[Count, ...] = (),
    codes: Count = 500,
    stages: Count = 1,
    frames: Count = 200_000,
    preset: str = "small",
    steps: Count | None = None,
    system: str = "audio/hubert",
) -> None:
    """Cluster, pre-train, cluster again.

    Args:
        stage: trains a run.
        rounds: encoders to train; the paper's have two.
        initial: features that the first clusters are of, see :mod:`polymask_audio.features`.
        initial_codes: how many clusters of these (paper: 100).
        layers: blocks of each encoder that the next clusters are of, from 1; by default the middle one.
        codes: how many clusters of a layer, or codes of a stage (paper: 500).
        stages: of residual quantisation; 1 is plain clustering.
        frames: how many to cluster, at most (paper: of a tenth of the recordings).
        preset: of all encoders.
        steps: of each encoder; by default the preset's (paper: 250,000, then 400,000).
        system: what is trained; it has a slot ``target`` for class numbers.
    """
    if rounds < 1:
        raise UserError(f"speech-targets takes 1 round or more, got {rounds}")
    blocks: tuple[int | None, ...] = (None,)
    features, count, depth = initial, initial_codes, 1
    seed = int(stage.shared.get("seed", 0))
    for turn in range(1, rounds + 1):
        file = stage.folder / f"units-{turn}.safetensors"
        if not file.exists():
            how = functools.partial(fit, codes=count, stages=depth, seed=seed)
            fit_units(file, stage.data, features, blocks, how, frames=frames, seed=seed)
        target = {"name": "audio/clusters", "file": relative_to_run(file.name)}
        length = {} if steps is None else {"steps": steps}
        run = stage(f"iteration-{turn}", system, preset=preset, target=target, **length)
        features, count, depth = f"run:iteration-{turn}", codes, stages
        blocks = layers or (middle(run.system),)


def middle(system: Any) -> int | None:
    """The middle block of a system's encoder, from 1; None where its blocks cannot be told apart."""
    depth = getattr(system.encoder, "depth", 0)
    return max(depth // 2, 1) if depth else None
