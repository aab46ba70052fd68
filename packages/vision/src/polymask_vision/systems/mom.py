"""MoM: Monocular Per-Object Distance Estimation with Masked Object Modeling (Panariello et al. 2024).

Cut the features of each object out of a feature pyramid, hide half of their 8 x 8 tokens, and let one
encoding of the rest serve two ends in one step: a small decoder paints the hidden cells of the object's own
crop, and a head tells how far away the object is.

    polymask pretrain vision/mom --preset small --data placed-objects
    polymask pretrain vision/mom --preset small --data boxes:FOLDER --data.labelled 0.05
    polymask evaluate RUN vision/distance

arXiv 2401.03191, the recipe of KITTI in the released code. Boxes are given, in training and after it. The
tokenizer cuts the crop of an object, resized, into cells: token and cell (i, j) are of one place. Tokens are
hidden behind a backbone that has seen the pixels beneath: painting is easier than in MAE, regularises, and
proves nothing by itself. Crops are taken before colours were augmented, in [0, 1], never normalised. Those
that are small or dark do not count, and their objects still learn their distance.

In training the head reads the mean of the visible tokens, afterwards that of all; no pass without a mask, no
decoder is needed then. Distances are in the units of the data, unknown ones (NaN) are left out.

Ours, where the release differs or could not be read: tokens are as wide as cells (675 numbers, there 768)
where they enter the encoder, so that any encoder of patches fits; the decoder is MAE's, with a projection and
fixed positions; a ReLU stands between the two layers of the head; the second shortcut of the attention among
objects starts from its middle, as is usual; levels are joined bilinearly. The encoder begins without the last
blocks of a pre-trained ViT-B, which ``--init`` cannot cut out. A channel with the centres of boxes and tracks
over frames are left out. With ``--masking none --visible_weight 1`` the decoder paints what the encoder has
seen, a control.

Shapes: B images, n objects of an image, O = B * n, N cells of a crop, K of them visible, D encoder width,
C channels, H rows and W columns of pixels, h and w of a crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, functional
from polymask.nn.decoders import LightDecoder
from polymask.protocols import Encoder, Masking, Objective, Target
from polymask.schedules import Schedule
from polymask.types import Count, Fact, ModelArguments, NotNegative, Share, Whole
from polymask_vision.boxes import BOXES, DISTANCE, distances_of, outlined
from polymask_vision.distance_head import DistanceHead, DistanceLoss
from polymask_vision.object_tokens import Objects, ObjectTokens
from polymask_vision.pyramid import Levels
from polymask_vision.tokenizers import Patches

WHY = (
    "mom reads the boxes of objects, and samples of this data have none: use boxes:FOLDER, placed-objects or "
    "motorcycle-boxes"
)


class MoM(System):
    """Distances of objects, learned together with painting what is hidden of them.

    Args:
        tokenizer: cuts crops into cells; its ``size`` is that of a crop (paper: 120 pixels, cells of 15).
        encoder: encodes the visible tokens of an object (paper: 6 blocks of ViT-B, no class token).
        target: what to predict of a hidden cell (paper: its pixels as they are).
        masking: what to hide of each object (paper: half at random); None hides nothing.
        objective: how a prediction is scored, over hidden cells.
        score: evidence per cell, of the crops, for maskings that go by score.
        channels: of the images, from the data.
        mean: per channel, subtracted from the images, from the data.
        std: per channel, that they were divided by, from the data.
        model: of the backbone, in timm (paper: ConvNeXt, base on KITTI).
        arguments: of timm's model, e.g. ``{depths: [2, 2, 4, 2], dims: [32, 64, 128, 256]}``.
        pretrained: begin with the weights that timm has of the backbone (paper: of ImageNet-22k).
        levels: of the backbone, from 0, the finest; all by default.
        pyramid_dim: width of the levels of the feature pyramid.
        level: the one of these, from 0, whose stride all are brought to and joined (paper: 8 pixels).
        reconstruction_weight: of painting hidden cells (KITTI: 20, elsewhere 10); 0 leaves the decoder out.
        visible_weight: of painting visible cells, as a share of that (MOTSynth: 0.001).
        distance_loss: ``"smooth-l1"`` (KITTI), or ``"gaussian-nll"`` (nuScenes): mean and variance.
        warm_up: shares of the run between which the weight of the distance rises from 0 to 1; None: always 1.
        small: boxes less wide or high than this many pixels are not painted.
        dark: crops whose brightest channel is below this on average are not painted.
        object_heads: heads of the attention among the objects of an image.
        head_dim: width between the two layers that tell the distance.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Patches,
        encoder: Encoder,
        target: Target,
        masking: Masking | None = None,
        objective: Objective,
        score: Target | None = None,
        channels: Fact[Count] = 3,
        mean: Fact[Sequence[float]] = (0.0,),
        std: Fact[Sequence[float]] = (1.0,),
        model: str = "convnext_base",
        arguments: ModelArguments = None,
        pretrained: bool = False,
        levels: tuple[Whole, ...] | None = None,
        pyramid_dim: Count = 128,
        level: Whole = 1,
        reconstruction_weight: NotNegative = 20.0,
        visible_weight: NotNegative = 0.0,
        distance_loss: DistanceLoss = "smooth-l1",
        warm_up: tuple[Share, Share] | None = None,
        small: NotNegative = 25.0,
        dark: NotNegative = 0.01,
        object_heads: Count = 4,
        head_dim: Count = 1024,
        decoder_dim: Count = 768,
        decoder_depth: Whole = 2,
        decoder_heads: Count = 8,
    ) -> None:
        super().__init__()
        if reconstruction_weight and masking is None and not visible_weight:
            raise UserError(
                "nothing is hidden and visible cells do not count: give a --masking, a --visible_weight "
                "above 0, or --reconstruction_weight 0"
            )
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.weight, self.visible_weight = reconstruction_weight, visible_weight
        self.small, self.dark = small, dark
        self.ramp = None if warm_up is None else Schedule(0.0, 1.0, window=(warm_up[0], warm_up[1]))
        self.channels = channels
        backbone = Levels(
            model=model, channels=channels, levels=levels, pretrained=pretrained, arguments=arguments
        )
        self.regions = ObjectTokens(
            backbone, tokenizer, pyramid_dim=pyramid_dim, level=level, mean=mean, std=std, why=WHY
        )
        self.norm = nn.LayerNorm(encoder.dim)
        self.decoder: LightDecoder | None = None
        if reconstruction_weight:
            size = {"dim": decoder_dim, "depth": decoder_depth, "heads": decoder_heads}
            self.decoder = LightDecoder.behind(encoder, tokenizer, target.dim, **size)
            nn.init.normal_(self.decoder.mask_token)  # as wide as tokens behind a norm
        self.head = DistanceHead(encoder.out_dim, object_heads, head_dim, distance_loss)

    def forward(self, batch: Batch, step: Step) -> Losses:
        objects = self.regions(batch, self.tokenizer)
        mask = self.hide(objects, step)
        encoded = self.see(mask.keep(objects.tokens))
        vectors_BnD = self.pool(encoded, mask).view(*objects.valid.shape, -1)
        error = self.head.error(
            self.head(vectors_BnD, objects.valid), distances_of(batch, vectors_BnD.shape[1])
        )
        losses = {"distance": self.distance_weight(step) * error}
        if self.decoder is not None:
            losses |= self.reconstruction(objects, encoded, mask)
        return losses

    def hide(self, objects: Objects, step: Step) -> Mask:
        """A mask over the cells of each object, ``[O, N]``."""
        if self.masking is None:
            return Mask(torch.zeros_like(objects.crops.real), objects.crops.shape[1])
        return self.draw(objects.crops, objects.batch, step)

    def see(self, tokens: Tokens) -> Tensor:
        """Some tokens of each object, encoded: ``[O, prefix + K, D]``."""
        x = self.norm(self.encoder.embed(tokens.values))
        return self.encoder(x, tokens.position, tokens.valid)

    def pool(self, encoded: Tensor, mask: Mask) -> Tensor:
        """The mean of the tokens of each object that a mask left visible, ``[O, D]``."""
        x = encoded[:, self.encoder.prefix :]
        if mask.visible is not None:
            return x.mean(1)
        # rows of fewer tokens end in padding
        real = torch.arange(x.shape[1], device=x.device) < (~mask.hidden).sum(1, keepdim=True)
        return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)

    # ------------------------------------------------------------------------------------------ painting

    def weights(self, objects: Objects) -> Tensor:
        """How much the crop of each object counts, 0 or 1: float32 ``[O]``."""
        low, high = objects.boxes.view(-1, 2, 2).unbind(1)
        large = ((high - low) >= self.small).all(1)
        bright = objects.batch[self.tokenizer.key].amax(1).mean((1, 2)) >= self.dark
        return (large & bright & objects.valid.flatten()).float()

    def reconstruction(self, objects: Objects, encoded: Tensor, mask: Mask) -> Losses:
        """Losses at hidden cells and, where these count, at visible ones."""
        target_ONT = self.target(objects.batch, objects.crops)
        weight_O1 = self.weights(objects)[:, None]
        painted_ONT = self.paint(objects, encoded, mask, everywhere=self.visible_weight > 0)
        hidden, losses = mask.hidden, {}
        if self.masking is not None:
            scored = Mask(weight_O1 * hidden)
            losses["reconstruction"] = self.weight * self.objective(painted_ONT, target_ONT, scored)
        if self.visible_weight:
            scored = Mask(weight_O1 * ~hidden)
            factor = self.weight * self.visible_weight
            losses["visible"] = factor * self.objective(painted_ONT, target_ONT, scored)
        return losses

    def paint(self, objects: Objects, encoded: Tensor, mask: Mask, everywhere: bool) -> Tensor:
        """Predictions at hidden cells, or at all: ``[O, N, T]``, 0 elsewhere."""
        assert self.decoder is not None
        at = Mask(torch.ones_like(mask.hidden), 0) if everywhere else mask
        return functional.at_hidden(self.decoder(encoded, mask, objects.crops.position, at), at)

    # ------------------------------------------------------------------------------------------ distance

    def distance_weight(self, step: Step) -> float:
        """Weight of the distance at a step, in [0, 1]."""
        return 1.0 if self.ramp is None else self.ramp(step)

    def distances(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Distances of the objects of a batch, nothing hidden, ``[B, n]``, and which are no padding."""
        vectors = self.encode(batch)
        return self.head(vectors.values, vectors.real)[..., 0], vectors.real

    def encode(self, batch: Batch) -> Tokens:
        """One vector for each object, ``[B, n, D]``, at the centre of its box; padding is not valid."""
        objects = self.regions(batch, self.tokenizer)
        vectors_OD = self.see(objects.tokens)[:, self.encoder.prefix :].mean(1)
        centre_Bn2 = objects.boxes.view(*objects.valid.shape, 2, 2).mean(2).flip(-1)
        return Tokens(vectors_OD.view(*objects.valid.shape, -1), centre_Bn2, valid=objects.valid)

    # ---------------------------------------------------------------------------------------- to look at

    def example(self, n: int, seed: int = 0) -> Batch:
        """Noise with one large box in each image."""
        generator = torch.Generator().manual_seed(seed)
        key, side = self.tokenizer.key, 64
        corner = torch.rand(n, 1, 2, generator=generator) * 16
        box = torch.cat([corner, corner + 32 + 16 * torch.rand(n, 1, 2, generator=generator)], dim=2)
        image = torch.randn(n, self.channels, side, side, generator=generator)
        return {key: image, BOXES: box, DISTANCE: 1 + 3 * torch.rand(n, 1, generator=generator)}

    def schedule(self, step: Step) -> Mapping[str, float]:
        return {} if self.ramp is None else {"weight of the distance": self.ramp(step)}

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        if self.masking is None:
            return {}
        objects = self.regions(batch, self.tokenizer)
        mask, rows = self.hide(objects, step), objects.largest()
        one = Mask(mask.hidden[rows], mask.visible)
        crops = {name: x[rows] for name, x in objects.batch.items()}
        tokens = self.tokenizer(crops)
        crops[self.tokenizer.key] = self.regions.normalised(crops[self.tokenizer.key])
        return {"largest object": MaskView(one, tokens, crops)}

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The mean error of distances beside the true ones, with nothing hidden."""
        told_Bn, _ = self.distances(batch)
        truth_Bn = distances_of(batch, told_Bn.shape[1])
        known = Mask(truth_Bn.isfinite())
        return {"distance_abs_rel": known.mean(((told_Bn - truth_Bn) / truth_Bn).abs())}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        """Images with their boxes, and of each the largest object: what is seen of it, how it is painted."""
        objects = self.regions(batch, self.tokenizer)
        white = self.regions.normalised(torch.ones_like(self.regions.mean))
        media = {"boxes": outlined(batch[self.tokenizer.key], objects.boxes, white)}
        if self.decoder is not None:
            mask = self.hide(objects, step)
            painted = self.paint(objects, self.see(mask.keep(objects.tokens)), mask, self.visible_weight > 0)
            rows = objects.largest()
            part = Tokens(objects.crops.values[rows], objects.crops.position[rows], objects.crops.grid)
            one = Mask(mask.hidden[rows], mask.visible)
            found = functional.reconstruction(self.tokenizer, self.target, part, one, painted[rows])
            media |= {name: self.regions.normalised(x) for name, x in found.items()}
        return Preview(media)
