"""What leaves by export gives, in the library that loads it, the features it gave here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from polymask import Run, RunConfig, System, UserError, build, export
from polymask.training import fit
from polymask_vision.datasets.prepare import Preparation
from polymask_vision.encoders import ViT
from polymask_vision.tokenizers import Patches

VIT = {"tokenizer.patch_size": 4, "encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2}
SWIN = {
    "tokenizer.patch_size": 2,
    "encoder": "vision/swin",
    "encoder.dim": 16,
    "encoder.depths": (2, 1),
    "encoder.heads": (2, 4),
    "encoder.window": 4,
}
KINDS: dict[str, dict[str, Any]] = {
    "sincos": VIT,
    "learned": VIT | {"encoder.positions": "learned", "encoder.layer_scale": 0.1, "encoder.mlp_ratio": 2.0},
    "bare": VIT | {"encoder.positions": "none", "encoder.class_token": False},
    "relative": VIT | {"encoder.positions": "relative", "encoder.layer_scale": 0.1},
    "swin": SWIN,
}
POOL = dict.fromkeys(KINDS, "mean") | {"relative": "prefix"}
"""What the exported timm model itself returns."""
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
every_kind = pytest.mark.parametrize("kind", KINDS)
SIZES = [((16, 16), 3), ((16, 32), 1)]
every_size = pytest.mark.parametrize(("size", "channels"), SIZES)


def make(kind: str, size: tuple[int, int] = (16, 16), channels: int = 3) -> Any:
    """A system whose every weight was moved off its initial value, as training would."""
    torch.manual_seed(0)
    options = KINDS[kind] | {"masking.cell": 1}
    system = build("vision/simmim", facts={"size": size, "channels": channels}, **options).eval()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return system


def facts(channels: int = 3) -> dict[str, Any]:
    return {"mean": MEAN[:channels], "std": STD[:channels]}


def images(size: tuple[int, int], channels: int) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))


def sequence(system: Any, x: Tensor) -> Tensor:
    tokens = system.encode({"image": x})
    values: Tensor = tokens.values
    return values if tokens.prefix is None else torch.cat([tokens.prefix, values], dim=1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def photo(size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def prepared(picture: Image.Image) -> Tensor:
    preparation = Preparation(size=(16, 16), mean=MEAN, std=STD)
    return preparation(torch.from_numpy(np.array(picture)).permute(2, 0, 1))[None]


# ----------------------------------------------------------------------------------------- timm


@pytest.mark.parametrize(
    ("kind", "size", "channels"),
    # BEiT on anything but a square needs timm 1.0.31
    [(kind, *case) for kind in KINDS for case in SIZES if kind != "relative" or case[0] == (16, 16)],
)
def test_timm_gives_the_same_features(
    tmp_path: Path, kind: str, size: tuple[int, int], channels: int
) -> None:
    system, x = make(kind, size, channels), images(size, channels)
    out = export.export(system, "timm", tmp_path / "out", facts=facts(channels))
    assert out == tmp_path / "out"
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.no_grad():
        close(model.forward_features(x).reshape(2, -1, system.encoder.out_dim), sequence(system, x))
        close(model(x), system.encode({"image": x}).pool(POOL[kind]))
    config = timm.data.resolve_model_data_config(model)
    assert tuple(config["input_size"]) == (channels, *size)
    assert tuple(config["mean"]) == MEAN[:channels] and tuple(config["std"]) == STD[:channels]


@every_kind
def test_timm_loads_every_weight_into_the_named_model(tmp_path: Path, kind: str) -> None:
    system = make(kind)
    out = export.export(system, "timm", tmp_path)
    config = json.loads((out / "config.json").read_text())
    arguments = config["model_args"] | {"num_classes": 0}
    overlay = {"file": str(out / "model.safetensors"), "num_classes": 0, "custom_load": False}
    model = timm.create_model(
        config["architecture"], pretrained=True, pretrained_cfg_overlay=overlay, **arguments
    )
    fresh = timm.create_model(config["architecture"], **arguments)
    ours = {round(p.double().sum().item(), 6) for p in system.encoder.parameters()}
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, fresh.get_parameter(name)), name
        if "_bias" not in name:  # BEiT keeps the three biases of a projection apart
            assert round(parameter.double().sum().item(), 6) in ours, name


@every_kind
def test_timm_puts_a_classifier_on_top(tmp_path: Path, kind: str) -> None:
    system, x = make(kind), images((16, 16), 3)
    export.export(system, "timm", tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()
    assert model(x).shape == (2, 7)
    close(
        model.forward_head(model.forward_features(x), pre_logits=True),
        system.encode({"image": x}).pool(POOL[kind]),
    )


def test_timm_finds_a_swin_in_the_layout_of_its_authors(tmp_path: Path) -> None:
    """Up to 1.0.30, timm takes any Swin without a classifier for that, and drops what else it finds."""
    export.export(make("swin"), "timm", tmp_path)
    names = safetensors.torch.load_file(tmp_path / "model.safetensors")
    merging = {name.partition(".downsample")[0] for name in names if "downsample" in name}
    assert merging == {"layers.0"}


def test_timm_prepares_images_as_we_do(tmp_path: Path) -> None:
    export.export(make("sincos"), "timm", tmp_path, facts=facts())
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path}"))
    close(timm.data.create_transform(**config)(photo())[None], prepared(photo()))


# --------------------------------------------------------------------------------- transformers


@pytest.mark.parametrize(
    ("kind", "size", "channels"),
    [
        ("sincos", (16, 16), 3),
        ("sincos", (16, 32), 1),
        ("learned", (16, 32), 3),
        ("swin", (16, 16), 3),
        ("swin", (32, 32), 1),
    ],
)
def test_transformers_gives_the_same_features(
    tmp_path: Path, kind: str, size: tuple[int, int], channels: int
) -> None:
    transformers = pytest.importorskip("transformers")
    system, x = make(kind, size, channels), images(size, channels)
    out = export.export(system, "transformers", tmp_path)
    model, info = transformers.AutoModel.from_pretrained(
        out, add_pooling_layer=False, output_loading_info=True
    )
    assert type(model).__name__ == {"swin": "SwinModel"}.get(kind, "ViTModel")
    # the index into the table of relative positions, which transformers 4 counts as a weight, is computed
    missing = [key for key in info["missing_keys"] if not key.endswith("relative_position_index")]
    assert not missing and not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        close(model.eval()(x).last_hidden_state, sequence(system, x))


def test_transformers_prepares_images_as_we_do(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export.export(make("sincos"), "transformers", tmp_path, facts=facts())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    close(processor(photo(), return_tensors="pt")["pixel_values"], prepared(photo()))


def test_other_ranges_leave_with_the_preprocessing(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    known = facts() | {"range": (-1000.0, 3000.0)}
    export.export(make("sincos"), "transformers", tmp_path / "hf", facts=known)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    scan = np.linspace(-1000, 3000, 3 * 256, dtype=np.float32).reshape(16, 16, 3)
    theirs = processor(scan, return_tensors="pt", input_data_format="channels_last", do_resize=False)[
        "pixel_values"
    ][0]
    unit = (torch.from_numpy(scan).permute(2, 0, 1) + 1000) / 4000
    ours = Preparation(size=16, mean=MEAN, std=STD)(unit)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    export.export(make("sincos"), "timm", tmp_path / "timm", facts=known)
    assert json.loads((tmp_path / "timm/config.json").read_text())["value_range"] == [-1000, 3000]
    timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    export.export(make("sincos"), "safetensors", tmp_path / "ours", facts=known)
    assert tuple(export.load(tmp_path / "ours").facts["range"]) == (-1000, 3000)


def test_transformers_refuses_what_its_models_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="always has a class token"):
        export.export(make("bare"), "transformers", tmp_path)
    with pytest.raises(UserError, match="choose safetensors or onnx or timm$"):
        export.export(make("relative"), "transformers", tmp_path)
    with pytest.raises(UserError, match="4 x 8 tokens in windows of 4"):
        export.export(make("swin", (16, 32)), "transformers", tmp_path)
    with pytest.raises(UserError, match="6 x 6 tokens in windows of 4"):
        export.export(make("swin", (24, 24)), "transformers", tmp_path)


# ---------------------------------------------------------------------------------- safetensors


@every_kind
@every_size
def test_safetensors_builds_the_encoder_again(
    tmp_path: Path, kind: str, size: tuple[int, int], channels: int
) -> None:
    system, x = make(kind, size, channels), images(size, channels)
    out = export.export(system, "safetensors", tmp_path, facts=facts(channels))
    features = export.load(out)
    assert not features.training
    assert torch.equal(sequence(system, x), sequence_of(features(x)))
    assert torch.equal(sequence(system, x), sequence_of(features({"image": x})))
    assert tuple(features.facts["mean"]) == MEAN[:channels]
    assert json.loads((out / "polymask.json").read_text())["encoder"]["name"].startswith("vision/")


def sequence_of(tokens: Any) -> Tensor:
    values: Tensor = tokens.values
    return values if tokens.prefix is None else torch.cat([tokens.prefix, values], dim=1)


def test_safetensors_needs_parts_built_by_name(tmp_path: Path) -> None:
    tokenizer = Patches(size=16, patch_size=4)
    encoder = ViT(in_dim=48, grid=(4, 4), dim=32, depth=1, heads=2)
    system = build("vision/mae", tokenizer=tokenizer, encoder=encoder, decoder_dim=16, decoder_heads=2)
    with pytest.raises(UserError, match="build the system by name"):
        export.export(system, "safetensors", tmp_path)
    assert not list(tmp_path.iterdir())
    model = timm.create_model(f"local-dir:{export.export(system, 'timm', tmp_path)}", pretrained=True)
    x = images((16, 16), 3)
    close(model.eval()(x), system.eval().encode({"image": x}).pool())


def test_load_says_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no polymask\.json"):
        export.load(tmp_path)
    export.export(make("sincos"), "safetensors", tmp_path)
    path = tmp_path / "polymask.json"
    path.write_text(path.read_text().replace("vision/vit", "acme/vit"))
    with pytest.raises(UserError, match="no encoder is called 'acme/vit'"):
        export.load(tmp_path)


# ------------------------------------------------------------------------------------- in common


def test_unknown_formats_name_the_known_ones(tmp_path: Path) -> None:
    system = make("sincos")
    assert export.formats(system) == ("safetensors", "onnx", "timm", "transformers")
    with pytest.raises(UserError, match="choose safetensors or onnx or timm or transformers"):
        export.export(system, "pdf", tmp_path)


def test_an_encoder_need_not_offer_formats() -> None:
    class Plain(nn.Linear):
        dim = out_dim = 8
        prefix, downsample, needs_grid = 0, 1, False

    tokenizer = Patches(size=16, patch_size=4)
    system = build("vision/mae", tokenizer=tokenizer, encoder=Plain(48, 8), decoder_dim=16, decoder_heads=2)
    assert export.formats(system) == ("safetensors", "onnx")


def test_other_tokens_than_patches_stay_here(tmp_path: Path) -> None:
    system = make("sincos")
    system.tokenizer = nn.Module()
    system.tokenizer.key, system.tokenizer.provides = "audio", {"in_dim": 48}
    for name in ("timm", "transformers"):
        with pytest.raises(UserError, match="export as safetensors"):
            export.export(system, name, tmp_path)


def test_impossible_places_and_systems_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        export.export(make("sincos"), "timm", tmp_path / "file")
    with pytest.raises(UserError, match="no tokenizer and encoder"):
        export.export(System(), "timm", tmp_path)


def test_a_run_folder_exports_what_it_trained(tmp_path: Path) -> None:
    options = {"tokenizer.patch_size": 2, "encoder.dim": 32, "encoder.depth": 1, "encoder.heads": 2}
    options |= {"decoder_dim": 16, "decoder_heads": 2, "steps": 3, "batch_size": 32, "precision": "32"}
    data = {"name": "vision/digits", "limit": 64}
    config = {"system": "vision/mae", "data": data, **options, "workers": 0, "accelerator": "cpu"}
    made = Run.create(RunConfig.resolve(config), tmp_path / "run")
    fit(made, progress=False)
    run, data = made.folder, made.data
    model = timm.create_model(f"local-dir:{export.export(run, 'timm', tmp_path / 'out')}", pretrained=True)
    x = torch.stack([data.split("test")[i]["image"] for i in range(4)])
    trained, fresh = (Run.open(run, trained=t).system.encode({"image": x}).pool() for t in (True, False))
    close(model.eval()(x), trained)
    assert not torch.allclose(trained, fresh, atol=1e-4)
    config = timm.data.resolve_model_data_config(model)
    assert tuple(config["mean"]) == data.provides["mean"]
    assert torch.equal(export.load(export.export(run, "safetensors", tmp_path / "own"))(x).pool(), trained)
