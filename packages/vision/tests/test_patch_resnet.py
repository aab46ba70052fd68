"""Stages of timm's ResNets, patch by patch and over the image, and back to timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from polymask import UserError
from polymask.imports import Weights
from polymask_vision.export import statistics_of
from polymask_vision.patch_resnet import PatchResNet
from polymask_vision.tokenizers import Patches

NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}


def make(size: tuple[int, int] = (64, 32), patch: int = 16, **options: Any) -> tuple[Patches, PatchResNet]:
    torch.manual_seed(0)
    tokenizer = Patches(size=size, channels=3, patch_size=patch)
    facts = {key: tokenizer.provides[key] for key in ("in_dim", "grid", "patch_size", "channels")}
    encoder = PatchResNet(**{**facts, "model": "resnet18", "arguments": NARROW, **options})
    for name, module in encoder.named_modules():
        if name.endswith("bn2"):  # timm begins blocks as the identity
            torch.nn.init.ones_(module.weight)  # type: ignore[arg-type]
    return tokenizer, encoder.eval()


def of_timm(encoder: PatchResNet, name: str, **options: Any) -> Any:
    """timm's own features of a stage, with the weights of the encoder."""
    theirs = timm.create_model(name, features_only=True, out_indices=[encoder.stages], **options).eval()
    theirs.load_state_dict(encoder.net.state_dict())
    return theirs


@pytest.mark.parametrize(("patch", "downsample"), [(32, 1), (16, 1), (8, 2)])
def test_over_the_image_it_is_timms_stage_averaged_to_the_grid_of_tokens(patch: int, downsample: int) -> None:
    tokenizer, encoder = make(patch=patch)
    batch = tokenizer.example(2)
    expected = of_timm(encoder, "resnet18", **NARROW)(batch["image"])[0]
    if patch == 32:
        expected = expected.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean(dim=(3, 5))
    tokens = tokenizer(batch)
    out = encoder(encoder.embed(tokens.values), tokens.position)
    torch.testing.assert_close(out, expected.flatten(2).transpose(1, 2))
    assert encoder.downsample == downsample and encoder.out_dim == 24


@pytest.mark.parametrize("patch", [32, 8])
def test_a_patch_is_an_image_of_its_own(patch: int) -> None:
    tokenizer, encoder = make(patch=patch)
    batch = tokenizer.example(2)
    values = tokenizer(batch).values
    cut = batch["image"].unfold(2, patch, patch).unfold(3, patch, patch)
    cut = cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    expected = of_timm(encoder, "resnet18", **NARROW)(cut)[0].mean(dim=(2, 3)).view(2, -1, 24)
    torch.testing.assert_close(encoder.of_patches(values), expected)
    some = encoder.of_patches(values[:, 1:])
    torch.testing.assert_close(some, expected[:, 1:])


def test_no_pixel_of_another_patch_reaches_a_patch_but_all_reach_the_image() -> None:
    tokenizer, encoder = make((32, 32), 8, small_stem=True)
    values = tokenizer(tokenizer.example(1)).values.requires_grad_()
    reach = torch.autograd.grad(encoder.of_patches(values)[0, 3].sum(), values)[0].abs().sum(-1)[0]
    assert reach[3] > 0 and reach.count_nonzero() == 1
    position = tokenizer(tokenizer.example(1)).position
    assert torch.autograd.grad(encoder(values, position)[0, 5].sum(), values)[0].abs().sum(-1).min() > 0


def test_the_default_is_three_stages_of_resnet_50() -> None:
    with torch.device("meta"):
        ours, theirs = PatchResNet(), timm.create_model("resnet50", features_only=True, out_indices=[3])
    shapes = [{n: p.shape for n, p in net.state_dict().items()} for net in (ours.net, theirs)]
    assert shapes[0] == shapes[1] and ours.out_dim == 1024 and ours.downsample == 1 and ours.pool == 2


@pytest.mark.parametrize(
    ("model", "arguments"),
    [("resnet18", NARROW), ("test_resnet", {}), ("resnetv2_18", NARROW), ("resnetv2_18d", NARROW)],
)
def test_timm_loads_an_export_and_its_stages_say_the_same(
    model: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer, encoder = make((64, 64), model=model, arguments=arguments)
    torch.manual_seed(1)
    facts = {**tokenizer.provides, "mean": [0.5] * 3, "std": [0.2] * 3}
    encoder.exports()["timm"](facts, tmp_path)
    file = tmp_path / "model.safetensors"
    theirs = timm.create_model(model, num_classes=0, checkpoint_path=str(file), **arguments).eval()
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    batch = tokenizer.example(2)
    tokens = tokenizer(batch)
    mine = encoder(tokens.values, tokens.position)
    for net in (theirs, again):
        found = net.forward_intermediates(batch["image"], indices=[3], intermediates_only=True)[0]
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), mine, rtol=0, atol=1e-5)
    config = again.pretrained_cfg
    assert (list(config["mean"]), list(config["std"])) == statistics_of(facts)


def test_further_stages_are_drawn_anew_and_those_too_many_left_out() -> None:
    _, three = make((64, 64))
    torch.manual_seed(1)
    _, four = make((64, 64), stages=4)
    own = four.state_dict()
    adapted = four.adapt(Weights(three.state_dict()), {})
    assert adapted.changes == ("stages after 3 are drawn anew",) and adapted.state.keys() == own.keys()
    known = three.state_dict()
    assert all(torch.equal(x, known.get(name, own[name])) for name, x in adapted.state.items())
    back = three.adapt(Weights(own), {})
    assert back.state.keys() == known.keys() and not back.changes
    assert back.unused == tuple(name for name in own if "layer4" in name)


@pytest.mark.parametrize("small_stem", [False, True])
def test_networks_that_norm_before_are_kept_up_to_a_stage(small_stem: bool) -> None:
    tokenizer, encoder = make((32, 32), 8, model="resnetv2_18", small_stem=small_stem, stages=2)
    names = {name.split(".")[1] for name, _ in encoder.named_parameters()}
    assert names == {"stem", "stages"} and len(encoder.blocks) == len(encoder.stage_modules) == 2
    tokens = tokenizer(tokenizer.example(2))
    loss = encoder.of_patches(tokens.values).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert [encoder._stage_of(f"net.{name}") for name in ("stem.conv.weight", "stages.1.blocks.0.x")] == [
        0,
        2,
    ]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="divides 16"):
        make((48, 48), 24)
    with pytest.raises(UserError, match="an image size that both divide"):
        make((24, 24), 8)
    with pytest.raises(UserError, match="use vision/patches"):
        PatchResNet(in_dim=10, grid=(4, 4), patch_size=4, channels=3)
    with pytest.raises(UserError, match="has 4 stages"):
        make(stages=5)
    with pytest.raises(UserError, match="is no ResNet"):
        make(model="test_vit", arguments=None)
    with pytest.raises(UserError, match="cannot build 'resnet'"):
        make(model="resnet", arguments=None)
    with pytest.raises(UserError, match="small stem"):
        make((32, 32), 8, small_stem=True)[1].exports()["timm"]({}, tmp_path)
    tokenizer, encoder = make()
    tokens = tokenizer(tokenizer.example(2))
    with pytest.raises(ValueError, match="whole grids"):
        encoder(tokens.values[:, 1:], tokens.position[:, 1:])
