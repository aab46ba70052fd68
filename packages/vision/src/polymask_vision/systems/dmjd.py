"""DMJD: Disjoint Masking with Joint Distillation (Ma et al. 2022, arXiv 2301.00230).

Draw two masks per image such that tokens visible in one are hidden in the other, and train two heads on each
view: a decoder at the hidden tokens and a small MLP at the visible ones, both predicting normalised
histograms of oriented gradients.

    polymask pretrain vision/dmjd --preset small --data fashion-mnist

A step encodes every image twice: compare with other systems at equal numbers of encoded rows, not of epochs.
The baselines are options: ``--masking core/random`` draws the two masks independently, and
``--visible_weight 0`` removes the second head. The release reads the targets of visible tokens in another
order than their predictions; here each is compared with its own. An uninformed prediction costs 1 in the term
``hidden`` where no cell is flat, as targets have mean 0 and variance 1.

Shapes: B samples, N tokens, K of them visible, M hidden, D encoder width, T target width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, MaskView, Preview, Step, System, Tokens, UserError, functional
from polymask.nn.blocks import initialise
from polymask.nn.decoders import LightDecoder
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Positive, Whole


class DMJD(System):
    """Masked modelling of several views with different masks, at hidden and at visible tokens.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes only the visible tokens (released: vision/conv-vit).
        target: what to predict of each token (paper: HOG).
        masking: what to hide; called once per view, each with its own ``stream``.
        objective: loss of a prediction over hidden tokens (paper: squared error).
        visible_objective: the same over visible ones (paper: smooth L1 with beta 2).
        score: score per token, for maskings that need one.
        views: masks per sample, as many as the masking draws jointly.
        visible_weight: weight of the loss at visible tokens; 0 builds no head for them.
        decoder_dim: width of the decoder and of the visible tokens' MLP (paper: 512).
        decoder_depth: blocks of the decoder (release: 8 or 2).
        decoder_heads: attention heads of the decoder (paper: 16).
        decoder_mlp_ratio: width between the two layers of its blocks, in widths (MAE: 4; the release has 8,
            which its paper does not mention).
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        visible_objective: Objective,
        score: Target | None = None,
        views: Count = 2,
        visible_weight: float = 1.0,
        decoder_dim: Count = 512,
        decoder_depth: Whole = 8,
        decoder_heads: Count = 16,
        decoder_mlp_ratio: Positive = 4.0,
    ) -> None:
        super().__init__()
        if views != getattr(masking, "views", views):
            raise UserError(
                f"dmjd draws {views} views, and the masks of {type(masking).__name__} belong together by "
                f"{getattr(masking, 'views', 1)}: give --views and --masking.views the same number"
            )
        if views < 1 or visible_weight < 0:
            raise UserError(
                f"views must be 1 or more, visible_weight 0 or more; got {views}, {visible_weight}"
            )
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.score, self.views = masking, score, views
        self.objective, self.visible_objective = objective, visible_objective
        self.visible_weight = visible_weight
        self.decoder = LightDecoder.behind(
            encoder,
            tokenizer,
            target.dim,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            mlp_ratio=decoder_mlp_ratio,
        )
        self.head = projector(encoder.out_dim, decoder_dim, target.dim) if visible_weight else None

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        target = Tokens(self.target(batch, tokens), tokens.position)
        hidden_losses, visible_losses = [], []
        for view in range(self.views):
            mask = self.draw(tokens, batch, step, view)
            encoded = functional.encode_visible(self.encoder, tokens, mask)
            prediction_BMT = self.decoder(encoded, mask, tokens.position)
            hidden_losses.append(
                functional.masked_loss(self.objective, prediction_BMT, mask.invert().keep(target))
            )
            if self.head is not None:
                guess_BKT = self.head(encoded[:, self.encoder.prefix :])
                visible_losses.append(
                    functional.masked_loss(self.visible_objective, guess_BKT, mask.keep(target))
                )
        losses = {"hidden": torch.stack(hidden_losses).mean()}
        if visible_losses:
            losses["visible"] = self.visible_weight * torch.stack(visible_losses).mean()
        return losses

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        tokens = self.tokenizer(batch)
        drawn = [self.draw(tokens, batch, step, view) for view in range(self.views)]
        return {f"view {view}": MaskView(mask, tokens) for view, mask in enumerate(drawn, 1)}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens, media = self.tokenizer(batch), dict[str, Tensor]()
        for view in range(self.views):
            mask = self.draw(tokens, batch, step, view)
            encoded = functional.encode_visible(self.encoder, tokens, mask)
            prediction_BNT = functional.at_hidden(self.decoder(encoded, mask, tokens.position), mask)
            shown = functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT)
            for caption, column in shown.items():
                media[caption if caption == "original" else f"view {view + 1}: {caption}"] = column
        return Preview(media)


def projector(in_dim: int, dim: int, out_dim: int) -> nn.Sequential:
    """The MLP of visible tokens, applied per token: three hidden layers and a linear output."""
    layers = nn.Sequential(
        nn.Linear(in_dim, dim),
        nn.LayerNorm(dim, eps=1e-6),
        nn.GELU(),
        nn.Linear(dim, dim),
        nn.LayerNorm(dim, eps=1e-6),
        nn.GELU(),
        nn.Linear(dim, dim),
        nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False),
        nn.Linear(dim, out_dim),
    )
    initialise(layers)
    return layers
