"""Our ResNet is timm's on the picture that its tokens make."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from polymask import UserError
from polymask_vision.resnet import ResNet
from polymask_vision.tokenizers import Patches


def make(size: tuple[int, int] = (64, 32), patch: int = 16, **options: Any) -> tuple[Patches, ResNet]:
    torch.manual_seed(0)
    tokenizer = Patches(size=size, channels=3, patch_size=patch)
    facts = {key: tokenizer.provides[key] for key in ("in_dim", "grid", "patch_size", "channels")}
    return tokenizer, ResNet(**{**facts, **options})


def run(tokenizer: Patches, encoder: ResNet, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    tokens = tokenizer(batch)
    out: torch.Tensor = encoder(encoder.embed(tokens.values), tokens.position)
    return out


@pytest.mark.parametrize("patch", [32, 16, 8])
def test_equals_timm(patch: int) -> None:
    tokenizer, encoder = make(patch=patch, depths=(2, 2, 2, 2), bottleneck=False)
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    theirs.load_state_dict(encoder.net.state_dict())
    batch = tokenizer.example(2)
    expected = theirs.forward_features(batch["image"]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(run(tokenizer, encoder.eval(), batch), expected)
    assert encoder.out_dim == 512 and encoder.downsample == 32 // patch


def test_the_default_is_resnet_50() -> None:
    with torch.device("meta"):
        ours, theirs = ResNet(), timm.create_model("resnet50", num_classes=0)
    shapes = [{n: p.shape for n, p in m.state_dict().items()} for m in (ours.net, theirs)]
    assert shapes[0] == shapes[1] and ours.out_dim == 2048 and ours.downsample == 1


def test_small_pictures_keep_their_resolution_in_the_stem() -> None:
    tokenizer, encoder = make((28, 28), 4, depths=(1, 1, 1), width=8, bottleneck=False, small_stem=True)
    assert run(tokenizer, encoder, tokenizer.example(2)).shape == (2, 49, 32)
    sizes = []
    encoder.net.layer1.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[2:]))
    run(tokenizer, encoder, tokenizer.example(1))
    assert sizes == [(28, 28)]


def test_every_parameter_gets_gradient() -> None:
    tokenizer, encoder = make((16, 16), 4, depths=(1, 1, 1), width=8, bottleneck=False, small_stem=True)
    run(tokenizer, encoder, tokenizer.example(4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="divides 32"):
        make((48, 48), 16)
    with pytest.raises(UserError, match="one output for 4 x 4 pixels"):
        make((16, 16), 8, depths=(1, 1, 1), small_stem=True)
    with pytest.raises(UserError, match="use vision/patches"):
        ResNet(in_dim=10, grid=(4, 4), patch_size=4, channels=3)
    tokenizer, encoder = make()
    tokens = tokenizer(tokenizer.example(2))
    with pytest.raises(ValueError, match="whole grids"):
        encoder(tokens.values[:, 1:], tokens.position[:, 1:])
