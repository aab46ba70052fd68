"""Backbones of timm are timm's on our tokens, learn by simmim and mfm, and go back to timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from polymask import Step, UserError, build
from polymask.export import export
from polymask.imports import load_initial
from polymask_vision.backbones import Backbone
from polymask_vision.tokenizers import Patches

KINDS: dict[str, dict[str, Any]] = {
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 32], "patch_size": 2},
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "swin_tiny_patch4_window7_224": {
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [1, 1, 1],
        "num_heads": [1, 2, 4],
        "window_size": 4,
    },
    "hiera_tiny_224": {"embed_dim": 16, "num_heads": 1, "stages": [1, 1, 1, 1]},
}
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
VITS: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"reg_tokens": 3},
    "registers without positions": {"reg_tokens": 3, "no_embed_class": True},
    "none": {"class_token": False, "global_pool": "avg"},
    "CLIP's": {"pre_norm": True, "qk_norm": True, "init_values": 0.1},
}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
OTHER = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 0.5, 0.4)}
every_kind = pytest.mark.parametrize("kind", KINDS)


def options(kind: str) -> dict[str, Any]:
    arguments = KINDS.get(kind.replace("34", "18"), VIT)
    return {"encoder": "vision/timm", "encoder.model": kind, "encoder.arguments": arguments}


def make(kind: str, system: str = "vision/simmim", size: int = 64, patch: int = 8) -> Any:
    torch.manual_seed(0)
    more = {"masking.cell": 1} if system == "vision/simmim" else {}
    facts = {"size": (size, size), "channels": 3, "mean": MEAN, "std": STD}
    return build(system, facts=facts, **{"tokenizer.patch_size": patch}, **options(kind), **more)


def shake(model: Any) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def sequence(x: Tensor) -> Tensor:
    """What timm's models return as tokens in row-major order."""
    return x if x.dim() == 3 else x.flatten(1, 2) if x.shape[1] == x.shape[2] else x.flatten(2).mT


def pixels(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def features(system: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        tokens = system.encode({"image": x})
    values: Tensor = tokens.values
    return values if tokens.prefix is None else torch.cat([tokens.prefix, values], dim=1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@every_kind
@pytest.mark.parametrize("system", ["vision/simmim", "vision/mfm"])
@pytest.mark.slow
def test_a_whole_grid_learns(kind: str, system: str) -> None:
    model = make(kind, system)
    assert model.encoder.needs_grid
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch, losses = {"image": normalised(pixels(), MEAN, STD), "id": torch.arange(2)}, []
    for _ in range(16):
        loss = sum(model(batch, Step(0, 1)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    trained = [p for p in model.encoder.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@every_kind
def test_a_whole_grid_is_timms_and_goes_back(kind: str, tmp_path: Path) -> None:
    model = shake(make(kind))
    x = normalised(pixels(), MEAN, STD)
    close(features(model, x), sequence(model.encoder.net.forward_features(x)))
    export(model, "timm", tmp_path, facts={"mean": MEAN, "std": STD})
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    close(features(model, x), sequence(theirs.forward_features(x)))

    # begun with these weights on data of another normalisation, and exported again
    new = make(kind).eval()
    report = load_initial(new, f"timm:local-dir:{tmp_path}", facts=OTHER)
    close(features(new, normalised(pixels(), **OTHER)), features(model, x))
    assert report.changes == ("normalisation: the data's is converted to that of the model",)
    export(new, "timm", tmp_path / "again", facts=OTHER)
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    assert again.pretrained_cfg["mean"] == pytest.approx(MEAN)
    assert again.pretrained_cfg["std"] == pytest.approx(STD)
    close(sequence(again.forward_features(x)), features(model, x))
    # and from our own export, whose facts are those of its data
    export(new, "safetensors", tmp_path / "ours", facts=OTHER)
    third = make(kind).eval()
    load_initial(third, tmp_path / "ours", facts={"mean": MEAN, "std": STD})
    close(features(third, x), features(model, x))


@pytest.mark.parametrize("kind", VITS)
def test_a_vit_is_timms_on_any_subset(kind: str) -> None:
    torch.manual_seed(0)
    tokenizer = Patches(size=32, channels=3, patch_size=8)
    facts = {name: tokenizer.provides[name] for name in ("in_dim", "grid", "patch_size", "channels")}
    encoder: Any = Backbone(**facts, model="vit_tiny_patch16_224", arguments={**VIT, **VITS[kind]})
    assert not encoder.needs_grid
    shake(encoder)
    batch = tokenizer.example(2)
    tokens = tokenizer(batch)
    whole = encoder(encoder.embed(tokens.values), tokens.position)
    close(whole, encoder.net.forward_features(batch["image"]))
    assert encoder.prefix == encoder.net.num_prefix_tokens

    # a subset in another order: what timm gives where the others are cut out after positions
    kept = torch.tensor([9, 2, 14])
    seen = encoder(encoder.embed(tokens.values[:, kept]), tokens.position[:, kept])
    r = encoder.prefix
    x = encoder.net._pos_embed(encoder.net.patch_embed(batch["image"]))
    x = torch.cat([x[:, :r], x[:, r:][:, kept]], dim=1)
    expected = encoder.net.norm(encoder.net.blocks(encoder.net.norm_pre(x)))
    close(seen, expected)
    padded = torch.cat([kept, torch.tensor([0])])
    valid = torch.tensor([True, True, True, False]).expand(2, 4)
    one = encoder(encoder.embed(tokens.values[:, padded]), tokens.position[:, padded], valid)
    close(one[:, :-1], seen)


def test_a_vit_with_registers_begins_with_weights(tmp_path: Path) -> None:
    arguments = {**VIT, "reg_tokens": 3}
    chosen = {"encoder": "vision/timm", "encoder.model": "vit_tiny_patch16_224"}
    facts = {"size": (64, 64), "channels": 3}
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **arguments)
    shake(model)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": MEAN, "std": STD}
    timm.models.save_for_hf(model, tmp_path, model_config={}, model_args={"img_size": 32, **arguments})
    system = build(
        "vision/mae",
        preset="tiny",
        facts=facts,
        **{"tokenizer.patch_size": 8, **chosen, "encoder.arguments": arguments},
    ).eval()
    load_initial(system, f"timm:local-dir:{tmp_path}", facts={"mean": MEAN, "std": STD})
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=64).eval()
    x = normalised(pixels(), MEAN, STD)
    close(features(system, x), theirs.forward_features(x))


@pytest.mark.parametrize(
    ("kind", "size", "patch", "says"),
    [
        ("no_such_model", 64, 8, "timm cannot build 'no_such_model'"),
        ("resnet18", 48, 8, "choose a --tokenizer.patch_size that divides"),
        ("vit_tiny_patch16_224", 64, 16, "--tokenizer.patch_size 8"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, size: int, patch: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(kind, size=size, patch=patch)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    export(make("resnet18"), "timm", tmp_path, facts={"mean": MEAN, "std": STD})
    with pytest.raises(UserError, match="--encoder.model resnet18"):
        load_initial(make("resnet34"), f"timm:local-dir:{tmp_path}", facts=OTHER)


def test_what_leaves_tokens_out_takes_no_whole_grid() -> None:
    with pytest.raises(UserError, match="whole grid"):
        make("resnet18", "vision/mae")


def test_a_file_of_timms_own_names_is_taken_without_its_classifier(tmp_path: Path) -> None:
    new = make("resnet18").eval()
    theirs: Any = timm.create_model("resnet18", **KINDS["resnet18"], num_classes=10).eval()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    report = load_initial(new, tmp_path / "weights.safetensors", facts=OTHER)
    assert sorted(report.unused) == ["fc.bias", "fc.weight"]
    x = normalised(pixels(), **OTHER)
    close(features(new, x), sequence(theirs.forward_features(x)))
