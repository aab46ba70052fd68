"""Vision Transformers of transformers as networks that tell what happens in them."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.pretrained import from_pretrained, require_whole
from polymask_vision.networks import Activations, Images, Network

_PROJECTIONS = {"query": "query", "q_proj": "query", "key": "key", "k_proj": "key"}
"""Linear maps within a block, by the names that transformers gives them."""

KNOWN = "a ViT, DeiT, DINOv2, BEiT, CLIP or SigLIP"
"""Models that were tried."""


class HubNetwork(Network):
    """A Vision Transformer of transformers; grey images are repeated to three channels."""

    statistics: Tensor

    def __init__(self, name: str, pretrained: bool, images: Images) -> None:
        super().__init__()
        try:
            from transformers import AutoConfig, AutoImageProcessor, AutoModel

            # fused attention does not give its weights
            eager = {"attn_implementation": "eager"}
            if pretrained:
                model, lacking = from_pretrained(AutoModel, name, **eager)
                require_whole(name, lacking)
            else:
                model = AutoModel.from_config(AutoConfig.from_pretrained(name), **eager)  # type: ignore[no-untyped-call]
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == "transformers"
            hint = "; pip install 'polymask-vision[transformers]'" if missing else ""
            raise UserError(f"transformers cannot load {name!r}: {error}{hint}") from error
        self.model: Any = getattr(model, "vision_model", model).eval()
        config = self.model.config
        self.name, self.images, self.dim = name, images, getattr(config, "hidden_size", 0)
        self.heads = getattr(config, "num_attention_heads", 1)
        if not hasattr(config, "num_channels"):
            raise UserError(f"{name} is a {type(self.model).__name__}, which sees no images: use {KNOWN}")
        self.repeat = 3 if images.channels == 1 and config.num_channels == 3 else 1
        if images.channels * self.repeat != config.num_channels:
            raise UserError(f"{name} takes {config.num_channels} channels, and images have {images.channels}")
        try:
            processor = AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
            known = {"mean": processor.image_mean, "std": processor.image_std}
        except (OSError, ValueError):
            known = {}  # a folder without preprocessing: images as they are
        self.register_buffer("statistics", images.statistics(known), persistent=False)
        parameters = inspect.signature(self.model.forward).parameters
        self.sized = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in parameters else {}
        sides = getattr(config, "patch_size", 1), getattr(config, "image_size", 1)
        self.patch, self.size = ((x, x) if isinstance(x, int) else tuple(x) for x in sides)
        depth = getattr(config, "num_hidden_layers", 0)
        lists = [n for n, m in self.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        self.path = lists[0] if lists else ""
        self.prefix = self._confirm(config)

    @property
    def blocks(self) -> Any:
        return self.model.get_submodule(self.path)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        tokens: Tokens,
        attention: Sequence[int] = (),
        pairs: Sequence[int] = (),
        run: int | None = None,
    ) -> Activations:
        pixels = self.images(batch, tokens, self.patch, self.statistics)
        return self._run(pixels.expand(-1, self.repeat * pixels.shape[1], -1, -1), attention, pairs)

    def _run(self, pixels: Tensor, attention: Sequence[int] = (1,), pairs: Sequence[int] = ()) -> Activations:
        states: list[Tensor] = []
        projected: dict[tuple[int, str], Tensor] = {}

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        def project(number: int, kind: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
            projected[number, kind] = output.view(*output.shape[:2], self.heads, -1).transpose(1, 2)

        with ExitStack() as hooks:
            for number in pairs:
                for name, part in self.blocks[number - 1].named_modules():
                    if kind := _PROJECTIONS.get(name.rpartition(".")[2]):
                        hook = functools.partial(project, number, kind)
                        hooks.callback(part.register_forward_hook(hook).remove)
            # the last of the hidden states that transformers returns has the final norm or not, by model
            for block in self.blocks:
                hooks.callback(block.register_forward_hook(keep).remove)
            # positions on a grid that is not square are refused where they are to be interpolated
            sized = {} if pixels.shape[2:] == self.size else self.sized
            found = self.model(pixels, output_attentions=True, **sized)
        if len(projected) != 2 * len(pairs):
            raise UserError(
                f"{self.name} is a {type(self.model).__name__}, whose queries and keys are not read here: "
                f"use {KNOWN}"
            )
        paid = [found.attentions[number - 1].float() for number in attention]
        return Activations(states, paid, [(projected[n, "query"], projected[n, "key"]) for n in pairs])

    @torch.no_grad()
    def _confirm(self, config: Any) -> int:
        """How many tokens lead the patches of an image; a network of another kind is refused."""
        n = math.prod(whole // part for whole, part in zip(self.size, self.patch, strict=True))
        try:
            found = self._run(torch.zeros(1, config.num_channels, *self.size))
            prefix = found.attention[0].shape[-1] - n
            shapes = {tuple(x.shape) for x in found.blocks}
            if self.path and prefix >= 0 and shapes == {(1, prefix + n, self.dim)}:
                return int(prefix)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            pass
        raise UserError(
            f"{self.name} is a {type(self.model).__name__}, whose blocks are not read here: use {KNOWN}"
        )
