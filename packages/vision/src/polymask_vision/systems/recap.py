"""ReCAP: Context Feature Reuse for Efficient Masked Generation (Liu et al. 2025, arXiv 2505.19089).

A host that generates codes step by step, vision/maskgit, made cheaper: steps are grouped, the first of a
group is a pass over all tokens, and the others pass only the tokens that this group draws, which attend to
the keys and values that the first one left of the rest.

    polymask pretrain vision/recap --preset small --data fashion-mnist

Training is the host's, and so are the weights: ``ReCAP(host=system)`` generates with those of any finished
run. A light pass is exact while nothing has changed outside of its group; what it reuses is one group old at
most. With ``light`` 0, and other options alike, samples are those of the host to the bit.

Options of generation are those of a published run (T 16, P 8). After each step at least one token less is
hidden; the release takes the tokens that this costs from the last step. Guidance, and models of continuous
tokens (MAR), are not here.

Shapes: B samples, N tokens, R prefix tokens, S tokens drawn in a group, D width, K codes.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from torch import Tensor

from polymask import Batch, Generation, Host, Losses, Mask, Step, System, Tokens, UserError
from polymask.maskings.drawn_ratio import Curve
from polymask.systems.base import Generates
from polymask.types import Count, NotNegative, Positive, Share, Whole
from polymask_vision.attention import through_block
from polymask_vision.decoding import Decoding
from polymask_vision.systems.maskgit import MaskGIT


class ReCAP(Host, Generates):
    """Generates with its host's weights, in passes of which some are over few tokens.

    Args:
        host: vision/maskgit, or a system that generates as it does.
    """

    def __init__(self, *, host: System) -> None:
        super().__init__(host)
        if not isinstance(host, MaskGIT):
            raise UserError(f"recap generates as maskgit does, and {type(host).__name__} does not: host that")
        if not hasattr(host.encoder, "begin"):
            raise UserError(
                f"recap reuses keys and values of every block, and {type(host.encoder).__name__} does not "
                "let it: use vision/vit (--host.encoder vision/vit)"
            )

    def forward(self, batch: Batch, step: Step) -> Losses:
        losses: Losses = self.host(batch, step)
        return losses

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        step: Step,
        mask: Mask | None = None,
        *,
        steps: Count = 16,
        light: Whole = 1,
        plain: Share = 0.5,
        temperature: Positive = 0.65,
        choice_temperature: NotNegative = 5.5,
        redraw: bool = True,
        curve: Curve = 2.5,
        rounding: Literal["up", "down"] = "down",
    ) -> Generation:
        """Draw codes in a few steps, of which some are cheap.

        Args:
            batch: sample ids, labels, and samples, of which what the mask leaves visible is kept.
            step: the source of chance.
            mask: what to generate; everything by default.
            steps: of decoding, full and light ones together (paper: 16 to 32).
            light: light steps of each group, after its full one.
            plain: share of the steps, the first ones, that are full and stay alone (paper: 0 to 0.5).
            temperature: of the draws at the last step, coming from 1 at the first by a root.
            choice_temperature: scale of the Gumbel noise on which codes to keep, falling linearly to 0.
            redraw: draw codes anew once it is chosen where to keep them (MaskGIT-r).
            curve: how the share of hidden tokens falls: ``cosine``, or the exponent p of 1 - t^p.
            rounding: of numbers of hidden tokens.
        """
        how = Decoding(temperature, choice_temperature, redraw, curve, rounding)
        groups = grouped(steps, light, round(plain * steps))
        host: Any = self.host
        made: Generation = host.shown(host.decode(batch, step, mask, groups, how, Reuse(host)), batch, mask)
        return made


def grouped(steps: int, light: int, plain: int) -> list[range]:
    """Steps in groups: the first ones alone, the others one full and some light ones together."""
    starts = [*range(plain), *range(plain, steps, light + 1), steps]
    return [range(first, end) for first, end in itertools.pairwise(starts)]


class Reuse:
    """Passes of an encoder over all tokens, and over some with the keys and values of all.

    Args:
        host: whose encoder it is.
    """

    def __init__(self, host: Any) -> None:
        self.host = host
        self.cache: list[Tensor] = []
        self.bias: Tensor | None = None

    def full(self, tokens: Tokens, mask: Mask, batch: Batch) -> Tensor:
        """Logits ``[B, N, K]``; keys and values of every block are kept."""
        encoder = self.host.encoder
        x, self.bias = encoder.begin(self.host.embed(tokens, mask, batch), tokens.position, tokens.valid)
        self.cache = []
        for block in encoder.blocks:
            x, cached = through_block(block, x, self.bias)
            self.cache.append(cached)
        return self._classify(x)

    def light(self, tokens: Tokens, mask: Mask, batch: Batch, asked: Mask) -> Tensor:
        """Logits ``[B, S, K]`` at the tokens that ``asked`` shows; all others are as at the full pass."""
        encoder = self.host.encoder
        own = asked.keep(Tokens(self.host.embed(tokens, mask, batch), tokens.position))
        x, _ = encoder.begin(own.values, own.position)
        bias = rows(self.bias, asked, encoder.prefix)
        for block, cached in zip(encoder.blocks, self.cache, strict=True):
            x, _ = through_block(block, x, bias, cached, asked)
        return self._classify(x)

    def _classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.host.classify(self.host.encoder.norm(x)[:, self.host.encoder.prefix :])
        return logits


def rows(bias: Tensor | None, asked: Mask, prefix: int) -> Tensor | None:
    """What attention adds for all queries, ``[B, heads, R + N, R + N]``, for the prefix and some tokens."""
    if bias is None or bias.shape[2] == 1:
        return bias
    by_query = bias.expand(len(asked.hidden), -1, -1, -1).transpose(1, 2)
    sites = by_query[:, prefix:].flatten(2)
    kept = asked.keep(Tokens(sites, sites[..., :1])).values
    kept = kept.view(*kept.shape[:2], *by_query.shape[2:])
    return torch.cat([by_query[:, :prefix], kept], dim=1).transpose(1, 2)
