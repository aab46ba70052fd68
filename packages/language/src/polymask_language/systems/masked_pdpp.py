"""Masked-PDPP: masked diffusion with task-awareness for procedure planning (2023, arXiv 2309.07409).

Plan the steps between what is seen before and after by diffusion over a matrix of rows: task, step and
observation. A classifier tells the task, and a mask leaves those steps alone that occur in plans of that
task: noise, denoising and loss are about these.

    polymask pretrain language/masked-pdpp --preset small --data openings
    polymask evaluate RUN language/planning

No code of the method was published, and beyond its abstract all is a reading: the mask may act on the noise
of training, in sampling, and in the loss, each of which can be switched off (``--mask_noise``,
``--mask_sampling``, ``--mask_loss``); with none it is PDPP (Wang et al. 2023, arXiv 2303.14676), whose state,
weights, noise, network and averages these are. The classifier is PDPP's, of two observations and no text, and
learns beside the planner, with which it shares nothing. In training the task is the true one. A step that no
training plan of a task has cannot be planned for it.

The loss of a plan is a sum, 10 times for its first and last step, and the mean over plans, where the release
sums these too. A guess of 0 costs 10 + 10 + (T - 2). Rows are few and stay as many on all levels of the
network, where the release joins neighbours.

Shapes: B plans, T steps of each, A steps there are, C tasks, O numbers seen, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import (
    Batch,
    Generation,
    Losses,
    Mask,
    MaskView,
    Step,
    System,
    Tokens,
    UserError,
    sample_ids,
)
from polymask.mask import require_over
from polymask.nn.diffusion import add_noise, ddim_step, signal_levels, times_of
from polymask.nn.teachers import EMATeacher
from polymask.protocols import Tokenizer
from polymask.types import Count, Fact, Positive, Share, Whole
from polymask_language.planner import Planner

TIME, NOISE, START = -1, -2, -3
"""Streams of chance; those of the steps of the sampler are below the last."""


class MaskedPDPP(System):
    """A task classifier, and a diffusion model of plans that is masked by the task.

    Args:
        tokenizer: makes steps of plans.
        dim: width of the planner; its deeper levels are 2 and 4 times as wide.
        times: levels of noise.
        end_weight: weight of the first and the last step in the loss.
        mask_noise: no noise on steps that the task lacks, in training.
        mask_sampling: nothing on them in sampling.
        mask_loss: no loss at them.
        classifier_dim: width of the classifier.
        classifier_depth: its layers.
        momentum: weight of the past in the average of the planner, which plans.
        copy_until: steps at the start during which the average is a copy.
        every: steps from one update of the average to the next.
        classes: number of tasks, from the data.
        observation: numbers that are seen before and after, from the data.
        allowed: steps that training plans have, by task, from the data; all where a task is not named.
    """

    supervised = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        dim: Count = 256,
        times: Count = 200,
        end_weight: Positive = 10.0,
        mask_noise: bool = True,
        mask_sampling: bool = True,
        mask_loss: bool = True,
        classifier_dim: Count = 256,
        classifier_depth: Count = 4,
        momentum: Share = 0.995,
        copy_until: Whole = 400,
        every: Count = 10,
        classes: Fact[Count] = 10,
        observation: Fact[Count] = 6,
        allowed: Fact[Sequence[Sequence[int]]] = (),
    ) -> None:
        super().__init__()
        actions, horizon = tokenizer.provides.get("vocabulary"), (tokenizer.provides.get("grid") or (0,))[0]
        if actions is None or horizon < 2:
            raise UserError(
                f"masked-pdpp plans 2 steps or more, and {type(tokenizer).__name__} makes {horizon} of "
                f"{actions or 'no'} kinds: use language/steps, and plans of 2 steps or more"
            )
        self.tokenizer, self.times, self.classes, self.actions = tokenizer, times, classes, actions
        self.mask_noise, self.mask_sampling, self.mask_loss = mask_noise, mask_sampling, mask_loss
        table = torch.ones(classes + 1, actions, dtype=torch.bool)  # the last row is of no known task
        for task, steps in enumerate(allowed):
            table[task] = torch.isin(torch.arange(actions), torch.tensor(steps, dtype=torch.long))
        weight = torch.ones(horizon, 1)
        weight[0] = weight[-1] = end_weight
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("signal", signal_levels(times), persistent=False)
        self.table: Tensor
        self.weight: Tensor
        self.signal: Tensor
        self.planner = Planner(classes + actions + observation, actions, dim)
        self.task_classifier = classifier(2 * observation, classes, classifier_dim, classifier_depth)
        self.average = EMATeacher(self.planner, momentum=momentum, copy_until=copy_until, every=every)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens, ids, task_B = self.tokenizer(batch), sample_ids(batch), batch["label"]
        clean_BTA = tokens.values
        mask_B1A = self.table[task_B][:, None]
        time_B = 1 + (step.noise(ids, 1, TIME)[:, 0] * self.times).long()
        noisy_BTA = add_noise(clean_BTA, self.normal(tokens, batch, step, NOISE), self.signal[time_B])
        if self.mask_noise:
            noisy_BTA = noisy_BTA * mask_B1A
        guess_BTA = self.planner(self.rows(noisy_BTA, task_B, batch), time_B)
        error_BTA = self.weight * (guess_BTA.float() - clean_BTA).square()
        if self.mask_loss:
            error_BTA = error_BTA * mask_B1A
        told = F.cross_entropy(self.task_logits(batch).float(), task_B, ignore_index=-1, reduction="sum")
        known = (task_B >= 0).sum().clamp(min=1)
        return {"plan": error_BTA.sum((1, 2)).mean(), "task": told / known}

    def after_step(self, step: Step) -> None:
        self.average.follow(self.planner, step)

    def rows(self, state_BTA: Tensor, task_B: Tensor, batch: Batch) -> Tensor:
        """The matrix of plans, ``[B, T, C + A + O]``: task and observations as they are."""
        b, t, _ = state_BTA.shape
        task_BC = F.one_hot(task_B % (self.classes + 1), self.classes + 1)[:, : self.classes]
        seen_B2O = batch["observation"].to(state_BTA.dtype)
        between = seen_B2O.new_zeros(b, t - 2, seen_B2O.shape[2])
        seen_BTO = torch.cat([seen_B2O[:, :1], between, seen_B2O[:, 1:]], dim=1)
        return torch.cat(
            [task_BC[:, None].expand(-1, t, -1).to(state_BTA.dtype), state_BTA, seen_BTO], dim=-1
        )

    def task_logits(self, batch: Batch) -> Tensor:
        """Scores of the tasks ``[B, C]`` from what is seen."""
        out: Tensor = self.task_classifier(batch["observation"].flatten(1))
        return out

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        step: Step,
        mask: Mask | None = None,
        *,
        steps: Count = 10,
        eta: Share = 0.0,
        true_task: bool = False,
        filtered: bool = False,
    ) -> Generation:
        """Plans from noise, between what is seen before and after; visible steps are set at each step.

        Args:
            batch: ids, observations, and steps, of which those that the mask leaves visible count.
            step: the source of chance.
            mask: over the steps of plans, which to plan; None for all.
            steps: denoising steps (DDIM; as many as there are times, with ``eta`` 1, are DDPM).
            eta: noise that is added again at each step, from 0, none, to 1.
            true_task: plan for the label rather than for the task that the classifier tells.
            filtered: choose among steps that the task has at the end, where the mask is not in sampling.
        """
        tokens = self.tokenizer(batch)
        require_over(tokens, mask)
        task_B = batch["label"] if true_task else self.task_logits(batch).argmax(-1)
        mask_B1A = self.table[task_B][:, None]
        keep: Any = mask_B1A if self.mask_sampling else torch.ones_like(mask_B1A)

        def settled(state_BTA: Tensor) -> Tensor:
            state_BTA = state_BTA * keep
            return state_BTA if mask is None else mask.fill(tokens.values, state_BTA)

        state_BTA = self.normal(tokens, batch, step, START) * keep
        frames = [state_BTA]
        for k, (time, then) in enumerate(pairwise(times_of(self.times, steps))):
            time_B = torch.full_like(task_B, time)
            clean_BTA = settled(self.average.module(self.rows(state_BTA, task_B, batch), time_B).float())
            fresh = self.normal(tokens, batch, step, START - 1 - k)
            state_BTA = (
                ddim_step(state_BTA, clean_BTA, self.signal[time], self.signal[then], fresh, eta) * keep
            )
            frames.append(state_BTA)
        # zeros of steps that the task lacks must not win over undecided ones
        choice = keep.bool() & (mask_B1A if filtered else True)
        plans = [x.masked_fill(~choice, -torch.inf) for x in frames]
        plans = [x if mask is None else mask.fill(tokens.values, x) for x in plans]
        shown = [{self.tokenizer.key: x.argmax(-1)} for x in plans]
        return Generation(shown[-1], shown)

    def normal(self, tokens: Tokens, batch: Batch, step: Step, stream: int) -> Tensor:
        """Noise in the shape of the steps."""
        return step.normal(sample_ids(batch), tokens.values[0].numel(), stream).view_as(tokens.values)

    def encode(self, batch: Batch) -> Tokens:
        """What the planner makes of a plan without noise and of no known task, ``[B, T, D]``."""
        tokens = self.tokenizer(batch)
        none_B = torch.full_like(sample_ids(batch), -1)
        z_BTD = self.planner.features(self.rows(tokens.values, none_B, batch), torch.ones_like(none_B))
        return Tokens(z_BTD, tokens.position)

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        """Steps that the task lacks, at each step of the plan."""
        hidden_BTA = ~self.table[batch["label"]][:, None].expand(-1, len(self.weight), -1)
        return {"steps that the task lacks": MaskView(Mask(hidden_BTA.contiguous()))}

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """How often the classifier is right, and the average plans the right step, for the true task."""
        made = self.generate(batch, step, true_task=True).samples[self.tokenizer.key]
        right = self.task_logits(batch).argmax(-1) == batch["label"]
        return {
            "task accuracy": right.float().mean(),
            "step accuracy": (made == batch[self.tokenizer.key]).float().mean(),
        }


def classifier(width: int, classes: int, dim: int, depth: int) -> nn.Module:
    """A network of layers with shortcuts, from two observations to scores of tasks."""
    return nn.Sequential(
        nn.Linear(width, dim), *(Shortcut(dim) for _ in range(depth)), nn.Linear(dim, classes)
    )


class Shortcut(nn.Module):
    """A layer beside a shortcut."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, dim]``."""
        out: Tensor = x + F.gelu(self.layer(self.norm(x)))
        return out
