"""Images in layers: several pictures, values or classes of the same pixels, stacked by channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polymask import Batch, Mask, Tokens, UserError
from polymask.types import Count, Fact
from polymask_vision.tokenizers import Patches, patches_of, picture_of


class LayerPatches(Patches):
    """Square patches of all layers of an image, stacked by channel.

    A layer is an entry of a batch: values, float ``[B, C, H, W]`` or ``[B, H, W]``, NaN where unknown; or
    classes, int64 ``[B, H, W]``, -1 where unknown, which become one channel each, 0 or 1. Layers have their
    channels in the order in which the data names them. A layer that is a task has channels too, and so has
    one that a batch lacks: they are 0, and so is what is unknown. So no task ever reaches an encoder.

    Args:
        size: image height and width in pixels, or one number for both.
        channels: channels of the layer ``image``.
        layers: channels, or classes, of each layer by name, from the data; by default ``image`` alone.
        class_layers: which of them are of classes, from the data.
        tasks: which of them are to be predicted and never seen, from the data.
        visible: which of them may be seen; by default all but tasks. Others are 0, as tasks are: the network
            of a student of images alone is that of its teacher.
        indicator: one channel more per visible layer, 1 where a pixel of it is known: tells a layer that is
            hidden from one that is 0, its mean.
        patch_size: side of a patch in pixels; must divide height and width.
    """

    def __init__(
        self,
        *,
        size: Fact[Count | tuple[Count, Count]] = 224,
        channels: Fact[Count] = 3,
        layers: Fact[Mapping[str, Count] | None] = None,
        class_layers: Fact[tuple[str, ...]] = (),
        tasks: Fact[tuple[str, ...]] = (),
        visible: tuple[str, ...] | None = None,
        indicator: bool = False,
        patch_size: Count = 1,
    ) -> None:
        layers = {self.key: channels} if layers is None else dict(layers)
        chosen = [name for name in layers if name not in tasks and name in (visible or layers)]
        for what, names in {"class_layers": class_layers, "tasks": tasks, "visible": visible or ()}.items():
            if unknown := [name for name in names if name not in layers]:
                raise UserError(
                    f"{what}: this data has no {', '.join(unknown)}, its layers are {', '.join(layers)}"
                )
        if self.key not in chosen or self.key in class_layers or layers[self.key] != channels:
            raise UserError(
                f"the layer {self.key!r} is the picture of each sample, of {channels} channels: it is no "
                "task, not of classes, and always among those that are visible"
            )
        super().__init__(
            size=size, channels=sum(layers.values()) + indicator * len(chosen), patch_size=patch_size
        )
        self.inputs, self.tasks, self.class_layers = tuple(chosen), tuple(tasks), frozenset(class_layers)
        self.indicator, self.layers, first = indicator, dict[str, slice](), 0
        for name, count in layers.items():
            self.layers[name] = slice(first, first + count)
            first += count
        self.outputs = first
        # which input each channel is of; those of others are 0 in any case
        owner = torch.zeros(self.channels, dtype=torch.int64)
        for number, name in enumerate(chosen):
            owner[self.layers[name]] = number
        if indicator:
            owner[first:] = torch.arange(len(chosen))
        self.register_buffer("owner", owner, persistent=False)
        self.owner: Tensor

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """All visible layers to tokens ``[B, N, p * p * C]``, nothing hidden.

        Raises:
            ValueError: a layer of another shape than this tokenizer was made for.
        """
        return self.tokens(self.stack(batch))

    def stack(self, batch: Mapping[str, Tensor], mask: Mask | None = None) -> Tensor:
        """All visible layers, ``[B, C, H, W]``.

        Args:
            batch: the layers by name.
            mask: over inputs, ``[B, I]``; what it hides is 0.
        """
        parts, known = [], []
        for name in self.layers:
            values, there = self.read(batch if name in self.inputs else {self.key: batch[self.key]}, name)
            parts.append(values)
            if self.indicator and name in self.inputs:
                known.append(there[:, None].to(values.dtype))
        x_BCHW = torch.cat([*parts, *known], dim=1)
        if mask is None:
            return x_BCHW
        return Mask(mask.hidden[:, self.owner]).fill(x_BCHW, x_BCHW.new_zeros(()))

    def read(self, batch: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
        """A layer as its channels ``[B, C, H, W]``, 0 where unknown, and where it is known, ``[B, H, W]``.

        Raises:
            ValueError: a layer of another shape than this tokenizer was made for.
        """
        place, first = self.layers[name], batch[self.key]
        count = place.stop - place.start
        if name not in batch:
            known = torch.zeros(first.shape[0], *self.size, dtype=torch.bool, device=first.device)
            return first.new_zeros(first.shape[0], count, *self.size), known
        x = batch[name]
        if name in self.class_layers:
            if x.shape[1:] != self.size:
                raise ValueError(f"expected {name} [B, {self.size[0]}, {self.size[1]}], got {list(x.shape)}")
            known, rows = x >= 0, torch.arange(count, device=x.device)
            # a comparison, as one_hot waits for the device
            return (x[:, None] == rows[:, None, None]).to(batch[self.key].dtype), known
        x = x[:, None] if x.dim() == 3 else x
        if x.shape[1:] != (count, *self.size):
            shape = ", ".join(map(str, (count, *self.size)))
            raise ValueError(f"expected {name} [B, {shape}], got {list(x.shape)}")
        known = x.isfinite().all(dim=1)
        return torch.where(known[:, None], x, 0.0), known

    def given(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Which inputs a sample has, bool ``[B, I]``: those with a known pixel."""
        found = [self.read(batch, name)[1].flatten(1).any(1) for name in self.inputs]
        return torch.stack(found, dim=1)

    def tokens(self, x_BCHW: Tensor) -> Tokens:
        """Stacked channels as tokens."""
        position = self.position.expand(x_BCHW.shape[0], -1, -1)
        return Tokens(patches_of(x_BCHW, self.patch_size), position, self.grid)

    def inverse(self, values: Tensor) -> Tensor:
        """Tokens back to the images among the layers, ``[B, C, H, W]``."""
        return picture_of(values, self.grid, self.patch_size)[:, self.layers[self.key]]

    def picture(self, name: str, x_BCHW: Tensor) -> Tensor:
        """A layer as an image in the units of the data; classes in colours, 0 everywhere is grey."""
        channels = self.layers[self.key].stop
        if name in self.class_layers:
            best_BHW = torch.where(x_BCHW.any(1), x_BCHW.argmax(1), -1)
            return coloured(best_BHW, x_BCHW.shape[1], channels)
        if x_BCHW.shape[1] == channels:
            return x_BCHW
        return x_BCHW.mean(1, keepdim=True).expand(-1, channels, -1, -1)

    def example(self, n: int, seed: int = 0) -> Batch:
        """Noise as values, and random classes, in all layers."""
        generator = torch.Generator().manual_seed(seed)
        batch: Batch = {}
        for name, place in self.layers.items():
            count = place.stop - place.start
            if name in self.class_layers:
                batch[name] = torch.randint(count, (n, *self.size), generator=generator)
            else:
                batch[name] = torch.randn(n, count, *self.size, generator=generator)
        return batch


def coloured(label_BHW: Tensor, classes: int, channels: int) -> Tensor:
    """Classes as normalised images ``[B, channels, H, W]``, each of a colour; -1 is grey."""
    shift_C11 = torch.arange(channels, device=label_BHW.device)[:, None, None] / channels
    label_B1HW = label_BHW[:, None]
    colours = 2 * torch.cos(2 * torch.pi * (label_B1HW / classes + shift_C11))
    return torch.where(label_B1HW < 0, 0.0, colours)
