"""The first stages of a ResNet of timm, on patches each by itself or on the image that they make.

Shapes: B samples, K patches, p side of a patch, C channels, D channels of the last stage, L output tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import timm.models
import torch
import torch.nn.functional as F
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from polymask import UserError
from polymask.export import Exporter, save_json, save_state
from polymask.imports import WEIGHTS, Weights
from polymask.types import Count, Fact, ModelArguments
from polymask_vision.export import timm_config
from polymask_vision.resnet import Stages
from polymask_vision.tokenizers import require_picture


class PatchResNet(Stages):
    """The first stages of any ResNet of timm (He et al. 2015), also of those that norm before (2016).

    It embeds nothing: a token is its pixels. :meth:`of_patches` runs on any patches, each an image of its own
    with zeros around it, so that no patch reaches another (Trinh et al. 2019, Selfie, arXiv 1906.02940). The
    encoder itself runs the same weights on the whole image, whose statistics differ: those of its batch norms
    are of patches until it is trained on images, as in fine-tuning. Features are averaged to one per patch
    where a patch has several, and cover several patches each where the stride is larger.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: token rows and columns, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer; it must divide the stride of the stages or
            be divided by it.
        channels: image channels, from the tokenizer.
        model: name in timm of a ResNet (resnet50, resnet18d, resnext50_32x4d, resnetv2_50, ...).
        arguments: of timm's model, e.g. ``{channels: [32, 64, 128, 256]}``.
        stages: stages that are kept, from the first.
        small_stem: a convolution of 3 x 3 without stride and no pooling, for small patches, in place of a
            stride of 4.
    """

    extends = ("stages",)

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 3072,
        grid: Fact[tuple[Count, ...] | None] = (7, 7),
        patch_size: Fact[Count] = 32,
        channels: Fact[Count] = 3,
        model: str = "resnet50",
        arguments: ModelArguments = None,
        stages: Count = 3,
        small_stem: bool = False,
    ) -> None:
        grid = require_picture("a ResNet", in_dim, grid, patch_size, channels)
        super().__init__(grid, patch_size, channels, stages)
        self.small_stem = small_stem
        self.options = {**(arguments or {}), "in_chans": channels, "num_classes": 0}
        self.model = model
        self.net = self._whole()
        features = self.net.feature_info
        if stages >= len(features):
            raise UserError(f"{model} has {len(features) - 1} stages: give --encoder.stages up to as many")
        if isinstance(self.net, ResNetV2):
            self.net.stages, self.net.norm = self.net.stages[:stages], nn.Identity()
        else:
            for stage in range(stages + 1, len(features)):
                delattr(self.net, f"layer{stage}")
        if small_stem:
            self.shrink_stem(features[0]["num_chs"])
        self.out_dim: int = features[stages]["num_chs"]
        stride = features[stages]["reduction"] // (4 if small_stem else 1)
        self.pool, self.downsample = max(patch_size // stride, 1), max(stride // patch_size, 1)
        if patch_size * self.downsample != stride * self.pool or any(n % self.downsample for n in grid):
            shape = " x ".join(str(n * patch_size) for n in grid)
            raise UserError(
                f"{stages} stages of {model} have one output for {stride} x {stride} pixels, and images are "
                f"{shape} in patches of {patch_size}: choose a --tokenizer.patch_size that divides {stride} "
                "or is divided by it, an image size that both divide, other stages, or a small stem"
            )

    def _whole(self) -> Any:
        """The model of timm, with all its stages."""
        try:
            net = timm.create_model(self.model, **self.options)
        except Exception as error:  # timm raises all kinds of errors
            raise UserError(f"timm cannot build {self.model!r} with {self.options}: {error}") from error
        if not isinstance(net, timm.models.ResNet | ResNetV2):
            raise UserError(
                f"{self.model} is no ResNet of timm but a {type(net).__name__}: give --encoder.model "
                "resnet50 or another that `timm.list_models('resnet*')` names"
            )
        return net

    def of_patches(self, values: Tensor) -> Tensor:
        """Any patches ``[B, K, in_dim]``, each by itself, to the mean of its features ``[B, K, D]``."""
        b, k, _ = values.shape
        p = self.patch_size
        patches = values.reshape(b * k, p, p, self.channels).permute(0, 3, 1, 2)
        return self.features(patches).mean(dim=(2, 3)).view(b, k, -1)

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, N, in_dim]`` over the whole grid, as one image, to ``[B, L, D]``, L = N / downsample**2.

        Raises:
            ValueError: only part of the grid, or padding.
        """
        features = self.features(self.picture(x, valid))
        return F.avg_pool2d(features, self.pool).flatten(2).transpose(1, 2)

    def adapt(self, weights: Weights, facts: Mapping[str, Any]) -> Weights:
        """Weights of a network of fewer stages or more: what it lacks is drawn anew."""
        kept = {name: value for name, value in weights.state.items() if self._stage_of(name) <= self.stages}
        has = max(map(self._stage_of, kept), default=0)
        anew = {name: value for name, value in self.state_dict().items() if self._stage_of(name) > has > 0}
        unused = weights.unused + tuple(name for name in weights.state if name not in kept)
        changes = (f"stages after {has} are drawn anew",) if anew else ()
        return replace(weights, state=kept | anew, unused=unused, changes=weights.changes + changes)

    @staticmethod
    def _stage_of(name: str) -> int:
        """The stage that a weight is of, 0 for the stem."""
        found = re.match(r"net\.(layer|stages\.)(\d+)\.", name)
        return int(found[2]) + (found[1] != "layer") if found else 0

    def exports(self) -> dict[str, Exporter]:
        """Formats of ``polymask export`` beside safetensors."""
        return {"timm": self._to_timm}

    def _to_timm(self, facts: Mapping[str, Any], out: Path) -> None:
        """The whole model of timm with these stages; later ones, which timm asks for, are drawn anew."""
        if self.small_stem:
            raise UserError(
                "timm's ResNets have a stride of 4 in their stem, and this one has a small stem: export it "
                "as safetensors, or train with --encoder.small_stem false"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            whole = self._whole()
        whole.load_state_dict(self.net.state_dict(), strict=False)
        config = whole.pretrained_cfg
        arguments = {
            name: value for name, value in self.options.items() if name not in ("in_chans", "num_classes")
        }
        about = {name: config.get(name) for name in ("first_conv", "classifier")}
        save_json(timm_config(config["architecture"], arguments, about, facts), out / "config.json")
        save_state(whole.state_dict(), out / WEIGHTS)
