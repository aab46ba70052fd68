"""Scores by their closed forms, and attention by the numbers timm itself computes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Request, Run, RunConfig, Step, Tokens, UserError, build
from polymask.data import open_data
from polymask.maskings import TopScore
from polymask.report.look import mask_sheet
from polymask.training import fit
from polymask_vision.encoders import ViT
from polymask_vision.scores import Attention, Entropy, Variance
from polymask_vision.tokenizers import Patches

STEP = Step(3, 10, seed=1)


def tokens(values: Tensor) -> Tokens:
    return Tokens(values, torch.zeros(*values.shape[:2], 2))


def test_variance_is_unbiased_and_one_per_token() -> None:
    values = torch.tensor([[[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]]])
    score = Variance(in_dim=4)({}, tokens(values))
    torch.testing.assert_close(score, torch.tensor([[[14 / 3], [0.0]]]))
    assert Variance(in_dim=4).dim == 1


def test_entropy_of_known_distributions() -> None:
    even = torch.arange(16.0) / 15
    values = torch.stack([torch.zeros(16), torch.tensor([0.0, 1.0]).repeat(8), even])[None]
    score = Entropy(bins=16)({}, tokens(values))[0, :, 0]
    torch.testing.assert_close(score, torch.tensor([0.0, math.log(2), math.log(16)]))
    # brightness and contrast of the image do not matter, and neither does the image beside it
    both = torch.cat([values, 100 + 7 * values.flip(1)])
    torch.testing.assert_close(Entropy()({}, tokens(both))[1, :, 0], score.flip(0))
    assert torch.equal(Entropy()({}, tokens(torch.ones(1, 3, 16))), torch.zeros(1, 3, 1))
    with pytest.raises(UserError, match="2 bins or more"):
        Entropy(bins=1)


# ----------------------------------------------------------------------------------- attention


def images(size: tuple[int, int] = (16, 16), channels: int = 3, n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, *size, generator=generator), "id": torch.arange(n)}


def watched(attn: Any, run: Any) -> Tensor:
    """What the attention of a block comes to, by timm's own arithmetic: ``[B, heads, N, N]``."""
    found: list[Tensor] = []
    attn.fused_attn = False
    hook = attn.attn_drop.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        run()
    hook.remove()
    return found[0]


def random_timm(channels: int = 3, **options: Any) -> Attention:
    torch.manual_seed(0)
    score = Attention(model="test_vit", pretrained=False, channels=channels, **options)
    with torch.no_grad():
        for parameter in score.parameters():  # attention that is not even
            parameter.add_(0.1 * torch.randn_like(parameter))
    return score


@pytest.mark.parametrize("query", [None, "patches"])
@pytest.mark.parametrize("block", [1, 3, -1])
def test_it_is_what_a_model_of_timm_computes(block: int, query: Any) -> None:
    """The image is resized to 16 pixels a patch and normalised as the model wants it."""
    batch, seen = images((16, 24)), Patches(size=(16, 24), channels=3, patch_size=4)
    score = random_timm(block=block, query=query, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    model: Any = timm.create_model("test_vit", pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    state = {k.removeprefix("looker.module.model."): v for k, v in score.state_dict().items()}
    assert all("blocks" in name for name in model.load_state_dict(state, strict=False).missing_keys)
    big = F.interpolate(batch["image"], (64, 96), mode="bicubic", antialias=True)
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.25])[:, None, None]
    big = (big * std + mean - 0.5) / 0.5
    attention = watched(model.blocks[block - (block > 0)].attn, lambda: model(big)).mean(1)
    expected = attention[:, 0, 1:] if query is None else attention[:, 1:, 1:].mean(1)
    found = score(batch, seen(batch))
    torch.testing.assert_close(found[..., 0], expected, rtol=1e-4, atol=1e-6)
    assert found.shape == (4, 24, 1) and not found.requires_grad
    assert expected.std() > 1e-3


def test_grey_images_of_no_known_range_are_given_as_they_are() -> None:
    batch, seen = images(channels=1), Patches(size=16, channels=1, patch_size=4)
    score = random_timm(channels=1)
    model = score.looker.module.model
    big = F.interpolate(batch["image"], (64, 64), mode="bicubic", antialias=True)
    attention = watched(model.blocks[-1].attn, lambda: model.forward_features(big)).mean(1)
    torch.testing.assert_close(score(batch, seen(batch))[..., 0], attention[:, 0, 1:], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of vision/mae with relative positions, so that attention has a bias."""
    folder = tmp_path_factory.mktemp("run")
    config = {
        "system": "vision/mae",
        "preset": "tiny",
        "data": "vision/digits",
        "tokenizer.patch_size": 2,
        "encoder.positions": "relative",
        "steps": 3,
    }
    fit(Run.create(RunConfig.resolve(config), folder), progress=False)
    return folder


@pytest.mark.parametrize("query", ["class", "patches"])
def test_it_is_what_the_encoder_of_a_run_computes(run: Path, query: Any) -> None:
    encoder: Any = Run.open(run).system.encoder
    assert isinstance(encoder, ViT)
    batch, seen = images((8, 8), 1), Patches(size=8, channels=1, patch_size=2)
    found = Attention(run=str(run), channels=1, query=query)(batch, seen(batch))
    own = seen(batch)
    attention = watched(
        encoder.blocks[-1].attn, lambda: encoder(encoder.embed(own.values), own.position)
    ).mean(1)
    expected = attention[:, 0, 1:] if query == "class" else attention[:, 1:, 1:].mean(1)
    torch.testing.assert_close(found[..., 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("system", ["vision/mae", "vision/hpm"])
def test_what_is_attended_to_most_is_hidden(system: str, run: Path) -> None:
    options = {
        "preset": "tiny",
        "tokenizer.patch_size": 2,
        "masking": {"name": "core/top-score", "ratio": 0.25, "hard": 1.0},
    }
    score = {"name": "vision/attention", "run": str(run)}
    facts = {"size": (8, 8), "channels": 1}
    built: Any = build(system, facts=facts, score=score, **options)
    batch = images((8, 8), 1)
    sum(built(batch, STEP).values()).backward()
    assert all(p.grad is None for p in built.score.parameters())
    attention = built.score(batch, built.tokenizer(batch))[..., 0]
    mask = built.masks(batch, STEP)["mask"].mask.hidden
    assert torch.where(mask, attention, 1.0).amin(1).ge(torch.where(mask, 0.0, attention).amax(1)).all()
    request = Request.of(built.tokenizer(batch), batch, STEP, score=attention)
    assert torch.equal(TopScore(ratio=0.25)(request).hidden, mask)


def test_a_picture_of_masks_says_what_they_go_by(run: Path) -> None:
    data = open_data("vision/digits")
    cut = build("vision/patches", "tokenizers", facts=data.provides, patch_size=2)
    facts = {**data.provides, **cut.provides}
    score = build("vision/attention", "targets", facts=facts, run=str(run), query="patches")
    masking = build("core/top-score", "maskings")
    sight = mask_sheet(masking, data, tokenizer=cut, score=score, samples=2, draws=1, masks=8)
    assert "score vision/attention" in sight.title and "score.query patches" in sight.title
    assert set(sight.statistics["mask"].count.tolist()) == {12}


def test_models_that_cannot_be_asked_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whose attention"):
        Attention()
    with pytest.raises(UserError, match="timm cannot make 'vit_none'"):
        Attention(model="vit_none", pretrained=False)
    with pytest.raises(UserError, match="test_resnet"):
        Attention(model="test_resnet", pretrained=False)
    with pytest.raises(UserError, match="has blocks 1 to 6, and no block 7"):
        Attention(model="test_vit", pretrained=False, block=7)
    with pytest.raises(UserError, match="choose 'class' or 'patches'"):
        Attention(run=str(run), query="all")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no run folder"):
        Attention(run=str(tmp_path))
    batch, other = images((16, 16), 1), Patches(size=8, channels=1, patch_size=4)
    small = {"image": batch["image"][..., :8, :8]}
    with pytest.raises(UserError, match=r"cuts an image into \(4, 4\) patches, this system into \(2, 2\)"):
        Attention(run=str(run), channels=1)(small, other(small))
