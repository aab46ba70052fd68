"""An encoder begins with the weights of timm, transformers or ours, and gives their features."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import transformers
from torch import Tensor, nn

from polymask import Run, RunConfig, UserError, build
from polymask.export import export, load, save_json
from polymask.imports import load_initial
from polymask.training import fit

VIT = {"encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 4, "encoder.positions": "learned"}
SWIN = {
    "encoder": "vision/swin",
    "encoder.dim": 16,
    "encoder.depths": (2, 1),
    "encoder.heads": (2, 4),
    "encoder.window": 4,
}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def make(
    kind: dict[str, Any] = VIT, *, size: int = 32, channels: int = 3, patch: int = 8, **more: Any
) -> Any:
    """A system, its encoder drawn anew."""
    torch.manual_seed(1)
    options = {"masking.cell": 1, "tokenizer.patch_size": patch, **kind, **more}
    return build("vision/simmim", facts={"size": (size, size), "channels": channels}, **options).eval()


def facts(mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> dict[str, Any]:
    return {"mean": mean, "std": std}


def shake(model: Any) -> Any:
    """Every weight off its initial value, as training would."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def pixels(size: int = 32, channels: int = 3) -> Tensor:
    """Images in [0, 1]."""
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def features(system: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        tokens = system.encode({"image": x})
    values: Tensor = tokens.values
    return values if tokens.prefix is None else torch.cat([tokens.prefix, values], dim=1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def timm_vit(**more: Any) -> Any:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
    return shake(timm.create_model("vit_tiny_patch16_224", **{**sizes, **more}))


def save_timm(model: Any, folder: Path, mean: Any = MEAN, std: Any = STD) -> str:
    """As timm writes a model for the hub."""
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": mean, "std": std}
    arguments = {"img_size": model.patch_embed.img_size, "patch_size": model.patch_embed.patch_size[0]}
    extra = {name: getattr(model, name, None) for name in ("embed_dim",)}
    model_args = {**arguments, **extra, "in_chans": model.patch_embed.proj.in_channels, **model.sizes}
    timm.models.save_for_hf(model, folder, model_config={}, model_args=model_args)
    return f"timm:local-dir:{folder}"


@pytest.fixture
def timm_source(tmp_path: Path) -> tuple[Any, str]:
    model = timm_vit()
    model.sizes = {"depth": 2, "num_heads": 4}
    return model, save_timm(model, tmp_path / "vit")


def test_a_vit_of_timm(timm_source: tuple[Any, str]) -> None:
    model, source = timm_source
    system = make()
    report = load_initial(system, source, facts=facts())
    x = normalised(pixels(), MEAN, STD)
    close(features(system, x), model.forward_features(x))
    assert set(report.unused) == {"head.weight", "head.bias"}
    assert len(report.loaded) == len(system.encoder.state_dict()) and not report.changes


@pytest.mark.parametrize("own", [((0.1, 0.2, 0.3), (1.0, 0.5, 0.4)), ((0.4,), (0.2,))], ids=["3", "grey"])
def test_other_normalisation_and_grey_images_are_exact(timm_source: tuple[Any, str], own: Any) -> None:
    model, source = timm_source
    x, channels = pixels(channels=len(own[0])), len(own[0])
    system = make(channels=channels)
    report = load_initial(system, source, facts=facts(*own))
    expected = model.forward_features(normalised(x.expand(-1, 3, -1, -1), MEAN, STD))
    close(features(system, normalised(x, *own)), expected)
    assert "normalisation" in report.changes[-1]
    assert ("channels: kernels of 3 converted to 1" in report.changes) == (channels == 1)


def test_positions_and_patches_of_another_size(timm_source: tuple[Any, str]) -> None:
    _, source = timm_source
    system = make(size=64, patch=16)
    report = load_initial(system, source, facts=facts())
    assert report.changes == ("patches: kernels of 8 x 8 pixels resampled to 16 x 16",)
    system = make(size=48)
    report = load_initial(system, source, facts=facts())
    assert report.changes == ("positions: 4 x 4 interpolated to 6 x 6",)
    theirs = timm.create_model(source.removeprefix("timm:"), pretrained=True, img_size=48).eval()
    x = normalised(pixels(48), MEAN, STD)
    close(features(system, x), theirs.forward_features(x))


def test_a_resampled_patch_sees_a_large_one_as_the_small_one(timm_source: tuple[Any, str]) -> None:
    _, source = timm_source
    small, large = make(), make(size=64, patch=16)
    for system in (small, large):
        load_initial(system, source, facts=facts())
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    shown = [nn.functional.interpolate(x, scale_factor=scale, mode="bicubic") for scale in (8, 16)]
    one, two = features(small, shown[0]), features(large, shown[1])
    assert (one - two).norm() < 0.1 * one.norm()


def test_fixed_positions_take_those_of_the_model(timm_source: tuple[Any, str]) -> None:
    model, source = timm_source
    system = make({**VIT, "encoder.positions": "sincos"})
    report = load_initial(system, source, facts=facts())
    x = normalised(pixels(), MEAN, STD)
    close(features(system, x), model.forward_features(x))
    assert "positions: those of the model, fixed" in report.changes[0]
    assert not system.encoder.vit.pos_embed.requires_grad


def test_layer_scale(tmp_path: Path) -> None:
    model = timm_vit(init_values=0.1)
    model.sizes = {"depth": 2, "num_heads": 4, "init_values": 0.1}
    source = save_timm(model, tmp_path / "vit")
    with pytest.raises(UserError, match="need --encoder.layer_scale 1e-05"):
        load_initial(make(), source, facts=facts())
    system = make({**VIT, "encoder.layer_scale": 1.0})
    load_initial(system, source, facts=facts())
    x = normalised(pixels(), MEAN, STD)
    close(features(system, x), model.forward_features(x))


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({"encoder.dim": 64}, "--encoder.dim 32"),
        ({"encoder.depth": 3}, "--encoder.depth 2"),
        ({"encoder.heads": 2}, "--encoder.heads 4"),
        ({"encoder.dim": 64, "encoder.heads": 2}, "--encoder.heads 4 --encoder.dim 32"),
        ({"encoder.mlp_ratio": 2.0}, "--encoder.mlp_ratio 4"),
        ({"encoder.class_token": False}, "--encoder.class_token true"),
        ({"encoder.layer_scale": 0.1}, "--encoder.layer_scale none"),
        ({"encoder.positions": "none"}, "vit.pos_embed only in the source"),
        ({"encoder.positions": "relative"}, "relative.bias only in the encoder"),
    ],
)
def test_other_sizes_are_refused(timm_source: tuple[Any, str], options: dict[str, Any], needs: str) -> None:
    system = make({**VIT, **options})
    before = {name: value.clone() for name, value in system.state_dict().items()}
    with pytest.raises(UserError, match=needs):
        load_initial(system, timm_source[1], facts=facts())
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


@pytest.mark.parametrize("more", [{"reg_tokens": 2}, {"qk_norm": True}, {"pre_norm": True}])
def test_what_our_vit_lacks_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    model = timm_vit(**more)
    model.sizes = {"depth": 2, "num_heads": 4, **more}
    with pytest.raises(UserError):
        load_initial(make(), save_timm(model, tmp_path / "vit"), facts=facts())


@pytest.mark.parametrize(
    ("name", "sizes", "says"),
    [
        ("ConvNext", {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2}, "is a ConvNextModel"),
        ("Bert", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}, "is a BertModel"),
        ("DeiT", {"intermediate_size": 128}, "have a distillation token"),
    ],
)
def test_other_kinds_of_transformers_are_refused(
    tmp_path: Path, name: str, sizes: dict[str, Any], says: str
) -> None:
    config = getattr(transformers, f"{name}Config")(**(SMALL if name == "DeiT" else {}), **sizes)
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=says):
        load_initial(make(), f"transformers:{tmp_path}", facts=facts())


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize("name", ["ViT", "Dinov2"])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_a_model_of_transformers(
    tmp_path: Path, name: str, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inner = {"intermediate_size": 128} if name == "ViT" else {}
    config = getattr(transformers, f"{name}Config")(**SMALL, **inner, layer_norm_eps=1e-6)
    model = shake(getattr(transformers, f"{name}ForImageClassification")(config))
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=list(MEAN), image_std=list(STD)).save_pretrained(tmp_path)
    logging.getLogger("transformers").addHandler(caplog.handler)
    system = make(VIT if name == "ViT" else {**VIT, "encoder.layer_scale": 1.0})
    source = f"transformers:{tmp_path}" if whole else str(tmp_path / "model.safetensors")
    report = load_initial(system, source, facts=facts((0.1, 0.2, 0.3), (1.0, 0.5, 0.4)) if whole else facts())
    x = normalised(pixels(), MEAN, STD)
    base = getattr(model, model.base_model_prefix)
    expected = base(x).last_hidden_state
    mine = normalised(pixels(), (0.1, 0.2, 0.3), (1.0, 0.5, 0.4)) if whole else x
    close(features(system, mine), expected)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "REPORT" not in caplog.text
    # the classifier never reaches us where transformers loads the model without it
    assert whole or any(name.startswith("classifier") for name in report.unused)


def test_swins(tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4)}
    model = shake(timm.create_model("swin_tiny_patch4_window7_224", **sizes, window_size=4, num_classes=3))
    model.sizes = {"depths": [2, 1], "num_heads": [2, 4], "window_size": 4}
    x = normalised(pixels(), MEAN, STD)
    system = make(SWIN, patch=4)
    load_initial(system, save_timm(model, tmp_path / "timm"), facts=facts())
    close(features(system, x), model.forward_features(x).flatten(1, 2))

    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4
    )
    theirs = shake(transformers.SwinModel(config))
    theirs.save_pretrained(tmp_path / "hf")
    report = load_initial(system, tmp_path / "hf", facts=facts())
    assert report.changes == ("normalisation: none was saved beside the model, that of the data stays",)
    close(features(system, x), theirs(x).last_hidden_state)


def test_windows_of_another_size(tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4)}
    model = shake(timm.create_model("swin_tiny_patch4_window7_224", **sizes, window_size=8, num_classes=3))
    model.sizes = {"depths": [2, 1], "num_heads": [2, 4], "window_size": 8}
    source = save_timm(model, tmp_path / "timm")
    system = make({**SWIN, "encoder.window": 8}, patch=4, size=24)
    report = load_initial(system, source, facts=facts())
    assert report.changes == ("relative positions: interpolated to the windows of this grid",)
    with pytest.raises(UserError, match="--encoder.window 8"):
        load_initial(make(SWIN, patch=4), source, facts=facts())


KINDS: dict[str, dict[str, Any]] = {
    "sincos": {**VIT, "encoder.positions": "sincos"},
    "learned": VIT,
    "relative": {**VIT, "encoder.positions": "relative", "encoder.layer_scale": 0.1},
    "none": {**VIT, "encoder.positions": "none"},
    "swin": SWIN,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", ["timm", "transformers", "safetensors"])
def test_what_we_export_comes_back(tmp_path: Path, kind: str, format: str) -> None:
    if (kind, format) == ("relative", "transformers"):
        pytest.skip("transformers has no such ViT")
    options = KINDS[kind]
    if format == "transformers":
        options = {**options, "encoder.layer_scale": None} if kind != "swin" else options
    old, new = shake(make(options, patch=4)), make(options, patch=4)
    export(old, format, tmp_path, facts=facts())
    x = normalised(pixels(), MEAN, STD)
    assert not torch.allclose(features(old, x), features(new, x), atol=1e-2)
    report = load_initial(new, tmp_path, facts=facts())
    close(features(new, x), features(old, x))
    if format == "safetensors":
        assert not report.unused and not report.changes
        other = make(options, patch=4)
        load_initial(other, tmp_path / "model.safetensors", facts=facts())
        close(features(other, x), features(old, x))


def test_an_encoder_of_another_kind_is_named(tmp_path: Path) -> None:
    export(make(SWIN, patch=4), "safetensors", tmp_path, facts=facts())
    with pytest.raises(UserError, match="holds vision/swin, and this is vision/vit: the encoder has"):
        load_initial(make(patch=4), tmp_path, facts=facts())


def test_teachers_begin_with_the_same_weights(timm_source: tuple[Any, str]) -> None:
    system = build(
        "vision/ijepa",
        preset="tiny",
        facts={"size": (32, 32), "channels": 3},
        **{"tokenizer.patch_size": 8, **VIT, "encoder.class_token": True},
    )
    report = load_initial(system, timm_source[1], facts=facts())
    # what is exported is the teacher, and the student is its copy
    assert system.backbone is not system.encoder and report.copies == ("encoder",)
    assert equal(system.encoder, system.backbone.state_dict())
    x = normalised(pixels(), MEAN, STD)
    close(features(system, x), timm_source[0].forward_features(x))


def test_a_run_begins_with_weights_and_remembers_them(tmp_path: Path) -> None:
    common = {
        "system": "vision/simmim",
        "preset": "tiny",
        "data": "vision/digits",
        "steps": 2,
        "batch_size": 8,
    }
    common |= {"accelerator": "cpu", "workers": 0, "precision": "32", "checkpoint_every": 1}
    first = Run.create(RunConfig.resolve(common), tmp_path / "first")
    fit(first, progress=False)
    trained = {name: value.clone() for name, value in first.system.encoder.state_dict().items()}

    (tmp_path / "first" / "config.yaml").write_text("- 1\n")  # a checkpoint holds the configuration too
    config = RunConfig.resolve({**common, "seed": 1, "init": str(tmp_path / "first")})
    with pytest.warns(UserWarning, match="it is that of the checkpoint again"):
        second = Run.create(config, tmp_path / "second")
    assert second.initial is not None and "first" in str(second.initial)
    fresh = Run.create(RunConfig.resolve({**common, "seed": 1}), tmp_path / "third")
    assert torch.equal(fresh.system.head.weight, second.system.head.weight)
    assert equal(second.system.encoder, trained)
    fit(second, progress=False)
    assert not equal(second.system.encoder, trained)

    again = Run.open(tmp_path / "second")
    assert again.training.init == str(tmp_path / "first") and not equal(again.system.encoder, trained)
    assert equal(again.untrained().encoder, trained)
    assert equal(Run.open(tmp_path / "second", trained=False).system.encoder, trained)

    # the run goes on without its source; what it was before training is said to be lost
    shake(first.system)
    fit(Run(tmp_path / "other", first.system, first.data, first.training), progress=False)
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    checkpoint.unlink()
    with pytest.raises(UserError, match="no weights there"):
        Run.open(tmp_path / "second").untrained()
    (tmp_path / "other" / "checkpoints" / "last.ckpt").rename(checkpoint)
    with pytest.raises(UserError, match="other weights than"):
        Run.open(tmp_path / "second").untrained()
    fit(Run.create(config, tmp_path / "second"), resume=True, progress=False)
    changed = RunConfig.resolve({**common, "seed": 1, "init": str(tmp_path / "other")})
    with pytest.raises(UserError, match="init"):
        fit(Run.create(changed, tmp_path / "second"), resume=True, progress=False)


def equal(module: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "timm:NAME or transformers:NAME"),
        ("timm:no_such_model", "timm cannot load 'no_such_model'"),
        ("transformers:/no/such/folder", "transformers cannot load"),
    ],
)
def test_what_cannot_be_loaded(source: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_initial(make(), source)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="pickles"):
        load_initial(make(), tmp_path / "model.pt")


def test_a_plain_encoder_needs_the_same_names_shapes_and_data(tmp_path: Path) -> None:
    small = {
        "encoder": "vision/resnet",
        "encoder.depths": (1, 1),
        "encoder.width": 8,
        "encoder.small_stem": True,
    }
    system = make({**small, "encoder.bottleneck": False}, patch=2)
    export(shake(system), "safetensors", tmp_path, facts=facts())
    other = make({**small, "encoder.bottleneck": False}, patch=2)
    with pytest.raises(UserError, match=r"--data.mean '\[0.5,0.4,0.3\]' --data.std"):
        load_initial(other, tmp_path, facts=facts((0.1, 0.1, 0.1), (1.0, 1.0, 1.0)))
    load_initial(other, tmp_path, facts=facts())
    close(features(other, pixels()), features(system, pixels()))
    with pytest.raises(UserError, match=r"--encoder.depths \[1,1\]"):
        load_initial(
            make({**small, "encoder.depths": (1, 2), "encoder.bottleneck": False}, patch=2), tmp_path
        )
    state = {f"other.{name}": value for name, value in system.encoder.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "renamed.safetensors")
    with pytest.raises(UserError, match="only in the encoder"):
        load_initial(other, tmp_path / "renamed.safetensors")


def test_a_config_of_a_library_nobody_knows(tmp_path: Path) -> None:
    save_json({"model_type": "nothing"}, tmp_path / "config.json")
    with pytest.raises(UserError, match="transformers cannot load"):
        load_initial(make(), tmp_path)


def saved_model(folder: Path) -> Any:
    """A ViT of transformers without the pooler that the library gives every ViT."""
    config = transformers.ViTConfig(**SMALL, intermediate_size=128)
    model = shake(transformers.ViTModel(config, add_pooling_layer=False))
    model.save_pretrained(folder)
    return model


def test_what_is_no_part_of_the_encoder_is_not_drawn_at_random(tmp_path: Path) -> None:
    """The digest of a source is the same whenever it is read."""
    saved_model(tmp_path)
    torch.manual_seed(0)
    first = load_initial(make(), tmp_path, facts=facts())
    torch.manual_seed(5)
    assert load_initial(make(), tmp_path, facts=facts()).digest == first.digest
    assert not first.unused


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """Transformers draws them at random and goes on."""
    saved_model(tmp_path)
    path = tmp_path / "model.safetensors"
    state = safetensors.torch.load_file(path)
    lost = next(name for name in state if "layernorm_before.weight" in name)
    del state[lost]
    safetensors.torch.save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"lacks 1 weights of its encoder:\s+layers\.0\.layernorm_before\.weight"
    ):
        load_initial(make(), tmp_path, facts=facts())


def exported(folder: Path, change: Any = None) -> Path:
    export(make(), "safetensors", folder, facts=facts())
    state = safetensors.torch.load_file(folder / "model.safetensors")
    if change:
        safetensors.torch.save_file(
            {name: change(x) for name, x in state.items()}, folder / "model.safetensors"
        )
    return folder


def test_weights_of_half_precision_are_those_of_whole(tmp_path: Path) -> None:
    folder = exported(tmp_path, lambda x: x.half() if x.is_floating_point() else x)
    system = make()
    load_initial(system, folder, facts=facts())
    for one, two in zip(system.backbone.parameters(), make().backbone.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
        assert one.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to(torch.int8), "is quantised"),
        (lambda x: torch.full_like(x, torch.nan) if x.is_floating_point() else x, "not finite"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_initial(make(), exported(tmp_path, change), facts=facts())


@pytest.mark.parametrize("name", ["model.safetensors", "polymask.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_export_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (exported(tmp_path) / name).write_bytes(content)
    for use in (lambda: load_initial(make(), tmp_path, facts=facts()), lambda: load(tmp_path)):
        with pytest.raises(UserError, match=f"{name}|holds other weights"):
            use()
