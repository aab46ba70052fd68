"""Masked feature modelling for unsupervised domain adaptation of segmentation (2025, arXiv 2509.13801).

A segmentation network learns from labelled source images, from target images on which other classes are
pasted, with labels of an EMA teacher, and from target images of whose features some cells are hidden, rebuilt
by a small Transformer from the rest and classified by the same decoder. The encoder always sees whole images.

    polymask pretrain vision/masked-feature --preset small --data drawn-domains
    polymask pretrain vision/masked-feature --preset small --data earth-domains
    polymask evaluate RUN vision/segmentation
    polymask export RUN --format segmenter

Each takes minutes on two cores; ``two-domains`` takes images of one's own. Cells are the tokens of
vision/patches: 16 x 16 in the paper, the same places on every feature map that the decoder reads. The
Rebuilder serves training alone: what is evaluated and exported is the network without it. DACS (Tranheden et
al. 2020, arXiv 2007.08702), as the release of DAFormer trains it, is ``--rebuilt_weight 0``; ``--fill zeros``
hides without rebuilding.

The paper (its later version calls this masked representation modelling) has released the Rebuilder alone,
which is followed here, as is DACS in that other release: batch norms of the teacher go by the batch; one
weight for all pseudo-labels of a batch, the share of pixels that the teacher is sure of; means over all
pixels, unknown ones counted. Ours is the rest: the Rebuilder's pass is on target images as they are, at full
weight from the first step, and updates batch norms as any other pass does; how features are compared in the
ablation. Rare class sampling and DAFormer's distance to ImageNet features are not here.

Shapes: B images, C channels, H rows and W columns of pixels, K classes, N cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, distributed
from polymask.nn.positions import coordinates
from polymask.protocols import Encoder, Masking, sample_ids
from polymask.types import Count, Fact, ModelArguments, NotNegative, Share, Whole
from polymask_vision.datasets.maps import LABELS
from polymask_vision.domain_mix import BatchTeacher, augment, half_of_classes, pixel_loss, require_domains
from polymask_vision.layers import coloured
from polymask_vision.rebuilder import Rebuilder, over, patch, times_of
from polymask_vision.segmenter import Kind, Segmenter, enlarge, save_segmenter
from polymask_vision.tokenizers import Patches
from polymask_vision.views import OTHER

MIX = 1
"""First stream of what is drawn for mixed images; the mask is stream 0."""


class MaskedFeature(System):
    """Adapts a segmentation network to another domain with masked features.

    Args:
        tokenizer: cells; a cell has ``patch_size`` pixels along each side.
        masking: which cells to hide.
        model: backbone, by its name in timm, of a model that has ``features_only``.
        levels: which of its feature maps, from 0; by default all, or the last for DeepLab.
        pretrained: begin with the weights that timm has.
        arguments: of timm's model, e.g. ``{output_stride: 8}``.
        decoder: ``"daformer"`` reads all maps, ``"deeplab"`` the last.
        decoder_dim: width of DAFormer's.
        dilations: of the decoder's convolutions; by default those of its paper.
        dropout: of channels before DAFormer's classifier.
        fill: what hidden cells hold for the decoder: features ``"rebuilt"`` from visible cells, or
            ``"zeros"``.
        predict: what the rebuilt cells are for: to tell ``"classes"`` through the decoder, in all cells; or
            to be like the teacher's ``"features"``, normed over channels, in hidden cells (an ablation of the
            paper).
        rebuilt_weight: of that beside the source; 0 leaves it out.
        width: of the Rebuilder.
        depth: blocks of the Rebuilder.
        heads: attention heads of the Rebuilder.
        momentum: of the teacher; it rises to that as 1 - 1 / (steps + 1).
        sure: the teacher's probability from which a pixel counts as sure.
        ignore_rows: rows at the top and at the bottom of target images whose pseudo-labels have no weight.
        decoder_rate: factor on the learning rate of the decoder.
        rebuilder_rate: factor on that of the Rebuilder.
        pixel_classes: number of classes, from the data.
        mean: mean per channel that was subtracted from values in [0, 1], from the data.
        std: standard deviation per channel that values were divided by, from the data.
    """

    def __init__(
        self,
        *,
        tokenizer: Patches,
        masking: Masking,
        model: str = "resnet50",
        levels: tuple[Whole, ...] | None = None,
        pretrained: bool = False,
        arguments: ModelArguments = None,
        decoder: Kind = "daformer",
        decoder_dim: Count = 256,
        dilations: tuple[Count, ...] | None = None,
        dropout: Share = 0.1,
        fill: Literal["rebuilt", "zeros"] = "rebuilt",
        predict: Literal["classes", "features"] = "classes",
        rebuilt_weight: NotNegative = 1.0,
        width: Count = 512,
        depth: Count = 2,
        heads: Count = 16,
        momentum: Share = 0.99,
        sure: Share = 0.968,
        ignore_rows: tuple[Whole, Whole] = (0, 0),
        decoder_rate: NotNegative = 10.0,
        rebuilder_rate: NotNegative = 10 / 3,
        pixel_classes: Fact[Count] = 19,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
    ) -> None:
        super().__init__()
        if not isinstance(tokenizer, Patches):
            raise UserError(
                f"masked-feature hides cells of images, and {type(tokenizer).__name__} makes none: use "
                "vision/patches"
            )
        if fill not in ("rebuilt", "zeros") or predict not in ("classes", "features"):
            raise UserError(f"{fill=}, {predict=}: choose 'rebuilt' or 'zeros', 'classes' or 'features'")
        if fill == "zeros" and predict == "features":
            raise UserError("zeros rebuild nothing that could be like features: give --predict classes")
        channels, size = tokenizer.channels, tokenizer.size
        self.tokenizer: Patches = tokenizer
        self.masking = masking
        self.network = Segmenter(
            size=size,
            channels=channels,
            classes=pixel_classes,
            model=model,
            levels=levels,
            pretrained=pretrained,
            arguments=arguments,
            decoder=decoder,
            dim=decoder_dim,
            dilations=dilations,
            dropout=dropout,
        )
        self.teacher = BatchTeacher(self.network, momentum=momentum, curve="warm", buffers="keep")
        self.fill, self.predict, self.rebuilt_weight = fill, predict, rebuilt_weight
        self.rebuilder: Rebuilder | None = None
        for each in self.network.sizes if rebuilt_weight else ():
            times_of(each, tokenizer.grid)
        if rebuilt_weight and fill == "rebuilt":
            maps: Any = {
                "channels": self.network.channels,
                "sizes": self.network.sizes,
                "grid": tokenizer.grid,
            }
            self.rebuilder = Rebuilder(**maps, dim=width, depth=depth, heads=heads)
        self.classes, self.sure, self.ignore_rows = pixel_classes, sure, ignore_rows
        self.decoder_rate, self.rebuilder_rate = decoder_rate, rebuilder_rate
        for name, values, usual in (("mean_C11", mean, 0.0), ("std_C11", std, 1.0)):
            known = torch.full((channels,), usual) if values is None else torch.tensor(tuple(values))
            self.register_buffer(name, known[:, None, None], persistent=False)
        self.mean_C11: Tensor
        self.std_C11: Tensor

    def forward(self, batch: Batch, step: Step) -> Losses:
        source, label = batch[self.tokenizer.key], require_domains(batch)
        target, sure = batch[OTHER], self.pseudo_labels(batch)
        losses = {"source": pixel_loss(self.network(source), label)}
        image, *mixed = self.mixed(batch, sure, step)
        losses["mix"] = pixel_loss(self.network(image), *mixed)
        if self.rebuilt_weight:
            maps = self.network.maps(target)
            mask = self.draw(self.tokenizer(batch), batch, step)
            losses["rebuilt"] = self.rebuilt_weight * self.rebuilt(target, maps, mask, sure)
        return losses

    def pseudo_labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the teacher says of target images, int64 ``[B, H, W]``, and its weight, one but for rows."""
        best, label_BHW = self.teacher(batch[OTHER]).float().softmax(1).max(1)
        share = distributed.mean((best >= self.sure).float().mean())
        weight_BHW = share.expand_as(best).clone()
        top, bottom = self.ignore_rows
        weight_BHW[:, :top] = 0
        weight_BHW[:, weight_BHW.shape[1] - bottom :] = 0
        return label_BHW, weight_BHW

    def mixed(self, batch: Batch, sure: tuple[Tensor, Tensor], step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Target images with half of the classes of the source on them, augmented; labels, weights."""
        source, label, ids = batch[self.tokenizer.key], batch[LABELS], sample_ids(batch)
        pasted = half_of_classes(label, ids, self.classes, step, MIX)
        image = torch.where(pasted[:, None], source, batch[OTHER])
        image = augment(image, ids, step, MIX, self.mean_C11, self.std_C11)
        return image, torch.where(pasted, label, sure[0]), torch.where(pasted, 1.0, sure[1])

    def rebuilt(
        self, target: Tensor, maps: Sequence[Tensor], mask: Mask, sure: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The loss of feature maps of target images of which some cells are hidden."""
        if self.predict == "features":
            assert self.rebuilder is not None
            made = self.rebuilder.rebuild(maps, mask)
            teacher: Any = self.teacher.module
            wanted = [F.layer_norm(x.movedim(1, -1), x.shape[1:2]) for x in teacher.maps(target)]
            errors = [
                over(own, mask, self.tokenizer.grid).mean((own.float() - x.movedim(-1, 1)).square())
                for own, x in zip(made, wanted, strict=True)
            ]
            return torch.stack(errors).mean()
        return pixel_loss(enlarge(self.network.decode(self.patched(maps, mask)), target.shape[2:]), *sure)

    def patched(self, maps: Sequence[Tensor], mask: Mask) -> list[Tensor]:
        """Feature maps with other values in their hidden cells."""
        if self.rebuilder is None:
            return patch(maps, [torch.zeros_like(x) for x in maps], mask, self.tokenizer.grid)
        made: list[Tensor] = self.rebuilder(maps, mask)
        return made

    def after_step(self, step: Step) -> None:
        self.teacher.follow(self.network, step)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = [{"params": list(self.network.decoder.parameters()), "lr_scale": self.decoder_rate}]
        if self.rebuilder is not None:
            groups.append({"params": list(self.rebuilder.parameters()), "lr_scale": self.rebuilder_rate})
        return groups

    # ------------------------------------------------------------------------------------ what it is for

    def segment(self, image_BCHW: Tensor) -> Any:
        """Logits ``[B, K, H, W]`` of the pixels of images, of either domain."""
        return self.network(image_BCHW)

    @property
    def backbone(self) -> Encoder:
        """The backbone of the network, whose weights ``--init`` takes."""
        network: Any = self.network
        encoder: Encoder = network.encoder
        return encoder

    def encode(self, batch: Batch) -> Tokens:
        """The last feature map, each place a token."""
        x_BDhw = self.network.maps(batch[self.tokenizer.key])[-1]
        grid = (x_BDhw.shape[2], x_BDhw.shape[3])
        position = coordinates(grid).to(x_BDhw.device).expand(len(x_BDhw), -1, -1)
        return Tokens(x_BDhw.flatten(2).transpose(1, 2), position, grid)

    def exports(self) -> dict[str, Callable[[Mapping[str, Any], Path], None]]:
        """Formats of ``polymask export``: the whole network, see :mod:`polymask_vision.segmenter`."""
        return {"segmenter": lambda facts, out: save_segmenter(self.network, out, facts)}

    # ---------------------------------------------------------------------------------------- to look at

    def example(self, n: int, seed: int = 0) -> Batch:
        chance, size = torch.Generator().manual_seed(seed), self.tokenizer.size
        images = self.tokenizer.example(2 * n, seed)[self.tokenizer.key]
        label = torch.randint(-1, self.classes, (n, *size), generator=chance)
        return {self.tokenizer.key: images[:n], OTHER: images[n:], LABELS: label}

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        if not self.rebuilt_weight:
            return {}
        require_domains(batch)
        other = {**batch, self.tokenizer.key: batch[OTHER]}
        tokens = self.tokenizer(other)
        return {"features of the target": MaskView(self.draw(tokens, batch, step), tokens, other)}

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The weight of pseudo-labels, and how many pixels of the source are classified rightly."""
        label, weight = batch[LABELS], self.pseudo_labels(batch)[1]
        right = (self.network(batch[self.tokenizer.key]).argmax(1) == label).float()
        return {"pseudo_weight": weight.amax(), "source_accuracy": Mask(label >= 0).mean(right)}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        """Both domains with what is said of their pixels, the mixed image, and what rebuilt features say."""
        key, sure = self.tokenizer.key, self.pseudo_labels(batch)
        image, label, _ = self.mixed(batch, sure, step)
        media = {
            "source": batch[key],
            "its labels": self.coloured(batch[LABELS]),
            "as segmented": self.coloured(self.network(batch[key]).argmax(1)),
            "target": batch[OTHER],
            "as segmented by the teacher": self.coloured(sure[0]),
            "mixed": image,
            "labels of the mixed": self.coloured(label),
        }
        if self.rebuilt_weight:
            tokens = self.tokenizer({key: batch[OTHER]})
            mask = self.draw(self.tokenizer(batch), batch, step)
            shown = mask.fill(tokens.values, tokens.values.new_zeros(1))
            logits = self.network.decode(self.patched(self.network.maps(batch[OTHER]), mask))
            media["target, cells of features visible"] = self.tokenizer.inverse(shown)
            media["as segmented from these"] = self.coloured(enlarge(logits, image.shape[2:]).argmax(1))
        return Preview(media)

    def coloured(self, label_BHW: Tensor) -> Tensor:
        """Classes as images in the units of the data, each of a colour; unknown is grey."""
        return coloured(label_BHW, self.classes, self.tokenizer.channels)
