"""HumanMAC: Masked Motion Completion for Human Motion Prediction (Chen et al. 2023, arXiv 2302.03665).

Learn whole motions by diffusion, in the slow part of their cosine transform; complete what is seen of one by
setting it, with noise, at every denoising step. Training hides nothing from the loss: a mask decides what the
network is told, and in generation what is completed: a past, ends, some joints.

    polymask pretrain pointcloud/humanmac --preset small --data mocap
    polymask generate RUN --masking observed --masking.past 0.1 --masking.joints '[0, 1]'

A guess of 0 costs 1, and the untrained network guesses 0. What is seen tells few of the coefficients: of 20
per coordinate, 25 of 125 frames fix about 4. The network is therefore told the rest of the observation too,
hidden places held where they were last seen; a joint that is never seen is told to be at the root.

The mask acts in time and the noise in coefficients. As these leave out what is fast, a completed motion only
comes near what is seen, which is put back at the end; the paper scores the frames after it alone.
Differences: the last step goes to time 0, where the release leaves noise of 0.006; who is told is drawn for
each sample, there for each batch; ends stay set to the last step, there without the last 20. Mirrored motion
keeps the names of left and right, as released.

Shapes: B samples, N tokens, L frames, K coefficients, J joints, C = 3 J.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask import (
    Batch,
    Generation,
    Losses,
    Mask,
    Preview,
    Step,
    System,
    Tokens,
    UserError,
    sample_ids,
)
from polymask.mask import require_over
from polymask.nn.diffusion import Noising, add_noise, ddim_states, signal_levels
from polymask.nn.teachers import EMATeacher
from polymask.protocols import Encoder, Masking, Objective, Tokenizer
from polymask.types import Count, Fact, Positive, Share, Whole
from polymask_pointcloud.animation import Animation
from polymask_pointcloud.skeleton import Skeleton
from polymask_pointcloud.stylised import zero

TIME, NOISE, TOLD, START, KNOWN = -1, -2, -3, -4, -5
"""Streams of chance; those of the steps of the sampler are below the last."""
FRAMES, FUTURES = 16, 3


class HumanMAC(System):
    """A diffusion model of motion that completes what is seen of one.

    Args:
        tokenizer: makes tokens of frames, or of their joints; what a mask is over.
        encoder: a Transformer over time that is told the time of its input.
        masking: what the network is not told in training (paper: all but the past).
        objective: how a guess of the noise is scored, over all coefficients.
        coefficients: slowest cosines to keep of each coordinate (paper: 20 of 125 frames, 10 of 75).
        times: levels of noise.
        noising: how noise grows with time: ``"cosine"`` or ``"linear"``.
        told: share of training samples of which the network is told what is seen (paper: 0.8, HumanEva 1).
        momentum: weight of the past in the average of the weights, which generates.
        copy_until: steps at the start during which the average is a copy.
        parents: number of the joint that each hangs on, -1 for the root, from the data; for pictures.
        rooted: whether the first joint is the root, from the data.
        rate: frames per second, from the data.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        coefficients: Count = 20,
        times: Count = 1000,
        noising: Noising = "cosine",
        told: Share = 0.8,
        momentum: Share = 0.995,
        copy_until: Whole = 2000,
        parents: Fact[Sequence[int]] = (),
        rooted: Fact[bool] = False,
        rate: Fact[Positive] = 25.0,
    ) -> None:
        super().__init__()
        if not hasattr(encoder, "condition"):
            raise UserError(
                f"humanmac tells its encoder the noise of its input, and {type(encoder).__name__} cannot be "
                "told: use pointcloud/stylised"
            )
        self.tokenizer, self.masking, self.objective = tokenizer, masking, objective
        self.encoder: Any = encoder
        self.times, self.told, self.rate = times, told, rate
        self.skeleton = Skeleton((), parents, rooted=rooted)
        frames, width = tokenizer.provides["frames"], 3 * tokenizer.provides["joints"]
        self.register_buffer("cosines", cosines(coefficients, frames), persistent=False)
        self.register_buffer("signal", signal_levels(times, noising), persistent=False)
        self.cosines: Tensor
        self.signal: Tensor
        self.observation = nn.Linear(coefficients * width, encoder.dim)
        self.head = nn.Linear(encoder.out_dim, width)
        zero(self.head)
        self.average = EMATeacher(self.network(), momentum=momentum, copy_until=copy_until)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens, ids = self.tokenizer(batch), sample_ids(batch)
        motion_BLC = self.motion(tokens)
        y_BKC, seen_BKC = self.cosines @ motion_BLC, self.seen(motion_BLC, self.draw(tokens, batch, step))
        time_B = 1 + (step.noise(ids, 1, TIME)[:, 0] * self.times).long()
        told_B = step.noise(ids, 1, TOLD)[:, 0] < self.told
        noise_BKC = step.normal(ids, y_BKC[0].numel(), NOISE).view_as(y_BKC)
        noisy_BKC = add_noise(y_BKC, noise_BKC, self.signal[time_B])
        guess_BKC = self.predict(self.network(), noisy_BKC, time_B, seen_BKC, told_B)
        return {"noise": self.objective(guess_BKC, noise_BKC)}

    def after_step(self, step: Step) -> None:
        self.average.follow(self.network(), step)

    def network(self) -> nn.ModuleList:
        """What predicts noise."""
        return nn.ModuleList([self.encoder, self.observation, self.head])

    def predict(
        self, network: Any, y_BKC: Tensor, time_B: Tensor, seen_BKC: Tensor, told_B: Tensor
    ) -> Tensor:
        """The noise ``[B, K, C]`` in coefficients, of samples of which it is told what is seen, or not."""
        encoder, observation, head = network
        told_BD = torch.where(told_B[:, None], observation(seen_BKC.flatten(1)), 0)
        z_BKD = encoder(encoder.embed(y_BKC), places(y_BKC), None, encoder.condition(time_B, told_BD))
        guess_BKC: Tensor = head(z_BKD)
        return guess_BKC

    def motion(self, tokens: Tokens) -> Tensor:
        """Tokens as poses in time, ``[B, L, C]``."""
        return tokens.values.reshape(len(tokens.values), self.cosines.shape[1], -1)

    def seen(self, motion_BLC: Tensor, mask: Mask) -> Tensor:
        """Coefficients ``[B, K, C]`` of a motion in which what is hidden is held."""
        return self.cosines @ hold(motion_BLC, visible(mask, motion_BLC))

    def encode(self, batch: Batch) -> Tokens:
        """Features of the coefficients, ``[B, K, D]``, at the least noise, without any and not told more."""
        y_BKC = self.cosines @ self.motion(self.tokenizer(batch))
        condition = self.encoder.condition(torch.ones_like(sample_ids(batch)))
        z_BKD = self.encoder(self.encoder.embed(y_BKC), places(y_BKC), None, condition)
        return Tokens(z_BKD, places(y_BKC))

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        step: Step,
        mask: Mask | None = None,
        *,
        steps: Count = 100,
        told: Share = 1.0,
        complete: bool = True,
    ) -> Generation:
        """Motions from noise, by DDIM; what is visible is set at each step.

        Args:
            batch: ids, and motions of which what the mask leaves visible counts.
            step: the source of chance: other seeds give other futures.
            mask: over tokens, what to generate; None for everything.
            steps: denoising steps.
            told: share of samples of which the network is told what is visible (paper: HumanEva 0.5).
            complete: set what is visible at each step; without, it is told alone.

        Raises:
            UserError: more steps than there are levels of noise.
        """
        tokens, ids = self.tokenizer(batch), sample_ids(batch)
        require_over(tokens, mask)
        motion_BLC = self.motion(tokens)
        seen_BLC = (
            visible(mask, motion_BLC) if mask is not None else torch.zeros_like(motion_BLC, dtype=torch.bool)
        )
        seen_BKC = self.cosines @ hold(motion_BLC, seen_BLC)
        told_B = step.noise(ids, 1, TOLD)[:, 0] < (told if mask is not None else 0)

        def normal(stream: int) -> Tensor:
            return step.normal(ids, seen_BKC[0].numel(), stream).view_as(seen_BKC)

        def noise_at(y_BKC: Tensor, time: int) -> Tensor:
            return self.predict(self.average.module, y_BKC, torch.full_like(ids, time), seen_BKC, told_B)

        def amend(y_BKC: Tensor, level: Tensor, k: int) -> Tensor:
            if mask is None or not complete:
                return y_BKC
            known_BKC = add_noise(seen_BKC, normal(KNOWN - k), level)
            return self.cosines @ torch.where(seen_BLC, self.cosines.T @ known_BKC, self.cosines.T @ y_BKC)

        # not from the last times, where errors of the guess grow a hundredfold in a step
        levels = self.signal[: 1 + self.times - max(self.times // 125, 1)]
        states = ddim_states(normal(START), noise_at, levels, steps, lambda k: normal(START), amend=amend)
        shown = {round(k * steps / FRAMES) for k in range(FRAMES + 1)}
        made = [self.cosines.T @ y_BKC for k, y_BKC in enumerate(states) if k in shown]
        made[-1] = torch.where(seen_BLC, motion_BLC, made[-1])
        tokenizer: Any = self.tokenizer
        frames = [{tokenizer.key: tokenizer.inverse(x_BLC)} for x_BLC in made]
        return Generation(frames[-1], frames)

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The error of the average at a quarter and at three quarters of the times, told what is seen."""
        tokens, ids = self.tokenizer(batch), sample_ids(batch)
        motion_BLC = self.motion(tokens)
        y_BKC, seen_BKC = self.cosines @ motion_BLC, self.seen(motion_BLC, self.draw(tokens, batch, step))
        noise_BKC = step.normal(ids, y_BKC[0].numel(), NOISE).view_as(y_BKC)
        found = {}
        for name, share in (("little noise", 0.25), ("much noise", 0.75)):
            time_B = torch.full_like(ids, round(share * self.times))
            noisy_BKC = add_noise(y_BKC, noise_BKC, self.signal[time_B])
            told_B = torch.ones_like(ids, dtype=torch.bool)
            guess_BKC = self.predict(self.average.module, noisy_BKC, time_B, seen_BKC, told_B)
            found[f"error, {name}"] = (guess_BKC.float() - noise_BKC).square().mean()
        return found

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        """What is seen of motions, what came of it, and what may have: several futures, to be played."""
        tokens, tokenizer = self.tokenizer(batch), self.tokenizer
        mask = self.draw(tokens, batch, step)
        truth = batch[tokenizer.key]
        seen = visible(mask, self.motion(tokens)).view_as(truth).all(-1)
        made = {
            f"future {k + 1}": self.generate(
                batch, Step(step.index, step.total, step.seed + k), mask
            ).samples[tokenizer.key]
            for k in range(FUTURES)
        }
        shown = [
            Animation(
                {name: x[i] for name, x in {"real": truth, **made}.items()},
                self.skeleton,
                seen[i],
                rate=self.rate,
            )
            for i in range(len(truth))
        ]
        return Preview({"seen, then what was and what may be": shown})


def cosines(coefficients: int, frames: int) -> Tensor:
    """The slowest rows of the orthonormal cosine transform (DCT-II), float32 ``[K, L]``.

    Raises:
        UserError: there are not so many.
    """
    if not 1 <= coefficients <= frames:
        raise UserError(f"a motion of {frames} frames has 1 to {frames} coefficients, got {coefficients}")
    k, i = torch.arange(coefficients, dtype=torch.float64)[:, None], torch.arange(frames) + 0.5
    rows = math.sqrt(2 / frames) * (math.pi * k * i / frames).cos()
    rows[0] /= math.sqrt(2)
    return rows.float()


def visible(mask: Mask, motion_BLC: Tensor) -> Tensor:
    """Which numbers of a motion are visible under a mask over frames, or their joints: bool ``[B, L, C]``."""
    b, frames, width = motion_BLC.shape
    seen = ~mask.hidden.reshape(b, frames, -1)
    return seen[..., None].expand(-1, -1, -1, width // seen.shape[2]).reshape(b, frames, width)


def hold(motion_BLC: Tensor, seen_BLC: Tensor) -> Tensor:
    """A motion whose hidden places are those seen last, or first if none was before; 0 if none is seen."""
    frame = torch.arange(motion_BLC.shape[1], device=motion_BLC.device)[:, None]
    last_BLC = torch.where(seen_BLC, frame, -1).cummax(dim=1).values
    first_B1C = seen_BLC.int().argmax(dim=1, keepdim=True)
    held_BLC = motion_BLC.gather(1, torch.where(last_BLC < 0, first_B1C, last_BLC))
    return torch.where(seen_BLC.any(dim=1, keepdim=True), held_BLC, 0)


def places(y_BKC: Tensor) -> Tensor:
    """Numbers of coefficients as positions, ``[B, K, 1]``."""
    return torch.arange(y_BKC.shape[1], device=y_BKC.device).view(1, -1, 1).expand(len(y_BKC), -1, -1)
