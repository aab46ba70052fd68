"""Positions and patch embeddings for other grids, patches, channels and normalisation.

timm and transformers embed a patch by a convolution, ours is a linear map of the same numbers in the order
row, column, channel. Another normalisation of the data is another linear map, so it is converted, exactly.

Shapes: N sites, D width, C channels of the model, K ours, p side of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import timm.layers
import torch
from torch import Tensor

from polymask import UserError
from polymask.imports import Weights

Facts = Mapping[str, Any]
State = dict[str, Tensor]
_layers: Any = timm.layers


def resize_positions(positions: Tensor, weights: Weights, grid: Sequence[int], changes: list[str]) -> Tensor:
    """``[1, N, D]`` of one grid interpolated to another."""
    count = positions.shape[1]
    side = math.isqrt(count)
    old = tuple(weights.facts.get("grid") or (side, side))
    if math.prod(old) != count:
        raise UserError(f"{count} positions of a grid that is not square, and whose sides are not known")
    if old == tuple(grid):
        return positions
    changes.append(f"positions: {by(old)} interpolated to {by(grid)}")
    resized: Tensor = _layers.resample_abs_pos_embed(positions, list(grid), list(old), num_prefix_tokens=0)
    return resized


def resize_bias(table: Tensor, window: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """A table of biases by relative position, ``[pairs, heads]``, for another window or grid."""
    resized: Tensor = _layers.resize_rel_pos_bias_table(
        table, new_window_size=tuple(window), new_bias_shape=shape
    )
    return resized


def embed_patches(state: State, weights: Weights, facts: Facts, changes: list[str]) -> None:
    """The kernel ``[D, C, p, p]`` as the linear map ``[D, p * p * C]`` of this data's patches and values."""
    name, bias_name = "patch_embed.proj.weight", "patch_embed.proj.bias"
    kernel = state.get(name)
    # a table of embedded codes has no pixels
    if kernel is None or "patch_size" not in facts or "vocabulary" in {**weights.facts, **facts}:
        return
    p = facts["patch_size"]
    if kernel.dim() == 2:
        old = weights.facts.get("patch_size", p)
        kernel = kernel.view(len(kernel), old, old, -1).permute(0, 3, 1, 2)
    if kernel.shape[-1] != p:
        changes.append(
            f"patches: kernels of {kernel.shape[-1]} x {kernel.shape[-1]} pixels resampled to {p} x {p}"
        )
        kernel = _layers.resample_patch_embed(kernel, [p, p])
    mix, shift = _values(weights.facts, facts, kernel.shape[1], changes)
    if bias_name in state:
        state[bias_name] = state[bias_name] + torch.einsum("dchw,c->d", kernel, shift)
    state[name] = torch.einsum("dchw,ck->dhwk", kernel, mix).flatten(1)


def _values(theirs: Facts, ours: Facts, channels: int, changes: list[str]) -> tuple[Tensor, Tensor]:
    """What the model's normalised channels are of ours: ``mix @ x + shift``, ``[C, K]`` and ``[C]``.

    A channel that we have several of is their mean, one that we lack the mean of all we have: grey images are
    to a model of colour ones what they are in three equal channels.
    """
    own = ours["channels"]
    mix = torch.eye(channels).repeat(1, -(-own // channels))[:, :own]
    mix = torch.where(mix.sum(1, keepdim=True) > 0, mix, 1.0)
    mix = mix / mix.sum(1, keepdim=True)
    if own != channels:
        changes.append(f"channels: kernels of {channels} converted to {own}")
    known = all(key in facts for key in ("mean", "std") for facts in (theirs, ours))
    if not known:
        return mix, torch.zeros(channels)
    (mean, std), (own_mean, own_std) = (
        (torch.tensor(facts["mean"]).double(), torch.tensor(facts["std"]).double())
        for facts in (theirs, ours)
    )
    scaled = mix.double() * own_std / std[:, None]
    shift = (mix.double() @ own_mean - mean) / std
    if not torch.allclose(scaled, mix.double()) or not torch.allclose(shift, torch.zeros_like(shift)):
        given = " and ".join(
            f"{key} {tuple(round(float(v), 3) for v in theirs[key])}" for key in ("mean", "std")
        )
        changes.append(f"normalisation: {given} of the model, built into the embedding of patches")
    return scaled.float(), shift.float()


def by(grid: Sequence[int]) -> str:
    """Sides as text."""
    return " x ".join(map(str, grid))
