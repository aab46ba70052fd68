"""Layer masking: improved input masking for convolutional networks (Balasubramanian and Feizi 2022).

arXiv 2211.14646, ICCV 2023. A network that reads nothing hidden, in no layer, can be asked what it would
answer without some of a picture. Any colour that is painted over the hidden part is a picture of its own, of
that colour and shape, and moves the answer.

    polymask pretrain vision/layer-masking --preset small --data fashion-mnist
    polymask pretrain vision/layer-masking --preset resnet50 --data folder:PATH --init timm:resnet50.tv_in1k
    polymask evaluate RUN removal

The method is the encoder, vision/layer-masked, which works in other systems too: where its stride is one
token, vision/mae and all others that leave tokens out train it, and it stays blind to what is hidden. Nothing
is trained otherwise than its host, a classifier. This system explains its answers by hiding (LIME, Ribeiro et
al. 2016, arXiv 1602.04938): the importance of each token is its coefficient in a ridge regression of the
probability of the answer on what is visible. Published are 512 masks that hide half of 14 x 14 squares, LIME
on segments of images, and a weight by distance, which is left out here. ``--host.encoder vision/vit`` leaves
tokens out instead.

``removal`` measures the claim: how accuracy falls and answers change as random parts are removed, against
grey, mean colour and noise in their place.

Shapes: B samples, N tokens, M masks, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from polymask import Batch, Host, Losses, Mask, MaskView, Step, System, Tokens, UserError
from polymask.functional import draw_mask, require_hard_mask
from polymask.protocols import Masking
from polymask.systems.base import Explains
from polymask.types import Count, Positive


class LayerMasking(Host, Explains):
    """A classifier that is asked about parts of its input.

    Args:
        host: the classifier, such as vision/supervised with an encoder that leaves hidden tokens out.
        masking: what is hidden in order to explain.
        draws: masks per explanation (paper: 512).
        ridge: of the regression, as in LIME.
    """

    def __init__(self, *, host: System, masking: Masking, draws: Count = 512, ridge: Positive = 1.0) -> None:
        super().__init__(host)
        if not hasattr(host, "logits"):
            raise UserError(
                f"layer-masking asks a classifier about parts of its input, and {type(host).__name__} is "
                "none: host vision/supervised"
            )
        if not leaves_out(host.encoder):
            raise UserError(
                f"{type(host.encoder).__name__} reads the whole grid, also what is hidden: use "
                "vision/layer-masked, or an encoder of any subset of tokens"
            )
        self.masking, self.draws, self.ridge = masking, draws, ridge
        # training draws no mask, and one that cannot be drawn would be found after it
        batch = host.example(1)
        self.draw(host.tokenizer(batch), batch, Step())

    def forward(self, batch: Batch, step: Step) -> Losses:
        losses: Losses = self.host(batch, step)
        return losses

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        """One of the masks that explanations are drawn from."""
        mask = draw_mask(self.masking, tokens, batch, step, stream=stream)
        return require_hard_mask("layer-masking", self.masking, mask)

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        """The first mask of an explanation; training hides nothing."""
        tokens = self.tokenizer(batch)
        return {"hidden to explain": MaskView(self.draw(tokens, batch, step), tokens)}

    @torch.no_grad()
    def explain(self, batch: Batch, step: Step) -> Tensor:
        """The positive coefficients of tokens as shares of the largest, float32 ``[B, *grid]``."""
        tokens = self.tokenizer(batch)
        answer_B = self.ask(tokens).argmax(dim=1)
        seen, told = [], []
        for stream in range(self.draws):
            mask = self.draw(tokens, batch, step, stream)
            chance_BK = self.ask(tokens, mask).softmax(dim=1)
            seen.append((~mask.hidden).float())
            told.append(chance_BK.gather(1, answer_B[:, None])[:, 0])
        weight_BN = ridge_weights(torch.stack(seen, 1), torch.stack(told, 1), self.ridge).relu()
        share_BN = weight_BN / weight_BN.amax(1, keepdim=True).clamp(min=1e-12)
        return share_BN.view(-1, *(tokens.grid or tokens.shape[1:]))

    def ask(self, tokens: Tokens, mask: Mask | None = None) -> Tensor:
        """Logits, of visible tokens alone, float32 ``[B, K]``."""
        host: Any = self.host
        logits: Tensor = host.logits(tokens if mask is None else without(tokens, mask))
        return logits.float()


def without(tokens: Tokens, mask: Mask) -> Tokens:
    """All tokens, of which hidden ones are as padding is: nothing reads them."""
    return dataclasses.replace(tokens, valid=mask.invert().hidden)


def leaves_out(encoder: Any) -> bool:
    """Whether an encoder reads nothing of tokens that are not valid."""
    return hasattr(encoder, "see") or not encoder.needs_grid


def ridge_weights(seen_BMN: Tensor, told_BM: Tensor, ridge: float) -> Tensor:
    """Coefficients of a ridge regression with an intercept of what was told on what was seen, ``[B, N]``."""
    x, y = (v.double() - v.double().mean(1, keepdim=True) for v in (seen_BMN, told_BM))
    eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
    gram, moment = x.transpose(1, 2) @ x + ridge * eye, x.transpose(1, 2) @ y[..., None]
    weights: Tensor = torch.linalg.solve(gram, moment)
    return weights[..., 0].float()
