"""Masked features: what is hidden, what rebuilds it, where gradients go, DACS, the network that is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as V
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from polymask import Batch, Mask, Step, Tokens, UserError, build
from polymask.export import export
from polymask.training.optimiser import parameter_groups
from polymask_vision.domain_mix import augment, blur, half_of_classes, jitter
from polymask_vision.rebuilder import Rebuilder, over, patch
from polymask_vision.segmenter import Segmenter, load_segmenter
from polymask_vision.systems.masked_feature import BatchTeacher, pixel_loss

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


def batch(system: Any, n: int = 4, seed: int = 0) -> Batch:
    return {**system.example(n, seed), "id": torch.arange(n) * 7 + 2}


def cells(share: float, n: int = 3, grid: tuple[int, int] = GRID) -> Mask:
    generator = torch.Generator().manual_seed(4)
    return Mask(torch.rand(n, grid[0] * grid[1], generator=generator) < share)


def rebuilder(*sizes: int, grid: tuple[int, int] = GRID) -> tuple[Rebuilder, list[Tensor]]:
    torch.manual_seed(1)
    widths = [6, 7, 8, 9][-len(sizes) :]
    shapes = [(side, side * grid[1] // grid[0]) for side in sizes]
    made = Rebuilder(channels=widths, sizes=shapes, grid=grid, dim=32, depth=1, heads=4).eval()
    return made, [torch.randn(3, width, *shape) for width, shape in zip(widths, shapes, strict=True)]


# ------------------------------------------------------------------------------------------ the Rebuilder


def test_with_nothing_hidden_features_stay_and_the_loss_is_that_of_the_target() -> None:
    network, maps = rebuilder(16, 8, 4)
    for made, own in zip(network(maps, cells(0.0)), maps, strict=True):
        assert torch.equal(made, own)
    system = make().eval()
    given = batch(system)
    own, sure = system.network.maps(given["other"]), system.pseudo_labels(given)
    sure = sure[0], torch.rand(4, 16, 16)
    nothing = Mask(torch.zeros(4, 16, dtype=torch.bool))
    found = system.rebuilt(given["other"], own, nothing, sure)
    assert torch.equal(found, pixel_loss(system.segment(given["other"]), *sure))


def test_with_everything_hidden_nothing_is_known_of_the_image() -> None:
    network, maps = rebuilder(16, 8, 4)
    for made in network(maps, cells(1.1)):
        torch.testing.assert_close(made, made[:1].expand_as(made))


@pytest.mark.parametrize("sizes", [(32, 16, 8, 4), (16,)], ids=["four maps", "one map, four times the grid"])
@pytest.mark.parametrize("grid", [(4, 4), (4, 8)])
def test_hidden_cells_change_nothing(sizes: tuple[int, ...], grid: tuple[int, int]) -> None:
    """The loss of a cell of one map lets nothing through another, nor through the interpolation of the last."""
    network, maps = rebuilder(*sizes, grid=grid)
    mask = cells(0.4, grid=grid)
    changed = patch(maps, [torch.full_like(x, 1e3) for x in maps], mask, grid)
    assert all(not torch.equal(a, b) for a, b in zip(maps, changed, strict=True))
    for one, other in zip(network(maps, mask), network(changed, mask), strict=True):
        assert torch.equal(one, other)
    visible = patch(maps, [torch.full_like(x, 1e3) for x in maps], mask.invert(), grid)
    assert not torch.equal(network(visible, mask)[0], network(maps, mask)[0])


def test_the_same_cells_are_hidden_on_every_map_and_visible_ones_stay() -> None:
    network, maps = rebuilder(16, 8, 4)
    mask = cells(0.4)
    made = network(maps, mask)
    for own, x in zip(maps, made, strict=True):
        wanted = F.interpolate(mask.hidden.view(3, 1, 4, 4).float(), x.shape[2:]).bool()
        assert torch.equal(over(x, mask, GRID).hidden, wanted.expand_as(x))
        assert torch.equal((x != own).any(1), wanted[:, 0])


def test_what_is_rebuilt_is_normed_over_channels_at_each_place() -> None:
    network, maps = rebuilder(16, 4)
    for x in network.rebuild(maps, cells(0.4)):
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("channels", "sizes", "count"),
    [((64, 128, 320, 512), (128, 64, 32, 16), 14.5e6), ((2048,), (64,), 10.2e6)],
    ids=["SegFormer", "DeepLab"],
)
def test_published_sizes(channels: tuple[int, ...], sizes: tuple[int, ...], count: float) -> None:
    with torch.device("meta"):
        network = Rebuilder(channels=channels, sizes=[(side, side) for side in sizes])
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(count, rel=0.01)
    assert network.grid == (16, 16) and len(network.blocks) == 2
    assert {norm.eps for norm in network.blocks.modules() if isinstance(norm, nn.LayerNorm)} == {1e-5}


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
    given, mask = batch(system), cells(0.4, 4)
    maps = system.network.maps(given["other"])
    system.rebuilt(given["other"], maps, mask, sure_of(system, given)).backward()
    for part in (system.network.encoder, system.network.decoder, system.rebuilder):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert all(p.grad is None for p in system.teacher.parameters())
    leaves = [x.detach().requires_grad_() for x in maps]
    system.rebuilt(given["other"], leaves, mask, sure_of(system, given)).backward()
    for each in leaves:  # of later maps none leads to earlier ones here, as it does in the encoder
        assert each.grad is not None
        hidden = over(each, mask, GRID).hidden
        assert not each.grad[hidden].any() and each.grad[~hidden].any()


def test_features_to_be_like_are_the_teachers_and_count_where_hidden() -> None:
    system = make(predict="features").eval()
    given, mask = batch(system), cells(0.4, 4)
    maps = system.network.maps(given["other"])
    found = system.rebuilt(given["other"], maps, mask, sure_of(system, given))
    errors = []
    for made, x in zip(system.rebuilder.rebuild(maps, mask), system.teacher.module.maps(given["other"]), strict=True):
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
    system = make(rebuilt_weight=0.3).eval()
    given = batch(system)
    with torch.no_grad():
        told = system.teacher.module(given["other"]).softmax(1)
    system.sure = told.amax(1).flatten().quantile(0.75).item()
    system.ignore_rows = (2, 3)
    weight = (told.amax(1) >= system.sure).float().mean()
    assert 0.2 < weight < 0.3
    weights = weight.expand(4, 16, 16).clone()
    weights[:, :2] = weights[:, -3:] = 0
    losses = system(given, STEP)
    known = (given["label_map"] >= 0).float()
    cost = F.cross_entropy(system.segment(given["image"]), given["label_map"].clamp(min=0), reduction="none")
    torch.testing.assert_close(losses["source"], (cost * known).sum() / known.numel())
    image, label, mixed_weight = system.mixed(given, (told.argmax(1), weights), STEP)
    pasted = half_of_classes(given["label_map"], given["id"], CLASSES, STEP, 1)
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


def test_half_of_the_classes_of_the_batch_are_drawn_for_each_image() -> None:
    """Also of classes that an image lacks; unknown pixels are a class."""
    label = torch.full((600, 2, 4), 2)
    label[0] = torch.tensor([[-1, 0, 2, 3], [0, 0, 3, 3]])
    label[1:300, 0, 0] = 0
    label[1:300, 0, 1] = 3
    label[1:300, 0, 2] = -1
    pasted = half_of_classes(label, torch.arange(600), 6, STEP, 1)
    there = [-1, 0, 2, 3]
    drawn = torch.stack([(pasted[1:300] & (label[1:300] == c)).flatten(1).any(1) for c in there], dim=1)
    assert (drawn.sum(1) == 2).all()
    assert (drawn.float().mean(0) - 0.5).abs().max() < 0.12
    for c in there:  # all pixels of a class, or none
        of = label[0] == c
        assert pasted[0][of].all() or not pasted[0][of].any()
    # images of one class alone: pasted whole, or not at all
    assert 0.38 < pasted[300:].float().mean() < 0.62
    five = label.clone()
    five[-1] = 5
    drawn = torch.stack([(half_of_classes(five, torch.arange(600), 6, STEP, 1)[:300] & (five[:300] == c)).flatten(1).any(1) for c in there], 1)
    assert drawn.sum(1).max() == 3  # five classes: three, rounded up


def test_jitter_and_blur_are_those_of_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, 24, 40, generator=generator)
    change = 0.2 * (2 * torch.rand(4, 4, generator=generator) - 1)
    ours = jitter(image, change)
    sigma = torch.tensor([0.15, 0.5, 1.0, 1.15])
    soft = blur(image, sigma)
    for x, made, blurred, (light, contrast, colour, hue), width in zip(
        image, ours, soft, change.tolist(), sigma.tolist(), strict=True
    ):
        x_ = V.adjust_contrast(V.adjust_brightness(x, 1 + light), 1 + contrast)
        torch.testing.assert_close(made, V.adjust_hue(V.adjust_saturation(x_, 1 + colour), hue), atol=1e-5, rtol=0)
        torch.testing.assert_close(blurred, V.gaussian_blur(x, [3, 3], [width, width]), atol=1e-5, rtol=0)


def test_eight_of_ten_batches_are_jittered_and_five_of_ten_blurred() -> None:
    """Whether is drawn for all images of a batch at once, how for each."""
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    even = torch.full((3, 3, 1, 21), 0.5)
    edge = torch.zeros(3, 3, 1, 21)
    edge[..., 11:] = 1
    ids, jittered, blurred = torch.arange(3), 0, 0
    for index in range(200):
        out = augment((even - mean) / std, ids, Step(index, 200, 0), 5, mean, std) * std + mean
        moved = (out - even).abs().flatten(1).amax(1) > 1e-5
        jittered += int(moved.any())
        out = augment((edge - mean) / std, ids, Step(index, 200, 0), 5, mean, std) * std + mean
        soft = (out[..., 9] - out[..., 10]).abs().flatten(1).amax(1) > 1e-6
        blurred += int(soft.any())  # a little blur is none
    assert jittered / 200 == pytest.approx(0.8, abs=0.08) and blurred / 200 == pytest.approx(0.5, abs=0.1)


def test_the_teacher_follows_its_curve_and_norms_by_the_batch() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    teacher: Any = BatchTeacher(student, momentum=0.7, curve="warm", buffers="keep")
    assert [teacher.momentum(Step(t, 10)) for t in range(4)] == pytest.approx([1 / 2, 2 / 3, 0.7, 0.7])
    own = teacher.module[0].weight.clone()
    with torch.no_grad():
        student[0].weight.add_(1.0)
        student[1].running_mean.add_(1.0)
    before = teacher.module[1].running_mean.clone()
    teacher.follow(student, Step(0, 10))
    torch.testing.assert_close(teacher.module[0].weight, own + 0.5)
    assert torch.equal(teacher.module[1].running_mean, before)
    teacher.train()
    assert teacher.module[1].training and not teacher.module[2].training and not teacher.module[0].training
    x = torch.randn(8, 3, 4, 4)
    seen = teacher(x)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert not seen.requires_grad
    teacher.eval()
    assert not teacher.module[1].training


def test_rates_of_decoder_and_rebuilder() -> None:
    system = make(decoder_rate=10.0, rebuilder_rate=4.0)
    rates = {id(p): g.get("lr_scale", 1.0) for g in parameter_groups(system, 0.01) for p in g["params"]}
    for part, rate in ((system.network.encoder, 1.0), (system.network.decoder, 10.0), (system.rebuilder, 4.0)):
        assert {rates[id(p)] for p in part.parameters() if p.requires_grad} == {rate}


# ------------------------------------------------------------------------------------- what is left of it


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


# ----------------------------------------------------------------------------------------- the networks


def test_decoders() -> None:
    size = {"size": (32, 32), "channels": 3, "classes": 4}
    arguments = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    model: dict[str, Any] = {"model": "resnet18", "arguments": arguments}
    torch.manual_seed(0)
    deep = Segmenter(**size, **model, decoder="deeplab", levels=(2, 3)).eval()
    assert deep.sizes == ((2, 2),) and len(deep.maps(torch.zeros(1, 3, 32, 32))) == 1
    maps = deep.maps(torch.randn(2, 3, 32, 32))
    weights: Any = deep.decoder.branches
    by_hand = sum(
        F.conv2d(maps[-1], w.weight, w.bias, padding=d, dilation=d)
        for w, d in zip(weights, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(deep.decode(maps), by_hand)
    former: Any = Segmenter(**size, **model, levels=(1, 3), dim=8).eval()
    assert former.sizes == ((8, 8), (2, 2)) and former(torch.randn(2, 3, 32, 32)).shape == (2, 4, 32, 32)
    assert [type(x[0]).__name__ for x in former.decoder.context] == ["Conv2d"] + ["Sequential"] * 3
    last = Segmenter(**size, **model, decoder="deeplab")
    assert last.sizes == ((1, 1),)


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

            net: Any = timm.create_model(
                preset["model"], features_only=True, **preset.get("arguments", {})
            )
        info = net.feature_info
        found = list(zip(info.channels(), (512 // r for r in info.reduction()), strict=True))
        assert found[-len(widths) :] == list(zip(widths, sizes, strict=True))
        assert preset["data.source_data.size"] // preset["tokenizer.patch_size"] == 16


# ------------------------------------------------------------------------------------------- refusals


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="4 x 4 cells cannot hide the same places of a feature map of 2 x 2"):
        make(levels=(0, 1, 2))
    with pytest.raises(UserError, match="no label_map and no other: use data of two domains"):
        system = make()
        system({"image": batch(system)["image"]}, STEP)
    with pytest.raises(UserError, match="rebuilds nothing that could be like features"):
        make(fill="zeros", predict="features")
    with pytest.raises(UserError, match="not divisible by 3 heads"):
        make(heads=3)
    with pytest.raises(UserError, match="gives no feature maps of"):
        make(model="no_such_net")
