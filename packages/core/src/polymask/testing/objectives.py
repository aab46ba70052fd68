"""Checks of objectives.

Tags: ``classes`` (the target is class ids), ``logits`` (predictions are logits of it), ``relative``
(sites or samples are scored against each other, so the value is no mean over sites), ``two-sided``
(the target gets gradient on purpose).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask.mask import Mask
from polymask.testing.subject import Subject
from polymask.testing.suite import Skip, check, require

B, N, D = 3, 12, 8


def inputs(subject: Subject, seed: int = 0) -> tuple[Tensor, Tensor, Mask]:
    """Prediction, target, and a mask with 2, 5 and 8 hidden sites."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(B, N, D, generator=generator)
    if "classes" in subject.part.tags:
        target = torch.randint(D, (B, N), generator=generator)
    else:
        target = torch.randn(B, N, D, generator=generator)
    rank = torch.rand(B, N, generator=generator).argsort(1)
    return prediction, target, Mask(rank < torch.tensor([[2], [5], [8]]))


def other(target: Tensor) -> Tensor:
    """A target that differs everywhere."""
    return (target + 1) % D if target.dtype == torch.int64 else 3.0 - target


def close(a: Any, b: Any) -> bool:
    """Equal to the rounding of float32 sums."""
    return abs(float(a) - float(b)) <= 1e-5 * max(abs(float(a)), abs(float(b)), 1e-3)


@check("objectives")
def check_objective_is_a_float32_scalar(subject: Subject) -> None:
    """Gives one finite number in float32 that a gradient can start from."""
    prediction, target, mask = inputs(subject)
    value = subject.make()(prediction.requires_grad_(), target, mask)
    require(value.requires_grad, "cuts the gradient of the prediction")
    value = value.detach()
    require(value.shape == (), f"gives shape {list(value.shape)}, not a scalar")
    require(value.dtype == torch.float32, f"gives {value.dtype}, not float32")
    require(value.isfinite(), f"gives {float(value)} for ordinary numbers")


@check("objectives")
def check_objective_computes_in_float32(subject: Subject) -> None:
    """Computes in float32 under bfloat16 autocast too."""
    prediction, target, mask = inputs(subject)
    objective, half = subject.make(), prediction.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = objective(half, target, mask)
    full = objective(half.float(), target, mask)
    require(low.dtype == torch.float32, f"gives {low.dtype} for a bfloat16 prediction")
    require(
        abs(low - full) <= 1e-4 * full.abs(),
        f"rounds to bfloat16 inside: {low:.6f} for {full:.6f}",
    )


@check("objectives")
def check_objective_ignores_visible_sites(subject: Subject) -> None:
    """Gives visible sites a gradient of exactly 0, and hidden ones one that is not."""
    prediction, target, mask = inputs(subject)
    objective = subject.make()
    objective(prediction.requires_grad_(), target, mask).backward()
    gradient = prediction.grad
    assert gradient is not None
    require((gradient[~mask.hidden] == 0).all(), "visible sites get gradient: the loss rewards copying")
    require((gradient[mask.hidden] != 0).any(-1).all(), "some hidden site gets no gradient")


@check("objectives")
def check_objective_reads_hidden_targets_only(subject: Subject) -> None:
    """Gives the same value whatever prediction and target are at visible sites."""
    prediction, target, mask = inputs(subject)
    objective, seen = subject.make(), ~mask.hidden
    value = objective(prediction, target, mask)
    changed = target.clone()
    changed[seen] = other(target)[seen]
    require(
        torch.equal(value, objective(prediction, changed, mask)), "targets at visible sites change the value"
    )
    guess = prediction.clone()
    guess[seen] += 1.0
    require(
        torch.equal(value, objective(guess, target, mask)), "predictions at visible sites change the value"
    )


@check("objectives")
def check_objective_sites(subject: Subject) -> None:
    """Where it says what each site costs, in float32, the value is the mean of that over hidden sites."""
    prediction, target, mask = inputs(subject)
    objective = subject.make()
    if not hasattr(objective, "sites"):
        raise Skip("does not say what each site costs")
    losses = objective.sites(prediction, target)
    require(losses.shape == (B, N), f"sites gives {list(losses.shape)} for {N} sites of {B} samples")
    low = objective.sites(prediction.bfloat16(), target)
    require(low.dtype == torch.float32, f"sites gives {low.dtype} for a bfloat16 prediction")
    mean, value = mask.mean(losses), objective(prediction, target, mask)
    require(close(mean, value), f"gives {value:.6f}; the mean of its sites is {mean:.6f}")


@check("objectives")
def check_objective_survives_an_empty_mask(subject: Subject) -> None:
    """Gives 0 and gradients of 0 where nothing is hidden, not NaN."""
    prediction, target, mask = inputs(subject)
    value = subject.make()(prediction.requires_grad_(), target, Mask(torch.zeros_like(mask.hidden)))
    require(value == 0, f"gives {value.detach().item()} where nothing is hidden")
    if value.requires_grad:
        value.backward()
    gradient = prediction.grad
    require(gradient is None or (gradient == 0).all(), "gradients are not 0 where nothing is hidden")


@check("objectives", unless=("relative",))
def check_objective_is_a_mean(subject: Subject) -> None:
    """Gives the same value for a batch and for the batch twice: nothing is divided twice."""
    prediction, target, mask = inputs(subject)
    objective = subject.make()
    once = objective(prediction, target, mask)
    twice = objective(prediction.repeat(2, 1, 1), torch.cat([target, target]), Mask(mask.hidden.repeat(2, 1)))
    require(close(once, twice), f"gives {once:.6f} for a batch and {twice:.6f} for the batch twice")


@check("objectives", unless=("relative",))
def check_objective_counts_every_hidden_site_alike(subject: Subject) -> None:
    """Is a mean over the hidden sites of the whole batch, not a mean of means per sample."""
    prediction, target, mask = inputs(subject)
    objective, counts = subject.make(), mask.hidden.sum(1)
    whole = objective(prediction, target, mask)
    rows = [
        objective(prediction[i : i + 1], target[i : i + 1], Mask(mask.hidden[i : i + 1])) for i in range(B)
    ]
    mean = sum(row * count for row, count in zip(rows, counts, strict=True)) / counts.sum()
    require(close(whole, mean), f"gives {whole:.6f}; the mean over hidden sites is {mean:.6f}")


@check("objectives")
def check_objective_without_a_mask_counts_all(subject: Subject) -> None:
    """Without a mask it scores every site it is given, as with one that hides all."""
    prediction, target, mask = inputs(subject)
    objective = subject.make()
    bare, full = (
        objective(prediction, target),
        objective(prediction, target, Mask(torch.ones_like(mask.hidden))),
    )
    require(close(bare, full), f"gives {bare:.6f} without a mask, {full:.6f} with all hidden")


@check("objectives", unless=("two-sided",))
def check_objective_stops_gradient_of_the_target(subject: Subject) -> None:
    """Passes no gradient into the target, where it would teach the teacher."""
    prediction, target, mask = inputs(subject)
    if not target.is_floating_point():
        raise Skip("the target is class ids")
    target.requires_grad_()
    subject.make()(prediction.requires_grad_(), target, mask).backward()
    require(target.grad is None or (target.grad == 0).all(), "the target gets gradient: detach it")


@check("objectives", unless=("classes", "logits", "relative"))
def check_objective_is_least_at_the_target(subject: Subject) -> None:
    """Is smallest where the prediction is the target."""
    prediction, target, mask = inputs(subject)
    objective = subject.make()
    least = objective(target.clone(), target, mask)
    for scale in (0.01, 0.1, 1.0):
        value = objective(target + scale * prediction, target, mask)
        require(value > least, f"gives {value:.6f} beside the target and {least:.6f} at it")
