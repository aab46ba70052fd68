"""Evidence about tubelets of a video: one number each, for maskings that hide by score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Tokens, UserError
from polymask.nn.teachers import Frozen
from polymask.types import Count, Fact, Place
from polymask_vision.text_guide import TEXT, Guide, open_guide


class Motion(nn.Module):
    """How much the pixels of a tubelet change from frame to frame: the mean absolute difference.

    A stand-in for motion-guided masking (MGM: Fan et al. 2023, arXiv 2308.12962), which goes by the motion
    vectors of a codec: what moves over a flat ground, or turns, is seen here by its edges alone. The first
    frame is taken to change as the second does.

    Args:
        key: entry of the batch that holds the clips.
    """

    dim = 1

    def __init__(self, *, key: str = "video") -> None:
        super().__init__()
        self.key = key

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32, in units of the data."""
        video, grid = clips("vision/motion", self.key, batch, tokens)
        if video.shape[1] < 2:
            raise UserError("vision/motion compares frames, and these clips have one: give --data.frames")
        changes = (video[:, 1:] - video[:, :-1]).abs().mean(2)
        by_frame = torch.cat([changes[:, :1], changes], dim=1)
        return F.adaptive_avg_pool3d(by_frame, grid).flatten(1)[..., None]


class TextSimilarity(nn.Module):
    """Cosine of each patch of a clip with the clip's caption, by a frozen image and text encoder (TGM).

    Its map of each frame is resized to the grid of the tubelets, bilinearly, and averaged over the frames of
    a tubelet; what was read of Fan et al. 2024 (arXiv 2408.00759) says neither. The map is of the frames as
    the system sees them, cropped and flipped.

    Args:
        guide: folder of a finished run of vision/dual; ``transformers:NAME`` for a CLIP, with
            ``--data.text_vocab NAME``; or ``random``, to try things out.
        key: entry of the batch that holds the clips.
        channels: of frames, from the tokenizer.
        mean: per channel, what was subtracted from values in [0, 1], from the data.
        std: per channel, what they were divided by, from the data.
        text: what the data says of its captions.
    """

    dim = 1

    def __init__(
        self,
        *,
        guide: Place = None,
        key: str = "video",
        channels: Fact[Count] = 3,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
        text: Fact[Mapping[str, Any] | None] = None,
    ) -> None:
        super().__init__()
        if guide is None:
            raise UserError(
                "vision/text-similarity needs an image and a text encoder that share a space: give "
                "--score.guide FOLDER, a run of vision/dual as polymask recipe vision/tgm trains it"
            )
        self.key = key
        self.guide = Frozen(open_guide(guide, channels=channels, mean=mean, std=std, text=text))

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32, in [-1, 1]."""
        video, (slots, *plane) = clips("vision/text-similarity", self.key, batch, tokens)
        if TEXT not in batch:
            raise UserError(
                "vision/text-similarity compares clips with captions, and these have none: use data that has "
                "captions, with --data.text_vocab bpe"
            )
        guide: Any = self.guide.module
        caption = guide.text(dict(batch)).float()[:, None, None, None]
        likeness = F.cosine_similarity(guide.maps(video).float(), caption, dim=-1)
        resized = F.interpolate(likeness, plane, mode="bilinear", antialias=True)
        by_slot = resized.view(len(resized), slots, -1, *plane)
        return by_slot.mean(2).flatten(1)[..., None]

    def example(self, n: int, seed: int = 0) -> Batch:
        """Entries of captions, which no tokenizer of clips gives."""
        guide: Guide = self.guide.module  # type: ignore[assignment]
        return guide.example(n, seed)


def clips(
    name: str, key: str, batch: Mapping[str, Tensor], tokens: Tokens
) -> tuple[Tensor, tuple[int, int, int]]:
    """The clips of a batch ``[B, T, C, H, W]``, and the grid of their tubelets.

    Raises:
        UserError: tokens are not tubelets.
    """
    grid = tokens.grid
    if key not in batch or grid is None or len(grid) != 3:
        raise UserError(f"{name} is about clips, cut into tubelets: use --tokenizer vision/tubelets")
    return batch[key].float(), (grid[0], grid[1], grid[2])


def heat(score_BN: Tensor, tokens: Tokens) -> Tensor:
    """Values ``[B, N, C]`` like those of the tokens, from dark at the least score of a sample to bright."""
    low, high = tokens.values.aminmax()
    least, most = score_BN.aminmax(dim=1, keepdim=True)
    share_BN = (score_BN - least) / torch.where(most > least, most - least, 1)
    return torch.lerp(low, high, share_BN.to(low.dtype))[..., None].expand_as(tokens.values)
