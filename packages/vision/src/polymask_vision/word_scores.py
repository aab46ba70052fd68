"""How much each word of a caption has to do with the image: scores for maskings of words, without gradient.

Shapes: B pairs, N tokens of a caption, D width of what is matched, C width of the text encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask.protocols import Attended

Evidence = Literal["gradient", "gradient-released", "cosine", "attention"]

TINY = 1e-8


@dataclass(frozen=True, eq=False)
class Read:
    """A caption as the text encoder read it beside its image, part of one graph.

    Args:
        image: ``[B, D]``, without gradient.
        text: ``[B, N, D]``.
        blocks: what attention did in the blocks that are asked.
        last: int64 ``[B]``, the token that stands for the caption.
        content: bool ``[B, N]``, which tokens are words.
        scales: over how many neighbours queries and keys are averaged, each in turn.
    """

    image: Tensor
    text: Tensor
    blocks: Sequence[Attended]
    last: Tensor
    content: Tensor
    scales: Sequence[int] = (1, 2)

    def at_last(self, x: Tensor) -> Tensor:
        """The rows of the token that stands for the caption: ``[B, N, ...] -> [B, ...]``."""
        return x[torch.arange(len(x), device=x.device), self.last]


def gradient(read: Read) -> Tensor:
    """Gradient times value times likeness times attention, mean over blocks, what is below 0 cut (GA-DMS).

    Where one word has nearly all attention of a block, what is mixed is its value, to which the gradient of a
    cosine is at right angles: the block gives that word next to nothing.
    """
    return _gradient(read, lambda attention, importance: attention)


def gradient_released(read: Read) -> Tensor:
    """As the release of GA-DMS has it: attention is divided by the sum of importance, of any sign."""
    return _gradient(read, lambda attention, importance: importance)


def cosine(read: Read) -> Tensor:
    """Cosine of each token with the image."""
    found: Tensor = F.cosine_similarity(read.text, read.image[:, None], dim=-1)
    return found


def attention(read: Read) -> Tensor:
    """How much the token that stands for the caption attends to each, mean over heads and blocks."""
    each = [read.at_last(block.weights.mean(1)) for block in read.blocks]
    return torch.stack(each).mean(0)


EVIDENCE: Mapping[str, Callable[[Read], Tensor]] = {
    "gradient": gradient,
    "gradient-released": gradient_released,
    "cosine": cosine,
    "attention": attention,
}


def word_scores(read: Read, evidence: Evidence) -> Tensor:
    """Scores in [0, 1], float32 ``[B, N]``, 0 outside of words.

    They are stretched from the least to the largest of each caption, where those of ``gradient-released`` are
    from the least to the largest of the batch.
    """
    found = EVIDENCE[evidence](read).detach().float()
    return stretched(found, read.content, whole=evidence == "gradient-released")


def stretched(x: Tensor, content: Tensor, whole: bool = False) -> Tensor:
    """Numbers of words brought to [0, 1] within each caption, or in all of them; 0 where all are alike."""
    low, high = (x.masked_fill(~content, end) for end in (torch.inf, -torch.inf))
    least, most = (low.min(), high.max()) if whole else (low.amin(1, True), high.amax(1, True))
    span = most - least
    inside = (x - least) / torch.where(span > 0, span, 1)
    return torch.where(content & (span > 0), inside, 0)


def smoothed(x: Tensor, real: Tensor, scales: Sequence[int]) -> Tensor:
    """``[B, N, C]`` averaged over neighbours that are real, at each scale, and back: the mean over scales."""
    n, found = x.shape[1], []
    for scale in scales:
        if scale == 1:
            found.append(x)
            continue
        # padded to whole groups, so that nothing depends on how long the batch is
        both = torch.cat([torch.where(real[..., None], x, 0), real[..., None].to(x.dtype)], dim=-1)
        both = F.pad(both, (0, 0, 0, -n % scale)).transpose(1, 2)
        coarse = F.interpolate(F.avg_pool1d(both, scale), size=both.shape[-1], mode="linear")
        coarse = coarse.transpose(1, 2)[:, :n]
        found.append(coarse[..., :-1] / coarse[..., -1:].clamp(min=TINY))
    return torch.stack(found).mean(0)


def _gradient(read: Read, normaliser: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    closeness = F.cosine_similarity(read.at_last(read.text), read.image, dim=-1).sum()
    gradients = torch.autograd.grad(closeness, [block.mixed for block in read.blocks])
    place = torch.arange(read.content.shape[1], device=read.content.device)
    real = place <= read.last[:, None]
    total = torch.zeros(read.content.shape, device=read.content.device)
    for block, gradient_BNC in zip(read.blocks, gradients, strict=True):
        query, key = (smoothed(x, real, read.scales) for x in (block.query, block.key))
        likeness = F.cosine_similarity(read.at_last(query)[:, None], key, dim=-1)
        importance = (read.at_last(gradient_BNC)[:, None] * block.value).sum(-1).float()
        importance = torch.where(read.content, importance * stretched(likeness, read.content), 0)
        attends = torch.where(read.content, read.at_last(block.weights.mean(1)), 0).float()
        by = normaliser(attends, importance).sum(1, keepdim=True)
        total = total + importance * attends / torch.where(by.abs() > TINY, by, TINY)
    return torch.where(read.content, (total / len(read.blocks)).relu(), 0)
