"""Convolutional networks of timm that read nothing hidden, in no layer (layer masking).

Balasubramanian and Feizi 2022, arXiv 2211.14646: a mask of what is visible goes through the network, see
:mod:`polymask_vision.masked_activations` for its rules. The network stays timm's own, and so do its weights;
with nothing hidden it is timm's to the bit.

Shapes: B samples, N tokens, K of them given, D numbers per token, L places of the last feature map, E its
width.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from polymask import UserError
from polymask.export import Exporter
from polymask.types import Count, Fact, ModelArguments, Whole
from polymask_vision.backbones import Backbone
from polymask_vision.masked_activations import Fill, Masked, NoRule
from polymask_vision.positions import grid_index


class LayerMasked(Backbone):
    """A convolutional network of timm, such as a ResNet or EfficientNet, that reads nothing hidden.

    Where one token is as large as the stride of the network, it encodes any subset of tokens, as a Vision
    Transformer does, so that vision/mae and others train it. Where tokens are smaller, it needs the whole
    grid, and hides those that are not ``valid``. It does not compile in one piece when something is hidden.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: token rows and columns, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer; it divides the stride of the network, 32
            for most.
        channels: image channels, from the tokenizer.
        model: name in timm.
        arguments: of timm's model, e.g. ``{drop_path_rate: 0.1}``.
        stage: of the stages at which timm reads features, the last one to run, from 0 (half the resolution);
            None for the whole network.
        fill: what convolutions read at hidden places: means of visible ``"neighbours"``; ``"none"``, zeros;
            or zeros, with what comes out divided by the visible share under the kernel, ``"partial"``
            convolution (Liu et al. 2018, arXiv 1804.07723).
    """

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 3072,
        grid: Fact[tuple[Count, ...] | None] = (7, 7),
        patch_size: Fact[Count] = 32,
        channels: Fact[Count] = 3,
        model: str = "resnet50",
        arguments: ModelArguments = None,
        stage: Whole | None = None,
        fill: Fill = "neighbours",
    ) -> None:
        self.stage = stage
        super().__init__(
            in_dim=in_dim,
            grid=grid,
            patch_size=patch_size,
            channels=channels,
            model=model,
            arguments=arguments,
        )
        if fill not in ("neighbours", "none", "partial"):
            raise UserError(f"fill={fill!r}: choose 'neighbours', 'none' or 'partial'")
        self.fill: Fill = fill
        if not self.needs_grid:
            raise UserError(f"{model} is a Vision Transformer, which leaves tokens out: use vision/timm")
        net = copy.deepcopy(self.net).to("meta").eval()  # shapes alone, nothing is computed
        blank, known = (torch.zeros(1, n, *self.size, device="meta") for n in (channels, 1))
        try:
            net.forward_features(Masked.of(blank, known, fill))
        except NoRule as error:
            raise UserError(
                f"{model} does what layer masking has no rule for ({error}): use a ResNet or an EfficientNet"
            ) from error
        self.needs_grid = self.downsample > 1

    def _create(self, factory: Any, name: str) -> Any:
        net = super()._create(factory, name)
        if self.stage is not None:
            known = list(net.feature_info)
            if self.stage >= len(known):
                raise UserError(f"{name} has stages 0 to {len(known) - 1}, and no {self.stage}")
            net.prune_intermediate_layers([self.stage])
            net.feature_info = known[: self.stage + 1]
        return net

    def exports(self) -> dict[str, Exporter]:
        """Formats of ``polymask export`` beside safetensors; none that could hold some stages alone."""
        return super().exports() if self.stage is None else {}

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, p * p * C]`` as it is."""
        return values

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, D]`` at ``[B, K, 2]`` to ``[B, K, out_dim]``, or to ``[B, L, out_dim]`` of a finer grid.

        Args:
            x: tokens of pixels.
            position: where they are.
            valid: bool ``[B, K]``, False at tokens that are hidden.

        Raises:
            ValueError: only part of a grid that is needed as a whole.
        """
        return self.see(x, position, valid)[0]

    def see(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The same, and bool ``[B, K]`` or ``[B, L]``: which of these features are of something visible."""
        n, (b, k, _) = math.prod(self.grid), x.shape
        if self.needs_grid and k != n:
            raise ValueError(f"{self.name} encodes whole grids of {self.grid}, got {k} tokens")
        if valid is None and k == n:
            return self._features(self._image(x), self.net), None
        real_BK = torch.ones_like(x[..., 0], dtype=torch.bool) if valid is None else valid
        # on the grid, and one place behind it takes what is no token
        place_BK = torch.where(real_BK, grid_index(position, self.grid), n)
        whole_BND = x.new_zeros(b, n + 1, x.shape[2]).scatter(1, place_BK[..., None].expand_as(x), x)
        seen_BN = x.new_zeros(b, n + 1).scatter(1, place_BK, 1.0)[:, :n]
        p, (h, w) = self.patch_size, self.grid
        seen = seen_BN.view(b, 1, h, w).repeat_interleave(p, 2).repeat_interleave(p, 3)
        out: Any = self.net.forward_features(Masked.of(self._image(whole_BND[:, :n]), seen, self.fill))
        z_BLE, left_BL = out.plain.flatten(2).transpose(1, 2), out.seen.flatten(1) > 0
        if self.needs_grid:
            return z_BLE, left_BL
        index = place_BK.clamp(max=n - 1)[..., None]
        return z_BLE.gather(1, index.expand(-1, -1, self.out_dim)), valid
