"""Evidence about patches: one number each, for maskings that hide by score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.nn.teachers import Frozen
from polymask.types import Count, Fact, Place
from polymask_vision.networks import open_network


class Variance(nn.Module):
    """Pixel variance of each patch: a score for maskings that hide by score, as contrast does.

    Args:
        in_dim: numbers per token, from the tokenizer.
    """

    dim = 1

    def __init__(self, *, in_dim: Fact[Count] = 768) -> None:
        super().__init__()

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32."""
        return tokens.values.float().var(dim=-1, keepdim=True)


class Entropy(nn.Module):
    """Entropy of the pixel values of each patch: a score for maskings that hide what is busy.

    Values are sorted into ``bins`` equal steps between the darkest and the brightest of the image.

    Args:
        bins: how many steps.
    """

    dim = 1

    def __init__(self, *, bins: Count = 16) -> None:
        super().__init__()
        if bins < 2:
            raise UserError(f"entropy needs 2 bins or more, got {bins}")
        self.bins = bins

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32, in nats."""
        x = tokens.values.float()
        low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
        share = (x - low) / (high - low).clamp(min=1e-12)
        step = (share * self.bins).long().clamp(max=self.bins - 1)
        counts = x.new_zeros(*x.shape[:2], self.bins).scatter_add(2, step, torch.ones_like(x))
        entropy: Tensor = torch.special.entr(counts / x.shape[2]).sum(-1, keepdim=True)
        return entropy


class Attention(nn.Module):
    """How much a frozen Transformer attends to each patch of the whole image: a score to hide by.

    Its class token's attention, or what all patches give on average; the mean over heads of one block.

    Args:
        run: folder of a finished run whose encoder looks; it must cut images into the same patches.
        model: a Vision Transformer of timm in its place, by name, or ``local-dir:FOLDER``; or
            ``transformers:NAME``, of the hub or a folder. It sees images resized so that they have one of its
            patches for each of theirs.
        pretrained: load the weights of ``model``; False for random ones, to try things out.
        block: which block's attention, from 1, or from the last, which is -1.
        query: whose attention: that of the ``"class"`` token or of all ``"patches"``; None for the class
            token where there is one. One that no loss has taught, as in a run of vision/mae, tells little.
        channels: image channels, from the tokenizer.
        mean: per channel, what was subtracted from values in [0, 1], from the data.
        std: per channel, what they were divided by, from the data.
        key: entry of the batch that holds the images.
    """

    dim = 1

    def __init__(
        self,
        *,
        run: Place = None,
        model: str | None = None,
        pretrained: bool = True,
        block: int = -1,
        query: Literal["class", "patches"] | None = None,
        channels: Fact[Count] = 3,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
        key: str = "image",
    ) -> None:
        super().__init__()
        if (run is None) == (model is None):
            raise UserError(
                "whose attention? give --score.run FOLDER or --score.model NAME, one of them, beside --score "
                "vision/attention"
            )
        if query not in (None, "class", "patches"):
            raise UserError(f"query={query!r}: choose 'class' or 'patches'")
        looker = open_network(
            run, model, pretrained=pretrained, channels=channels, mean=mean, std=std, key=key
        )
        if query == "class" and not looker.prefix:
            raise UserError(f"{looker.name} has no class token: use query patches")
        self.of_class = query == "class" or (query is None and looker.prefix > 0)
        del looker.blocks[looker.block_number(block) :]  # what comes behind is not run
        self.looker = Frozen(looker)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32, in [0, 1]."""
        network: Any = self.looker.module
        last = len(network.blocks)
        (attention,) = self.looker(batch, tokens, attention=(last,), run=last - 1).attention
        paid: Tensor = network.paid(attention, self.of_class)
        return paid[..., None]
