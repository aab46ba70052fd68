"""MTO: Emerging Property of Masked Token for Effective Pre-training (Choi et al. 2024, arXiv 2404.08330).

Masked token optimisation, added to any system that has a mask token: make that vector unlike every
visible token where it enters, let it commit to some of them as depth grows, and let visible tokens
learn to ignore mask tokens that carry no information.

    polymask pretrain vision/mto --preset small --data fashion-mnist
    polymask pretrain vision/mto --preset small-mae --data fashion-mnist

A step takes about a fifth longer than its host's. The paper claims the host's accuracy in half the epochs,
so compare curves at equal steps (``polymask compare vision/mto --sparsity ...``), several seeds, never
one end point. ``polymask report`` plots the measure by depth; for a host alone, set all three weights to 0.

Neither the body of the paper nor its code could be read. Verified are the three aims, the names of
the terms, that the measure is an entropy of masked against visible tokens, highest at the embedding
and falling with depth, and that low entropy is wanted deep. Every formula and weight below is a
reconstruction that satisfies this (unverified). ``encode`` is the host's, without gates.

Shapes: B samples, N sites, R prefix tokens without a site, D width, L blocks that see mask tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Host, Losses, Mask, Preview, Step, System, Tokens, UserError
from polymask.functional import require_hard_mask
from polymask.nn.decoders import LightDecoder
from polymask_vision.attention import Gate, add_bias, gate_bias
from polymask_vision.decoders import LatentPredictor
from polymask_vision.heterogeneity import heterogeneity

Result = TypeVar("Result")


@dataclass(eq=False)
class Record:
    """One forward pass of the host: ``[B, N, D]`` before positions, ``[B, R + N, D]`` around each block."""

    mask: Mask
    embedded: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)


class MTO(Host):
    """A host with its mask token optimised.

    Args:
        host: system whose blocks see mask tokens: simmim has them in the encoder, mae in the decoder.
        embedding: weight of 1 - heterogeneity at the embedding, which moves the mask token alone.
        depth: weight of the heterogeneity behind the blocks, the l-th of L counting l / L.
        sparsity: weight of the mean gate; 0 leaves the gates out. The logged term divided by this weight is
            the mean gate: near 0, visible tokens see each other alone.
        temperature: of the similarities that heterogeneity is measured by.
    """

    def __init__(
        self,
        *,
        host: System,
        embedding: float = 0.1,
        depth: float = 0.01,
        sparsity: float = 0.01,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(host)
        if min(embedding, depth, sparsity) < 0 or temperature <= 0:
            raise UserError(
                f"weights must be 0 or more and the temperature above 0, got embedding {embedding}, depth "
                f"{depth}, sparsity {sparsity}, temperature {temperature}"
            )
        stack, last = stack_of(host), len(stack_of(host).blocks) - 1
        if sparsity and not last:
            raise UserError(
                f"mto gates what visible tokens take from mask tokens before the last block, and "
                f"{type(host).__name__} has one block that sees them: give it two, or --sparsity 0"
            )
        self.embedding, self.depth, self.sparsity = embedding, depth, sparsity
        self.temperature = temperature
        # none in the last block: no loss reads visible tokens behind it
        self.gates = nn.ModuleList(Gate(stack.dim) for _ in range(last if sparsity else 0))
        self.prefix: int = stack.prefix
        self.record: Record | None = None
        decodes = isinstance(stack, LightDecoder)
        (stack.filled if decodes else stack).register_forward_pre_hook(self._embed)
        for i, block in enumerate(stack.blocks):
            gate = self.gates[i] if i < len(self.gates) else None
            block.register_forward_pre_hook(functools.partial(self._enter, gate), with_kwargs=True)
            block.register_forward_hook(functools.partial(self._leave, decodes and i == last))

    def forward(self, batch: Batch, step: Step) -> Losses:
        losses, record = self.watch(self.host, batch, step)
        losses, sites = dict(losses), [x[:, self.prefix :] for x in record.states]
        if self.embedding:
            singular = heterogeneity(record.embedded[0], record.mask, self.temperature)
            losses["embedding"] = self.embedding * (1 - singular)
        if self.depth:
            left = torch.stack([heterogeneity(z_BND, record.mask, self.temperature) for z_BND in sites[1:]])
            weight = torch.arange(1.0, len(left) + 1, device=left.device)
            losses["depth"] = self.depth * (weight * left).sum() / weight.sum()
        if self.sparsity:
            pairs = zip(self.gates, sites, strict=False)
            mean = torch.stack([record.mask.mean(gate(z_BND).exp()) for gate, z_BND in pairs]).mean()
            losses["sparsity"] = self.sparsity * mean
        return losses

    def watch(self, run: Callable[[Batch, Step], Result], batch: Batch, step: Step) -> tuple[Result, Record]:
        """A forward pass of the host, with gates, and its states."""
        mask = require_hard_mask("mto", self.masking, self.draw(self.tokenizer(batch), batch, step))
        self.record = record = Record(mask)
        try:
            return run(batch, step), record
        finally:
            self.record = None

    def _embed(self, stack: nn.Module, args: Any) -> None:
        if self.record is not None:
            self.record.embedded.append(args[0])

    def _enter(self, gate: nn.Module | None, block: nn.Module, args: Any, options: Any) -> Any:
        """Gate the hidden sites off from visible queries; run the last block of a decoder on all sites."""
        if self.record is None:
            return None
        x, bias, mask = options.get("context", args[0]), options["attn_mask"], self.record.mask
        if not self.record.states:
            self.record.states.append(x)
        if gate is not None:
            seen, hidden = (F.pad(sites, (self.prefix, 0)) for sites in (mask.invert().hidden, mask.hidden))
            pairs_BQK = seen[:, :, None] & hidden[:, None, :]
            bias = add_bias(bias, gate_bias(gate, pairs_BQK, self.prefix, x))
        return (x,), {"attn_mask": bias}

    def _leave(self, picks: bool, block: nn.Module, args: Any, x: Tensor) -> Tensor | None:
        """Record a block's output; a decoder goes on with the hidden sites of its last one."""
        if self.record is None:
            return None
        self.record.states.append(x)
        sites = x[:, self.prefix :]
        return self.record.mask.invert().keep(Tokens(sites, sites)).values if picks else None

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        shown, record = self.watch(self.host.preview, batch, step)
        sites = [*record.embedded, *(x[:, self.prefix :] for x in record.states[1:])]
        line = torch.stack([heterogeneity(x, record.mask) for x in sites])
        return Preview(shown.media, {**shown.lines, "Heterogeneity of mask tokens, 1 is unlike all": line})

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Embedded visible tokens ``[B, K, D]``: were they one point, every mask token would be singular."""
        _, record = self.watch(self.host, batch, step)
        embedded = Tokens(record.embedded[0], record.embedded[0][..., :1], valid=record.mask.valid)
        return {**self.host.monitor(batch, step), "embedding": record.mask.keep(embedded).values}


def stack_of(host: System) -> Any:
    """The one module whose blocks see mask tokens: a decoder, or the encoder of a host with a mask token.

    Raises:
        UserError: there is none, or its blocks take no bias on attention.
    """
    decoders = [module for module in host.modules() if isinstance(module, LightDecoder)]
    stack = decoders[0] if len(decoders) == 1 else getattr(host, "encoder", None)
    # an encoder that leaves hidden tokens out sees no mask token, and a predictor of latents several masks
    fills = hasattr(host, "mask_token") and not host.leaves_out
    wrong = len(decoders) > 1 or isinstance(stack, LatentPredictor) or isinstance(host, MTO)
    if wrong or not (decoders or fills):
        name = type(host).__name__
        raise UserError(
            f"mto optimises a mask token, and no blocks of {name} see one: take vision/simmim or mae"
        )
    if not decoders and not hasattr(stack, "begin"):
        raise UserError(
            f"mto changes attention from block to block, and {type(stack).__name__} does not let it: "
            "use vision/vit (--host.encoder vision/vit)"
        )
    return stack
