"""Maskings over the terms of a loss: how much each token of a response counts.

What is hidden is what is scored, so the mask of a term is its weight, 0 for none; learned weights have no
upper bound. Any masking may weigh terms: ``core/random`` counts a share of them.

A masking that reads the model it judges by has ``taps``, the kinds of activations it needs
(:mod:`polymask_language.taps`), and ``evidence(taps, valid) -> [B, N]``, what it makes of them, which it is
then given as ``Request.score``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from polymask import Mask, Request, UserError
from polymask.types import Count, Fact
from polymask_language.taps import KINDS, Taps


class ConstantWeight:
    """The same weight for every term: 1 to count all of them alike, 0 for none.

    Args:
        weight: of each term, 0 or more.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        if weight < 0:
            raise UserError(f"weight must be 0 or more, got {weight}")
        self.weight = weight

    def __call__(self, request: Request) -> Mask:
        shape = len(request.ids), request.sites
        return _weights(torch.full(shape, float(self.weight), device=request.ids.device), request)


class RandomWeight:
    """A weight for each term, uniform between 0 and 1: the control of SparsePO."""

    def __call__(self, request: Request) -> Mask:
        return _weights(request.step.noise(request.ids, request.sites, request.stream), request)


class LearnedWeight(nn.Module):
    """Weights learned from the states of a frozen model (SparsePO, Christopoulou et al. 2024).

    ``a_l = ReLU(w_l LN(h_l) + b_l)`` of the state ``h_l`` that leaves block l, with one norm for all blocks;
    ``m = ReLU(sum_l c_l a_l)``. Weights are 0 or more, exactly 0 for some.

    Published mixers ``c`` start with either sign: where their sum happens to be negative for every token of
    a batch, nothing ever gets gradient again. So the signs are positive here, with sizes as published, and
    only tokens that no block speaks for start at 0.

    Args:
        width: of the states, from the encoder.
        layers: blocks, from the encoder.
        mixer: signs at the start, ``positive`` or ``symmetric`` (the published).
    """

    taps = ("block",)

    def __init__(
        self,
        *,
        width: Fact[Count] = 768,
        layers: Fact[Count] = 12,
        mixer: Literal["positive", "symmetric"] = "positive",
    ) -> None:
        super().__init__()
        if mixer not in ("positive", "symmetric"):
            raise UserError(f"mixer={mixer!r}: choose 'positive' or 'symmetric'")
        self.norm = nn.LayerNorm(width)
        self.scorers = nn.ModuleList(nn.Linear(width, 1) for _ in range(layers))
        self.mixer = nn.Linear(layers, 1, bias=False)
        if mixer == "positive":
            with torch.no_grad():
                self.mixer.weight.abs_()

    def evidence(self, taps: Taps, valid: Tensor) -> Tensor:
        """States ``[B, N, width]`` of each block to scores ``[B, N]``, float32."""
        blocks = zip(self.scorers, taps["block"], strict=True)
        said = torch.cat([scorer(self.norm(state)).relu() for scorer, state in blocks], dim=-1)
        scores: Tensor = self.mixer(said)[..., 0].float()
        return scores

    def forward(self, request: Request) -> Mask:
        return _weights(_score("language/learned-weight", request).relu(), request)


class ActivationWeight:
    """Weights read off the activations of a frozen model (MaPO, Christopoulou et al. 2024).

    The mean over the channels of each activation, stretched between its least and its largest value in a
    response to [0, 1]; the mean of these over the blocks, then over the kinds of activations. The published
    standardisation before is undone by the stretch and left out, as are rotated queries and keys and the
    logits. A response whose tokens are all alike weighs 0.

    Args:
        kinds: of activations, see :mod:`polymask_language.taps`.
    """

    def __init__(self, *, kinds: Sequence[str] = KINDS) -> None:
        if not kinds or set(kinds) - set(KINDS):
            raise UserError(f"kinds={list(kinds)}: choose of {', '.join(KINDS)}")
        self.taps = tuple(kinds)

    def evidence(self, taps: Taps, valid: Tensor) -> Tensor:
        """Activations ``[B, N, D]`` to weights ``[B, N]`` in [0, 1], without gradient."""
        kinds = [torch.stack([stretch(x.detach(), valid) for x in taps[kind]]).mean(0) for kind in self.taps]
        return torch.stack(kinds).mean(0)

    def __call__(self, request: Request) -> Mask:
        return _weights(_score("language/activation-weight", request).detach().clamp(min=0), request)


def stretch(x: Tensor, valid: Tensor) -> Tensor:
    """Channel means of ``[B, N, D]`` stretched to [0, 1] over the valid sites of each row, 0 at others."""
    mean = x.float().mean(-1)
    low = mean.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    high = mean.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    inside = valid & (high > low)
    return torch.where(inside, (mean - low) / torch.where(high > low, high - low, 1.0), 0.0)


def _score(name: str, request: Request) -> Tensor:
    if request.score is None:
        raise UserError(
            f"{name} weighs by a score, and this system reads none off a model: use it in language/sparsepo, "
            "or choose core/random"
        )
    return request.score


def _weights(weight: Tensor, request: Request) -> Mask:
    if request.valid is not None:
        weight = torch.where(request.valid, weight, 0.0)
    return Mask(weight, None, request.valid)
