"""Any backbone of timm, by name: Vision Transformers on subsets of tokens, all others on whole grids.

Tokens are patches of raw pixels. A Vision Transformer embeds each by itself and runs on those it is given. A
convolutional or hierarchical network gets the image that all of them make, and each place of its last feature
map is a token of the output; what a system puts in the place of a hidden token is a patch of pixels then.

Shapes: B samples, K tokens given, p side of a patch, C channels, D width, L places of the last feature map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor, nn

from polymask import UserError
from polymask.export import Exporter, save_json, save_state
from polymask.imports import WEIGHTS, Importer, Weights
from polymask.types import Count, Fact
from polymask_vision.export import timm_config
from polymask_vision.imports import timm_model
from polymask_vision.positions import grid_index

Facts = Mapping[str, Any]


def backbone(
    *,
    in_dim: Fact[Count] = 3072,
    grid: Fact[tuple[Count, ...] | None] = (7, 7),
    patch_size: Fact[Count] = 32,
    channels: Fact[Count] = 3,
    model: str = "resnet50",
    arguments: Mapping[str, Any] | None = None,
) -> Backbone:
    """A backbone of timm, its weights drawn anew; ``init`` loads those that timm has.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: token rows and columns, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer: that of a Vision Transformer, and for other
            models one that divides their stride, 32 for most.
        channels: image channels, from the tokenizer.
        model: name in timm.
        arguments: of timm's model, e.g. ``{drop_path_rate: 0.1}``.
    """
    if grid is None or len(grid) != 2 or in_dim != patch_size**2 * channels:
        raise UserError(
            f"backbones of timm take square patches of pixels, and tokens of {in_dim} numbers on a grid of "
            f"{grid} are none: use vision/patches"
        )
    size = grid[0] * patch_size, grid[1] * patch_size
    options = {"in_chans": channels, "num_classes": 0, **(arguments or {})}
    try:
        net: Any = _create(timm.create_model, model, size, options)
    except Exception as error:  # timm raises all kinds of errors
        raise UserError(f"timm cannot build {model!r} for {size[0]} x {size[1]} pixels: {error}") from error
    kind = TokenBackbone if isinstance(net, VisionTransformer) else GridBackbone
    return kind(net, model, options, size, patch_size)


def _create(factory: Any, name: str, size: tuple[int, int], options: Mapping[str, Any]) -> Any:
    """A model for images of a size, which models that take any size do not ask for."""
    try:
        return factory(name, **{"img_size": size, **options})
    except (TypeError, UserError) as error:
        cause = error.__cause__ if isinstance(error, UserError) else error
        if "img_size" in str(cause) and isinstance(cause, TypeError):
            return factory(name, **options)
        raise


class Backbone(nn.Module):
    """What both kinds have in common.

    Args:
        net: of timm, without a classifier.
        name: of it in timm.
        options: that it was built with.
        size: height and width of images.
        patch_size: side of a patch.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, net: Any, name: str, options: Mapping[str, Any], size: tuple[int, int], patch_size: int
    ) -> None:
        super().__init__()
        self.net, self.name, self.options, self.size, self.patch_size = net, name, options, size, patch_size
        self.grid = size[0] // patch_size, size[1] // patch_size
        self.channels: int = options["in_chans"]
        self.out_dim: int = net.num_features
        # from the values that the data has to those that the weights know
        self.register_buffer("scale", torch.ones(self.channels))
        self.register_buffer("shift", torch.zeros(self.channels))

    def pixels(self, values: Tensor) -> Tensor:
        """Tokens ``[..., p * p * C]`` as the network knows them, ``[..., p, p, C]``."""
        p = self.patch_size
        return values.reshape(*values.shape[:-1], p, p, self.channels) * self.scale + self.shift

    def exports(self) -> dict[str, Exporter]:
        """Formats of ``polymask export`` beside safetensors."""
        return {"timm": self._to_timm}

    def imports(self) -> dict[str, Importer]:
        """Libraries whose models this encoder can begin with."""
        return {"timm": self._from_timm}

    def adapt(self, weights: Weights, facts: Facts) -> Weights:
        """Weights of a backbone for data of another normalisation."""
        state, theirs, changes = dict(weights.state), dict(weights.facts), list(weights.changes)
        state = {"scale": torch.ones(self.channels), "shift": torch.zeros(self.channels)} | state
        known = all(name in each for name in ("mean", "std") for each in (theirs, facts))
        if known and len(theirs["mean"]) == self.channels:
            (mean, std), (own_mean, own_std) = (
                (torch.tensor(each["mean"]), torch.tensor(each["std"])) for each in (theirs, facts)
            )
            a, b = own_std / std, (own_mean - mean) / std
            if not torch.allclose(a, torch.ones_like(a)) or not torch.allclose(b, torch.zeros_like(b)):
                changes.append("normalisation: the data's is converted to that of the model")
            state |= {"scale": state["scale"] * a, "shift": state["scale"] * b + state["shift"]}
        rest = {name: value for name, value in theirs.items() if name not in ("mean", "std")}
        return Weights(state, weights.options, rest, weights.unused, tuple(changes))

    def _from_timm(self, name: str, facts: Facts) -> Weights:
        # timm itself fits positions and the first convolution to the size and the channels of the data
        model: Any = _create(timm_model, name, self.size, self.options)
        own, other = self.net.pretrained_cfg["architecture"], model.pretrained_cfg["architecture"]
        config = model.pretrained_cfg
        state = {f"net.{key}": value for key, value in model.state_dict().items()}
        options = {} if own == other else {"model": other}
        changes: tuple[str, ...] = ()
        if len(config["mean"]) != self.channels:
            changes = (
                f"channels: {len(config['mean'])} converted to {self.channels} by timm, normalisation is not",
            )
        return Weights(state, options, {"mean": config["mean"], "std": config["std"]}, changes=changes)

    def _to_timm(self, facts: Facts, out: Path) -> None:
        architecture, config = self.net.pretrained_cfg["architecture"], self.net.pretrained_cfg
        mean, std = (
            torch.tensor(facts.get(key, [fill] * self.channels))
            for key, fill in (("mean", 0.0), ("std", 1.0))
        )
        effective = {"mean": mean - std * self.shift / self.scale, "std": std / self.scale}
        known = {**facts, **{name: value.tolist() for name, value in effective.items()}}
        arguments = {
            key: value for key, value in self.options.items() if key not in ("in_chans", "num_classes")
        }
        if config.get("fixed_input_size"):
            arguments["img_size"] = list(self.size)
        about = {key: config.get(key) for key in ("first_conv", "classifier", "fixed_input_size")}
        save_json(timm_config(architecture, arguments, about, known), out / "config.json")
        save_state(self.net.state_dict(), out / WEIGHTS)


class TokenBackbone(Backbone):
    """A Vision Transformer on any subset of tokens."""

    needs_grid = False
    downsample = 1

    def __init__(self, net: Any, name: str, options: Any, size: tuple[int, int], patch_size: int) -> None:
        own = tuple(net.patch_embed.patch_size)
        if own != (patch_size, patch_size):
            raise UserError(
                f"{name} has patches of {own[0]} x {own[1]} pixels and the tokenizer has {patch_size} x "
                f"{patch_size}: give --tokenizer.patch_size {own[0]}"
            )
        super().__init__(net, name, options, size, patch_size)
        self.dim: int = net.embed_dim
        self.prefix: int = net.num_prefix_tokens
        for head in (net.fc_norm, getattr(net, "attn_pool", None), net.head):
            if head is not None:
                head.requires_grad_(False)

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, p * p * C] -> [B, K, D]``."""
        embed = self.net.patch_embed
        kernel = embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
        embedded: Tensor = embed.norm(F.linear(self.pixels(values).flatten(-3), kernel, embed.proj.bias))
        return embedded

    @property
    def blocks(self) -> Any:
        """Blocks of timm, each called as ``block(x, attn_mask=bias)``."""
        return self.net.blocks

    @property
    def norm(self) -> Any:
        """What follows the last block."""
        return self.net.norm

    def begin(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the first block gets, ``[B, prefix + K, D]``, and where attention may go."""
        net, r = self.net, self.prefix
        lead = torch.cat(
            [token for token in (net.cls_token, net.reg_token) if token is not None] or [x[:1, :0]], 1
        )
        if net.pos_embed is not None:
            table = net.pos_embed
            if not net.no_embed_class:
                lead, table = lead + table[:, :r], table[:, r:]
            index = grid_index(position, self.grid)
            x = x + table[0][index].to(x.dtype)
        x = torch.cat([lead.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        attend = None if valid is None else F.pad(valid, (r, 0), value=True)[:, None, None, :]
        return net.norm_pre(net.pos_drop(x)), attend

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, D]`` at ``[B, K, 2]`` to ``[B, prefix + K, D]``."""
        x, attend = self.begin(x, position, valid)
        for block in self.blocks:
            x = block(x, attn_mask=attend)
        encoded: Tensor = self.norm(x)
        return encoded


class GridBackbone(Backbone):
    """A convolutional or hierarchical network, on the image that all tokens make."""

    needs_grid = True

    def __init__(self, net: Any, name: str, options: Any, size: tuple[int, int], patch_size: int) -> None:
        super().__init__(net, name, options, size, patch_size)
        self.dim = patch_size**2 * self.channels
        self.prefix = int(getattr(net, "num_prefix_tokens", 0))
        layout = getattr(net, "output_fmt", "NCHW")
        self.channels_last = getattr(layout, "value", layout) == "NHWC"
        try:
            places = self._try()
        except Exception as error:  # whatever a network says of images that do not fit it
            raise UserError(
                f"{name} cannot encode images of {size[0]} x {size[1]} pixels "
                f"({type(error).__name__}: {error}): choose another --data.size, or a model that takes it"
            ) from error
        self.downsample = math.isqrt(math.prod(self.grid) // places) if places else 0
        if places * self.downsample**2 != math.prod(self.grid) or any(n % self.downsample for n in self.grid):
            stride = math.isqrt(math.prod(size) // max(places, 1))
            raise UserError(
                f"{name} has {places} outputs for images of {size[0]} x {size[1]} pixels, one for about "
                f"{stride} x {stride}, which patches of {patch_size} do not make up: choose a "
                f"--tokenizer.patch_size that divides {stride}, and a --data.size that {stride} divides"
            )

    def _try(self) -> int:
        """Outputs per image; weights that do not reach them are those of a classifier, and are not trained."""
        net = copy.deepcopy(self.net).to("meta").eval()  # shapes alone, nothing is computed
        with torch.enable_grad():
            out = self.features(torch.zeros(1, self.channels, *self.size, device="meta"), net)
            reached = torch.autograd.grad(out.sum(), list(net.parameters()), allow_unused=True)
        for parameter, gradient in zip(self.net.parameters(), reached, strict=True):
            parameter.requires_grad_(parameter.requires_grad and gradient is not None)
        self.out_dim = out.shape[-1]
        return out.shape[1] - self.prefix

    def embed(self, values: Tensor) -> Tensor:
        """``[B, N, p * p * C]`` as it is."""
        return values

    def features(self, image: Tensor, net: Any) -> Tensor:
        """Images ``[B, C, H, W]`` to ``[B, prefix + L, out_dim]``."""
        x: Tensor = net.forward_features(image)
        if x.dim() == 3:
            return x
        return x.flatten(1, 2) if self.channels_last else x.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, N, p * p * C]`` over the whole grid to ``[B, prefix + L, out_dim]``.

        Raises:
            ValueError: only part of the grid, or padding.
        """
        h, w = self.grid
        if x.shape[1] != h * w or valid is not None:
            raise ValueError(f"{self.name} encodes whole grids of {self.grid}, got {x.shape[1]} tokens")
        patches = self.pixels(x.unflatten(1, (h, w))).permute(0, 5, 1, 3, 2, 4)
        return self.features(patches.reshape(-1, self.channels, *self.size), self.net)
