"""Checks of targets.

Tags: ``classes`` (class ids), ``invertible`` (``invert`` turns predictions back into tokens),
``score`` (one number per token that maskings may go by), ``relative`` (depends on the other
samples of the batch).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from polymask.testing.subject import Subject, identical, rows, seeded
from polymask.testing.suite import check, require


def answer(subject: Subject, target: Any, n: int = 4) -> Tensor:
    """What the target says about the example."""
    batch = subject.batch(n)
    out: Tensor = target(batch, subject.tokenizer(batch))
    return out


def evaluating(target: Any) -> Any:
    """The target in eval mode, where it has one."""
    return target.eval() if isinstance(target, nn.Module) else target


@check("targets")
def check_target_shape(subject: Subject) -> None:
    """Says ``dim`` finite float32 numbers about each token, or one class id below ``dim``."""
    target, tokens = subject.make(), subject.tokens()
    out = answer(subject, target)
    if "classes" in subject.part.tags:
        require(
            out.shape == tokens.shape and out.dtype == torch.int64,
            f"tagged 'classes': the answer is {out.dtype} {[*out.shape]}, not int64 {[*tokens.shape]}",
        )
        require(
            int(out.min()) >= 0 and int(out.max()) < target.dim,
            f"dim={target.dim} classes, but ids go from {int(out.min())} to {int(out.max())}",
        )
        return
    expected = (*tokens.shape, target.dim)
    require(
        out.shape == expected, f"dim={target.dim} promises {list(expected)}; the answer is {list(out.shape)}"
    )
    require(out.dtype == torch.float32, f"the answer is {out.dtype}, not float32")
    require(out.isfinite().all(), "the answer is not finite")


@check("targets", when="score")
def check_target_score_is_one_number(subject: Subject) -> None:
    """A score is one number per token."""
    require(subject.make().dim == 1, "tagged 'score', but dim is not 1")


@check("targets")
def check_target_has_no_gradient(subject: Subject) -> None:
    """Passes no gradient back to the input and has no parameter that trains."""
    target, batch = subject.make(), subject.batch()
    if isinstance(target, nn.Module):
        trainable = [name for name, p in target.named_parameters() if p.requires_grad]
        require(
            not trainable, f"{', '.join(trainable)} would train: hold them in polymask.nn.teachers.Frozen"
        )
    tokens = subject.tokenizer(batch)
    traced = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in batch.items()}
    values = tokens.values.clone()
    values = values.requires_grad_() if values.is_floating_point() else values
    out = target(traced, dataclasses.replace(tokens, values=values))
    require(
        not out.requires_grad,
        "the answer carries gradient: detach it (torch.no_grad lets an input through that is not changed)",
    )


@check("targets")
def check_target_is_deterministic_in_eval(subject: Subject) -> None:
    """In eval mode it says the same about the same input, whatever the global generators say."""
    target = evaluating(subject.make())
    with seeded(1):
        first = answer(subject, target)
    with seeded(2):
        second = answer(subject, target)
    require(torch.equal(first, second), "a second call in eval mode gives another answer")


@check("targets", unless=("relative",))
def check_target_ignores_companions(subject: Subject) -> None:
    """In eval mode it says the same about a sample in any batch."""
    target, batch = evaluating(subject.make()), subject.batch(4)
    whole = target(batch, subject.tokenizer(batch))[[2, 0]]
    part = rows(batch, [2, 0])
    few = target(part, subject.tokenizer(part))
    n = min(whole.shape[1], few.shape[1])
    valid = subject.tokenizer(part).valid
    real = torch.ones(2, n, dtype=torch.bool) if valid is None else valid[:, :n]
    require(
        torch.allclose(whole[:, :n][real].float(), few[:, :n][real].float(), rtol=1e-3, atol=1e-5),
        "the answer about a sample depends on the samples beside it; tag it 'relative' if that is meant",
    )


@check("targets")
def check_target_leaves_its_input(subject: Subject) -> None:
    """Changes neither the batch nor the tokens."""
    target, batch = subject.make(), subject.batch()
    tokens = subject.tokenizer(batch)
    tokens = dataclasses.replace(tokens, values=tokens.values.clone())
    before = {key: value.clone() for key, value in batch.items()}, tokens.values.clone()
    target(batch, tokens)
    for key, value in batch.items():
        require(identical(value, before[0][key]), f"overwrites batch[{key!r}]")
    require(torch.equal(tokens.values, before[1]), "overwrites the tokens")


@check("targets", when="invertible")
def check_target_inverts(subject: Subject) -> None:
    """``invert`` turns its own answer back into the tokens, and names the statistics it used."""
    target, tokens = subject.make(), subject.tokens()
    values, note = target.invert(answer(subject, target), tokens)
    require(values.shape == tokens.values.shape, f"invert gives {list(values.shape)}")
    off = float((values - tokens.values).abs().max())
    require(off <= 1e-3 * float(tokens.values.abs().max()), f"invert of the answer is off by up to {off:.3g}")
    require(isinstance(note, str) and note, "invert names no statistics")
