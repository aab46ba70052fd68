"""Masks over the weights of a network: which weights, how they are hidden, and how masks are kept.

A hidden weight is 0. A mask has one row for all samples of a batch, or one for each.

    with masked_weights(network, {"blocks.0.attn.qkv.weight": mask}):
        features = network(x)

Shapes: B samples, O outputs, I inputs of a layer.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Mask, Request, Step, UserError
from polymask.checkpoints import read_state
from polymask.export import save_json, save_state
from polymask.files import read_json
from polymask.imports import weights_digest
from polymask.protocols import Masking

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
BITS, ABOUT = "masks.safetensors", "masks.json"
"""Files of :func:`save_masks`."""


@contextlib.contextmanager
def masked_weights(module: nn.Module, masks: Mapping[str, Mask]) -> Iterator[None]:
    """Within, hidden weights are 0; gradient reaches the masks, and weights that train.

    Args:
        module: the network; after, it is as it was.
        masks: by the name of a weight, over its numbers: ``[1, numbers]`` for all samples, which any layer
            takes, or ``[B, numbers]``, a row per sample, for ``nn.Linear`` and ``nn.Conv2d``.

    Raises:
        UserError: masks per sample over the weight of another layer.
    """
    with contextlib.ExitStack() as stack:
        for name, mask in masks.items():
            path, _, own = name.rpartition(".")
            layer = module.get_submodule(path)
            weight = layer._parameters[own]
            assert weight is not None
            shown = visible_weight(weight, mask)
            if len(shown) == 1:
                # in its place, so that parameters stay in order
                layer._parameters[own] = shown[0]  # type: ignore[assignment]
                stack.callback(layer._parameters.__setitem__, own, weight)
            else:
                layer.forward = functools.partial(_each(layer), layer, shown)
                stack.callback(layer.__dict__.pop, "forward")
        yield


def visible_weight(weight: Tensor, mask: Mask) -> Tensor:
    """A weight, 0 where it is hidden: ``[rows of the mask, *weight.shape]``."""
    rows = Mask(mask.hidden.view(-1, *weight.shape))
    return rows.fill(weight.expand(len(rows.hidden), *weight.shape), weight.new_zeros(()))


def _each(layer: nn.Module) -> Any:
    """What a layer does with a weight per sample."""
    if isinstance(layer, nn.Linear):
        return _linear
    if isinstance(layer, nn.Conv2d) and str(layer.padding_mode) == "zeros":
        return _convolution
    raise UserError(
        f"masks per sample are over weights of nn.Linear and nn.Conv2d, and this is a {type(layer).__name__}"
    )


def _linear(layer: Any, weight_BOI: Tensor, x: Tensor) -> Tensor:
    """``[B, ..., I]`` to ``[B, ..., O]``."""
    out = torch.bmm(x.flatten(1, -2) if x.dim() > 2 else x[:, None], weight_BOI.mT.to(x.dtype))
    out = out if layer.bias is None else out + layer.bias.to(out.dtype)
    return out.view(*x.shape[:-1], -1)


def _convolution(layer: nn.Conv2d, weight: Tensor, x: Tensor) -> Tensor:
    """``[B, I, H, W]`` to ``[B, O, H', W']``: samples become groups of one convolution."""
    b = len(x)
    out = F.conv2d(
        x.reshape(1, -1, *x.shape[2:]),
        weight.flatten(0, 1).to(x.dtype),
        None if layer.bias is None else layer.bias.repeat(b).to(x.dtype),
        layer.stride,
        layer.padding,
        layer.dilation,
        b * layer.groups,
    )
    return out.view(b, -1, *out.shape[2:])


# ----------------------------------------------------------------------------------- which weights


def weights_of(network: nn.Module, which: Literal["attention", "all"]) -> list[str]:
    """Names of the weights that masks are over: matrices and kernels, no biases and no norms.

    Args:
        network: whose.
        which: those of attention layers, or of convolutions where there are none; or of all layers.

    Raises:
        UserError: there are none.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
    found = dict(layers)
    if which == "attention":
        attend = [n for n, m in network.named_modules() if "attention" in type(m).__name__.lower()]
        found = {n: m for n, m in layers.items() if any(n.startswith(f"{path}.") for path in attend)}
        found = found or {n: m for n, m in layers.items() if not isinstance(m, nn.Linear)}
    if not found:
        raise UserError(
            f"{type(network).__name__} has no weights of attention or convolutions to mask: use --which all"
        )
    return [f"{name}.weight" for name in found]


def share_hidden(masks: Mapping[str, Mask]) -> Tensor:
    """Share of the weights that masks hide, scalar."""
    return torch.cat([mask.hidden.flatten() for mask in masks.values()]).float().mean()


def require_learned(masking: Masking, system: str) -> None:
    """Refuse a masking that passes no gradient on to its score.

    Raises:
        UserError: says which do.
    """
    score = torch.zeros(1, 16, requires_grad=True)
    try:
        with torch.enable_grad():
            learned = masking(Request(torch.zeros(1, dtype=torch.long), 16, Step(), grid=(4, 4), score=score))
        passes = learned.hidden.requires_grad
    except UserError:
        passes = False
    if not passes:
        raise UserError(
            f"{system} learns what to hide, and {type(masking).__name__} passes no gradient on to its score: "
            "use core/threshold or core/gumbel"
        )


# ------------------------------------------------------------------------------------ masks as files


def pack(mask: Mask) -> Tensor:
    """Eight sites of a hard mask in a byte, the first in its lowest bit: uint8 ``[bytes]``, row after row."""
    bits = F.pad(mask.hidden.flatten().to(torch.uint8), (0, -mask.hidden.numel() % 8)).view(-1, 8)
    return (bits << torch.arange(8, device=bits.device)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, sites: int) -> Mask:
    """The inverse of :func:`pack`, of one row."""
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return Mask(bits.flatten()[None, :sites].bool())


def save_masks(network: nn.Module, masks: Mapping[str, Mask], out: Path) -> None:
    """Write hard masks for all samples, a bit per weight, and which weights of which network they are over.

    Args:
        network: as it is without masks.
        masks: by the name of a weight, as :func:`masked_weights` takes them.
        out: folder.
    """
    save_state({name: pack(mask) for name, mask in masks.items()}, out / BITS)
    shapes = {name: list(network.get_parameter(name).shape) for name in masks}
    hidden = {name: int(mask.hidden.sum()) for name, mask in masks.items()}
    save_json(
        {"weights": shapes, "hidden": hidden, "digest": weights_digest(network.state_dict())}, out / ABOUT
    )


@torch.no_grad()
def settle(network: nn.Module, masks: Mapping[str, Mask]) -> None:
    """Set hidden weights to 0, in place and for good."""
    for name, mask in masks.items():
        weight = network.get_parameter(name)
        weight.copy_(visible_weight(weight, mask)[0])


def apply_masks(network: nn.Module, folder: str | Path) -> None:
    """Set hidden weights to 0, in place and for good, by the masks in a folder.

    Args:
        network: with the weights that the masks were learned over.
        folder: what ``polymask export RUN --format masks`` wrote.

    Raises:
        UserError: nothing usable is there, or it belongs to other weights.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise UserError(
            f"{folder} holds no {ABOUT}: give a folder that `polymask export --format masks` wrote"
        )
    shapes, whole = read_json(folder / ABOUT, lambda x: (dict(x["weights"]), x["digest"]), "export it again")
    if weights_digest(network.state_dict()) != whole:
        raise UserError(
            f"the masks in {folder} are over other weights than those of this {type(network).__name__}: load "
            "the network that they were learned over, before any change"
        )
    packed = read_state(folder / BITS)
    device = next(network.parameters()).device
    settle(network, {name: unpack(packed[name].to(device), math.prod(n)) for name, n in shapes.items()})
