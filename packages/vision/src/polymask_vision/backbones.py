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
from polymask.types import Count, Fact, ModelArguments
from polymask_vision.export import for_timm, timm_config
from polymask_vision.imports import rest_of, timm_model
from polymask_vision.positions import grid_index
from polymask_vision.tokenizers import require_picture

Facts = Mapping[str, Any]


class Backbone(nn.Module):
    """A backbone of timm, its weights drawn anew; ``init`` loads those that timm has.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: token rows and columns, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer: that of a Vision Transformer, and for
            other models one that divides their stride, 32 for most.
        channels: image channels, from the tokenizer.
        model: name in timm.
        arguments: of timm's model, e.g. ``{drop_path_rate: 0.1}``.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 3072,
        grid: Fact[tuple[Count, ...] | None] = (7, 7),
        patch_size: Fact[Count] = 32,
        channels: Fact[Count] = 3,
        model: str = "resnet50",
        arguments: ModelArguments = None,
    ) -> None:
        super().__init__()
        self.grid = require_picture("a backbone of timm", in_dim, grid, patch_size, channels)
        self.name, self.patch_size, self.channels = model, patch_size, channels
        self.size = self.grid[0] * patch_size, self.grid[1] * patch_size
        self.options = {**(arguments or {}), "in_chans": channels, "num_classes": 0}
        try:
            self.net: Any = self._create(timm.create_model, model)
        except Exception as error:  # timm raises all kinds of errors
            given = (
                f" with arguments {dict(arguments)}; --encoder.arguments null leaves these out"
                if arguments
                else ""
            )
            raise UserError(
                f"timm cannot build {model!r} for {self.size[0]} x {self.size[1]} pixels{given}: {error}"
            ) from error
        # from the values that the data has to those that the weights know
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))
        self.prefix = int(getattr(self.net, "num_prefix_tokens", 0))
        self.needs_grid = not isinstance(self.net, VisionTransformer)
        if self.needs_grid:
            self._fit_stride()
        else:
            self._fit_patches()

    def _fit_patches(self) -> None:
        own = tuple(self.net.patch_embed.patch_size)
        if own != (self.patch_size, self.patch_size):
            raise UserError(
                f"{self.name} has patches of {own[0]} x {own[1]} pixels and the tokenizer has "
                f"{self.patch_size} x {self.patch_size}: give --tokenizer.patch_size {own[0]}"
            )
        self.downsample, self.dim, self.out_dim = 1, self.net.embed_dim, self.net.embed_dim
        for head in (self.net.fc_norm, self.net.attn_pool, self.net.head):
            if head is not None:
                head.requires_grad_(False)

    def _fit_stride(self) -> None:
        (h, w), name = self.size, self.name
        layout = getattr(self.net, "output_fmt", "NCHW")
        self.channels_last = getattr(layout, "value", layout) == "NHWC"
        self.dim = self.patch_size**2 * self.channels
        try:
            places, self.out_dim = self._try()
        except Exception as error:  # whatever a network says of images that do not fit it
            raise UserError(
                f"{name} cannot encode images of {h} x {w} pixels ({type(error).__name__}: {error}): choose "
                "another --data.size, or a model that takes it"
            ) from error
        known = getattr(self.net, "feature_info", None)
        # of images that it does not divide, a network rounds up
        stride = known[-1]["reduction"] if known else math.isqrt(h * w // places)
        if h % stride or w % stride or stride % self.patch_size or places * stride**2 != h * w:
            raise UserError(
                f"{name} has one output for {stride} x {stride} pixels, and images are {h} x {w} in patches "
                f"of {self.patch_size}: choose a --tokenizer.patch_size that divides {stride}, and a "
                f"--data.size that {stride} divides"
            )
        self.downsample = stride // self.patch_size

    def _try(self) -> tuple[int, int]:
        """Outputs per image and their width; weights that do not reach them are not trained."""
        net = copy.deepcopy(self.net).to("meta").eval()  # shapes alone, nothing is computed
        with torch.enable_grad():
            out = self._features(torch.zeros(1, self.channels, *self.size, device="meta"), net)
            reached = torch.autograd.grad(out.sum(), list(net.parameters()), allow_unused=True)
        for parameter, gradient in zip(self.net.parameters(), reached, strict=True):
            parameter.requires_grad_(parameter.requires_grad and gradient is not None)
        return out.shape[1] - self.prefix, out.shape[2]

    def _create(self, factory: Any, name: str) -> Any:
        """A model for images of this size, which models that take any size do not ask for."""
        try:
            return factory(name, **{"img_size": self.size, **self.options})
        except (TypeError, UserError) as error:
            cause = error.__cause__ if isinstance(error, UserError) else error
            if "img_size" in str(cause) and isinstance(cause, TypeError):
                return factory(name, **self.options)
            raise

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, p * p * C]`` to ``[B, K, D]``; where the whole grid is needed, as it is."""
        if self.needs_grid:
            return values
        embed = self.net.patch_embed
        kernel = embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
        embedded: Tensor = embed.norm(F.linear(self._pixels(values).flatten(-3), kernel, embed.proj.bias))
        return embedded

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, D]`` at ``[B, K, 2]`` to ``[B, prefix + K, D]``, a whole grid to ``[B, prefix + L, D]``.

        Raises:
            ValueError: only part of a grid that is needed as a whole, or padding.
        """
        if not self.needs_grid:
            return self._tokens(x, position, valid)
        if x.shape[1] != math.prod(self.grid) or valid is not None:
            raise ValueError(f"{self.name} encodes whole grids of {self.grid}, got {x.shape[1]} tokens")
        return self._features(self._image(x), self.net)

    def _image(self, x: Tensor) -> Tensor:
        """A whole grid ``[B, N, p * p * C]`` as images that the network knows, ``[B, C, H, W]``."""
        patches = self._pixels(x.view(x.shape[0], *self.grid, -1)).permute(0, 5, 1, 3, 2, 4)
        return patches.reshape(-1, self.channels, *self.size)

    def _tokens(self, x: Tensor, position: Tensor, valid: Tensor | None) -> Tensor:
        net, r = self.net, self.prefix
        leading = [token for token in (net.cls_token, net.reg_token) if token is not None]
        lead = torch.cat([*leading, x.new_zeros(1, 0, self.dim)], dim=1)
        if net.pos_embed is not None:
            table = net.pos_embed
            if not net.no_embed_class:
                lead, table = lead + table[:, :r], table[:, r:]
            x = x + table[0][grid_index(position, self.grid)].to(x.dtype)
        x = torch.cat([lead.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        attend = None if valid is None else F.pad(valid, (r, 0), value=True)[:, None, None, :]
        x = net.norm_pre(net.pos_drop(x))
        for block in net.blocks:
            x = block(x, attn_mask=attend)
        encoded: Tensor = net.norm(x)
        return encoded

    def _features(self, image: Tensor, net: Any) -> Tensor:
        """Images ``[B, C, H, W]`` to ``[B, prefix + L, out_dim]``."""
        x: Tensor = net.forward_features(image)
        if x.dim() == 3:
            return x
        return x.flatten(1, 2) if self.channels_last else x.flatten(2).transpose(1, 2)

    def _pixels(self, values: Tensor) -> Tensor:
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
        unused, own = weights.unused, self.net.state_dict().keys()
        if own <= state.keys():  # a file of timm's own names
            unused += tuple(name for name in state if name not in own)
            state = {f"net.{name}": state[name] for name in own}
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
        return Weights(state, weights.options, rest_of(theirs), unused, tuple(changes))

    def _from_timm(self, name: str, facts: Facts) -> Weights:
        # timm itself fits positions and the first convolution to the size and the channels of the data
        model: Any = self._create(timm_model, name)
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
        save_state(for_timm(self.net), out / WEIGHTS)
