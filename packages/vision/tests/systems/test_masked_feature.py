"""Masked features: what is hidden, what rebuilds it, where gradients go, DACS, the network that is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from polymask import Batch, Mask, Step, Tokens, UserError, build
from polymask.export import export
from polymask.training.optimiser import parameter_groups
from polymask_vision.domain_mix import augment, half_of_classes, pixel_loss
from polymask_vision.rebuilder import over
from polymask_vision.segmenter import load_segmenter
from polymask_vision.systems.masked_feature import MaskedFeature

STEP = Step(3, 10, seed=1)
CLASSES = 5
FACTS: dict[str, Any] = {
    "size": (16, 16),
    "channels": 3,
    "pixel_classes": CLASSES,
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.25, 0.3),
}
GRID = (4, 4)


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return build("vision/masked-feature", preset="tiny", facts=FACTS, **options)


def shaken(system: Any) -> Any:
    """All parameters moved, so that student and teacher, source and target are told apart."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def batch(system: Any, n: int = 4, seed: int = 0) -> Batch:
    return {**system.example(n, seed), "id": torch.arange(n) * 7 + 2}


def cells(share: float, n: int = 3, grid: tuple[int, int] = GRID) -> Mask:
    generator = torch.Generator().manual_seed(4)
    return Mask(torch.rand(n, grid[0] * grid[1], generator=generator) < share)


# ------------------------------------------------------------------------------------------ the Rebuilder


def test_with_nothing_hidden_features_stay_and_the_loss_is_that_of_the_target() -> None:
    system = make().eval()
    given = batch(system)
    own, sure = system.network.maps(given["other"]), system.pseudo_labels(given)
    sure = sure[0], torch.rand(4, 16, 16)
    assert len(own) == 2
    nothing = Mask(torch.zeros(4, 16, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(own, system.patched(own, nothing), strict=True))
    found = system.rebuilt(given["other"], own, nothing, sure)
    assert torch.equal(found, pixel_loss(system.segment(given["other"]), *sure))


def test_cells_are_hidden_each_by_itself() -> None:
    system = build("vision/masked-feature", preset="tiny", facts={**FACTS, "size": (64, 64)})
    given = {"id": torch.arange(4000)}
    tokens = Tokens(torch.zeros(4000, 256, 1), torch.zeros(4000, 256, 2), system.tokenizer.grid)
    mask = system.draw(tokens, given, STEP)
    share = mask.hidden.double().mean(1)
    assert mask.sites == 256 and share.mean() == pytest.approx(0.4, abs=0.002)
    assert share.std() == pytest.approx((0.4 * 0.6 / 256) ** 0.5, rel=0.06)
    assert not torch.equal(mask.hidden[0], mask.hidden[1])
    again = system.draw(tokens, given, Step(4, 10, seed=1))
    assert not torch.equal(mask.hidden, again.hidden)


# ------------------------------------------------------------------------------------------- gradients


def sure_of(system: Any, given: Batch) -> tuple[Tensor, Tensor]:
    return system.pseudo_labels(given)[0], torch.ones(4, 16, 16)


def test_the_rebuilt_loss_alone_trains_encoder_rebuilder_and_decoder_and_no_teacher() -> None:
    system = make()
    system.sure = 0.0
    given, mask = batch(system), cells(0.4, 4)
    system(given, STEP)["rebuilt"].backward()
    for part in (system.network.encoder, system.network.decoder, system.rebuilder):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert all(p.grad is None for p in system.teacher.parameters())
    leaves = [x.detach().requires_grad_() for x in system.network.maps(given["other"])]
    system.rebuilt(given["other"], leaves, mask, sure_of(system, given)).backward()
    for each in leaves:  # of later maps none leads to earlier ones here, as it does in the encoder
        assert each.grad is not None
        hidden = over(each, mask, GRID).hidden
        assert not each.grad[hidden].any() and each.grad[~hidden].any()


def test_features_to_be_like_are_the_teachers_and_count_where_hidden() -> None:
    system = shaken(make(predict="features")).eval()
    given, mask = batch(system), cells(0.4, 4)
    maps = system.network.maps(given["other"])
    found = system.rebuilt(given["other"], maps, mask, sure_of(system, given))
    errors = []
    for made, x in zip(
        system.rebuilder.rebuild(maps, mask), system.teacher.module.maps(given["other"]), strict=True
    ):
        normed = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        errors.append((made - normed).square()[over(x, mask, GRID).hidden].mean())
    torch.testing.assert_close(found, torch.stack(errors).mean())
    found.backward()
    assert all(p.grad is None for p in (*system.teacher.parameters(), *system.network.decoder.parameters()))


def test_zeros_in_place_of_rebuilt_features_leave_no_rebuilder() -> None:
    system = make(fill="zeros").eval()
    assert system.rebuilder is None
    given, mask = batch(system), cells(0.4, 4)
    maps = system.network.maps(given["other"])
    for own, x in zip(maps, system.patched(maps, mask), strict=True):
        assert torch.equal(x, own * ~over(own, mask, GRID).hidden)
    assert list(system(given, STEP)) == ["source", "mix", "rebuilt"]


# ------------------------------------------------------------------------------------------------- DACS


def test_losses_by_hand() -> None:
    system = shaken(make(rebuilt_weight=0.3)).eval()
    given = batch(system)
    with torch.no_grad():
        told = system.teacher.module(given["other"]).softmax(1)
    system.sure = told.amax(1).flatten().quantile(0.75).item()
    weight = (told.amax(1) >= system.sure).float().mean()
    assert 0.2 < weight < 0.3
    assert torch.equal(system.pseudo_labels(given)[1], weight.expand(4, 16, 16))
    system.ignore_rows = (2, 3)
    weights = weight.expand(4, 16, 16).clone()
    weights[:, :2] = weights[:, -3:] = 0
    losses = system(given, STEP)
    known = (given["label_map"] >= 0).float()
    cost = F.cross_entropy(system.segment(given["image"]), given["label_map"].clamp(min=0), reduction="none")
    torch.testing.assert_close(losses["source"], (cost * known).sum() / known.numel())
    image, label, mixed_weight = system.mixed(given, (told.argmax(1), weights), STEP)
    pasted = half_of_classes(given["label_map"], given["id"], CLASSES, STEP, 1)
    both = torch.where(pasted[:, None], given["image"], given["other"])
    units = [torch.tensor(FACTS[name])[:, None, None] for name in ("mean", "std")]
    torch.testing.assert_close(image, augment(both, given["id"], STEP, 1, *units))
    assert not torch.allclose(image, both)
    assert torch.equal(label, torch.where(pasted, given["label_map"], told.argmax(1)))
    assert torch.equal(mixed_weight, torch.where(pasted, torch.ones(()), weights))
    cost = F.cross_entropy(system.segment(image), label.clamp(min=0), reduction="none") * (label >= 0)
    torch.testing.assert_close(losses["mix"], (cost * mixed_weight).mean())
    mask = system.draw(system.tokenizer(given), given, STEP)
    maps = system.rebuilder(system.network.maps(given["other"]), mask)
    logits = F.interpolate(system.network.decoder(maps), (16, 16), mode="bilinear")
    cost = F.cross_entropy(logits, told.argmax(1), reduction="none")
    torch.testing.assert_close(losses["rebuilt"], 0.3 * (cost * weights).mean())


def test_without_rebuilt_features_it_is_dacs_and_nothing_of_the_rebuilder_is_there() -> None:
    plain, whole = make(rebuilt_weight=0.0, dropout=0.0), make(dropout=0.0)
    given = batch(plain)
    losses, others = plain(given, STEP), whole(given, STEP)
    assert list(losses) == ["source", "mix"] and plain.rebuilder is None and not plain.masks(given, STEP)
    assert all(torch.equal(losses[name], others[name]) for name in losses)


def test_the_teacher_follows_the_steps_and_norms_by_the_batch() -> None:
    system = make(momentum=0.7).train()
    assert [system.teacher.momentum(Step(t, 9)) for t in (0, 1, 8)] == pytest.approx([1 / 2, 2 / 3, 0.7])
    own = [p.clone() for p in system.teacher.parameters()]
    norm = next(m for m in system.teacher.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.training and not any(
        m.training for m in system.teacher.modules() if isinstance(m, nn.Dropout2d)
    )
    before = norm.running_mean.clone()
    shaken(system.network)(batch(system)["image"])
    system.after_step(Step(0, 10))
    for p, start, student in zip(system.teacher.parameters(), own, system.network.parameters(), strict=True):
        torch.testing.assert_close(p, (start + student) / 2)
    assert torch.equal(norm.running_mean, before)


def test_no_two_draws_of_a_step_share_a_stream_of_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[int] = []
    bits = Step.bits

    def watched(self: Step, ids: Tensor, sites: int, stream: int = 0) -> Tensor:
        streams.append(stream)
        return bits(self, ids, sites, stream)

    monkeypatch.setattr(Step, "bits", watched)
    system = make()
    system(batch(system), STEP)
    assert len(streams) == len(set(streams)) == 5


def test_rates_of_decoder_and_rebuilder() -> None:
    system = make(decoder_rate=10.0, rebuilder_rate=4.0)
    rates = {id(p): g.get("lr_scale", 1.0) for g in parameter_groups(system, 0.01) for p in g["params"]}
    for part, rate in (
        (system.network.encoder, 1.0),
        (system.network.decoder, 10.0),
        (system.rebuilder, 4.0),
    ):
        assert {rates[id(p)] for p in part.parameters() if p.requires_grad} == {rate}


# ----------------------------------------------------------------------------------------------- reports


def test_reports_are_of_the_target_where_it_is_masked_and_of_pixels_that_are_known() -> None:
    system = shaken(make(ignore_rows=(2, 3), sure=0.3)).eval()
    given = batch(system)
    assert not torch.equal(given["image"], given["other"])
    assert given["label_map"].unique().tolist() == [-1, 0, 1, 2, 3, 4]
    found = system.monitor(given, STEP)
    known = given["label_map"] >= 0
    right = (system.segment(given["image"]).argmax(1) == given["label_map"])[known].float().mean()
    torch.testing.assert_close(found["source_accuracy"], right)
    told = system.teacher.module(given["other"]).softmax(1).amax(1)
    torch.testing.assert_close(found["pseudo_weight"], (told >= 0.3).float().mean())
    (view,) = system.masks(given, STEP).values()
    mask = system.draw(system.tokenizer(given), given, STEP)
    assert torch.equal(view.mask.hidden, mask.hidden)
    assert torch.equal(view.tokens.values, system.tokenizer({"image": given["other"]}).values)
    media = system.preview(given, STEP).media
    hidden = over(given["other"], mask, GRID).hidden
    assert torch.equal(media["target, cells of features visible"], torch.where(hidden, 0.0, given["other"]))
    plain = make(rebuilt_weight=0.0)
    assert media.keys() - plain.preview(given, STEP).media.keys() == {
        "target, cells of features visible",
        "as segmented from these",
    }
    colours = plain.coloured(torch.arange(-1, CLASSES).view(1, 1, -1))[0, :, 0].T
    assert not colours[0].any() and torch.cdist(colours, colours).add(10 * torch.eye(6)).min() > 0.5


# ------------------------------------------------------------------------------------- what is left of it


def test_features_are_places_of_the_last_map() -> None:
    system = build("vision/masked-feature", preset="tiny", facts={**FACTS, "size": (16, 32)}).eval()
    given = batch(system, 2)
    tokens = system.encode(given)
    assert system.backbone is system.network.encoder and tokens.grid == (4, 8)
    last = system.network.maps(given["image"])[-1]
    for index in (0, 9, 31):
        y, x = tokens.position[0, index].long().tolist()
        assert (y, x) == divmod(index, 8)
        torch.testing.assert_close(tokens.values[:, index], last[:, :, y, x])


class Operations(TorchDispatchMode):
    """Names of the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(network: nn.Module, image: Tensor) -> list[str]:
    with torch.no_grad(), Operations() as seen:
        network(image)
    return seen.names


def test_the_exported_network_is_that_of_the_baseline_in_every_operation(tmp_path: Path) -> None:
    system, plain = make().eval(), make(rebuilt_weight=0.0).eval()
    image = batch(system)["other"]
    loaded = []
    for name, each in (("whole", system), ("plain", plain)):
        export(each, "segmenter", tmp_path / name, facts=FACTS)
        loaded.append(load_segmenter(tmp_path / name))
        assert torch.equal(loaded[-1](image), each.segment(image))
    assert operations(loaded[0], image) == operations(loaded[1], image)
    assert loaded[0].state_dict().keys() == loaded[1].state_dict().keys()
    assert not any("rebuild" in name for name in loaded[0].state_dict())
    before = system.segment(image)
    system.rebuilder = None
    assert torch.equal(system.segment(image), before)


def test_whoever_exports_the_backbone_is_told_how_to_export_the_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--format segmenter"):
        export(make(), "safetensors", tmp_path / "out", facts=FACTS)
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------- the networks


@pytest.mark.slow
def test_paper_presets_fit_their_backbones() -> None:
    """Of DeepLab one map of 64 x 64 with 2,048 channels; of DAFormer four, of strides 4 to 32."""
    from polymask_vision.presets import MASKED_FEATURE

    for name, widths, sizes in (
        ("paper", (2048,), (64,)),
        ("paper-daformer", (64, 128, 320, 512), (128, 64, 32, 16)),
    ):
        preset: Any = MASKED_FEATURE[name]
        with torch.device("meta"):
            import timm

            net: Any = timm.create_model(preset["model"], features_only=True, **preset.get("arguments", {}))
        info = net.feature_info
        found = list(zip(info.channels(), (512 // r for r in info.reduction()), strict=True))
        assert found[-len(widths) :] == list(zip(widths, sizes, strict=True))
        assert preset["data.source_data.size"] // preset["tokenizer.patch_size"] == 16


def test_options_reach_the_networks() -> None:
    options = {"decoder_dim": 24, "dilations": (1, 3), "dropout": 0.3, "levels": (1,)}
    system = make(**options, width=48, depth=3, heads=6)
    known = system.network.options
    assert {known["dim"], tuple(known["dilations"]), known["dropout"], tuple(known["levels"])} == set(
        options.values()
    )
    assert len(system.rebuilder.blocks) == 3 and system.rebuilder.mask_token.shape == (48,)
    assert system.rebuilder.blocks[0].attn.num_heads == 6
    assert make(decoder="deeplab").network.options["decoder"] == "deeplab"
    bare = build("vision/masked-feature", preset="tiny", facts={k: FACTS[k] for k in ("size", "channels")})
    assert not bare.mean_C11.any() and (bare.std_C11 == 1).all()


# ------------------------------------------------------------------------------------------- refusals


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="4 x 4 cells cannot hide the same places of a feature map of 2 x 2"):
        make(levels=(0, 1, 2), fill="zeros")
    assert set(make(levels=(0, 1, 2), rebuilt_weight=0.0)(batch(make()), STEP)) == {"source", "mix"}
    patches, other = make().tokenizer, build("vision/tubelets", "tokenizers", frames=2, size=16, channels=3)
    with pytest.raises(UserError, match="Tubelets makes none: use vision/patches"):
        MaskedFeature(tokenizer=other, masking=make().masking)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="fill='noise'"):
        MaskedFeature(tokenizer=patches, masking=make().masking, fill="noise")  # type: ignore[arg-type]
    for ask in (make(), make().masks):
        with pytest.raises(UserError, match="no label_map and no other: use data of two domains"):
            ask({"image": torch.zeros(2, 3, 16, 16)}, STEP)
    with pytest.raises(UserError, match="rebuild nothing that could be like features"):
        make(fill="zeros", predict="features")
    with pytest.raises(UserError, match="not divisible by 3 heads"):
        make(heads=3)
    with pytest.raises(UserError, match="gives no feature maps of"):
        make(model="no_such_net")
