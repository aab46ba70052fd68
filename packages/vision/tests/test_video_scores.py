"""Scores of tubelets: what moves, and what the caption speaks of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Request, Step, Tokens, UserError, build
from polymask.maskings import TopScore
from polymask.nn.teachers import Frozen
from polymask_vision.text_guide import Guide, RandomGuide
from polymask_vision.tokenizers import Patches, Tubelets
from polymask_vision.video_scores import Motion, TextSimilarity, heat

COLOURS = ("red", "green", "blue")


class ByColour(Guide):
    """Captions are ids of colours; patches of ``side`` pixels are their mean colour."""

    dim = 3

    def __init__(self, side: int = 4) -> None:
        super().__init__()
        self.side = side

    def maps(self, video: Tensor) -> Tensor:
        found = F.avg_pool2d(video.flatten(0, 1), self.side)
        return found.unflatten(0, video.shape[:2]).movedim(2, -1)

    def text(self, batch: Batch) -> Tensor:
        return F.one_hot(batch["text"][:, 0], 3).float()


def clips(n: int = 6, frames: int = 8, size: int = 16) -> Tensor:
    """Noise with a square of each colour, wherever it is."""
    generator = torch.Generator().manual_seed(0)
    video = 0.1 * torch.rand(n, frames, 3, size, size, generator=generator)
    for row in range(n):
        for colour in range(3):
            y, x = (4 * (row + 2 * colour) % size, 4 * colour)
            video[row, :, colour, y : y + 4, x : x + 4] += 1
    return video


def similarity(guide: Guide) -> TextSimilarity:
    score = TextSimilarity(guide="random")
    score.guide = Frozen(guide)
    return score


def tubelets(frames: int = 8, size: int = 16, patch: int = 4) -> Tubelets:
    return Tubelets(frames=frames, size=size, channels=3, patch_size=patch)


def captioned(video: Tensor, colour: int | None = None) -> Batch:
    n = len(video)
    text = torch.arange(n) % 3 if colour is None else torch.full((n,), colour)
    return {"video": video, "text": text[:, None], "id": torch.arange(n)}


def hidden(score: Tensor, tokens: Tokens, **options: Any) -> Tensor:
    request = Request(
        torch.arange(len(score)), score.shape[1], Step(1, 10, 0), score=score[..., 0], grid=tokens.grid
    )
    return TopScore(per_axis=0, **options)(request).hidden


def test_what_the_caption_says_is_hidden_and_what_another_says_is_not() -> None:
    tokenizer = tubelets()
    for colour in range(3):
        batch = captioned(clips(), colour)
        tokens = tokenizer(batch)
        mask = hidden(similarity(ByColour())(batch, tokens), tokens, ratio=1 / 16)
        shown = tokenizer.inverse(mask[..., None] * tokens.values)
        # one tubelet of 4 x 4 pixels at each time: the square of that colour
        assert (mask.view(6, 4, 16).sum(2) == 1).all()
        assert (shown.sum((0, 1, 3, 4)) / 16 / 8 / 6)[colour] > 1 and shown.sum(
            (0, 1, 3, 4)
        ).argmax() == colour
        least = hidden(similarity(ByColour())(batch, tokens), tokens, ratio=0.5, largest=False)
        assert not (mask & least).any()


def test_scores_are_cosines_of_patches_resized_and_averaged_over_the_frames_of_a_tubelet() -> None:
    torch.manual_seed(0)
    guide, batch = RandomGuide(3), captioned(torch.randn(3, 8, 3, 16, 16))
    tokens = tubelets(patch=2)(batch)  # 8 x 8 tubelets, 4 x 4 patches of the guide
    maps, text = guide.maps(batch["video"]), guide.text(batch)
    unit = maps / maps.norm(dim=-1, keepdim=True)
    cosine = torch.einsum("bthwd,bd->bthw", unit, text / text.norm(dim=1, keepdim=True))
    finer = F.interpolate(cosine, (8, 8), mode="bilinear")
    expected = (finer[:, 0::2] + finer[:, 1::2]) / 2
    found = similarity(guide)(batch, tokens)
    torch.testing.assert_close(found, expected.flatten(1)[..., None])
    same = tubelets(patch=4)(batch)
    expected = (cosine[:, 0::2] + cosine[:, 1::2]) / 2
    torch.testing.assert_close(similarity(guide)(batch, same), expected.flatten(1)[..., None])


def test_the_mask_follows_the_clip_when_it_is_flipped_or_moved() -> None:
    tokenizer, score = tubelets(), similarity(ByColour())
    for change in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.roll((4, 8), (-2, -1))):
        masks = []
        for video in (clips(), change(clips())):
            batch = captioned(video)
            tokens = tokenizer(batch)
            masks.append(hidden(score(batch, tokens), tokens, ratio=0.6).view(6, 4, 4, 4))
        moved = change(masks[0].repeat_interleave(4, 2).repeat_interleave(4, 3))[:, :, ::4, ::4]
        assert torch.equal(moved, masks[1])


def test_motion_is_the_mean_difference_of_frames_and_still_ground_has_none() -> None:
    video = torch.zeros(1, 4, 3, 8, 8)
    for t in range(4):
        video[0, t, :, 0:4, t : t + 2] = 1  # moves by one pixel: one column comes, one goes
    video[..., 4:, :] = 5.0
    tokenizer = Tubelets(frames=4, size=8, channels=3, patch_size=4)
    found = Motion()({"video": video}, tokenizer({"video": video})).view(2, 2, 2)
    assert not found[:, 1].any()
    # times 0 and 1: both the change to frame 1, columns 0 and 2; then columns 1 and 3, and 2 and 4
    torch.testing.assert_close(found[:, 0], torch.tensor([[2 / 4, 0.0], [3 / 8, 1 / 8]]))
    # of colours the mean
    red = {"film": torch.cat([3 * video[:, :, :1], 0 * video[:, :, 1:]], dim=2)}
    tokens = tokenizer({"video": video})
    torch.testing.assert_close(Motion(key="film")(red, tokens), found.flatten()[None, :, None])
    one = Tubelets(frames=1, size=8, channels=3, patch_size=4, tubelet=1)
    still = {"video": video[:, :1]}
    with pytest.raises(UserError, match="compares frames"):
        Motion()(still, one(still))


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    batch = {"image": torch.randn(2, 3, 16, 16)}
    patches = Patches(size=16, channels=3, patch_size=4)(batch)
    for score in (Motion(), similarity(ByColour())):
        with pytest.raises(UserError, match="--tokenizer vision/tubelets"):
            score(batch, patches)
    silent = {"video": clips()}
    with pytest.raises(UserError, match="these have none"):
        similarity(ByColour())(silent, tubelets()(silent))
    with pytest.raises(UserError, match="give --score.guide"):
        TextSimilarity()
    with pytest.raises(UserError, match="cannot load CLIP"):
        TextSimilarity(guide=f"transformers:{tmp_path}")


def test_text_guides_the_masks_of_other_systems() -> None:
    options = {
        "preset": "tiny",
        "tokenizer": {"name": "vision/tubelets", "patch_size": 4},
        "encoder.dim": 24,
        "decoder_dim": 24,
        "masking": {"name": "core/top-score", "ratio": 0.5, "per_axis": 0},
        "score": {"name": "vision/text-similarity", "guide": "random"},
    }
    system: Any = build("vision/mae", facts={"frames": 4, "size": 16, "channels": 3}, **options)
    batch = system.example(4)
    assert set(batch) >= {"video", "text"}
    one, other = (
        system.masks({**batch, "text": x}, Step(1, 10, 0))["mask"].mask
        for x in (batch["text"], batch["text"] + 1)
    )
    assert (one.hidden != other.hidden).any() and (one.hidden.view(4, 2, 16).sum(2) == 8).all()


def test_heat_goes_from_dark_to_bright_in_each_sample() -> None:
    tokens = tubelets()({"video": clips(2)})
    score = torch.rand(2, tokens.shape[1]) * torch.tensor([[1.0], [100.0]])
    shown = heat(score, tokens)
    low, high = tokens.values.aminmax()
    for row in range(2):
        assert (shown[row, score[row].argmax()] == high).all() and (
            shown[row, score[row].argmin()] == low
        ).all()
    assert heat(torch.zeros_like(score), tokens).isfinite().all()
