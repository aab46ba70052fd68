"""MTO: Emerging Property of Masked Token for Effective Pre-training (Choi et al. 2024, arXiv 2404.08330).

Masked token optimisation, added to any system that has a mask token: make that vector unlike every
visible token where it enters, let it commit to some of them as depth grows, and let visible tokens
learn to ignore mask tokens that tell them nothing.

    polymask pretrain vision/mto --preset small --data fashion-mnist
    polymask pretrain vision/mto --preset small-mae --data fashion-mnist

A step takes about a fifth longer than its host's. The paper claims the host's accuracy in half the epochs,
so compare curves at equal steps (``polymask compare vision/mto --sparsity ...``), several seeds, never
one end point; ``polymask report`` draws the measure by depth for the hosts alone, too.

Neither the body of the paper nor its code could be read. Verified are the three aims, the names of
the terms, that the measure is an entropy of masked against visible tokens, highest at the embedding
and falling with depth, and that low entropy is wanted deep. Every formula and weight below is a
reconstruction that satisfies this (unverified). Gates, terms and mask token are dropped afterwards:
where nothing is hidden the blocks are the host's own, and ``encode`` is the host's.

Shapes: B samples, N sites, R tokens of no place before them, D width, L blocks that see mask tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Mask, Step, System, Tokens, UserError
from polymask.config import as_host_preset
from polymask.trunk import Trunk, add_bias, heterogeneity
from polymask_vision.presets import MAE, SIMMIM

Options = Mapping[str, Any]


class MTO(System):
    """A host with its mask token optimised.

    Args:
        host: system whose blocks see mask tokens, all of them of one width: simmim has them in the
            encoder, mae in the decoder.
        embedding: weight of 1 - heterogeneity at the embedding, which moves the mask token alone.
        depth: weight of the heterogeneity behind the blocks, the l-th of L counting l / L.
        sparsity: weight of the mean gate; 0 leaves the gates out. The term as logged over this weight is
            the mean gate: near 0, visible tokens see each other alone.
        temperature: of the similarities that heterogeneity is measured by.
    """

    presets: ClassVar[Mapping[str, Options]] = {
        "paper": as_host_preset("vision/simmim", SIMMIM["paper"]),
        "paper-mae": as_host_preset("vision/mae", MAE["paper"]),
        "small": as_host_preset("vision/simmim", SIMMIM["small"]),
        # gates stand between blocks, so the decoder needs a second one
        "small-mae": as_host_preset("vision/mae", {**MAE["small"], "decoder_depth": 2}),
        "tiny": as_host_preset("vision/simmim", SIMMIM["tiny"]),
    }

    def __init__(
        self,
        *,
        host: System,
        embedding: float = 0.1,
        depth: float = 0.01,
        sparsity: float = 0.01,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        stack, name = host.stack, type(host).__name__
        if stack is None:
            raise UserError(
                f"mto optimises a mask token, and no blocks of {name} see one: take vision/simmim or mae"
            )
        if not hasattr(stack, "begin"):
            raise UserError(
                f"mto runs the blocks of {name} one by one, and {type(stack).__name__} does not let it: "
                "use vision/vit (--host.encoder vision/vit)"
            )
        if min(embedding, depth, sparsity) < 0 or temperature <= 0:
            raise UserError(
                f"weights must be 0 or more and the temperature above 0, got embedding {embedding}, depth "
                f"{depth}, sparsity {sparsity}, temperature {temperature}"
            )
        if sparsity and len(stack.blocks) < 2:
            raise UserError(
                f"mto gates what visible tokens take from mask tokens before the last block, and {name} has "
                "one block that sees them: give it two, or --sparsity 0"
            )
        self.host, self.unused = host, {f"host.{n}": why for n, why in host.unused.items()}  # type: ignore[misc]
        self.embedding, self.depth, self.sparsity = embedding, depth, sparsity
        self.temperature = temperature
        # none in the last block: no loss reads visible tokens behind it
        count = len(stack.blocks) - 1 if sparsity else 0
        self.gates = nn.ModuleList(Gate(stack.dim) for _ in range(count))

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        trunk = self.trunk(batch, step)
        mask, states = trunk.mask, trunk.states()
        sites = [x[:, trunk.prefix :] for x in (trunk.x, *states)]
        losses = dict(trunk.losses(states[-1]))
        if self.embedding:
            singular = heterogeneity(trunk.embedded, mask, self.temperature)
            losses["embedding"] = self.embedding * (1 - singular)
        if self.depth:
            left = torch.stack([heterogeneity(z_BND, mask, self.temperature) for z_BND in sites[1:]])
            weight = torch.arange(1.0, len(left) + 1, device=left.device)
            losses["depth"] = self.depth * (weight * left).sum() / weight.sum()
        if self.sparsity:
            gates = [mask.mean(gate(z_BND).exp()) for gate, z_BND in zip(self.gates, sites, strict=False)]
            losses["sparsity"] = self.sparsity * torch.stack(gates).mean()
        return losses

    def trunk(self, batch: Batch, step: Step) -> Trunk:
        """The host's, mask tokens gated off from visible ones in each block but the last."""
        trunk = self.host.trunk(batch, step)
        assert trunk is not None
        mask, lead = trunk.mask, (trunk.prefix, 0)
        if mask.hidden.dtype != torch.bool:
            raise UserError("mto needs sites that are hidden or not, and this masking hides them in part")
        seen, hidden = F.pad(mask.invert().hidden, lead), F.pad(mask.hidden, lead)
        pairs_BQK = seen[:, :, None] & hidden[:, None, :]
        gated = [
            functools.partial(recalibrated, block, gate, pairs_BQK, trunk.prefix)
            for block, gate in zip(trunk.blocks, self.gates, strict=False)
        ]
        return dataclasses.replace(trunk, blocks=(*gated, *trunk.blocks[len(gated) :]))

    @property
    def stack(self) -> Any:
        return self.host.stack

    @property
    def tokenizer(self) -> Any:
        """The host's."""
        return self.host.tokenizer

    @property
    def encoder(self) -> Any:
        """The host's, which is what is kept."""
        return self.host.encoder

    def encode(self, batch: Batch) -> Tokens:
        return self.host.encode(batch)

    def example(self, n: int, seed: int = 0) -> Batch:
        """Random input for the host."""
        batch: Batch = self.tokenizer.example(n, seed)
        return batch

    @torch.no_grad()
    def latents(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Embedded visible tokens ``[B, K, D]``: were they one point, every mask token would be singular."""
        trunk = self.trunk(batch, step)
        embedded = Tokens(trunk.embedded, trunk.embedded[..., :1], valid=trunk.mask.valid)
        return {"embedding": trunk.mask.keep(embedded).values}

    @torch.no_grad()
    def pictures(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        trunk = self.trunk(batch, step)
        return trunk.pictures(trunk.states()[-1])

    def masks(self, batch: Batch, step: Step) -> dict[str, Mask]:
        return self.host.masks(batch, step)

    def inputs(self, batch: Batch, step: Step) -> dict[str, Batch]:
        return self.host.inputs(batch, step)

    def after_backward(self, step: Step) -> None:
        self.host.after_backward(step)

    def after_step(self, step: Step) -> None:
        self.host.after_step(step)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.host.parameter_groups()

    def sample_weights(self, step: Step) -> Tensor | None:
        return self.host.sample_weights(step)

    def schedule(self, step: Step) -> Mapping[str, float]:
        return self.host.schedule(step)


class Gate(nn.Module):
    """How far each site is open as a key, log(sigmoid) of one linear map of its state.

    Args:
        dim: width of the states.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, 2.0)  # open to 0.88

    def forward(self, z_BND: Tensor) -> Tensor:
        """``[B, N, D]`` to the logarithm of gates in (0, 1), float32 ``[B, N]``."""
        logit: Tensor = self.linear(F.layer_norm(z_BND, z_BND.shape[-1:]))
        return F.logsigmoid(logit[..., 0].float())


def recalibrated(
    block: Callable[..., Tensor],
    gate: nn.Module,
    pairs_BQK: Tensor,
    prefix: int,
    x: Tensor,
    attn_mask: Tensor | None,
) -> Tensor:
    """A block in which some queries see some keys through a gate.

    The logarithm of a gate added to a logit multiplies the attention by the gate and scales the row back
    to one, in whatever kernel.

    Args:
        block: called as ``block(x, attn_mask=...)``.
        gate: gives the gates of the keys from their states.
        pairs_BQK: bool ``[B, R + N, R + N]``, which query sees which key so.
        prefix: R, tokens of no place, which have no gate.
        x: ``[B, R + N, D]``.
        attn_mask: what else attention adds.
    """
    log_gate_BK = F.pad(gate(x[:, prefix:]), (prefix, 0))
    bias_BHQK = torch.where(pairs_BQK[:, None], log_gate_BK[:, None, None, :], 0.0).to(x.dtype)
    return block(x, attn_mask=add_bias(attn_mask, bias_BHQK))
