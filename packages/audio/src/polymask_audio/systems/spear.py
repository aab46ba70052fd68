"""SPEAR: a unified SSL framework for speech and audio (Yang et al. 2025, arXiv 2510.25955).

Mask spans of log-mel spectra and bands of their filters, and predict the codes of every frame in N
codebooks. The codebooks add up to the features of a frozen teacher, so N codes of 256 are a finer target
than clusters. A speech teacher supervises all recordings, an audio teacher also those that are not speech.

    polymask pretrain audio/spear --preset small --data words
    polymask recipe audio/spear --data words
    polymask recipe audio/spear --data prompts --data.label kind --audio_teacher mel

The recipe fits the codebooks (``polymask_audio.fitting.fit_multi``); without it several random
projections stand in for a teacher. The data says which recordings are speech (``batch["speech"]``; all if it
is missing). Chance costs ln K: 5.55 of 256 codes. The loss counts visible frames like hidden ones, as all
published runs do: there it distils, at hidden frames it predicts; ``--visible_weight 0`` scores hidden
ones alone. On ``words`` the preset ``small`` takes minutes on two cores.

Another recording of the batch is mixed into a stretch of some, and codes are exchanged there as often as the
other recording is louder (token mixing). It keeps its own times here and is the previous row of the batch;
recorded noise is not mixed in. The published encoder is a Zipformer on spectra 10 ms apart
which halves their rate; here tokens are 20 ms apart, and spans half as many tokens. Frames after
the teacher's last one get the codes of that one, where released code leaves them out.

Shapes: B samples, N tokens, C numbers of a token, J codebooks, K codes of each.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask import (
    Batch,
    Losses,
    Mask,
    MaskView,
    Preview,
    Request,
    Step,
    System,
    Tokens,
    UserError,
    functional,
)
from polymask.config import relative_to_run
from polymask.protocols import Encoder, Masking, Media, Objective, Target, Tokenizer, sample_ids
from polymask.recipes import Stage
from polymask.types import Count
from polymask_audio import units
from polymask_audio.display import compare, silence
from polymask_audio.fitting import fit_multi, fit_units
from polymask_audio.mixing import Mixing


class SPEAR(System):
    """Prediction of the codes of several codebooks, of one teacher or two.

    Args:
        tokenizer: cuts sound into frames.
        encoder: encodes the whole sequence.
        target: codes of a teacher of speech, int64 ``[B, N]`` or ``[B, N, J]``; every sound is taught them.
        masking: which frames to hide.
        objective: how logits are scored; with a second target it must have `sites`.
        channel_masking: which numbers of a token (filters of a spectrum) to set to 0, in all of a sound.
        audio_target: codes of a teacher of other sounds, which are taught them too; None for one teacher.
        audio_weight: of that teacher's loss (paper: 0.1 or 0.25, by size).
        visible_weight: of visible frames, against 1 of hidden ones.
        mixing: chance that another sound is mixed into one.
        token_mixing: exchange codes where sounds are mixed.
        stretch: shortest and longest part of a sound to be mixed into.
        snr: lowest and highest ratio of the two, in decibels.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        channel_masking: Masking | None = None,
        audio_target: Target | None = None,
        audio_weight: float = 0.1,
        visible_weight: float = 1.0,
        mixing: float = 0.3,
        token_mixing: bool = True,
        stretch: tuple[float, float] = (0.2, 0.5),
        snr: tuple[float, float] = (-5.0, 5.0),
    ) -> None:
        super().__init__()
        if encoder.downsample > 1:
            raise UserError(
                f"spear predicts codes of every token, and {type(encoder).__name__} gives one output for "
                "several: use an encoder that does not downsample"
            )
        if audio_target is not None and not hasattr(objective, "sites"):
            raise UserError(
                f"spear asks frames of sounds alone about the second target, and {type(objective).__name__} "
                "gives one number for all: use core/cross-entropy or another objective that has `sites`"
            )
        if min(visible_weight, audio_weight) < 0:
            raise UserError(f"weights are 0 or more, got {visible_weight} and {audio_weight}")
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.channel_masking, self.audio_target = masking, channel_masking, audio_target
        self.objective: Any = objective
        self.audio_weight, self.visible_weight = audio_weight, visible_weight
        self.mixing = Mixing(tokenizer, mixing, stretch, snr) if mixing else None
        self.token_mixing = token_mixing
        self.mask_token = nn.Parameter(torch.randn(tokenizer.provides["in_dim"]))
        self.head = _classifiers(encoder, target)
        self.audio_head = None if audio_target is None else _classifiers(encoder, audio_target)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mixture = None if self.mixing is None else self.mixing(batch, step)
        heard = tokens if mixture is None else self.tokenizer(mixture.batch)
        mask, channels = self.draw(heard, batch, step), self.draw_channels(heard, batch, step)
        encoded = self.encode_corrupted(heard, mask, channels)

        def labels_BNJ(target: Target) -> Tensor:
            labels = units.read("spear", target, batch, tokens)
            return mixture.exchange(labels, tokens, step) if mixture and self.token_mixing else labels

        counted = Mask(mask.hidden + self.visible_weight * mask.invert().hidden, valid=mask.valid)
        logits_BNJK = _logits(self.head, encoded, self.target)
        losses = {"speech": self.objective(logits_BNJK, labels_BNJ(self.target), counted)}
        if self.audio_target is not None:
            logits_BNJK = _logits(self.audio_head, encoded, self.audio_target)
            loss_BN = self.objective.sites(logits_BNJK, labels_BNJ(self.audio_target))
            other_B1 = ~batch["speech"][:, None] if "speech" in batch else torch.zeros_like(loss_BN[:, :1])
            losses["audio"] = self.audio_weight * counted.mean(loss_BN * other_B1)
        return losses

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        return functional.require_hard_mask("spear", self.masking, super().draw(tokens, batch, step, stream))

    def draw_channels(self, tokens: Tokens, batch: Batch, step: Step) -> Mask | None:
        """Which numbers ``[B, C]`` of all frames are set to 0; None for none."""
        if self.channel_masking is None:
            return None
        width = tokens.values.shape[2]
        return self.channel_masking(Request(sample_ids(batch), width, step, grid=(width,), stream=1))

    def encode_corrupted(self, tokens: Tokens, mask: Mask, channels: Mask | None) -> Tensor:
        """Output ``[B, N, D]`` of the encoder, which gets all frames; time is hidden last."""
        values_BNC = tokens.values
        if channels is not None:
            values_BNC = torch.where(channels.hidden[:, None], 0.0, values_BNC)
        values_BNC = mask.fill(values_BNC, self.mask_token)
        encoded = self.encoder(self.encoder.embed(values_BNC), tokens.position, tokens.valid)
        return encoded[:, self.encoder.prefix :]

    def example(self, n: int, seed: int = 0) -> Batch:
        """Input of random sounds, every other one speech."""
        return {**self.tokenizer.example(n, seed), "speech": torch.arange(n) % 2 == 0}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask, channels = self.draw(tokens, batch, step), self.draw_channels(tokens, batch, step)
        encoded = self.encode_corrupted(tokens, mask, channels)
        columns: dict[str, Tensor | Sequence[Media]] = dict(silence(self.tokenizer, batch, mask))
        for name, head, target in (
            ("", self.head, self.target),
            (" of the audio teacher", self.audio_head, self.audio_target),
        ):
            if target is not None:
                guess = _logits(head, encoded, target).argmax(-1)
                true = units.read("spear", target, batch, tokens)
                shown = compare(true, guess, mask, tokens, target.dim)
                columns |= {f"{caption}{name}": column for caption, column in shown.items()}
        return Preview(columns)

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        tokens = self.tokenizer(batch)
        views = {"time": MaskView(self.draw(tokens, batch, step), tokens)}
        channels = self.draw_channels(tokens, batch, step)
        if channels is not None:  # one below the other, the lowest on top
            views["channels ↓"] = MaskView(Mask(channels.hidden[:, :, None]))
        return views


def _classifiers(encoder: Encoder, target: Target) -> nn.Linear:
    head = nn.Linear(encoder.out_dim, units.streams_of(target) * target.dim)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def _logits(head: Any, encoded: Tensor, target: Target) -> Tensor:
    """float32 ``[B, N, J, K]``."""
    with torch.autocast(encoded.device.type, enabled=False):
        logits: Tensor = head(encoded.float())
    return logits.view(*logits.shape[:2], -1, target.dim)


def spear(
    stage: Stage,
    /,
    *,
    teacher: str = "audio/hubert",
    layer: int | None = None,
    codebooks: Count = 4,
    audio_teacher: str | None = None,
    audio_layer: int | None = None,
    audio_codebooks: Count = 2,
    codes: Count = 256,
    quantiser_steps: Count = 1000,
    frames: Count = 200_000,
    preset: str = "small",
    steps: Count | None = None,
) -> None:
    """Fit codebooks to one teacher or two, then predict them.

    Args:
        stage: trains a run.
        teacher: features by name (``torchaudio:WAVLM_LARGE``, ``run:FOLDER``, ``mel``, see
            :mod:`polymask_audio.features`), or a system to train first, on frames.
        layer: its block, from 1 (paper: 21 of 24); None for the last.
        codebooks: of it (paper: 16).
        audio_teacher: a second one, for sounds that are not speech.
        audio_layer: its block (paper: the last).
        audio_codebooks: of it (paper: 8).
        codes: of each codebook.
        quantiser_steps: to train codebooks for (paper: 70,000).
        frames: how many to fit, at most.
        preset: of all stages.
        steps: of each run; by default the preset's.
    """
    length = {} if steps is None else {"steps": steps}
    targets: dict[str, Any] = {}
    for slot, name, block, count in (
        ("target", teacher, layer, codebooks),
        ("audio_target", audio_teacher, audio_layer, audio_codebooks),
    ):
        if name is None:
            continue
        before = slot.replace("target", "teacher").replace("_", "-")
        if "/" in name and ":" not in name:
            stage(before, name, preset=preset, tokenizer="audio/mel-frames", **length)
            name = f"run:{before}"
        file = stage.folder / f"{before}.safetensors"
        if not file.exists():
            how = functools.partial(
                fit_multi,
                codebooks=count,
                codes=codes,
                steps=quantiser_steps,
                seed=int(stage.shared.get("seed", 0)),
            )
            fit_units(file, stage.data, name, (block,), how, frames=frames)
        targets[slot] = {"name": "audio/clusters", "file": relative_to_run(file.name)}
    stage("spear", "audio/spear", preset=preset, **targets, **length)
